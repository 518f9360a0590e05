"""Where a training run stands. Small, on the host only; no tensor, no device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

StopReason = Literal["early_stopping", "signal", "max_time", "paused", "diverged", "callback"]

RESUMABLE: frozenset[str] = frozenset({"signal", "max_time", "paused"})
"""Reasons after which the run is unfinished: resuming goes on instead of reporting the result."""


@dataclass(frozen=True)
class Stop:
    """A request to stop after the current step."""

    reason: StopReason
    message: str


@dataclass
class State:
    """Position and newest results.

    Attributes:
        step: optimizer steps done.
        epoch: index of the current epoch, from 0; equals the number of finished epochs between epochs.
        batch: batches done in the current epoch.
        samples: samples seen.
        metrics: newest host value of every metric, such as ``train/loss`` and ``val/accuracy``.
        stop: the first request to stop, if any.
        checkpoint_due: whether a callback asked for a checkpoint after this step.
        evaluated_step: step of the newest evaluation; one that a signal cut short is made up for after resuming.
        first_step: step at which this process started or resumed.
        saved_step: step of the newest checkpoint; None if there is none.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    samples: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    stop: Stop | None = None
    checkpoint_due: bool = False
    evaluated_step: int = 0
    first_step: int = 0
    saved_step: int | None = None

    def request_stop(self, reason: StopReason, message: str) -> None:
        """Ask the loop to stop after the current step.

        The first request counts, but one that ends the run for good replaces one that only interrupts it: a signal
        that arrives just before an early stop must not make the resumed run train on.
        """
        if self.stop is None or (self.stop.reason in RESUMABLE and reason not in RESUMABLE):
            self.stop = Stop(reason, message)

    def request_checkpoint(self) -> None:
        """Ask the loop for a checkpoint after the current step."""
        self.checkpoint_due = True

    def state_dict(self) -> dict[str, Any]:
        """Plain values; a resumable stop is left out, for the resumed run goes on."""
        stop = self.stop
        kept = stop is not None and stop.reason not in RESUMABLE
        return {
            "step": self.step,
            "epoch": self.epoch,
            "batch": self.batch,
            "samples": self.samples,
            "metrics": dict(self.metrics),
            "evaluated_step": self.evaluated_step,
            "stop": [stop.reason, stop.message] if kept and stop is not None else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``."""
        self.step, self.epoch, self.batch = state["step"], state["epoch"], state["batch"]
        self.samples, self.metrics = state["samples"], dict(state["metrics"])
        self.evaluated_step = state["evaluated_step"]
        if state["stop"] is not None:
            # Otherwise a stop stays that was requested while the checkpoint was read.
            self.stop = Stop(*state["stop"])
        self.first_step = self.saved_step = self.step
