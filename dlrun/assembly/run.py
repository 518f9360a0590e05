"""A whole run from its configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from dlrun.allocator import keep_freed_memory
from dlrun.assembly.data import build_feed
from dlrun.assembly.full_batch import check_full_batch
from dlrun.assembly.model import build_model, find_head, init_from_data
from dlrun.assembly.training import (
    build_average,
    build_callbacks,
    build_momentum,
    build_optimizer,
    build_regularizer,
    build_schedule,
    build_task,
    check_fit,
    check_monitors,
    check_targets,
)
from dlrun.config.schema import Config
from dlrun.data.feed import Feed
from dlrun.data.statistics import Statistics
from dlrun.data.whitening import WHITENINGS
from dlrun.errors import UserError
from dlrun.reproducibility import resolve_device, seed_all, set_determinism
from dlrun.runfolder import RunFolder
from dlrun.train.fit import Fit, timeline_of
from dlrun.train.probe import train_on_features
from dlrun.train.state import State
from dlrun.transfer import ALL_BUT_HEAD, Head, freeze, start_from
from dlrun.weights import Weights, load_weights, read_weights

_WINDOWED = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Unfold, nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d),
    *(nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
)


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


def prepare(config: Config, saved: Mapping[str, Any] | None = None, data: Any = None) -> Prepared:
    """Choose the device and load the data: what can fail for reasons outside of the configuration.

    Args:
        config: the checked configuration.
        saved: content of the checkpoint that the run will go on from; None for a new run.
        data: what :func:`~dlrun.assembly.data.read_data` gave, to be shared with other runs; None to read it.

    Raises:
        UserError: if the device is absent, or data or weights are missing or damaged, or do not fit each other.
    """
    set_determinism(deterministic=config.trainer.deterministic, threads=config.trainer.threads)
    device = resolve_device(config.device)
    if device.type == "cpu":
        keep_freed_memory()
    _refuse_idle(config)
    weights = read_weights(config.model) if saved is None else None
    statistics = _given_statistics(config, weights, saved)
    earlier = None if saved is None else saved["data"]
    feed = build_feed(config, device, statistics=statistics, earlier=earlier, data=data)
    return Prepared(device, feed, weights, saved)


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


def _given_statistics(config: Config, weights: Weights | None, saved: Mapping[str, Any] | None) -> Statistics | None:
    """What images are normalised with, unless it is to be measured."""
    of_weights = config.data.normalize == "weights"
    if of_weights and config.data.contrast_normalize:
        raise UserError(
            "data.contrast_normalize=true has no effect with normalize=weights: the images are prepared as they were "
            "for these weights; set it to false"
        )
    if saved is not None and "statistics" in saved["data"] and (of_weights or config.data.normalize in WHITENINGS):
        # Whitening takes its time, and the last bits of its matrix depend on the machine.
        return Statistics.from_state(saved["data"]["statistics"])
    return _statistics_of_weights(weights) if of_weights else None


def _statistics_of_weights(weights: Weights | None) -> Statistics:
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


def refuse_rotated_images(config: Config, model: nn.Module) -> None:
    """Check that a model that looks at neighbouring pixels gets images.

    Raises:
        UserError: if the images are rotated by PCA and the model has layers with a window.
    """
    if config.data.normalize != "pca":
        return
    for name, module in model.named_modules():
        if isinstance(module, _WINDOWED):
            raise UserError(
                f"data.normalize=pca: the numbers are no longer pixels with neighbours, but the layer {name} "
                f"({type(module).__name__}) of model {config.model.name!r} looks at neighbours; set "
                "data.normalize=zca, whose result is an image, or take model=mlp or model=linear"
            )


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
    if config.model.cache_features and (feed.classes is None or feed.kind != "images"):
        raise UserError("model.cache_features=true is for images with a class each; set it to false")
    train, val = feed.train_loader(), feed.eval_loader("val")
    seed_all(config.seed)
    model = build_model(config, feed.arguments, device)
    refuse_rotated_images(config, model)
    init_from_data(model, feed)
    head = find_head(config, model, feed.arguments, feed.counted)
    origin = _start(config, model, prepared, head)
    frozen = freeze(model, config.model.freeze, head)
    optimizer = build_optimizer(config, model, head)
    try:
        config.trainer.eval_every.steps(1)
    except ValueError as error:
        raise UserError(f"trainer.eval_every: {error}") from None
    task = build_task(config, feed.arguments)
    check_targets(config, feed, task)
    callbacks = build_callbacks(config)
    timeline = timeline_of(train, config.trainer.epochs)
    schedule = build_schedule(config, timeline)
    momentum = build_momentum(config, optimizer, schedule)
    regularizer = build_regularizer(config, model)
    penalised = regularizer is not None and regularizer.penalises
    check_monitors(callbacks, task, validated=val is not None, schedule=schedule, penalised=penalised)
    fit = Fit(
        config=config,
        state=State(),
        model=model,
        forward=cast(nn.Module, torch.compile(model)) if config.trainer.compile else model,
        task=task,
        optimizer=optimizer,
        schedule=schedule,
        scaler=torch.amp.GradScaler(device.type) if config.trainer.precision == "fp16" else None,
        train=train,
        val=val,
        feed=feed,
        device=device,
        callbacks=callbacks,
        frozen=frozen,
        momentum=momentum,
        average=build_average(config, model, frozen, timeline),
        origin=origin,
        regularizer=regularizer,
    )
    if config.model.cache_features:
        assert head is not None
        train_on_features(fit, head)
    check_full_batch(fit)
    for callback in callbacks.values():
        callback.check(fit)
    fit.run = open_run()
    return fit
