"""What an axis draws from: intervals of numbers in their scales, and choices.

Everything that searches or judges works on *positions*: 0 at one end, 1 at the other, uniform in between.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from dlrun.sweep.scalars import number, plain, same

Scale = Literal["linear", "log", "logit"]
SHAPES: dict[str, tuple[Scale, bool]] = {
    "uniform": ("linear", False),
    "log": ("log", False),
    "logit": ("logit", False),
    "int": ("linear", True),
    "int_log": ("log", True),
}
"""Name of an interval in YAML -> its scale, and whether its values are whole numbers."""
_DIGITS = 6
"""Significant digits of a drawn number: enough for any hyperparameter, and short in a command line."""


@dataclass(frozen=True)
class Numeric:
    """An interval of numbers.

    Attributes:
        scale: in what the draws are uniform: the number itself, its logarithm, or log(x / (1 - x)).
        low: lower end, included; > 0 for log, in (0, 1) for logit.
        high: upper end, included; > ``low``.
        integer: whether the values are whole numbers.

    Raises:
        ValueError: if the ends do not fit the scale or each other.

    Source: Bergstra and Bengio 2012, "Random search for hyper-parameter optimization", section 2 (draws in log space).
    """

    scale: Scale
    low: float
    high: float
    integer: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError("the ends must be finite numbers")
        if self.integer and (self.low != int(self.low) or self.high != int(self.high)):
            raise ValueError(f"the ends must be whole numbers, got {self.low:g} and {self.high:g}")
        if self.low >= self.high:
            raise ValueError(f"the first end must be less than the second, got {self.low:g} and {self.high:g}")
        if self.scale == "log" and self.low <= 0:
            raise ValueError(f"a logarithm needs ends > 0, got {self.low:g}")
        if self.scale == "logit" and not (self.low > 0 and self.high < 1):
            raise ValueError(f"the ends must lie between 0 and 1, got {self.low:g} and {self.high:g}")

    def at(self, position: float) -> int | float:
        """The value at a position in [0, 1]; of whole numbers, each has an equal part of the axis (in its scale)."""
        if not self.integer and not 0 < position < 1:
            return float(self.low if position <= 0 else self.high)
        low, high = self._ends()
        value = self._inverse(low + position * (high - low))
        if self.integer:
            return int(min(max(math.floor(value + 0.5), self.low), self.high))
        return float(min(max(float(f"{value:.{_DIGITS}g}"), self.low), self.high))

    def position(self, value: Any) -> float:
        """Where a value lies, in [0, 1]; the inverse of :meth:`at` but for rounding.

        Raises:
            ValueError: if it is no number of the interval.
        """
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            raise ValueError(f"{value!r} is not in {self}")
        low, high = self._ends()
        return min(max((self._forward(float(value)) - low) / (high - low), 0.0), 1.0)

    def between(self, begin: float, end: float) -> Numeric:
        """The part between two positions, or more than the whole: positions below 0 and above 1 extend it.

        Ends are rounded outwards to a hundredth of the width or less, but not out of the interval if they lie in it; of
        whole numbers to whole ones, at least one apart. Where an extended end would leave the scale it stays.
        """
        low, high = self._ends()
        first, last = (self._inverse(low + at * (high - low)) for at in (begin, end))
        if self.integer:
            return self._whole(first, last, begin, end)
        units = [_unit(last - first, value, self.scale) for value in (first, last)]
        small, large = _rounded(first, units[0], math.floor), _rounded(last, units[1], math.ceil)
        if begin >= 0 or not self._holds(small):
            small = max(small, self.low)
        if end <= 1 or not self._holds(large):
            large = min(large, self.high)
        return replace(self, low=small, high=large)

    def _whole(self, first: float, last: float, begin: float, end: float) -> Numeric:
        most = 10.0**15
        smallest = self.low if begin >= 0 else 1 if self.scale == "log" else -most
        greatest = self.high if end <= 1 else most
        small = max(math.floor(max(first, -most) + 0.5), smallest)
        large = min(math.ceil(min(last, most) - 0.5), greatest)
        small = min(small, greatest - 1)
        return replace(self, low=small, high=max(large, small + 1))

    def _holds(self, value: float) -> bool:
        """Whether the scale has this value."""
        least, most = {"linear": (-math.inf, math.inf), "log": (0.0, math.inf), "logit": (0.0, 1.0)}[self.scale]
        return least < value < most

    @property
    def count(self) -> float:
        """How many values there are."""
        return self.high - self.low + 1 if self.integer else math.inf

    def every(self) -> tuple[int, ...]:
        """All values of whole numbers."""
        return tuple(range(int(self.low), int(self.high) + 1))

    def grid(self, points: int) -> tuple[int | float, ...]:
        """``points`` values at equal distances from end to end, the ends included; of whole numbers no value twice."""
        values = (self.at(i / (points - 1)) if points > 1 else self.at(0.5) for i in range(points))
        return tuple(dict.fromkeys(values))

    def _ends(self) -> tuple[float, float]:
        half = 0.5 if self.integer else 0.0
        return self._forward(self.low - half), self._forward(self.high + half)

    def _forward(self, value: float) -> float:
        if self.scale == "log":
            return math.log(value)
        return math.log(value / (1 - value)) if self.scale == "logit" else value

    def _inverse(self, value: float) -> float:
        if self.scale == "linear":
            return value
        # Beyond these exponents there is no number.
        size = math.exp(min(max(value, -745.0), 709.0))
        return size if self.scale == "log" else size / (1 + size)

    def __str__(self) -> str:
        name = next(name for name, shape in SHAPES.items() if shape == (self.scale, self.integer))
        return f"{name}({number(self.low)}, {number(self.high)})"


@dataclass(frozen=True)
class Choice:
    """Some values without an order.

    Attributes:
        values: two or more different plain values of YAML.
    """

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if len(self.values) < 2:
            raise ValueError("a choice needs two values or more; one value needs no choice")
        if any(same(a, b) for a, b in itertools.combinations(self.values, 2)):
            raise ValueError(f"the values must differ, got {self}")

    def at(self, position: float) -> Any:
        """The value at a position in [0, 1]; each has an equal part."""
        return self.values[min(int(position * len(self.values)), len(self.values) - 1)]

    def position(self, value: Any) -> float:
        """The middle of a value's part.

        Raises:
            ValueError: if it is none of the values.
        """
        for i, known in enumerate(self.values):
            if same(known, value):
                return (i + 0.5) / len(self.values)
        raise ValueError(f"{value!r} is not in {self}")

    @property
    def count(self) -> float:
        """How many values there are."""
        return len(self.values)

    def every(self) -> tuple[Any, ...]:
        """All values."""
        return self.values

    def grid(self, points: int) -> tuple[Any, ...]:
        """All values, however many points are asked for."""
        return self.values

    def __str__(self) -> str:
        return f"choice({', '.join(plain(value) for value in self.values)})"


Distribution = Numeric | Choice


def _unit(width: float, value: float, scale: Scale) -> float:
    """A power of ten, between a tenth and a hundredth of the width, or of what the scale goes by if that is finer."""
    sizes = {"linear": [width], "log": [width, value], "logit": [width, value, 1 - value]}[scale]
    smallest = min(size for size in sizes if size > 0)
    return 10.0 ** (math.floor(math.log10(smallest)) - 1)


def _rounded(value: float, unit: float, outwards: Callable[[float], int]) -> float:
    # The unit of the smallest numbers is none any more.
    return float(f"{outwards(round(value / unit, 6)) * unit:.12g}") if unit > 0 else value
