"""Stopping after a given time."""

from __future__ import annotations

import time

from dlrun.registry import CALLBACKS
from dlrun.train.fit import Callback, Fit
from dlrun.types import PositiveDuration


@CALLBACKS.register
class max_time(Callback):  # named as in YAML
    """Stop after so much training time, with a checkpoint; the run can be resumed for as much again.

    The time of earlier sessions of the same run is not counted.

    Args:
        limit: wall-clock time of this process, in s, min or h.

    Raises:
        ValueError: if the limit is in epochs or steps.
    """

    def __init__(self, *, limit: PositiveDuration) -> None:
        self.limit = limit
        self._seconds = limit.seconds
        self._start = time.monotonic()

    def fit_start(self, fit: Fit) -> None:
        """Start the clock."""
        self._start = time.monotonic()

    def step_end(self, fit: Fit) -> None:
        """Look at the clock."""
        if time.monotonic() - self._start >= self._seconds:
            fit.state.request_stop("max_time", f"the time limit of {self.limit} is over")
