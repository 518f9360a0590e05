"""What watches a trial from within its run: its curve, what ends it early, and what became of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlrun.errors import UserError
from dlrun.monitor import better
from dlrun.sweep.record import Advice, Record, Status, Trial
from dlrun.train.fit import Callback, Fit

Advise = Callable[[int, float, Sequence[tuple[float, float]]], Advice]
"""(number of the trial, epochs done, evaluations since the last question as (epochs, value)) -> what it is to do. The
first question of a resumed trial brings all its evaluations."""


class Watcher(Callback):
    """Follows a trial, ends it when it is hopeless, and knows what became of it."""

    def __init__(self, trial: Trial, advise: Advise) -> None:
        self._trial, self._watch, self._advise = trial, trial.watch, advise
        self._first: float | None = None
        self._unlearned: Tensor | None = None
        self._curve: list[tuple[float, float]] = []
        self._best: float | None = None
        self._metrics: dict[str, float] = {}
        self._seconds = 0.0
        self._epochs = 0.0
        self._began = time.monotonic()
        self._verdict: tuple[Status, str] | None = None
        self._stop: tuple[str, str] | None = None
        self._told = 0
        self.monitor = trial.watch.metric

    def fit_start(self, fit: Fit) -> None:
        """Ask again what was asked before it was interrupted: the answer may have been to pause."""
        self._began = time.monotonic()
        if self._first is None and self._watch.explode is not None:
            self._note_unlearned(fit)
        if self._curve:
            self._ask(fit)

    def step_end(self, fit: Fit) -> None:
        """End it when its time is over; no tensor is touched."""
        watch, spent = self._watch, time.monotonic() - self._began
        if watch.seconds is not None and self._seconds + spent > watch.seconds:
            self._end(fit, "timeout", f"took longer than {watch.seconds:g} s")
        elif watch.patience is not None and spent > watch.patience:
            fit.state.request_stop("paused", "goes on in a process of its own")

    def log(self, fit: Fit, metrics: Mapping[str, float]) -> None:
        """Compare the cost with what it began with: the mean of a whole reading may have exploded already.

        That is the cost of the first step, or of a network that knows nothing if that is more: one batch of a network
        that has learned elsewhere costs next to nothing.
        """
        cost = metrics.get("train/loss")
        if cost is None:
            return
        if self._first is None:
            unlearned = -math.inf if self._unlearned is None else float(self._unlearned)
            self._first = max(fit.epoch_reading.losses[0], unlearned)
        limit = self._watch.explode
        if limit is not None and cost > limit * abs(self._first) and cost > self._first:
            times = f"more than {limit:g} times what it began with ({self._first:.4g})"
            message = f"the training loss {cost:.4g} is {times}"
            self._verdict = ("diverged", message)
            fit.state.request_stop("diverged", message)

    def _note_unlearned(self, fit: Fit) -> None:
        """Let the loss of the first batch also say what it is where all scores are equal."""
        task, loss = fit.task, fit.task.loss

        def first(outputs: Tensor, targets: Tensor) -> Tensor:
            task.loss = loss
            with torch.no_grad():
                self._unlearned = loss(torch.zeros_like(outputs), targets)
            return loss(outputs, targets)

        task.loss = first

    def eval_end(self, fit: Fit, metrics: Mapping[str, float]) -> None:
        """Note the score, and ask whether to go on."""
        value = metrics.get(self._watch.metric)
        if value is None:
            raise UserError(
                f"sweep.metric={self._watch.metric}: the run has no such metric; it has {', '.join(sorted(metrics))}"
            )
        if not math.isfinite(value):
            self._end(fit, "diverged", f"{self._watch.metric} is {value}")
            return
        self._curve.append((_position(fit), value))
        if better(value, self._best, self._watch.mode):
            self._best, self._metrics = value, dict(metrics)
        self._ask(fit)

    def _ask(self, fit: Fit) -> None:
        if fit.state.step >= fit.total_steps:
            return
        epochs, points = _position(fit), self._curve[self._told :]
        self._told = len(self._curve)
        advice = self._advise(self._trial.number, epochs, points)
        if advice == "stop":
            self._end(fit, "pruned", f"lags behind the others after {epochs:g} epochs")
        elif advice == "pause":
            self._verdict = ("paused", f"waits after {epochs:g} epochs: others do better")
            fit.state.request_stop("paused", "others do better")

    def leave(self, fit: Fit) -> None:
        """Remember where it stands when the loop is left."""
        self._seconds += time.monotonic() - self._began
        self._epochs = fit.state.epoch + fit.state.batch / fit.steps_per_epoch
        stop = fit.state.stop
        self._stop = None if stop is None else (stop.reason, stop.message)

    def outcome(self) -> tuple[Status, str]:
        """Status and reason."""
        if self._verdict is not None:
            return self._verdict
        if self._stop is None or self._stop[0] == "early_stopping":
            return "ok", "" if self._stop is None else self._stop[1]
        reason, message = self._stop
        if reason == "diverged":
            return "diverged", message
        if reason == "paused":
            return "moved", message
        return ("ok", message) if reason == "callback" else ("interrupted", message)

    def record(self, status: Status, reason: str) -> Record:
        """What is known of the trial now."""
        return Record(
            self._trial.number,
            self._trial.stage,
            status,
            dict(self._trial.values),
            score=self._best,
            epochs=self._epochs,
            reason=reason,
            folder=Path(self._trial.folder).name,
            seconds=round(self._seconds, 3),
            metrics=self._metrics,
            curve=tuple(self._curve),
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed trial goes on from."""
        return {
            "first": self._first,
            "curve": [list(point) for point in self._curve],
            "best": self._best,
            "metrics": dict(self._metrics),
            "seconds": self._seconds + time.monotonic() - self._began,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``."""
        self._first, self._best = state["first"], state["best"]
        self._curve = [(epochs, value) for epochs, value in state["curve"]]
        self._metrics, self._seconds = dict(state["metrics"]), state["seconds"]

    def _end(self, fit: Fit, status: Status, reason: str) -> None:
        if self._verdict is None:
            self._verdict = (status, reason)
        # With more time it goes on; what was pruned or has diverged is over.
        fit.state.request_stop("max_time" if status == "timeout" else "callback", reason)


def _position(fit: Fit) -> float:
    """Epochs trained; rounded, for thirds of an epoch are compared."""
    return round(fit.state.epoch + fit.state.batch / fit.steps_per_epoch, 6)
