"""The frozen configuration that a run is built from: plain dataclasses, nothing of OmegaConf.

The docstring of a field is its documentation; its type is checked by :func:`dlrun.types.convert`. A section that
chooses a component holds the component's ``name``, the options common to the whole group as fields, and the
component's own options in ``params``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from dlrun.config.sweep_schema import SweepConfig
from dlrun.registry import CALLBACKS
from dlrun.types import (
    Duration,
    NameOrPath,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveDuration,
    PositiveFloat,
    PositiveInt,
    Range,
    Rate,
    Seed,
)

Precision = Literal["fp32", "bf16", "fp16"]
Normalization = Literal["channel", "mean_image", "pca", "zca", "none", "weights"]


@dataclass(frozen=True)
class ComponentConfig:
    """A component chosen by its registry name, with its checked options."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict, kw_only=True)


@dataclass(frozen=True)
class ModelConfig(ComponentConfig):
    """The network, and what it starts from."""

    weights: NameOrPath | None = None
    """Start from these weights: a checkpoint or run folder of dlrun, a state dict (.pt, .pth, .safetensors), or a name
    that the library of a torchvision/... or timm/... model knows; null starts afresh."""
    head: Literal["auto", "keep", "new"] = "auto"
    """The layers that depend on the number of classes. auto: new where the weights are for other classes."""
    freeze: str | None = None
    """Do not train: all_but_head, or the name of a module: all that comes up to its end in the net's order."""
    cache_features: bool = False
    """With freeze=all_but_head: run the frozen part once over all images, and train the head on what it gave."""


@dataclass(frozen=True)
class DataConfig(ComponentConfig):
    """Which data, how they are split, and how they are fed."""

    batch_size: PositiveInt
    """Samples per optimizer step."""
    eval_batch_size: PositiveInt
    """Samples per forward pass in evaluation; changes speed and memory only."""
    val_fraction: Rate
    """Part of the training data held out for validation where the data bring no validation split of their own."""
    split_seed: Seed
    """Seed of the splits; separate from ``seed``, so that runs with several seeds see the same splits."""
    normalize: Normalization
    """Statistics subtracted and divided by: of the training split, or those that model.weights were trained with."""
    resident: bool | None
    """True: all images on the device as uint8. False: streamed through worker processes. null: by size."""
    workers: NonNegativeInt
    """Worker processes of the streaming path; 0 reads in the main process."""
    drop_last: bool
    """Leave out the last, smaller batch of an epoch."""
    whitening_epsilon: NonNegativeFloat = 0.01
    """With normalize=pca or zca: added to the variance of each direction, in units of the mean variance of a number."""
    contrast_normalize: bool = False
    """Give each image for itself mean 0 and one standard deviation, before normalize."""
    contrast_scale: PositiveFloat = 1.0
    """With contrast_normalize: the standard deviation of each image."""
    contrast_bias: NonNegativeFloat = 10.0
    """With contrast_normalize: added to the variance of an image's pixels (0..255), so that flat images stay flat."""
    batch_growth: Annotated[float, Range(gt=1)] | None = None
    """Multiply the batch size by this at the points of batch_growth_at, in place of lowering the rate; null: never."""
    batch_growth_at: tuple[Annotated[float, Range(gt=0, lt=1)], ...] = (0.5, 0.75)
    """Points of the growth as shares of the training, each at the nearest border of two epochs."""
    batch_growth_max: PositiveInt | None = None
    """The batch grows no further than this; null: without a limit."""


@dataclass(frozen=True)
class OptimizerConfig(ComponentConfig):
    """The optimizer and its decay rule."""

    decay_norms_and_biases: bool
    """Apply weight decay to all parameters: to biases, norms, scales, tokens and tables of positions too."""
    lr_factors: Mapping[str, PositiveFloat] | None = None
    """Factor on the learning rate of a module and all that it holds, by its name; head and body stand for the layers
    that depend on the number of classes and for all others."""
    lr_scaling: Literal["linear", "sqrt"] | None = None
    """Multiply lr by data.batch_size / lr_reference_batch (linear), or by its root (sqrt); null: lr is as it is."""
    lr_reference_batch: PositiveInt = 256
    """The batch size that lr was chosen for."""
    layer_decay: Annotated[float, Range(gt=0, le=1)] | None = None
    """Factor on the learning rate for each layer further from the head: the head has the whole rate, the layer before
    it this factor, the one before that its square; null: one rate for all."""


@dataclass(frozen=True)
class RegularizationConfig:
    """Penalties, noise and limits beside the optimizer's own weight_decay, which is no part of a loss."""

    l2: NonNegativeFloat = 0.0
    """Loss term l2 * sum of w^2 (gradient 2 l2 w); with l1 it is the elastic net."""
    l1: NonNegativeFloat = 0.0
    """Loss term l1 * sum of |w|."""
    norms_and_biases: bool = False
    """Penalise all parameters: biases, norms, scales, tokens and tables of positions too."""
    max_norm: PositiveFloat | None = None
    """After each update, scale the incoming weights of a unit down to this L2 norm when they are longer."""
    gradient_noise: PositiveFloat | None = None
    """eta of Gaussian noise on the gradient with the variance eta / (1 + step)^gradient_noise_decay."""
    gradient_noise_decay: NonNegativeFloat = 0.55
    """How fast that noise goes."""


@dataclass(frozen=True)
class ScheduleConfig(ComponentConfig):
    """The learning-rate schedule; a factor on the optimizer's lr."""

    warmup: Duration
    """Warmup in front of the schedule, in epochs or steps."""
    warmup_start: Annotated[float, Range(ge=0, le=1)]
    """Share of the schedule's first rate that the warmup begins at; its first step is one notch further."""
    warmup_shape: Literal["linear", "cosine", "exponential", "constant"] = "linear"
    """How the warmup rises; constant: it stays at warmup_start, and then jumps."""


@dataclass(frozen=True)
class AveragingConfig(ComponentConfig):
    """The average of the weights."""

    evaluate: bool = True
    """Evaluate the averaged weights: validation metrics, best checkpoint and early stopping are then about them."""


@dataclass(frozen=True)
class TrainerConfig:
    """The loop."""

    epochs: PositiveInt
    """Passes over the training split."""
    log_every: PositiveInt
    """Steps between two readings of the metrics from the device."""
    eval_every: PositiveDuration
    """Epochs or steps between two evaluations on the validation split."""
    precision: Precision
    """Arithmetic of the forward pass: full fp32, or automatic mixed precision."""
    channels_last: bool
    """Keep images and convolution weights in NHWC order."""
    compile: bool
    """Compile the model with torch.compile."""
    clip_norm: PositiveFloat | None
    """Scale the gradient down to this L2 norm when it is longer."""
    clip_value: PositiveFloat | None
    """Clamp every gradient element to [-x, x]."""
    accumulate: PositiveInt
    """Split each batch into this many micro-batches whose gradients are added: less memory, the same step."""
    deterministic: bool
    """Use only deterministic algorithms on CUDA (slower); CPU runs always repeat bit for bit."""
    threads: PositiveInt | None
    """CPU threads of torch; null leaves torch's choice."""
    limit_batches: PositiveInt | None
    """Use only so many batches of each epoch and of each evaluation; for debugging."""
    detect_nan: bool
    """Check every step and name the operation that made the first NaN; several times slower; for debugging."""


@dataclass(frozen=True)
class RunConfig:
    """The run folder."""

    root: Path
    """Folder that holds the run folders."""
    name: str
    """Middle part of the run folder's name; empty takes the name of the config."""


@dataclass(frozen=True)
class Config:
    """One experiment, complete and checked."""

    seed: Seed
    """Seed of weights, order of the data, augmentation and dropout."""
    device: str
    """auto (cuda where there is one), cpu, cuda, or cuda:N."""
    plugins: tuple[str, ...]
    """Python modules or .py files that register components of the user's own."""
    model: ModelConfig
    """The network."""
    data: DataConfig
    """The data."""
    augment: tuple[ComponentConfig, ...]
    """Augmentations of the training images, applied in this order."""
    optimizer: OptimizerConfig
    """The optimizer."""
    schedule: ScheduleConfig
    """The learning-rate schedule."""
    loss: ComponentConfig
    """The loss."""
    task: ComponentConfig
    """What a batch means and which metrics it has."""
    callbacks: Mapping[str, ComponentConfig]
    """Callbacks by name, called in this order; null or false switches one off."""
    trainer: TrainerConfig
    """The loop."""
    run: RunConfig
    """The run folder."""
    regularization: RegularizationConfig = field(default_factory=RegularizationConfig)
    """Penalties, noise and limits."""
    averaging: AveragingConfig = AveragingConfig("none")
    """The average of the weights."""
    folds: Annotated[int, Range(ge=2)] | None = None
    """Cross-validation: so many runs, each with another part of the training data as its validation split."""
    fold: PositiveInt | None = None
    """The run of a cross-validation that this is, from 1; null: all of them."""
    seeds: Annotated[int, Range(ge=2)] | tuple[Seed, ...] | None = None
    """So many runs, from ``seed`` on, or a run for each of these seeds."""

    @property
    def is_series(self) -> bool:
        """Whether several runs are asked for."""
        return self.fold is None and (self.folds is not None or self.seeds is not None)

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds that ``seeds`` stands for, in their order; none without it."""
        if isinstance(self.seeds, int):
            return tuple(range(self.seed, self.seed + self.seeds))
        return self.seeds or ()

    def to_tree(self) -> dict[str, Any]:
        """The configuration as a plain tree, the form that YAML, JSON and checkpoints hold.

        Composing and checking this tree again gives an equal configuration.
        """
        tree: dict[str, Any] = _plain(self)
        return tree


def series_problems(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is wrong with the keys that make several runs of one configuration.

    Args:
        values: checked values of the fields of :class:`Config`.

    Returns:
        (key, message) for each problem.
    """
    folds, fold, seeds, seed = (values.get(key) for key in ("folds", "fold", "seeds", "seed"))
    problems = []
    if fold is not None and folds is None:
        problems.append(("fold", "says which part of a cross-validation to hold out, so folds is needed too: folds=5"))
    elif fold is not None and folds is not None and fold > folds:
        problems.append(("fold", f"must be in 1..{folds} (folds), got {fold}"))
    if seeds is not None and folds is not None:
        problems.append(
            (
                "seeds",
                f"cannot be joined with folds: run folds={folds} once for each seed (seed=0, seed=1, ...) instead",
            )
        )
    if isinstance(seeds, tuple):
        if len(set(seeds)) < max(2, len(seeds)):
            problems.append(
                ("seeds", f"must be a number >= 2, or a list of at least two different seeds, got {list(seeds)}")
            )
    elif seeds is not None and isinstance(seed, int) and seed + seeds > 2**63:
        problems.append(("seeds", f"seed={seed} and the {seeds - 1} after it are not all below 2^63"))
    return problems


def component_groups() -> dict[str, tuple[str, ...]]:
    """Group -> its common options, for every section that chooses one component by ``name``."""
    groups = {}
    for name, cls in SECTIONS.items():
        if issubclass(cls, ComponentConfig):
            groups[name] = tuple(f.name for f in dataclasses.fields(cls) if f.name not in ("name", "params"))
    return groups


SECTIONS: dict[str, type[Any]] = {
    "model": ModelConfig,
    "data": DataConfig,
    "optimizer": OptimizerConfig,
    "schedule": ScheduleConfig,
    "loss": ComponentConfig,
    "task": ComponentConfig,
    "averaging": AveragingConfig,
    "trainer": TrainerConfig,
    "run": RunConfig,
    "regularization": RegularizationConfig,
    "sweep": SweepConfig,
}
"""Section of the tree -> its dataclass. The remaining keys are scalars, ``augment`` (a list) and ``callbacks``."""


def _plain(value: Any) -> Any:
    if isinstance(value, ComponentConfig):
        common = {
            f.name: _plain(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if f.name not in ("name", "params")
        }
        return {"name": value.name, **common, **_plain(value.params)}
    if dataclasses.is_dataclass(value) and not isinstance(value, (type, Duration)):
        tree = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, Config):
            # A callback's name is its key; repeating it inside would be a second place to get it wrong.
            for params in tree["callbacks"].values():
                del params["name"]
            # Without this, those that were switched off would be on again when the tree is composed anew.
            tree["callbacks"].update({name: None for name in CALLBACKS.names() if name not in tree["callbacks"]})
        return tree
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (Path, Duration)):
        return str(value)
    return value
