"""Where an axis of a chart carries marks and numbers, in its own scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dlrun.sweep.distributions import Choice, Distribution, Numeric
from dlrun.sweep.scalars import number, plain

_MOST = 6
"""Numbers on an axis at most: more would touch each other on a narrow screen."""
_FEW = 3
"""Powers of ten on a logarithmic axis below which there are numbers between them."""
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_PLAIN = (1e-3, 1e4)
"""Powers of ten in this interval are written out."""


@dataclass(frozen=True)
class Ticks:
    """The marks on an axis.

    Attributes:
        labelled: (position in [0, 1], text).
        minor: positions of marks without a text.
    """

    labelled: tuple[tuple[float, str], ...]
    minor: tuple[float, ...] = ()


def ticks(spread: Distribution) -> Ticks:
    """The marks on the axis of a distribution: every value of a choice, round numbers of an interval."""
    if isinstance(spread, Choice):
        return Ticks(tuple((spread.position(value), plain(value)) for value in spread.values))
    if spread.scale == "log":
        return _log(spread)
    if spread.scale == "logit":
        return _logit(spread)
    return _placed(spread, _round_numbers(spread))


def _log(spread: Numeric) -> Ticks:
    first, last = math.log10(spread.low), math.log10(spread.high)
    powers = range(math.ceil(first - 1e-9), math.floor(last + 1e-9) + 1)
    if len(powers) < _FEW:
        return _few_powers(spread, math.floor(first), math.ceil(last))
    step = math.ceil(len(powers) / _MOST)
    shown = [power for power in powers if power % step == 0] if step > 1 else list(powers)
    written_out = all(_PLAIN[0] <= 10.0**power <= _PLAIN[1] for power in shown)
    labelled = tuple(
        (_position(spread, 10.0**power), number(10.0**power) if written_out else power_of_ten(power)) for power in shown
    )
    between = [10.0**power for power in powers if power not in shown]
    if step == 1:
        every = range(math.floor(first), math.ceil(last))
        between = [digit * 10.0**power for power in every for digit in range(2, 10)]
    minor = tuple(_position(spread, value) for value in between if spread.low <= value <= spread.high)
    return Ticks(labelled, minor)


def _few_powers(spread: Numeric, first: int, last: int) -> Ticks:
    """Numbers between the powers of ten: 1, 2, 5, or 1 and 3 if those are too many."""

    def inside(digits: Sequence[int]) -> list[float]:
        values = (digit * 10.0**power for power in range(first, last + 1) for digit in digits)
        return [value for value in values if spread.low <= value <= spread.high]

    values = inside((1, 2, 5))
    if len(values) > _MOST:
        values = inside((1, 3))
    if len(values) < 2:
        values = _round_numbers(spread)
    minor = tuple(_position(spread, value) for value in inside(range(1, 10)))
    return Ticks(_placed(spread, values).labelled, minor)


def _logit(spread: Numeric) -> Ticks:
    tails = [10.0**-power for power in range(12, 0, -1)]
    values = [*tails, 0.5, *(1 - tail for tail in reversed(tails))]
    inside = [value for value in values if spread.low <= value <= spread.high]
    if len(inside) < 3:
        more = [value for tail in tails for value in (2 * tail, 5 * tail, 1 - 2 * tail, 1 - 5 * tail)]
        inside = sorted({*inside, *(float(f"{v:.12g}") for v in more if spread.low <= v <= spread.high)})
    if len(inside) < 2:
        inside = _round_numbers(spread)
    step = math.ceil(len(inside) / _MOST)
    return _placed(spread, inside[::step])


def _round_numbers(spread: Numeric) -> list[float]:
    width = spread.high - spread.low
    raw = width / (_MOST - 1)
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw * (1 - 1e-9))
    if spread.integer:
        step = max(1.0, float(math.ceil(step)))
    first, last = math.ceil(spread.low / step - 1e-9), math.floor(spread.high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def _placed(spread: Numeric, values: Sequence[float]) -> Ticks:
    return Ticks(tuple((_position(spread, value), number(float(f"{value:.10g}"))) for value in values))


def _position(spread: Numeric, value: float) -> float:
    return round(spread.position(min(max(value, spread.low), spread.high)), 5)


def power_of_ten(power: int) -> str:
    """``10⁻³``."""
    return f"10{str(power).translate(_SUPERSCRIPTS)}"
