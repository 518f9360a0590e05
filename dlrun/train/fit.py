"""What a training run consists of, and the events that its callbacks hear."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from dlrun.config.schema import Config
from dlrun.data.feed import BatchLoader, Feed
from dlrun.data.loaders import ResidentLoader
from dlrun.errors import CheckpointError
from dlrun.meters import Meters, Reading
from dlrun.optim.momentum import MomentumMover
from dlrun.optim.regularization import Regularizer
from dlrun.optim.scaling import scaled_lr
from dlrun.optim.schedules import Schedule, Watching
from dlrun.reproducibility import random_state, set_random_state
from dlrun.runfolder import RunFolder
from dlrun.tasks.base import Carried, Task
from dlrun.timeline import Timeline
from dlrun.train.average import WeightAverage
from dlrun.train.state import State
from dlrun.weights import load_weights

log = logging.getLogger("dlrun")

EVENTS = (
    "fit_start",
    "epoch_start",
    "step_end",
    "log",
    "eval_end",
    "checkpoint",
    "epoch_end",
    "fit_end",
    "exception",
)


class Callback:
    """Reads the state, writes files, or requests a stop. Override the events you need.

    The loop with its events, in the order in which they happen::

        fit_start                                  once, after resuming
        for each epoch:
            epoch_start                            also when resumed in mid-epoch
            for each batch:
                forward, backward, optimizer step
                step_end                           every step: must not read the device
                log                                every `log_every` steps, before an evaluation and at the end of
                                                   the epoch: the metrics were just read, once, from the device
                eval_end                           every `eval_every`: after the evaluation (without a validation
                                                   split: with the training metrics alone)
                checkpoint                         after every eval_end, when a callback asked for it, and
                                                   before a stop
                leave, if a stop was requested
            epoch_end                              after the last batch of the epoch
        fit_end                                    whatever the reason of the end, but not after an exception
        exception                                  instead of fit_end

    A signal or time limit skips an evaluation that is due, because saving comes first. The resumed run makes up for it:
    ``eval_end`` and ``checkpoint`` come right after ``fit_start``.

    Non-finite losses and weights are noticed before ``eval_end`` and ``checkpoint``: a poisoned model is never written.
    What must survive a resume goes through ``state_dict`` and ``load_state_dict``.
    """

    def check(self, fit: Fit) -> None:
        """No event: before the run folder is made, refuse what cannot work in this run, with a ``UserError``."""

    def fit_start(self, fit: Fit) -> None:
        """Before the first step of this process."""

    def epoch_start(self, fit: Fit) -> None:
        """Before the first batch of an epoch."""

    def step_end(self, fit: Fit) -> None:
        """After an optimizer step. Called every step: no work on tensors here."""

    def log(self, fit: Fit, metrics: Mapping[str, float]) -> None:
        """After the metrics of the last steps were read; they are means over those steps."""

    def eval_end(self, fit: Fit, metrics: Mapping[str, float]) -> None:
        """After an evaluation; ``metrics`` holds ``val/...`` and the epoch's ``train/...`` so far."""

    def checkpoint(self, fit: Fit) -> None:
        """When the state of the run should be saved."""

    def epoch_end(self, fit: Fit) -> None:
        """After the last batch of an epoch."""

    def fit_end(self, fit: Fit) -> None:
        """After the last step."""

    def exception(self, fit: Fit, error: BaseException) -> None:
        """When the loop is left by an exception."""

    def state_dict(self) -> dict[str, Any]:
        """What must survive a resume: tensors and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``."""


def timeline_of(loader: BatchLoader, epochs: int) -> Timeline:
    """The steps of each epoch of a training."""
    return Timeline(tuple(loader.steps(epoch) for epoch in range(epochs)))


@dataclass
class Fit:
    """The parts of a training run, as the loop drives them and callbacks see them.

    Attributes:
        config: the frozen configuration.
        state: position and newest metrics.
        model: the network, on ``device``; never the compiled wrapper.
        forward: what the step calls: the model, or its compiled form.
        task: loss and metrics of a batch.
        optimizer: over ``model``'s trainable parameters.
        schedule: step -> factor on the learning rates.
        scaler: loss scaler of fp16, else None.
        train: training batches.
        val: validation batches; None without a validation split.
        feed: the data.
        device: where it runs.
        callbacks: by name, in the order in which they are called.
        frozen: modules that are not trained and stay in eval mode.
        momentum: sets the momentum, if the schedule moves it; else None.
        average: average of the weights along the training; None without one.
        origin: what the weights were before training, for the log; empty if fresh.
        regularizer: penalties, noise and limits of the training step; None if there are none.
        run: the run folder.
        timeline: steps of each epoch.
        evaluated: what evaluation calls on the batches of ``val``: the model, or its head alone on cached features.
        meters: training metrics since the last reading.
        epoch_reading: sums of the current epoch's readings.
        carried: what the newest batch left to the next one of its streams: with epoch and batch, the position in text.
    """

    config: Config
    state: State
    model: nn.Module
    forward: nn.Module
    task: Task
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler | None
    train: BatchLoader
    val: BatchLoader | None
    feed: Feed
    device: torch.device
    callbacks: Mapping[str, Callback]
    frozen: tuple[nn.Module, ...] = ()
    momentum: MomentumMover | None = None
    average: WeightAverage | None = None
    origin: str = ""
    regularizer: Regularizer | None = None
    run: RunFolder = field(init=False)
    timeline: Timeline = field(init=False)
    evaluated: nn.Module = field(init=False)
    meters: Meters = field(init=False)
    epoch_reading: Reading = field(default_factory=lambda: Reading({}, 0, []))
    carried: Carried = None

    def __post_init__(self) -> None:
        self.evaluated = self.model
        self.timeline = timeline_of(self.train, self.config.trainer.epochs)
        self.meters = Meters(self.task.score)
        self.base_lrs = [float(group["lr"]) for group in self.optimizer.param_groups]

    def train_mode(self) -> None:
        """Put the model into training mode, but for what is frozen."""
        self.model.train()
        for module in self.frozen:
            module.training = False

    @contextmanager
    def training_batches(self) -> Iterator[BatchLoader]:
        """Batches of the training split to be read beside the training: of images that lie on the device its own, of
        which several epochs can be read at once."""
        if isinstance(self.train, ResidentLoader):
            yield self.train
            return
        loader = self.feed.train_loader()
        try:
            yield loader
        finally:
            loader.close()

    @property
    def judged(self) -> WeightAverage | None:
        """The average if evaluation is about it now; None if it is about the newest weights."""
        average = self.average
        return average if average is not None and average.looks and self.config.averaging.evaluate else None

    @property
    def lr(self) -> float:
        """The learning rate now, of parameters that have no factor on it."""
        now, base = float(self.optimizer.param_groups[0]["lr"]), scaled_lr(self.config)
        if base is None or self.base_lrs[0] in (0.0, base):
            return now
        return now * base / self.base_lrs[0]

    def lr_of(self, step: int) -> float:
        """The learning rate of a step, from 1, of parameters that have no factor on it."""
        base = scaled_lr(self.config)
        return (self.base_lrs[0] if base is None else base) * self.schedule(step - 1)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in the current epoch."""
        return self.timeline.steps(self.state.epoch)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.timeline.total

    def payload(self) -> dict[str, Any]:
        """Everything that a checkpoint holds."""
        return {
            "config": self.config.to_tree(),
            "model": self.model.state_dict(),
            **({} if self.average is None else self.average.payload()),
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "state": self.state.state_dict(),
            "meters": self.meters.state_dict(),
            "epoch_reading": [self.epoch_reading.sums, self.epoch_reading.samples],
            "callbacks": {name: callback.state_dict() for name, callback in self.callbacks.items()},
            "random": random_state(self.device),
            **({} if self.carried is None else {"carried": [tensor.cpu() for tensor in self.carried]}),
            **({"schedule": self.schedule.state_dict()} if isinstance(self.schedule, Watching) else {}),
            "data": {**self.feed.state_dict(), "train_samples": self.train.num_samples},
        }

    def resume(self, payload: Mapping[str, Any]) -> None:
        """Go on exactly where the checkpoint was written.

        Raises:
            CheckpointError: if the data or the callbacks are not those of the checkpoint.
        """
        samples = payload["data"]["train_samples"]
        if samples != self.train.num_samples:
            raise CheckpointError(
                f"the checkpoint was trained on {samples} {self.feed.unit}, but the training split now has "
                f"{self.train.num_samples}: the data changed, so the run cannot be continued exactly; start a new run"
            )
        epochs, before = self.config.trainer.epochs, payload["config"]["trainer"]["epochs"]
        if self.config.data.batch_growth is not None and epochs != before and payload["state"]["step"]:
            raise CheckpointError(
                f"trainer.epochs was {before}, now {epochs}: with data.batch_growth the batch grows at shares of the "
                "training, so the steps already taken would have been others; leave trainer.epochs"
            )
        self.feed.check_unchanged(payload["data"])
        load_weights(self.model, payload["model"])
        if self.average is not None:
            self.average.resume(payload)
            if epochs != before and self.average.would_differ(payload["state"]["step"]):
                raise CheckpointError(
                    f"trainer.epochs was {before}, now {epochs}: averaging={self.config.averaging.name} takes the mean "
                    "over the last part of the training, so it would have been of other weights; leave trainer.epochs, "
                    "or start a new run from these weights with model.weights"
                )
        try:
            self.optimizer.load_state_dict(payload["optimizer"])
        except ValueError as error:
            # Which parameters are decayed was another rule in older versions.
            raise CheckpointError(
                f"the optimizer's groups of parameters are not those of the checkpoint ({error}); start a new run from "
                "its weights with model.weights"
            ) from None
        if self.scaler is not None and payload["scaler"] is not None:
            self.scaler.load_state_dict(payload["scaler"])
        self.state.load_state_dict(payload["state"])
        if isinstance(self.schedule, Watching) and "schedule" in payload:
            self.schedule.load_state_dict(payload["schedule"])
        stop, tree = self.state.stop, self.config.to_tree()
        if stop is not None and stop.reason == "early_stopping":
            before, now = (t["callbacks"].get("early_stopping") for t in (payload["config"], tree))
            if before != now:
                # More patience, or none at all: the run goes on.
                self.state.stop = None
        self.meters.load_state_dict(payload["meters"], self.device)
        if "carried" in payload:
            self.carried = tuple(tensor.to(self.device) for tensor in payload["carried"])
        sums, count = payload["epoch_reading"]
        self.epoch_reading = Reading(sums, count, [])
        for name, callback in self.callbacks.items():
            if name in payload["callbacks"]:
                callback.load_state_dict(payload["callbacks"][name])
        set_random_state(payload["random"], self.device)
