"""Every technique of training with every other one: a finite loss and an exact resume, or a refusal that says why.

What was trained is then looked at from several sides: views of the images, an ensemble, averaged weights.

``TECHNIQUES`` is made from the registries, so a new component is combined with all others by being registered. Two
techniques of one kind exclude each other. ``REFUSED`` lists all pairs that cannot be, with the reason: a new refusal,
or one that is gone, fails a test. The default suite takes a sample in which each technique stands twice and each
reason once; ``-m slow`` takes all pairs.
"""

from __future__ import annotations

import copy
import functools
import io
import itertools
import math
import random
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import _hydra_once
from running import QUIET, config, equal

from dlrun import assembly
from dlrun.combine import mean_probabilities
from dlrun.commands.saved import Saved
from dlrun.commands.scoring import Subject, classified, probabilities_of, rated
from dlrun.config import groups
from dlrun.config.schema import Config
from dlrun.config.sources import read_yaml
from dlrun.errors import UserError
from dlrun.optim.schedules import Watching
from dlrun.registry import AUGMENTATIONS, AVERAGERS, LOSSES, OPTIMIZERS, SCHEDULES
from dlrun.runfolder import create_run_folder
from dlrun.train.fit import Callback, Fit
from dlrun.train.loop import train
from dlrun.views import NAMES, Name, make_views

MODEL = "model={name: mlp, hidden: [12, 12], norm: batch}"
BASE = (
    *QUIET,
    "device=cpu",
    "trainer.threads=1",
    MODEL,
    "data=synthetic",
    "data.samples=100",
    "data.classes=3",
    "data.batch_size=32",
    "augment=none",
    "schedule=constant",
    "schedule.warmup=0ep",
    "trainer.epochs=4",
    "trainer.log_every=2",
)
"""Twelve steps in four epochs, on 72 images of 8 x 8 pixels."""

WHOLE = "data.batch_size=72"
RESNET = "model={name: resnet, depth: 8, width: 0.125"


@dataclass(frozen=True)
class Technique:
    """One way to train, as overrides; ``kind`` is what excludes others of its kind."""

    kind: str
    name: str
    overrides: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind}={self.name}"


NEEDED: dict[str, tuple[str, ...]] = {
    "optimizer=lbfgs": ("optimizer={name: lbfgs, max_iterations: 3}", WHOLE),
    "schedule=step": ("schedule={name: step, every: 2ep}",),
    "schedule=plateau": ("schedule={name: plateau, patience: 1, mode: max}",),
    "augment=torchvision": ("augment=[{name: torchvision, transform: RandomAffine, options: {degrees: 10}}]",),
    "averaging=swa": ("averaging={name: swa, start: 0.2, every: 2st}",),
}
"""Components whose defaults are not for twelve steps, or that have options without a default."""

OTHERS: dict[str, dict[str, tuple[str, ...]]] = {
    "loss": {
        "smoothed": ("loss={name: cross_entropy, label_smoothing: 0.1}",),
        "weighted": ("loss={name: cross_entropy, class_weights: balanced}",),
        "focal_weighted": ("loss={name: focal, class_weights: [1, 2, 3], label_smoothing: 0.1}",),
        "multi_label": (
            "data.several_labels=true",
            "task=multilabel_classification",
            "loss={name: binary_cross_entropy, positive_weights: balanced}",
        ),
    },
    "warmup": {
        shape: ("schedule.warmup=5st", f"schedule.warmup_shape={shape}", "schedule.warmup_start=0.1")
        for shape in ("linear", "cosine", "exponential", "constant")
    },
    "averaging": {"ema_beside": ("averaging={name: ema, evaluate: false, batch_norm: recompute}",)},
    "schedule": {
        # From the optimizer's own momentum, which may be 0, to one that moves.
        "moving_momentum": (
            "schedule={name: chain, parts: [{name: constant, length: 0.5}, {name: one_cycle, momentum: [0.5, 0.9]}]}",
        )
    },
    "l2": {"on": ("regularization.l2=1e-3",)},
    "l1": {"on": ("regularization.l1=1e-4", "regularization.norms_and_biases=true")},
    "max_norm": {"on": ("regularization.max_norm=1",)},
    "gradient_noise": {"on": ("regularization.gradient_noise=0.01",)},
    "decay_all": {"on": ("optimizer.decay_norms_and_biases=true",)},
    "clip_norm": {"on": ("trainer.clip_norm=0.5",)},
    "clip_value": {"on": ("trainer.clip_value=0.1",)},
    "accumulate": {"on": ("trainer.accumulate=3",)},
    "batches": {
        "growing": ("data.batch_growth=1.5", "data.batch_growth_at=[0.5]"),
        "drop_last": ("data.drop_last=true",),
        "streamed": ("data.resident=false", "data.workers=0"),
    },
    "lr_scaling": {how: (f"optimizer.lr_scaling={how}",) for how in ("linear", "sqrt")},
    "layer_decay": {"on": ("optimizer.layer_decay=0.7",)},
    "lr_factors": {"on": ("optimizer.lr_factors={head: 2}",)},
    "normalize": {how: (f"data.normalize={how}",) for how in ("mean_image", "pca", "zca", "none")},
    "contrast": {"on": ("data.contrast_normalize=true",)},
    "precision": {how: (f"trainer.precision={how}",) for how in ("bf16", "fp16")},
    "channels_last": {"on": ("trainer.channels_last=true",)},
    "detect_nan": {"on": ("trainer.detect_nan=true",)},
    "model": {
        "dropout": ("model={name: mlp, hidden: [12, 12], dropout: 0.3}",),
        "drop_connect": ("model={name: mlp, hidden: [12, 12], drop_connect: 0.3}",),
        "conv_dropout": ("model={name: convnet, channels: [4], hidden: [8], conv_dropout: 0.2}",),
        "stochastic_depth": (RESNET + ", stochastic_depth: 0.5}",),
    },
    "freeze": {
        "all_but_head": ("model.freeze=all_but_head",),
        "cached": ("model.freeze=all_but_head", "model.cache_features=true"),
    },
    "snapshots": {"on": ("callbacks.snapshots={count: 2}",)},
    "early_stopping": {"on": ("callbacks.early_stopping={monitor: val/loss, mode: min, patience: 1}",)},
    "folds": {"one": ("folds=3", "fold=1")},
    "evaluations": {"each_five_steps": ("trainer.eval_every=5st",)},
}
"""What is no component of a registry."""


def _techniques() -> list[Technique]:
    found: dict[str, Technique] = {}

    def add(kind: str, name: str, overrides: tuple[str, ...]) -> None:
        technique = Technique(kind, name, overrides)
        found[str(technique)] = technique

    for kind, registry in (
        ("optimizer", OPTIMIZERS),
        ("schedule", SCHEDULES),
        ("loss", LOSSES),
        ("averaging", AVERAGERS),
        ("augment", AUGMENTATIONS),
    ):
        for name in registry.names():
            chosen = f"augment=[{{name: {name}}}]" if kind == "augment" else f"{kind}={name}"
            if f"{kind}={name}" != "averaging=none":
                add(kind, name, NEEDED.get(f"{kind}={name}", (chosen,)))
    for kind, ways in OTHERS.items():
        for name, overrides in ways.items():
            add(kind, name, overrides)
    return list(found.values())


TECHNIQUES = _techniques()
PAIRS = [pair for pair in itertools.combinations(TECHNIQUES, 2) if pair[0].kind != pair[1].kind]

MIXING = "mixing images gives each several classes in part, which loss"

REFUSED: list[tuple[str, str, str]] = [
    # L-BFGS evaluates the loss again and again: it must be the same one.
    ("optimizer=lbfgs", "augment=*", "changes the samples: set augment=none"),
    ("optimizer=lbfgs", "model=*", "the model draws random numbers in training"),
    ("optimizer=lbfgs", "precision=*", "is too coarse: set it to fp32"),
    ("optimizer=lbfgs", "clip_*", "is no part of the loss: set it to null"),
    ("optimizer=lbfgs", "max_norm=*", "is no part of the loss: set it to null"),
    ("optimizer=lbfgs", "gradient_noise=*", "is no part of the loss: set it to null"),
    ("optimizer=lbfgs", "batches=drop_last", "may leave out other samples each time"),
    # The whole training split is the batch here, so it can neither grow nor shrink.
    ("optimizer=lbfgs", "batches=growing", "which is larger than the training split"),
    ("optimizer=lbfgs", "folds=one", "is larger than the training split"),
    ("optimizer=lbfgs", "warmup=*", "warmup"),
    ("optimizer=lbfgs", "layer_decay=*", "it has one rate for all parameters"),
    ("optimizer=lbfgs", "lr_factors=*", "it has one rate for all parameters"),
    # What has no momentum has none that could be moved.
    *(
        (f"optimizer={name}", "schedule=moving_momentum", "has no momentum")
        for name in ("adagrad", "adadelta", "lbfgs")
    ),
    # Nothing but the head is trained.
    ("optimizer=muon", "freeze=*", "no trained weight matrix between its input layer and its head"),
    ("freeze=cached", "augment=*", "each image is seen once, so there is nothing to augment"),
    ("freeze=cached", "loss=multi_label", "is for images with a class each"),
    # Losses of one label cannot be of shares of several.
    ("augment=mixup", "loss=*hinge", MIXING),
    ("augment=cutmix", "loss=*hinge", MIXING),
    # Rotated images have no neighbouring pixels.
    ("normalize=pca", "model=conv_dropout", "the numbers are no longer pixels with neighbours"),
    ("normalize=pca", "model=stochastic_depth", "the numbers are no longer pixels with neighbours"),
    # Both watch the same metric, and the one would end the run before the other does anything.
    ("schedule=plateau", "early_stopping=*", "stops the run before schedule.patience"),
]
"""(one, the other, part of the message): patterns of techniques that cannot be together, and why; the first counts."""


def refusal(one: Technique, other: Technique) -> int | None:
    """The number in REFUSED that says that these cannot be together; None if they can."""
    for number, (first, second, _) in enumerate(REFUSED):
        for a, b in ((one, other), (other, one)):
            if fnmatchcase(str(a), first) and fnmatchcase(str(b), second):
                return number
    return None


class Saving(Callback):
    """Keeps what a checkpoint would hold after one of the steps, and every loss."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.saved: bytes | None = None
        self.losses: list[float] = []

    def step_end(self, fit: Fit) -> None:
        if fit.state.step == self.step:
            fit.state.request_checkpoint()

    def log(self, fit: Fit, metrics: Any) -> None:
        self.losses.append(metrics["train/loss"])

    def eval_end(self, fit: Fit, metrics: Any) -> None:
        self.losses.append(metrics["val/loss"])

    def checkpoint(self, fit: Fit) -> None:
        if fit.state.step == self.step:
            file = io.BytesIO()
            torch.save(fit.payload(), file)
            self.saved = file.getvalue()


def built(chosen: Config, root: Path, saved: dict[str, Any] | None = None) -> Fit:
    prepared = assembly.prepare(chosen, saved)
    return assembly.build_fit(chosen, prepared, lambda: create_run_folder(root, "test", chosen.to_tree()))


def check_rates(fit: Fit, warmup: int) -> None:
    """A warmup rises to where the schedule begins, and no further."""
    if not isinstance(fit.schedule, Watching):
        rates = [fit.schedule(step) for step in range(fit.total_steps)]
        assert all(before <= after + 1e-12 for before, after in itertools.pairwise(rates[: warmup + 1])), rates


def look_from_several_sides(fit: Fit, view: Name) -> None:
    """Views of the images and an ensemble of these with the plain images and the averaged weights give finite scores.

    By Jensen's inequality the mean of probabilities is never worse than the mean of the losses.
    """
    payload = fit.payload()
    models = [fit.model, *([fit.average.model] if fit.average is not None and fit.average.looks else [])]
    assert payload.get("averaging", {}).get("settled", True), "a finished run holds what an evaluation needs"
    subjects = [
        Subject(Saved(Path("net.pt"), payload, fit.config), "", fit.feed, fit.task, model, fit.device)
        for model in models
    ]
    views = make_views(view, (8, 8))
    opinions = [classified(subject, "val", chosen) for subject in subjects for chosen in (None, views)]
    targets = opinions[0][1]
    alone = [rated(subjects[0], outputs.double(), targets)["loss"] for outputs, _ in opinions]
    kind = probabilities_of(fit.task)
    assert kind is not None
    joined = mean_probabilities([outputs.double() for outputs, _ in opinions], kind=kind)
    together = rated(subjects[0], joined, targets)
    assert all(math.isfinite(value) for value in (*alone, *together.values()))
    assert together["loss"] <= sum(alone) / len(alone) + 1e-9


def train_and_resume(root: Path, *overrides: str) -> None:
    """A run, and one that goes on from the middle of it, end with the same bits; all losses are finite.

    Raises:
        UserError: if the experiment is refused.
    """
    chosen = config(*BASE, *overrides)
    whole = built(chosen, root)
    # In the middle of an epoch, where an epoch has several steps.
    saving = Saving(whole.total_steps * 5 // 12)
    whole.callbacks = {**whole.callbacks, "saving": saving}
    check_rates(whole, whole.timeline.at(chosen.schedule.warmup))
    train(whole)
    assert whole.state.stop is None or whole.state.stop.reason == "early_stopping", whole.state.stop
    assert saving.losses
    assert all(math.isfinite(loss) for loss in saving.losses)
    look_from_several_sides(whole, NAMES[sum(map(ord, "".join(overrides))) % len(NAMES)])
    if saving.saved is None:
        assert whole.state.step < saving.step, "the checkpoint that was asked for did not come"
        return
    torch.manual_seed(12345)
    saved = torch.load(io.BytesIO(saving.saved), weights_only=True)
    resumed = built(chosen, root, saved)
    resumed.resume(saved)
    train(resumed)
    one, other = whole.payload(), resumed.payload()
    one["callbacks"].pop("saving")
    assert [key for key in one if not equal(one[key], other[key])] == []


def attempt(root: Path, one: Technique, other: Technique) -> None:
    """Check one pair against the table of refusals."""
    expected = refusal(one, other)
    if expected is None:
        train_and_resume(root, *one.overrides, *other.overrides)
        return
    with pytest.raises(UserError) as caught:
        train_and_resume(root, *one.overrides, *other.overrides)
    assert REFUSED[expected][2] in str(caught.value)
    assert not list(root.iterdir()), "an experiment that is refused leaves no folder"


def covering(times: int) -> list[tuple[Technique, Technique]]:
    """A sample of the pairs that holds every technique so often, and every reason of a refusal once."""
    shuffled = random.Random(0).sample(PAIRS, len(PAIRS))
    reasons: dict[int, tuple[Technique, Technique]] = {}
    count: Counter[Technique] = Counter()
    chosen = []
    for pair in shuffled:
        reason = refusal(*pair)
        if reason is not None:
            reasons.setdefault(reason, pair)
        elif max(count[technique] for technique in pair) < times:
            chosen.append(pair)
            count.update(pair)
    # What is left over meets partners that have enough already.
    for pair in shuffled:
        if pair not in chosen and refusal(*pair) is None and min(count[technique] for technique in pair) < times:
            chosen.append(pair)
            count.update(pair)
    return [*chosen, *reasons.values()]


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    # Hydra takes 0.08 s for each pair of options, and reading the same files again and again as much.
    monkeypatch.setattr(groups, "_composed_by_hydra", composed_in_parts)
    monkeypatch.setattr(groups, "read_yaml", lambda *words: copy.deepcopy(read_once(*words)))


@functools.cache
def read_once(path: Path, label: str) -> Any:
    return read_yaml(path, label)


def composed_in_parts(words: tuple[str, ...]) -> dict[str, Any]:
    """What Hydra composes, with each group that is not the default taken from its file."""
    defaults = [f"{group}='{option}'" for group, option in groups.default_options().items()]
    tree = copy.deepcopy(_hydra_once(tuple(defaults)))
    common, _ = read_once(groups.CONFIGS / "config.yaml", "configs/config.yaml")
    for word, default in zip(words, defaults, strict=True):
        if word != default:
            group, _, option = word.partition("=")
            part = groups.option_layer(group, option.strip("'"), ()).tree[group]
            tree[group] = {**common.get(group, {}), **part} if isinstance(part, dict) else part
    return tree


def test_composing_in_parts_is_composing() -> None:
    chosen = {**groups.default_options(), "optimizer": "lion", "schedule": "one_cycle", "augment": "mixup"}
    words = tuple(f"{group}='{option}'" for group, option in chosen.items())
    assert composed_in_parts(words) == _hydra_once(words)


@functools.cache
def sample() -> list[tuple[Technique, Technique]]:
    return covering(2)


@pytest.mark.parametrize("pair", sample(), ids=lambda pair: f"{pair[0]} and {pair[1]}")
def test_a_sample_of_pairs(pair: tuple[Technique, Technique], tmp_path: Path) -> None:
    attempt(tmp_path, *pair)


def test_the_sample_holds_every_technique_and_every_refusal() -> None:
    trained = [pair for pair in sample() if refusal(*pair) is None]
    count = Counter(technique for pair in trained for technique in pair)
    assert {str(technique) for technique in TECHNIQUES if count[technique] < 2} == set()
    assert {refusal(*pair) for pair in sample()} - {None} == set(range(len(REFUSED)))


@pytest.mark.slow
@pytest.mark.parametrize("one", TECHNIQUES, ids=str)
def test_every_pair(one: Technique, tmp_path: Path) -> None:
    wrong = []
    for number, pair in enumerate(pair for pair in PAIRS if pair[0] is one):
        try:
            (tmp_path / str(number)).mkdir()
            attempt(tmp_path / str(number), *pair)
        except BaseException as error:  # Whatever it is: the others are tried too.
            wrong.append(f"{pair[0]} and {pair[1]}: {type(error).__name__}: {error}")
    assert wrong == []
