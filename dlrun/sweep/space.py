"""The search space: the axes, which of them there are beside which values, and the values at their positions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dlrun.sweep.distributions import Distribution, Numeric
from dlrun.sweep.scalars import plain, same

DECADES = 1.5
"""Width of a positive range, in powers of ten, from which drawing it evenly is most likely a mistake."""


@dataclass(frozen=True)
class Condition:
    """Holds where an axis or a setting has one of some values.

    Attributes:
        key: of the axis or setting.
        values: for which it holds.
    """

    key: str
    values: tuple[Any, ...]

    def holds(self, value: Any) -> bool:
        """Whether ``value`` is one of the values."""
        return any(same(value, known) for known in self.values)

    def __str__(self) -> str:
        if len(self.values) == 1:
            return f"{self.key}={plain(self.values[0])}"
        return f"{self.key} in [{', '.join(plain(value) for value in self.values)}]"


@dataclass(frozen=True)
class Axis:
    """One hyperparameter that is searched.

    Attributes:
        key: path in the configuration, such as ``optimizer.lr``.
        distribution: its values.
        when: only where this holds; None: always.
    """

    key: str
    distribution: Distribution
    when: Condition | None = None

    def __str__(self) -> str:
        return f"{self.distribution}" + (f" when {self.when}" if self.when is not None else "")


Space = tuple[Axis, ...]


def wide_without_log(axis: Axis) -> str | None:
    """What to write instead, if an axis draws a positive range of several powers of ten evenly; else None.

    Nine of ten draws of ``uniform(1e-4, 1e-1)`` lie above 0.01.
    """
    spread = axis.distribution
    if not isinstance(spread, Numeric) or spread.scale != "linear" or spread.low <= 0:
        return None
    if math.log10(spread.high / spread.low) < DECADES:
        return None
    return str(replace(spread, scale="log"))


def draw(space: Space, positions: Mapping[str, float], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The values at some positions; axes whose condition does not hold are left out.

    Args:
        space: the axes.
        positions: key -> position in [0, 1], of all axes.
        settings: key -> value of what is not searched and conditions ask for.
    """
    values: dict[str, Any] = {}
    for axis in in_order(space):
        if active(axis, values, settings):
            values[axis.key] = axis.distribution.at(positions[axis.key])
    return {axis.key: values[axis.key] for axis in space if axis.key in values}


def active(axis: Axis, values: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether an axis is searched beside these values of the axes that it depends on."""
    if axis.when is None:
        return True
    if axis.when.key in values:
        return axis.when.holds(values[axis.when.key])
    return axis.when.key in settings and axis.when.holds(settings[axis.when.key])


def in_order(space: Space) -> Space:
    """The axes with those first that others depend on.

    Raises:
        ValueError: if conditions depend on each other in a circle.
    """
    keys = {axis.key for axis in space}
    done: dict[str, Axis] = {}
    while len(done) < len(space):
        ready = [
            axis
            for axis in space
            if axis.key not in done and (axis.when is None or axis.when.key not in keys or axis.when.key in done)
        ]
        if not ready:
            left = ", ".join(axis.key for axis in space if axis.key not in done)
            raise ValueError(f"the conditions of {left} depend on each other in a circle")
        done.update((axis.key, axis) for axis in ready)
    return tuple(done.values())


def grid(space: Space, points: int, settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """All combinations of values, each once; of what depends on others only where its condition holds.

    Args:
        space: the axes.
        points: values of each interval.
        settings: as for :func:`draw`.
    """
    return _combined(space, settings, lambda axis: axis.distribution.grid(points))


def every(space: Space, settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """All points of a space of choices and whole numbers, each once; arguments as for :func:`draw`."""
    return _combined(space, settings, lambda axis: axis.distribution.every())


def _combined(
    space: Space, settings: Mapping[str, Any], values_of: Callable[[Axis], Sequence[Any]]
) -> Iterator[dict[str, Any]]:
    def extend(values: dict[str, Any], rest: Sequence[Axis]) -> Iterator[dict[str, Any]]:
        if not rest:
            yield {axis.key: values[axis.key] for axis in space if axis.key in values}
        elif not active(rest[0], values, settings):
            yield from extend(values, rest[1:])
        else:
            for value in values_of(rest[0]):
                yield from extend({**values, rest[0].key: value}, rest[1:])

    yield from extend({}, in_order(space))
