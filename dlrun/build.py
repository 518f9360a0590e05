"""The only place that turns configuration into objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn

from dlrun.allocator import keep_freed_memory
from dlrun.config.schema import ComponentConfig, Config
from dlrun.data.feed import Feed
from dlrun.data.image_feed import ImageFeed
from dlrun.data.pair_feed import PairFeed
from dlrun.data.pairs import PairData
from dlrun.data.source import ImageData, first
from dlrun.data.splits import split_off_validation
from dlrun.data.statistics import Statistics
from dlrun.data.text import TextData
from dlrun.data.text_feed import TextFeed
from dlrun.errors import UserError, did_you_mean
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
from dlrun.train.probe import train_on_features
from dlrun.train.state import State
from dlrun.transfer import (
    ALL_BUT_HEAD,
    Head,
    freeze,
    learning_rate_factors,
    start_from,
)
from dlrun.weights import Weights, load_weights, read_weights


def _make(registry: Registry[Any], chosen: ComponentConfig, **runtime: Any) -> Any:
    return registry.build(chosen.name, chosen.params, **runtime)


def build_data(config: Config) -> Any:
    """The data set with its splits: :class:`ImageData`, :class:`TextData` or :class:`PairData`.

    For images a validation split is made where the data bring none.

    Raises:
        DataError: if the data are missing or damaged.
    """
    chosen = config.data
    data = _make(DATASETS, chosen, split_seed=chosen.split_seed, val_fraction=chosen.val_fraction)
    return _arranged(data, config) if isinstance(data, ImageData) else data


def _arranged(data: ImageData, config: Config) -> ImageData:
    """With a validation split, and no more than ``trainer.limit_batches`` batches."""
    data = split_off_validation(data, config.data.val_fraction, config.data.split_seed)
    limit = config.trainer.limit_batches
    if limit is None:
        return data
    evaluated = limit * config.data.eval_batch_size
    return replace(
        data,
        train=first(data.train, limit * config.data.batch_size, config.seed),
        val=None if data.val is None else first(data.val, evaluated, config.seed),
        test=None if data.test is None else first(data.test, evaluated, config.seed),
    )


def check_fit(config: Config, feed: Feed) -> None:
    """Check that the model and the task are made for this kind of data.

    Raises:
        UserError: if one needs what the data do not have, with the names of those that fit.
    """
    problems = []
    for registry, chosen in ((MODELS, config.model), (TASKS, config.task)):
        known = {*feed.arguments, "loss"}
        missing = [need for need in registry.entry(chosen.name).needs if need not in known]
        if missing:
            fitting = [name for name in registry.names() if known.issuperset(registry.entry(name).needs)]
            choice = ", ".join(fitting[:4]) + (", ..." if len(fitting) > 4 else "")
            problems.append(
                f"{registry.kind} {chosen.name!r} needs {' and '.join(missing)}, which data {config.data.name!r} "
                f"({feed.kind}) do not have; {registry.kind}s for {feed.kind}: {choice}"
            )
    if problems:
        raise UserError("; ".join(problems))


def build_feed(
    config: Config,
    device: torch.device,
    stored: Mapping[str, Any] | None = None,
    statistics: Statistics | None = None,
) -> Feed:
    """The data, ready to be trained on or evaluated.

    Args:
        config: the checked configuration.
        device: where the batches are wanted.
        stored: what a checkpoint holds of its data, if the model is evaluated as that left it.
        statistics: what images are normalised with; None: ``data.normalize`` of the training split.

    Raises:
        DataError: if the data are missing or damaged.
        CheckpointError: if the data do not fit ``stored``.
    """
    data = build_data(config)
    augment = [_make(AUGMENTATIONS, augmentation) for augmentation in config.augment]
    if isinstance(data, TextData):
        return TextFeed(data, config, augment, device, stored)
    if isinstance(data, PairData):
        return PairFeed(data, config, augment, device, stored)
    return ImageFeed(data, config, augment, device, stored, statistics)


def build_model(config: Config, arguments: Mapping[str, Any], device: torch.device) -> nn.Module:
    """The network with fresh weights, drawn on the CPU so that they do not depend on the device.

    Args:
        config: the checked configuration.
        arguments: what the network must know of the data, as :attr:`dlrun.data.feed.Feed.arguments`.
        device: where it is wanted.

    Raises:
        UserError: if the network cannot take such data.
    """
    model: nn.Module = _make(MODELS, config.model, **arguments)
    layout = torch.channels_last if config.trainer.channels_last else torch.preserve_format
    return model.to(device, memory_format=layout)  # type: ignore[call-overload, no-any-return]


def find_head(config: Config, model: nn.Module, arguments: Mapping[str, Any], counted: str) -> Head | None:
    """The layers of a model that depend on the number of classes or symbols; None if no option asks for them.

    Args:
        config: the checked configuration.
        model: the network.
        arguments: what it was built with.
        counted: the argument that is the number of classes or symbols.

    Raises:
        UserError: if there are none.
    """
    asked = config.model.weights is not None or config.model.freeze == ALL_BUT_HEAD
    if not asked and not {"head", "body"} & set(config.optimizer.lr_factors or ()):
        return None

    def other(device: str) -> nn.Module:
        one_more = {**arguments, counted: arguments[counted] + 1}
        with torch.random.fork_rng(devices=[]), torch.device(device):
            net: nn.Module = _make(MODELS, config.model, **one_more)
            return net

    try:
        return Head.between(model, other("meta"))
    except (RuntimeError, NotImplementedError):
        # It computes with values in its constructor.
        return Head.between(model, other("cpu"))


DATA_INIT_SAMPLES = 2048
"""Training samples that a data-dependent initialisation sees."""


def init_from_data(model: nn.Module, feed: Feed) -> None:
    """Let a model that has ``init_from_data`` set weights from inputs of the training split."""
    initialise = getattr(model, "init_from_data", None)
    if initialise is not None:
        initialise(feed.sample_inputs(DATA_INIT_SAMPLES))


def build_task(config: Config, arguments: Mapping[str, Any]) -> Task:
    """The task with its loss; ``arguments`` as for :func:`build_model`."""
    task: Task = _make(TASKS, config.task, loss=_make(LOSSES, config.loss), **arguments)
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
        factors=learning_rate_factors(model, chosen.lr_factors or {}, head),
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
        feed: the data.
        weights: what a new run starts from; None if afresh, or if it goes on from a checkpoint.
        saved: content of the checkpoint that the run goes on from; None for a new run.
    """

    device: torch.device
    feed: Feed
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
    _refuse_idle(config)
    weights = read_weights(config.model) if saved is None else None
    statistics = _statistics_of_weights(weights, saved) if config.data.normalize == "weights" else None
    return Prepared(device, build_feed(config, device, statistics=statistics), weights, saved)


def _refuse_idle(config: Config) -> None:
    """Refuse options of the start that would have no effect, or no meaning."""
    if config.model.head != "auto" and config.model.weights is None:
        raise UserError(
            f"model.head={config.model.head} has no effect without model.weights: a fresh model has a new head anyway; "
            "set model.weights, or head=auto"
        )
    if not config.model.cache_features:
        return
    for wrong, remedy in (
        (config.model.freeze != ALL_BUT_HEAD, "all else must be frozen: set model.freeze=all_but_head"),
        (bool(config.augment), "each image is seen once, so there is nothing to augment: set augment=none"),
    ):
        if wrong:
            raise UserError(f"model.cache_features=true: {remedy}, or cache_features=false")


def _statistics_of_weights(weights: Weights | None, saved: Mapping[str, Any] | None) -> Statistics:
    if saved is not None:
        return Statistics.from_state(saved["data"]["statistics"])
    if weights is None:
        raise UserError("data.normalize=weights: there are no weights; set model.weights, or data.normalize=channel")
    if weights.statistics is None:
        raise UserError(
            f"data.normalize=weights: {weights.source} does not tell what its images were normalised with; "
            "set data.normalize=channel"
        )
    return weights.statistics


def _start(config: Config, model: nn.Module, prepared: Prepared, head: Head | None) -> str:
    """Give a model the weights that training starts from; returns what the log says of them."""
    if prepared.saved is not None:
        load_weights(model, prepared.saved["model"])
    elif prepared.weights is not None:
        assert head is not None
        return start_from(model, prepared.weights, head, config.model.head, prepared.feed.outputs)
    return ""


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
    device, feed = prepared.device, prepared.feed
    check_fit(config, feed)
    if config.model.cache_features and feed.classes is None:
        raise UserError("model.cache_features=true is for data with a class for each sample; set it to false")
    train, val = feed.train_loader(), feed.eval_loader("val")
    seed_all(config.seed)
    model = build_model(config, feed.arguments, device)
    init_from_data(model, feed)
    head = find_head(config, model, feed.arguments, feed.counted)
    origin = _start(config, model, prepared, head)
    frozen = freeze(model, config.model.freeze, head)
    optimizer = build_optimizer(config, model, head)
    try:
        config.trainer.eval_every.steps(train.steps_per_epoch)
    except ValueError as error:
        raise UserError(f"trainer.eval_every: {error}") from None
    task = build_task(config, feed.arguments)
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
        feed=feed,
        device=device,
        callbacks=callbacks,
        frozen=frozen,
        origin=origin,
    )
    if config.model.cache_features:
        assert head is not None
        train_on_features(fit, head)
    fit.run = open_run()
    return fit
