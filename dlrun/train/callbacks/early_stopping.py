"""Stopping when the validation metric no longer improves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlrun.monitor import better
from dlrun.registry import CALLBACKS
from dlrun.train.fit import Callback, Fit
from dlrun.types import Mode, NonNegativeFloat, PositiveInt


@CALLBACKS.register
class early_stopping(Callback):  # named as in YAML
    """Stop when the monitored metric has not improved for some evaluations; NaN never counts as better.

    Args:
        monitor: metric to watch, such as val/loss.
        mode: whether small (min) or large (max) is good.
        patience: evaluations without improvement after which to stop, >= 1.
        min_delta: absolute improvement that counts, >= 0.

    Source: Prechelt 1998, "Early stopping - but when?".
    """

    def __init__(
        self,
        *,
        monitor: str = "val/loss",
        mode: Mode = "min",
        patience: PositiveInt = 10,
        min_delta: NonNegativeFloat = 0.0,
    ) -> None:
        self.monitor = monitor
        self.mode = mode
        self.patience = patience
        self.min_delta = min_delta
        self._best: float | None = None
        self._waited = 0

    def eval_end(self, fit: Fit, metrics: Mapping[str, float]) -> None:
        """Compare, and request a stop when the patience is over."""
        value = metrics[self.monitor]
        if better(value, self._best, self.mode, self.min_delta):
            self._best, self._waited = value, 0
            return
        self._waited += 1
        if self._waited >= self.patience:
            best = "no finite value" if self._best is None else f"best {self._best:.4g}"
            fit.state.request_stop(
                "early_stopping", f"{self.monitor} has not improved for {self._waited} evaluations ({best})"
            )

    def state_dict(self) -> dict[str, Any]:
        """Best value and evaluations since."""
        return {"monitor": [self.monitor, self.mode], "best": self._best, "waited": self._waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``, unless it is about another metric."""
        if state["monitor"] == [self.monitor, self.mode]:
            self._best, self._waited = state["best"], state["waited"]
