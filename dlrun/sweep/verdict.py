"""What the trials say of each axis of the space: extend it, zoom into it, fix it, or keep away from a part of it.

An F-test says whether an axis matters at all, a bound on its share whether it can be said not to, a bootstrap over the
trials where its best position is (:mod:`dlrun.sweep.response`). The single best trial, which says little in a space of
several dimensions, is not asked.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from dlrun.sweep.distributions import Choice, Numeric
from dlrun.sweep.response import Outcome, Response, parabola
from dlrun.sweep.scalars import counted, number, plain
from dlrun.sweep.space import Axis, Space

Kind = Literal["low_edge", "high_edge", "inside", "no_influence", "values", "unclear"]
Side = Literal["above", "below"]

SIGNIFICANCE = 0.01
"""Share of axes without influence that are taken for one with."""
NEGLIGIBLE = 0.12
"""Share of the variance of the ranks up to which an axis may be called without influence: it must surely be smaller."""
EDGE = 0.1
"""Part of an axis at each end in which a best position counts as being at the edge."""
_GRID = np.linspace(0.0, 1.0, 101)
_REACHES = (0.5, 0.4, 0.3, 0.2, 0.1)
_MARGIN = 0.1
_LEAST_WIDTH = 0.2
_DIVERGED_BEYOND, _DIVERGED_BEFORE, _LEAST_DIVERGED, _SURE = 0.8, 0.25, 3, 1e-3
_UNLIKELY_BEST = 0.05
_EDGE_OF: dict[Side, Kind] = {"above": "high_edge", "below": "low_edge"}


@dataclass(frozen=True)
class Verdict:
    """What the trials say of one axis.

    Attributes:
        axis: of which.
        kind: ``low_edge``, ``high_edge``: the best lie at this end; ``inside``: between the ends; ``no_influence``:
            surely little; ``values``: some values of a choice are better; ``unclear``: too few trials to tell.
        best: positions between which the best is in 8 of 10 resamples; for a choice the middles of its best values.
        confidence: share of the resamples that say so; of ``no_influence`` the p-value of the F-test.
        infeasible: (side, position): trials on this side of the position diverged.
        next: the axis for the next stage: a narrower or wider one, or a single value.
        text: one line for the user.
    """

    axis: Axis
    kind: Kind
    best: tuple[float, ...]
    confidence: float
    infeasible: tuple[Side, float] | None
    next: Axis | Any
    text: str

    @property
    def fixed(self) -> bool:
        """Whether ``next`` is a single value."""
        return not isinstance(self.next, Axis)


Allowed = Callable[[Axis, float], bool]
"""Whether the option of an axis takes a value."""


def judge(
    space: Space, outcomes: Sequence[Outcome], seed: int = 0, allowed: Allowed = lambda axis, value: True
) -> tuple[Verdict, ...]:
    """A verdict for each axis.

    Args:
        space: the axes that were searched.
        outcomes: all trials of the stage.
        seed: of the resampling.
        allowed: how far an axis may be extended.
    """
    response = Response(space, outcomes, seed)
    verdicts = []
    for i, axis in enumerate(space):
        infeasible = _infeasible(axis, outcomes)
        if not response.known(i):
            told = "all trials with a score have the same one: nothing to tell"
            if not response.tied:
                told = f"{counted(len(response.scored), 'trial')} with a score: too few to tell"
            verdicts.append(_unclear(axis, infeasible, told))
        elif isinstance(axis.distribution, Choice):
            verdicts.append(_of_choice(axis, axis.distribution, i, response))
        else:
            verdict = _of_interval(axis, axis.distribution, i, response, infeasible, allowed)
            suspected = _infeasible(axis, outcomes, surely=False)
            if infeasible is None and suspected is not None and verdict.kind == _EDGE_OF[suspected[0]]:
                # The end at which trials diverge is no place to go beyond, be it only one that did.
                verdict = _of_interval(axis, axis.distribution, i, response, suspected, allowed)
            verdicts.append(verdict)
    return tuple(verdicts)


def _infeasible(axis: Axis, outcomes: Sequence[Outcome], *, surely: bool = True) -> tuple[Side, float] | None:
    """The side of an interval on which nearly all trials diverge, and where it begins.

    ``surely``: none that chance would show, too: where few trials diverge, none is sure.
    """
    if not isinstance(axis.distribution, Numeric):
        return None
    known = [
        (outcome.positions[axis.key], outcome.diverged)
        for outcome in outcomes
        if axis.key in outcome.positions and (outcome.diverged or outcome.score is not None)
    ]
    total = sum(diverged for _, diverged in known)
    least = _LEAST_DIVERGED if surely else 1
    if total < least or total == len(known):
        return None
    best: tuple[float, Side, float, int, int] | None = None
    sides: tuple[Side, Side] = ("above", "below")
    for side in sides:
        ordered = sorted(known, key=lambda pair: pair[0], reverse=side == "above")
        beyond = 0
        # From the end of the axis inwards: how many of the first `size` diverged.
        for size, (position, diverged) in enumerate(ordered[:-1], 1):
            beyond += diverged
            share = beyond / size, (total - beyond) / (len(known) - size)
            clear = size >= least and share[0] >= _DIVERGED_BEYOND and share[1] <= _DIVERGED_BEFORE
            if clear and (best is None or share[0] - share[1] > best[0]):
                best = (share[0] - share[1], side, (position + ordered[size][0]) / 2, beyond, size)
    if best is None:
        return None
    _, side, where, beyond, size = best
    return None if surely and _chance(beyond, size, total, len(known)) >= _SURE else (side, where)


def _chance(found: int, size: int, total: int, count: int) -> float:
    """Probability of ``found`` or more of ``total`` marked ones among ``size`` of ``count`` (Fisher's exact test)."""
    ways = sum(math.comb(total, i) * math.comb(count - total, size - i) for i in range(found, min(size, total) + 1))
    return ways / math.comb(count, size)


def _unclear(axis: Axis, infeasible: tuple[Side, float] | None, text: str) -> Verdict:
    if infeasible is None or not isinstance(axis.distribution, Numeric):
        return Verdict(axis, "unclear", (), 0.0, infeasible, axis, text)
    low, high = _feasible(infeasible)
    narrowed = Axis(axis.key, axis.distribution.between(low, high), axis.when)
    text = f"{text}; {_told(axis.distribution, infeasible)}: next {narrowed.distribution}"
    return Verdict(axis, "unclear", (), 0.0, infeasible, narrowed, text)


def _too_few(response: Response) -> str:
    return f"too few trials to tell ({len(response.scored)} with a score): keep it"


def _feasible(infeasible: tuple[Side, float] | None) -> tuple[float, float]:
    if infeasible is None:
        return 0.0, 1.0
    side, where = infeasible
    return (0.0, where) if side == "above" else (where, 1.0)


def _told(spread: Numeric, infeasible: tuple[Side, float]) -> str:
    side, where = infeasible
    return f"trials {side} {number(float(f'{spread.at(where):.2g}'))} diverge"


def _of_interval(
    axis: Axis, spread: Numeric, i: int, response: Response, infeasible: tuple[Side, float] | None, allowed: Allowed
) -> Verdict:
    low, high = _feasible(infeasible)
    fits, p_value = response.refits(i), response.p_value(i)
    grid = _GRID[(low <= _GRID) & (high >= _GRID)]
    curves = fits @ parabola(grid)[:, : fits.shape[1]].T
    best = grid[curves.argmax(axis=1)]
    begin, end = (float(value) for value in np.quantile(best, [0.1, 0.9]))
    warning = "" if infeasible is None else f"; {_told(spread, infeasible)}"

    def verdict(kind: Kind, confidence: float, following: Axis | Any, text: str) -> Verdict:
        return Verdict(axis, kind, (begin, end), confidence, infeasible, following, text + warning)

    def part(first: float, last: float) -> Axis:
        return Axis(axis.key, spread.between(first, last), axis.when)

    if p_value > SIGNIFICANCE and response.most(i) > NEGLIGIBLE:
        return _unclear(axis, infeasible, _too_few(response))
    if p_value > SIGNIFICANCE and infeasible is None:
        # The best trial may have been good in spite of its value here: not it alone.
        value = spread.at(statistics.median(response.leaders(axis.key) or [0.5]))
        text = f"no influence: fix it, e.g. at {number(value)} amid the best trials"
        return verdict("no_influence", p_value, value, text)
    if p_value > SIGNIFICANCE:
        rest = part(low, high)
        return verdict("no_influence", p_value, rest, f"no influence where it trains: keep to {rest.distribution}")
    # Where a curve is skew, its parabola has the top beside the optimum: what was good is never left out.
    good = [place for place in response.good(i) if low <= place <= high]
    least, most = (float(value) for value in np.quantile(good, [0.1, 0.9])) if good else (begin, end)
    at_low, at_high = float(np.mean(best <= low + EDGE)), float(np.mean(best >= high - EDGE))
    if at_low > 0.5 and low == 0.0:
        following, advice = _extended(axis, spread, "below", allowed, most)
        return verdict("low_edge", at_low, following, f"the best crowd the lower edge {number(spread.low)}{advice}")
    if at_high > 0.5 and high == 1.0:
        following, advice = _extended(axis, spread, "above", allowed, least)
        return verdict("high_edge", at_high, following, f"the best crowd the upper edge {number(spread.high)}{advice}")
    first, last = max(min(begin, least) - _MARGIN, low), min(max(end, most) + _MARGIN, high)
    missing = max(0.0, _LEAST_WIDTH - (last - first)) / 2
    zoomed = part(max(first - missing, low), min(last + missing, high))
    inside = float(np.mean((best >= first) & (best <= last)))
    return verdict("inside", inside, zoomed, f"the best lie inside: zoom to {zoomed.distribution}")


def _extended(axis: Axis, spread: Numeric, side: Side, allowed: Allowed, good: float) -> tuple[Axis, str]:
    """The half of an axis at one end, or more to have what was good, with as much beyond as the option takes; and what
    is said of it."""
    inner = min(0.5, good - _MARGIN) if side == "above" else max(0.5, good + _MARGIN)
    inner = min(max(inner, 0.0), 1.0)
    for reach in _REACHES:
        part = spread.between(-reach, inner) if side == "below" else spread.between(inner, 1 + reach)
        beyond = part.low < spread.low if side == "below" else part.high > spread.high
        if beyond and allowed(axis, part.at(0.0 if side == "below" else 1.0)):
            return replace(axis, distribution=part), f": extend to {part}"
    half = spread.between(0.0, inner) if side == "below" else spread.between(inner, 1.0)
    return replace(axis, distribution=half), f", beyond which the option does not go: zoom to {half}"


def _of_choice(axis: Axis, choice: Choice, i: int, response: Response) -> Verdict:
    fits, p_value, count = response.refits(i), response.p_value(i), len(choice.values)
    found = {outcome.positions[axis.key] for outcome in response.scored if axis.key in outcome.positions}
    present = sorted({min(int(position * count), count - 1) for position in found})
    # The last value that occurs has the level 0.
    levels = np.concatenate([fits, np.zeros((len(fits), 1))], axis=1)
    wins = np.bincount(levels.argmax(axis=1), minlength=len(present)) / len(fits)
    if p_value > SIGNIFICANCE and response.most(i) > NEGLIGIBLE:
        return _unclear(axis, None, _too_few(response))
    if p_value > SIGNIFICANCE:
        leading = [min(int(position * count), count - 1) for position in response.leaders(axis.key)]
        value = choice.values[statistics.mode(leading or [count // 2])]
        text = f"no influence: fix it, e.g. at {plain(value)}, the most frequent of the best trials"
        return Verdict(axis, "no_influence", (), p_value, None, value, text)
    # A value that was never drawn is not out of the race.
    kept = [i for i in range(count) if i not in present or wins[present.index(i)] > _UNLIKELY_BEST]
    values = tuple(choice.values[i] for i in kept)
    top = choice.values[present[int(wins.argmax())]]
    following: Axis | Any = values[0] if len(values) == 1 else Axis(axis.key, Choice(values), axis.when)
    named = ", ".join(plain(value) for value in values)
    text = f"{plain(top)} is best: fix it" if len(values) == 1 else f"{plain(top)} is best so far; keep {named}"
    best = tuple((i + 0.5) / count for i in kept)
    return Verdict(axis, "values", best, float(wins.max()), None, following, text)
