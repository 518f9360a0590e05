"""The scales of charts: what holds all that several stages searched, and where values lie on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dlrun.sweep.distributions import Choice, Distribution, Numeric, Scale
from dlrun.sweep.scalars import same

_LOG_FROM = 20.0
"""Ratio of the largest score to the smallest above which scores are shown on a logarithmic scale."""
_FAR = 4.0
"""Scores worse than the median by so many times the width of the middle half of all are drawn at the edge."""


def whole(parts: Sequence[Distribution], drawn: Sequence[Any]) -> Distribution:
    """A distribution in the scale of the first one that holds all of them and every value that was drawn."""
    first = parts[0]
    ends = [value for part in parts for value in (part.values if isinstance(part, Choice) else (part.low, part.high))]
    everything = [*ends, *drawn]
    numbers = [value for value in everything if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if isinstance(first, Choice) or len(numbers) < len(everything):
        values: list[Any] = []
        for value in everything:
            if not any(same(value, known) for known in values):
                values.append(value)
        return Choice(tuple(values))
    low, high = min(numbers), max(numbers)
    scale: Scale = first.scale
    if (scale == "log" and low <= 0) or (scale == "logit" and not 0 < low < high < 1):
        scale = "linear"
    return Numeric(scale, low, high, first.integer and all(value == int(value) for value in numbers))


def extent(scores: Sequence[float], mode: str) -> Numeric:
    """The interval of the scores that are worth the room: a few that are far off would press all others together.

    Args:
        scores: in any order; those that are not finite are left out.
        mode: whether small or large scores are good: only bad ones can be far off.
    """
    ordered = sorted(score for score in scores if math.isfinite(score))
    if not ordered:
        return Numeric("linear", 0.0, 1.0)
    # Of what is to be large, such as an accuracy, the differences near the top count: a logarithm would hide them.
    log = mode == "min" and ordered[0] > 0
    seen = [math.log(score) if log else score for score in ordered]
    median, middle = seen[len(seen) // 2], seen[(3 * len(seen)) // 4] - seen[len(seen) // 4]
    near = ordered
    if middle > 0:
        reach = median + _FAR * middle if mode == "min" else median - _FAR * middle
        near = [
            score for score, at in zip(ordered, seen, strict=True) if (at <= reach if mode == "min" else at >= reach)
        ]
    low, high = near[0], near[-1]
    if low == high:
        room = abs(low) * 0.1 or 1.0
        return Numeric("linear", low - room, high + room)
    return Numeric("log" if log and high / low > _LOG_FROM else "linear", low, high)


def position(spread: Distribution, value: Any) -> float | None:
    """Where a value lies; what is beyond an end lies at the end."""
    if isinstance(spread, Numeric):
        if not math.isfinite(value):
            return None
        value = min(max(value, spread.low), spread.high)
    return round(spread.position(value), 5)


def interval(whole: Distribution, part: Distribution) -> tuple[float | None, float | None]:
    """Where a part of a distribution begins and ends on the whole."""
    if isinstance(whole, Choice):
        known = [value for value in whole.values if isinstance(part, Numeric) or value in part.values]
        places = [whole.position(value) for value in known]
        half = 0.5 / len(whole.values)
        return (round(min(places) - half, 5), round(max(places) + half, 5)) if places else (0.0, 1.0)
    if isinstance(part, Choice):
        places = [place for value in part.values if (place := position(whole, value)) is not None]
        return min(places), max(places)
    return position(whole, part.low), position(whole, part.high)


def distinct(spread: Distribution) -> int | None:
    """How many different values there are; None: a continuum."""
    if isinstance(spread, Choice):
        return len(spread.values)
    return int(spread.high - spread.low) + 1 if spread.integer else None
