"""The schedule that looks at a metric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from dlrun.monitor import better
from dlrun.registry import SCHEDULES
from dlrun.types import Fraction, Mode, NonNegativeFloat, NonNegativeInt, PositiveInt, Range


@SCHEDULES.register
class plateau:  # named as in YAML
    """Lower the rate when the monitored metric has not improved for some evaluations; NaN never counts as better.

    What is measured during the warmup does not count. The only schedule with a state, which is in the checkpoint.
    Early stopping on the same metric needs more patience than this, or the run would end before it lowers the rate.

    Args:
        monitor: metric to watch, such as val/loss.
        mode: whether small (min) or large (max) is good.
        factor: of each reduction, in (0, 1).
        patience: evaluations without improvement after which the rate is lowered, >= 1.
        min_delta: absolute improvement that counts, >= 0.
        cooldown: evaluations after a reduction that are not counted, >= 0.
        low: smallest factor on the learning rate, in [0, 1].

    Source: torch's ReduceLROnPlateau; He et al. 2016, "Deep residual learning", section 3.4 ("divided by 10 when the
        error plateaus")
    """

    def __init__(
        self,
        *,
        monitor: str = "val/loss",
        mode: Mode = "min",
        factor: Annotated[float, Range(gt=0, lt=1)] = 0.1,
        patience: PositiveInt = 5,
        min_delta: NonNegativeFloat = 0.0,
        cooldown: NonNegativeInt = 0,
        low: Fraction = 0.0,
    ) -> None:
        self.monitor = monitor
        self.mode = mode
        self.patience = patience
        self._step_factor = factor
        self._min_delta = min_delta
        self._cooldown = cooldown
        self._low = low
        self._best: float | None = None
        self._waited = 0
        self._cooling = 0
        self._factor = 1.0

    def __call__(self, step: int) -> float:
        """The factor now: of the past it knows nothing."""
        return self._factor

    def observe(self, step: int, value: float) -> None:
        """See :meth:`dlrun.optim.schedules.base.Watching.observe`."""
        if better(value, self._best, self.mode, self._min_delta):
            self._best, self._waited = value, 0
        elif self._cooling == 0:
            self._waited += 1
        self._cooling = max(0, self._cooling - 1)
        if self._waited >= self.patience:
            self._factor = max(self._low, self._factor * self._step_factor)
            self._waited, self._cooling = 0, self._cooldown

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`dlrun.optim.schedules.base.Watching.state_dict`."""
        return {"best": self._best, "waited": self._waited, "cooling": self._cooling, "factor": self._factor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`dlrun.optim.schedules.base.Watching.load_state_dict`."""
        self._best, self._waited = state["best"], state["waited"]
        self._cooling, self._factor = state["cooling"], state["factor"]
