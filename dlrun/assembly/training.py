"""What trains a network, from its configuration: task, optimizer, schedule, callbacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from dlrun.assembly.make import make
from dlrun.config.schema import Config
from dlrun.data.batch_sizes import batch_sizes
from dlrun.data.feed import Feed
from dlrun.errors import UserError, did_you_mean
from dlrun.logs import log
from dlrun.optim.groups import can_fuse, hidden_matrices, layer_depths, parameter_groups
from dlrun.optim.momentum import MomentumMover
from dlrun.optim.regularization import REG_LOSS, Regularizer
from dlrun.optim.scaling import scaled_lr, scaled_rates
from dlrun.optim.schedules import Schedule, Watching, momentum_of
from dlrun.optim.schedules.filling import fill
from dlrun.registry import AVERAGERS, CALLBACKS, LOSSES, MODELS, OPTIMIZERS, TASKS
from dlrun.tasks.base import Task
from dlrun.timeline import Timeline
from dlrun.train.average import WeightAverage
from dlrun.train.fit import Callback
from dlrun.transfer import Head, learning_rate_factors


def check_fit(config: Config, feed: Feed) -> None:
    """Check that the model and the task are made for this kind of data.

    Raises:
        UserError: if one needs what the data do not have, with the names of those that fit.
    """
    problems = []
    if "num_labels" in feed.arguments and "num_labels" not in TASKS.entry(config.task.name).needs:
        fitting = [name for name in TASKS.names() if "num_labels" in TASKS.entry(name).needs]
        problems.append(
            f"data {config.data.name!r} have several labels per image, which task {config.task.name!r} does not take; "
            f"set task={' or '.join(fitting)}"
        )
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


_OUTPUTS = ("num_classes", "vocabulary_size", "target_size", "class_count", "tag_count")
"""Arguments that are the number of scores of a head, for one kind of data each."""


def build_task(config: Config, arguments: Mapping[str, Any]) -> Task:
    """The task with its loss; ``arguments`` as for :func:`build_model`."""
    outputs = next((arguments[name] for name in _OUTPUTS if name in arguments), None)
    loss = make(LOSSES, config.loss, num_outputs=outputs, **arguments)
    task: Task = make(TASKS, config.task, loss=loss, **arguments)
    return task


def check_targets(config: Config, feed: Feed, task: Task) -> None:
    """Check that task and loss can take the targets that mixed images have.

    Raises:
        UserError: if one of them takes labels only, with what to change.
    """
    if not feed.soft_targets:
        return
    usual = "binary_cross_entropy" if "num_labels" in feed.arguments else "cross_entropy"
    for group, chosen, part, takes in (
        ("task", config.task, task, "classification"),
        ("loss", config.loss, task.loss, usual),
    ):
        if not getattr(part, "soft_targets", False):
            raise UserError(
                f"augment: mixing images gives each several classes in part, which {group} {chosen.name!r} cannot "
                f"take; set {group}={takes}, or leave out the augmentations that mix (mixup, cutmix)"
            )


def build_optimizer(config: Config, model: nn.Module, head: Head | None = None) -> torch.optim.Optimizer:
    """The optimizer over the trainable parameters, fused where torch has it.

    Args:
        config: the checked configuration.
        model: the network; what is frozen is left out.
        head: of the model, if the learning rates depend on it.

    Raises:
        UserError: if there is nothing to train, or a learning rate is for a module that the model does not have.
    """
    chosen, lr = config.optimizer, scaled_lr(config)
    factors = learning_rate_factors(model, chosen.lr_factors or {}, head)
    inside = () if head is None else head.names
    if chosen.layer_decay is not None:
        for name, depth in layer_depths(model, inside).items():
            factors[name] *= chosen.layer_decay**depth
    groups = parameter_groups(
        model,
        decay_norms_and_biases=chosen.decay_norms_and_biases,
        lr=lr,
        factors=factors,
    )
    if not groups:
        frozen = "" if config.model.freeze is None else f": model.freeze={config.model.freeze} leaves none"
        raise UserError(f"model {config.model.name!r} has no trainable parameters{frozen}")
    options = {**chosen.params, **scaled_rates(config)}
    optimizer: torch.optim.Optimizer = OPTIMIZERS.build(
        chosen.name, options, params=groups, fused=can_fuse(model), hidden=hidden_matrices(model, inside)
    )
    return optimizer


def build_regularizer(config: Config, model: nn.Module) -> Regularizer | None:
    """What the step does beside following the gradient of the data loss; None if that is nothing.

    Raises:
        UserError: if an option has no effect.
    """
    chosen = config.regularization
    if chosen.norms_and_biases and not (chosen.l2 or chosen.l1):
        raise UserError("regularization.norms_and_biases=true has no effect without regularization.l2 or l1")
    active = chosen.l2 or chosen.l1 or chosen.max_norm is not None or chosen.gradient_noise is not None
    return Regularizer(model, chosen, config.seed) if active else None


def build_schedule(config: Config, timeline: Timeline) -> Schedule:
    """The schedule with its warmup, filling the training exactly.

    What would never happen in so short a training is warned about.

    Raises:
        UserError: if the warmup is longer than the training, parts of the schedule do not fit it, or early stopping
            would end the run before the schedule does anything.
    """
    _refuse_stopping_first(config)
    schedule = fill(config, timeline)
    every = config.schedule.params["every"] if config.schedule.name == "step" else None
    if every is not None and schedule(timeline.total - 1) == 1:
        log.warning(
            "schedule.every=%s is longer than the training (%d steps): the rate never drops; null is a third of it",
            every,
            timeline.total,
        )
    if config.data.batch_growth is not None and not batch_sizes(config).grow:
        log.warning(
            "data.batch_growth=%g: no batch grows in %d epochs; data.batch_growth_at is rounded to borders of epochs",
            config.data.batch_growth,
            config.trainer.epochs,
        )
    return schedule


def build_momentum(config: Config, optimizer: torch.optim.Optimizer, schedule: Schedule) -> MomentumMover | None:
    """What moves the optimizer's momentum; None if the schedule does not.

    Raises:
        UserError: if the optimizer has none.
    """
    moved = momentum_of(schedule)
    if moved is None:
        return None
    try:
        return MomentumMover(optimizer, moved)
    except ValueError:
        raise UserError(
            f"schedule.momentum: optimizer {config.optimizer.name!r} has no momentum that could be moved; set "
            "schedule.momentum=null, or take sgd, adamw or another optimizer with momentum or betas"
        ) from None


def _refuse_stopping_first(config: Config) -> None:
    """A metric that stands still must first lower the rate, and only then end the run."""
    schedule, stopping = config.schedule.params, config.callbacks.get("early_stopping")
    if config.schedule.name != "plateau" or stopping is None or stopping.params["monitor"] != schedule["monitor"]:
        return
    if stopping.params["patience"] <= schedule["patience"]:
        raise UserError(
            f"callbacks.early_stopping.patience={stopping.params['patience']} stops the run before schedule.patience="
            f"{schedule['patience']} lowers its rate: set the former to more than the latter (twice as much lets the "
            "lower rate show what it does)"
        )


def build_average(
    config: Config, model: nn.Module, frozen: Iterable[nn.Module], timeline: Timeline
) -> WeightAverage | None:
    """The average of the weights; None without one.

    Args:
        config: the checked configuration.
        model: the network, with the weights that training starts from.
        frozen: modules of it that are not trained.
        timeline: steps of each epoch.

    Raises:
        UserError: if it would never look at the weights.
    """
    plan = make(AVERAGERS, config.averaging, timeline=timeline)
    return None if plan is None else WeightAverage(model, plan, frozen)


def build_callbacks(config: Config) -> dict[str, Callback]:
    """The callbacks in their order.

    Raises:
        UserError: if a callback saves state but cannot load it, or the other way round.
    """
    callbacks: dict[str, Callback] = {}
    for name, chosen in config.callbacks.items():
        callback = make(CALLBACKS, chosen)
        saves = type(callback).state_dict is not Callback.state_dict
        loads = type(callback).load_state_dict is not Callback.load_state_dict
        if saves != loads:
            missing = "load_state_dict" if saves else "state_dict"
            raise UserError(f"callback {name!r} has state but no {missing}: a resumed run would not continue exactly")
        callbacks[name] = callback
    return callbacks


def check_monitors(
    callbacks: Mapping[str, Callback],
    task: Task,
    *,
    validated: bool,
    schedule: Schedule | None = None,
    penalised: bool = False,
) -> None:
    """Check the metric that each callback, and the schedule, monitors.

    Args:
        callbacks: by name; those with an attribute ``monitor`` are checked.
        schedule: checked if it watches a metric.
        task: knows its metrics.
        validated: whether there is a validation split.
        penalised: whether the weights are, so that there is a ``train/reg_loss``.

    Raises:
        UserError: if the run has no such metric.
    """
    splits = ("train", "val") if validated else ("train",)
    known = [f"{split}/{name}" for split in splits for name in ("loss", *task.metrics)]
    if penalised:
        known.append(REG_LOSS)
    monitors = {f"callbacks.{name}": getattr(callback, "monitor", None) for name, callback in callbacks.items()}
    if isinstance(schedule, Watching):
        monitors["schedule"] = schedule.monitor
    for name, monitor in monitors.items():
        if isinstance(monitor, str) and monitor not in known:
            reason = (
                ""
                if validated
                else " (there is no validation split: data.val_fraction is 0, or too small for these data)"
            )
            if monitor == REG_LOSS:
                reason = " (there is no penalty: regularization.l2 and l1 are 0)"
            hint = did_you_mean(monitor, known)
            raise UserError(f"{name}.monitor={monitor}: this run has no such metric{reason}; {hint}")
