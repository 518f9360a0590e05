"""What a schedule is, and the warmup in front of any of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

Schedule = Callable[[int], float]
"""step (from 0) -> factor on the learning rate, >= 0."""

WarmupShape = Literal["linear", "cosine", "exponential", "constant"]


@runtime_checkable
class Watching(Protocol):
    """A schedule that looks at a metric after each evaluation: the only kind with a state."""

    monitor: str
    """Metric that it looks at, such as ``val/loss``."""

    def __call__(self, step: int) -> float:
        """Factor on the learning rate now."""
        ...

    def observe(self, step: int, value: float) -> None:
        """Take in the metric of an evaluation after ``step`` steps."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``."""
        ...


@runtime_checkable
class MovingMomentum(Protocol):
    """A schedule that moves the momentum too."""

    def __call__(self, step: int) -> float:
        """Factor on the learning rate at a step."""
        ...

    def momentum(self, step: int) -> float | None:
        """Momentum at a step, in [0, 1); None: as the optimizer has it."""
        ...


def momentum_of(schedule: Schedule) -> Callable[[int], float | None] | None:
    """Step -> momentum, of a schedule that moves it; None of any other."""
    return schedule.momentum if isinstance(schedule, MovingMomentum) else None


class Moving:
    """A schedule that moves the momentum too.

    Args:
        factor: step -> factor on the learning rate.
        momentum: step -> momentum; None: as the optimizer has it.
    """

    def __init__(self, factor: Schedule, momentum: Callable[[int], float | None]) -> None:
        self._factor, self._momentum = factor, momentum

    def __call__(self, step: int) -> float:
        """Factor on the learning rate at a step."""
        return self._factor(step)

    def momentum(self, step: int) -> float | None:
        """See :meth:`MovingMomentum.momentum`."""
        return self._momentum(step)


class Later:
    """A schedule that begins ``steps`` later, behind something else.

    Args:
        schedule: counted from its own step 0.
        steps: length of what comes before, >= 0.
        before: step -> factor, for the steps before.
    """

    def __init__(self, schedule: Schedule, steps: int, before: Schedule) -> None:
        self._schedule, self._steps, self._before = schedule, steps, before

    def __call__(self, step: int) -> float:
        """Factor on the learning rate at a step."""
        return self._schedule(step - self._steps) if step >= self._steps else self._before(step)


class WatchingLater(Later):
    """The same of a schedule that watches a metric; what is measured before its begin does not count."""

    def __init__(self, schedule: Watching, steps: int, before: Schedule) -> None:
        super().__init__(schedule, steps, before)
        self._watching = schedule
        self.monitor = schedule.monitor

    def observe(self, step: int, value: float) -> None:
        """See :meth:`Watching.observe`."""
        if step > self._steps:
            self._watching.observe(step - self._steps, value)

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Watching.state_dict`."""
        return self._watching.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Watching.load_state_dict`."""
        self._watching.load_state_dict(state)


def later(schedule: Schedule, steps: int, before: Schedule) -> Schedule:
    """``schedule`` behind ``before``, which has ``steps`` steps; each keeps what it does to the momentum."""
    if isinstance(schedule, Watching):
        return WatchingLater(schedule, steps, before)
    joined = Later(schedule, steps, before)
    first, second = momentum_of(before), momentum_of(schedule)
    if first is None and second is None:
        return joined

    def momentum(step: int) -> float | None:
        chosen, at = (second, step - steps) if step >= steps else (first, step)
        return None if chosen is None else chosen(at)

    return Moving(joined, momentum)


def with_warmup(schedule: Schedule, steps: int, start: float, shape: WarmupShape = "linear") -> Schedule:
    """Put a warmup in front of a schedule; a momentum that the schedule moves is at its first value there.

    Step ``steps`` is the first of the schedule proper. The warmup rises to the factor f that the schedule has there, 1
    for most, and less for those that begin low (one_cycle, cyclic): to the full rate it would rise past it. Step i of
    the warmup has gone x = (i + 1) / (steps + 1) of the way: the first one is one notch above the start, for with 0 it
    would change nothing.

    Args:
        schedule: what follows, counted from its own step 0.
        steps: length of the warmup in optimizer steps, >= 0.
        start: where it begins, as a share of f, in [0, 1].
        shape: linear: f (start + (1 - start) x); cosine: f (start + (1 - start) (1 - cos(pi x)) / 2); exponential:
            f start^(1 - x); constant: f start all the time.

    Raises:
        ValueError: if the start of an exponential or constant warmup is 0, or the schedule begins at 0.

    Source: Goyal et al. 2017, "Accurate, large minibatch SGD", section 2.2 (constant and gradual warmup).
    """
    if steps == 0:
        return schedule
    if start == 0 and shape in ("exponential", "constant"):
        raise ValueError(f"warmup_start=0 has no {shape} warmup: set schedule.warmup_start above 0, such as 0.1")
    first = schedule(0)
    if first == 0:
        raise ValueError(
            "the schedule begins at a rate of 0, and a warmup would stay there: set schedule.warmup=0ep, or let the "
            "schedule begin above 0"
        )

    def before(step: int) -> float:
        x = (step + 1) / (steps + 1)
        if shape == "constant":
            return first * start
        if shape == "exponential":
            return first * float(start ** (1 - x))
        return first * (start + (1 - start) * (x if shape == "linear" else 0.5 * (1 - math.cos(math.pi * x))))

    moved = momentum_of(schedule)
    if moved is None:
        return later(schedule, steps, before)
    # While the rate rises to the schedule's first one, the momentum waits at its first one.
    return later(schedule, steps, Moving(before, lambda step: moved(0)))
