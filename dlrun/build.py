"""The only place that turns configuration into objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn

from dlrun.allocator import keep_freed_memory
from dlrun.config.schema import ComponentConfig, Config
from dlrun.data.features import FeatureLoader
from dlrun.data.loaders import BatchLoader, make_loader
from dlrun.data.order import permutation
from dlrun.data.source import ImageData, ImageSource, SubsetSource
from dlrun.data.splits import split_off_validation
from dlrun.data.statistics import Statistics
from dlrun.data.statistics import fit as fit_statistics
from dlrun.errors import DataError, UserError, did_you_mean
from dlrun.optim.groups import can_fuse, parameter_groups
from dlrun.optim.schedules import Schedule, with_warmup
from dlrun.registry import (
    AUGMENTATIONS,
    CALLBACKS,
    DATASETS,
    LOSSES,
    MODELS,
    OPTIMIZERS,
    SCHEDULES,
    TASKS,
    Registry,
)
from dlrun.reproducibility import resolve_device, seed_all, set_determinism
from dlrun.runfolder import RunFolder
from dlrun.tasks.base import Task
from dlrun.train.fit import Callback, Fit
from dlrun.train.state import State
from dlrun.train.step import autocast
from dlrun.transfer import (
    ALL_BUT_HEAD,
    Head,
    compute_features,
    freeze,
    head_module,
    learning_rate_factors,
    start_from,
)
from dlrun.weights import Weights, load_weights, read_weights


def _make(registry: Registry[Any], chosen: ComponentConfig, **runtime: Any) -> Any:
    return registry.build(chosen.name, chosen.params, **runtime)


def build_data(config: Config) -> ImageData:
    """The data set with its three splits; a validation split is made where the data bring none.

    Raises:
        DataError: if the data are missing or damaged.
    """
    data: ImageData = _make(DATASETS, config.data, split_seed=config.data.split_seed)
    data = split_off_validation(data, config.data.val_fraction, config.data.split_seed)
    limit = config.trainer.limit_batches
    if limit is None:
        return data
    evaluated = limit * config.data.eval_batch_size
    return replace(
        data,
        train=_first(data.train, limit * config.data.batch_size, config.seed),
        val=None if data.val is None else _first(data.val, evaluated, config.seed),
        test=None if data.test is None else _first(data.test, evaluated, config.seed),
    )


def _first(source: ImageSource, count: int, seed: int) -> ImageSource:
    """A fixed random part of a split, the same in every epoch."""
    return SubsetSource(source, permutation(seed, 0, len(source))[:count]) if count < len(source) else source


def build_train_loader(config: Config, data: ImageData, statistics: Statistics, device: torch.device) -> BatchLoader:
    """Shuffled, augmented batches of the training split.

    Raises:
        DataError: if a batch is larger than the split.
    """
    samples, batch = len(data.train), config.data.batch_size
    if batch > samples:
        raise DataError(
            f"data.batch_size={batch} is larger than the training split ({samples} samples); "
            f"set it to {samples} or less"
        )
    return make_loader(
        data.train,
        batch_size=batch,
        seed=config.seed,
        shuffle=True,
        augment=[_make(AUGMENTATIONS, augmentation) for augmentation in config.augment],
        statistics=statistics,
        device=device,
        resident=config.data.resident,
        workers=config.data.workers,
        channels_last=config.trainer.channels_last,
        drop_last=config.data.drop_last,
    )


def build_eval_loader(config: Config, source: ImageSource, statistics: Statistics, device: torch.device) -> BatchLoader:
    """Batches of a split in its own order, without augmentation."""
    return make_loader(
        source,
        batch_size=config.data.eval_batch_size,
        seed=config.seed,
        shuffle=False,
        augment=[],
        statistics=statistics,
        device=device,
        resident=config.data.resident,
        workers=config.data.workers,
        channels_last=config.trainer.channels_last,
    )


def build_model(config: Config, input_shape: tuple[int, int, int], num_classes: int, device: torch.device) -> nn.Module:
    """The network with fresh weights, drawn on the CPU so that they do not depend on the device.

    Raises:
        UserError: if the network cannot take such images.
    """
    model: nn.Module = _make(MODELS, config.model, input_shape=input_shape, num_classes=num_classes)
    layout = torch.channels_last if config.trainer.channels_last else torch.preserve_format
    return model.to(device, memory_format=layout)  # type: ignore[call-overload, no-any-return]


def find_head(config: Config, model: nn.Module, input_shape: tuple[int, int, int], num_classes: int) -> Head | None:
    """The layers of a model that depend on the number of classes; None if no option asks for them.

    Raises:
        UserError: if there are none.
    """
    asked = config.model.weights is not None or config.model.freeze == ALL_BUT_HEAD
    if not asked and not {"head", "body"} & set(config.optimizer.lr_factors):
        return None

    def other(device: str) -> nn.Module:
        with torch.random.fork_rng(devices=[]), torch.device(device):
            net: nn.Module = _make(MODELS, config.model, input_shape=input_shape, num_classes=num_classes + 1)
            return net

    try:
        return Head.between(model, other("meta"))
    except (RuntimeError, NotImplementedError):
        # It computes with values in its constructor.
        return Head.between(model, other("cpu"))


DATA_INIT_SAMPLES = 2048
"""Training images that a data-dependent initialisation sees."""


def init_from_data(config: Config, model: nn.Module, prepared: Prepared) -> None:
    """Let a model that has ``init_from_data`` set weights from normalised training images (B, C, H, W)."""
    initialise = getattr(model, "init_from_data", None)
    if initialise is not None:
        # A random part: folders list their images class by class.
        images = _first(prepared.data.train, DATA_INIT_SAMPLES, config.seed)
        inputs = prepared.statistics.normalize(images.read(range(len(images))))
        initialise(inputs.to(prepared.device))


def build_task(config: Config, num_classes: int) -> Task:
    """The task with its loss."""
    task: Task = _make(TASKS, config.task, loss=_make(LOSSES, config.loss), num_classes=num_classes)
    return task


def build_optimizer(config: Config, model: nn.Module, head: Head | None = None) -> torch.optim.Optimizer:
    """The optimizer over the trainable parameters, fused where torch has it.

    Args:
        config: the checked configuration.
        model: the network; what is frozen is left out.
        head: of the model, if the learning rates depend on it.

    Raises:
        UserError: if there is nothing to train, or a learning rate is for a module that the model does not have.
    """
    chosen = config.optimizer
    groups = parameter_groups(
        model,
        decay_norms_and_biases=chosen.decay_norms_and_biases,
        lr=chosen.params.get("lr"),
        factors=learning_rate_factors(model, chosen.lr_factors, head),
    )
    if not groups:
        frozen = "" if config.model.freeze is None else f": model.freeze={config.model.freeze} leaves none"
        raise UserError(f"model {config.model.name!r} has no trainable parameters{frozen}")
    optimizer: torch.optim.Optimizer = _make(OPTIMIZERS, config.optimizer, params=groups, fused=can_fuse(model))
    return optimizer


def build_schedule(config: Config, steps_per_epoch: int) -> Schedule:
    """The schedule with its warmup, filling the training exactly.

    Raises:
        UserError: if the warmup is longer than the training.
    """
    total = steps_per_epoch * config.trainer.epochs
    chosen = config.schedule
    try:
        warmup = chosen.warmup.steps(steps_per_epoch)
    except ValueError as error:
        raise UserError(f"schedule.warmup: {error}") from None
    if warmup >= total:
        raise UserError(
            f"schedule.warmup={chosen.warmup} is {warmup} steps, but the whole training has {total}; shorten the "
            "warmup or raise trainer.epochs"
        )
    schedule: Schedule = _make(SCHEDULES, chosen, total_steps=total - warmup, steps_per_epoch=steps_per_epoch)
    return with_warmup(schedule, warmup, chosen.warmup_start)


def build_callbacks(config: Config) -> dict[str, Callback]:
    """The callbacks in their order.

    Raises:
        UserError: if a callback saves state but cannot load it, or the other way round.
    """
    callbacks: dict[str, Callback] = {}
    for name, chosen in config.callbacks.items():
        callback = _make(CALLBACKS, chosen)
        saves = type(callback).state_dict is not Callback.state_dict
        loads = type(callback).load_state_dict is not Callback.load_state_dict
        if saves != loads:
            missing = "load_state_dict" if saves else "state_dict"
            raise UserError(f"callback {name!r} has state but no {missing}: a resumed run would not continue exactly")
        callbacks[name] = callback
    return callbacks


def check_monitors(callbacks: Mapping[str, Callback], task: Task, *, validated: bool) -> None:
    """Check the metric that each callback monitors.

    Args:
        callbacks: by name; those with an attribute ``monitor`` are checked.
        task: knows its metrics.
        validated: whether there is a validation split.

    Raises:
        UserError: if the run has no such metric.
    """
    splits = ("train", "val") if validated else ("train",)
    known = [f"{split}/{name}" for split in splits for name in ("loss", *task.metrics)]
    for name, callback in callbacks.items():
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, str) and monitor not in known:
            reason = "" if validated else " (there is no validation split: data.val_fraction is 0)"
            hint = did_you_mean(monitor, known)
            raise UserError(f"callbacks.{name}.monitor={monitor}: this run has no such metric{reason}; {hint}")


@dataclass(frozen=True)
class Prepared:
    """What is known before the run folder is made.

    Attributes:
        device: where it will run.
        data: the data set.
        statistics: what images are normalised with.
        weights: what a new run starts from; None if afresh, or if it goes on from a checkpoint.
        saved: content of the checkpoint that the run goes on from; None for a new run.
    """

    device: torch.device
    data: ImageData
    statistics: Statistics
    weights: Weights | None = None
    saved: Mapping[str, Any] | None = None


def prepare(config: Config, saved: Mapping[str, Any] | None = None) -> Prepared:
    """Choose the device and load the data: what can fail for reasons outside of the configuration.

    Args:
        config: the checked configuration.
        saved: content of the checkpoint that the run will go on from; None for a new run.

    Raises:
        UserError: if the device is absent, or data or weights are missing or damaged, or do not fit each other.
    """
    set_determinism(deterministic=config.trainer.deterministic, threads=config.trainer.threads)
    device = resolve_device(config.device)
    if device.type == "cpu":
        keep_freed_memory()
    _check_probe(config)
    weights = read_weights(config.model) if saved is None else None
    data = build_data(config)
    return Prepared(device, data, _statistics(config, data, weights, saved), weights, saved)


def _check_probe(config: Config) -> None:
    """Refuse options that have no meaning for features that are computed once."""
    if not config.model.cache_features:
        return
    for wrong, remedy in (
        (config.model.freeze != ALL_BUT_HEAD, "all else must be frozen: set model.freeze=all_but_head"),
        (bool(config.augment), "each image is seen once, so there is nothing to augment: set augment=none"),
    ):
        if wrong:
            raise UserError(f"model.cache_features=true: {remedy}, or cache_features=false")


def _statistics(
    config: Config, data: ImageData, weights: Weights | None, saved: Mapping[str, Any] | None
) -> Statistics:
    """Those of the training split, or those that the weights were trained with."""
    kind = config.data.normalize
    if kind != "weights":
        return fit_statistics(data.train, kind)
    if saved is not None:
        return Statistics.from_state(saved["data"]["statistics"])
    if weights is None:
        raise UserError("data.normalize=weights: there are no weights; set model.weights, or data.normalize=channel")
    found = weights.statistics
    if found is None:
        raise UserError(
            f"data.normalize=weights: {weights.source} does not tell what its images were normalised with; "
            "set data.normalize=channel"
        )
    channels = data.input_shape[0]
    if channels == 1 and len(found.mean) == 3:
        # Grey images are what the sum of the colour filters sees in an image of equal channels.
        found = Statistics(found.kind, found.mean.mean(0, keepdim=True), found.std.mean(0, keepdim=True))
    if len(found.mean) not in (1, channels) or found.mean.shape[1:] not in ((1, 1), data.input_shape[1:]):
        raise UserError(
            f"data.normalize=weights: {weights.source} was trained on images of another form "
            f"({tuple(found.mean.shape)} means); set data.normalize=channel"
        )
    return found


def _start(config: Config, model: nn.Module, prepared: Prepared, head: Head | None) -> str:
    """Give a model the weights that training starts from; returns what the log says of them."""
    if prepared.saved is not None:
        load_weights(model, prepared.saved["model"])
    elif prepared.weights is not None:
        assert head is not None
        return start_from(model, prepared.weights, head, config.model.head, prepared.data.classes)
    return ""


def _on_features(config: Config, fit: Fit, head: Head) -> None:
    """Let a run train its head on what the frozen part gives for each image, computed once."""
    device, precision = fit.device, config.trainer.precision
    plain = build_eval_loader(config, fit.data.train, fit.statistics, device)
    module = head_module(fit.model.eval(), head, next(iter(plain.epoch(0)))[0][:8])

    def features(loader: BatchLoader, *, train: bool) -> BatchLoader:
        try:
            outputs, labels = compute_features(fit.model, module, loader, autocast(precision, device))
        finally:
            loader.close()
        return FeatureLoader(
            outputs,
            labels,
            batch_size=config.data.batch_size if train else config.data.eval_batch_size,
            seed=config.seed,
            shuffle=train,
            drop_last=train and config.data.drop_last,
        )

    fit.train.close()
    fit.train = features(plain, train=True)
    if fit.val is not None:
        fit.val = features(fit.val, train=False)
    fit.evaluated = module
    fit.forward = cast(nn.Module, torch.compile(module)) if config.trainer.compile else module


def build_fit(config: Config, prepared: Prepared, open_run: Callable[[], RunFolder]) -> Fit:
    """Every part of a training run.

    Args:
        config: the checked configuration.
        prepared: device and data.
        open_run: makes or opens the run folder; called last, when everything else stands, so that an experiment that
            cannot start leaves no folder behind.

    Raises:
        UserError: if parts do not fit each other.
    """
    device, data, statistics = prepared.device, prepared.data, prepared.statistics
    train = build_train_loader(config, data, statistics, device)
    val = None if data.val is None else build_eval_loader(config, data.val, statistics, device)
    seed_all(config.seed)
    model = build_model(config, data.input_shape, len(data.classes), device)
    init_from_data(config, model, prepared)
    head = find_head(config, model, data.input_shape, len(data.classes))
    origin = _start(config, model, prepared, head)
    frozen = freeze(model, config.model.freeze, head)
    optimizer = build_optimizer(config, model, head)
    try:
        config.trainer.eval_every.steps(train.steps_per_epoch)
    except ValueError as error:
        raise UserError(f"trainer.eval_every: {error}") from None
    task = build_task(config, len(data.classes))
    callbacks = build_callbacks(config)
    check_monitors(callbacks, task, validated=val is not None)
    fit = Fit(
        config=config,
        state=State(),
        model=model,
        forward=cast(nn.Module, torch.compile(model)) if config.trainer.compile else model,
        task=task,
        optimizer=optimizer,
        schedule=build_schedule(config, train.steps_per_epoch),
        scaler=torch.amp.GradScaler(device.type) if config.trainer.precision == "fp16" else None,
        train=train,
        val=val,
        data=data,
        statistics=statistics,
        device=device,
        callbacks=callbacks,
        frozen=frozen,
        origin=origin,
    )
    if config.model.cache_features:
        assert head is not None
        _on_features(config, fit, head)
    fit.run = open_run()
    return fit
