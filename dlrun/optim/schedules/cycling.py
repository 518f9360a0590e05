"""Schedules that go up and down. T is the number of steps to fill; the last step is T - 1."""

from __future__ import annotations

import math
from bisect import bisect_right
from itertools import accumulate
from typing import Annotated, Literal

from dlrun.optim.schedules.base import Moving, Schedule
from dlrun.registry import SCHEDULES
from dlrun.types import Fraction, PositiveInt, Range, Rate


class _Restarts:
    """See :func:`cosine_restarts`."""

    def __init__(self, total_steps: int, lengths: list[float], final: float) -> None:
        whole = sum(lengths)
        borders = sorted({round(total_steps * end / whole) for end in accumulate(lengths)} - {0})
        self._total, self._final = total_steps, final
        self._starts = [0, *borders[:-1]]
        self._ends = [border - 1 for border in borders]

    def __call__(self, step: int) -> float:
        step = min(step, self._total - 1)
        period = bisect_right(self._starts, step) - 1
        begin, last = self._starts[period], self._ends[period] - self._starts[period]
        # The step of a period of one step is not wasted, but the last step of the training is an end; a training of one
        # step is at the full rate, as with every schedule.
        x = (step - begin) / last if last else float(0 < step == self._total - 1)
        return self._final + (1 - self._final) * 0.5 * (1 + math.cos(math.pi * x))


@SCHEDULES.register
def cosine_restarts(
    total_steps: int,
    *,
    cycles: PositiveInt = 3,
    growth: Annotated[float, Range(ge=1)] = 2.0,
    final: Fraction = 0.0,
) -> Schedule:
    """Half a cosine again and again (SGDR), in periods that fill the training exactly.

    Each period is ``growth`` times as long as the one before, and the last one ends with the training: with 3 cycles
    and growth 2 they take 1/7, 2/7 and 4/7 of it, rounded to whole steps. The last step of each period has the rate
    ``final`` and the next one the full rate. In a very short training periods without a step are left out, and one of a
    single step, but for the last, has the full rate.

    Args:
        total_steps: steps to fill.
        cycles: number of periods, >= 1.
        growth: length of a period by that of the one before, >= 1 (T_mult); 1: all are equal.
        final: factor at the last step of each period, in [0, 1].

    Source: Loshchilov and Hutter 2017, "SGDR: stochastic gradient descent with warm restarts", equation 5.
    """
    return _Restarts(total_steps, [growth**i for i in range(cycles)], final)


class _Triangles:
    """See :func:`cyclic`."""

    def __init__(self, total_steps: int, cycles: int, low: float, *, halving: bool) -> None:
        self._last, self._cycles = max(total_steps - 1, 1), cycles
        self._low, self._halving = low, halving

    def __call__(self, step: int) -> float:
        way = min(step, self._last) * self._cycles / self._last
        cycle = min(int(way), self._cycles - 1)
        height = (1 - self._low) * (0.5**cycle if self._halving else 1.0)
        return self._low + height * (1 - abs(1 - 2 * (way - cycle)))


@SCHEDULES.register
def cyclic(
    total_steps: int,
    *,
    cycles: PositiveInt = 4,
    low: Fraction = 0.1,
    shape: Literal["triangular", "triangular2"] = "triangular",
) -> Schedule:
    """Straight up from a low rate to the full one and down again, several times; the last step is low again.

    Args:
        total_steps: steps to fill.
        cycles: number of triangles, >= 1; all are equally long.
        low: factor at the feet of the triangles, in [0, 1].
        shape: triangular: all tops are at the full rate; triangular2: each is half as high above low as the one before.

    Source: Smith 2017, "Cyclical learning rates for training neural networks", section 3.1.
    """
    return _Triangles(total_steps, cycles, low, halving=shape == "triangular2")


@SCHEDULES.register
def one_cycle(
    total_steps: int,
    *,
    peak_at: Annotated[float, Range(gt=0, lt=1)] = 0.3,
    start: Fraction = 0.04,
    final: Fraction = 4e-6,
    shape: Literal["cosine", "linear"] = "cosine",
    momentum: tuple[Rate, Rate] | None = None,
) -> Schedule:
    """Up to the full rate and down far below where it began, once over the whole training.

    Args:
        total_steps: steps to fill.
        peak_at: share of the schedule's length after which the rate is full, in (0, 1); rounded to a whole step, so
            that a step has the full rate, which is not the first one.
        start: factor at the first step, in [0, 1].
        final: factor at the last step, in [0, 1].
        shape: of both ways: cosine or linear.
        momentum: (at the full rate, at both ends), each in [0, 1): it goes down while the rate goes up, and the other
            way round; (0.85, 0.95) is usual. It takes the place of the optimizer's momentum, or of its first beta.
            None: the momentum stays where the optimizer has it.

    Raises:
        ValueError: if the momentum would be larger at the full rate than at the ends.

    Source: Smith and Topin 2018, "Super-convergence: very fast training of neural networks using large learning rates";
        the defaults are those of torch's OneCycleLR, whose top may lie between two steps.
    """
    last = total_steps - 1
    # A training of one or two steps has no way up.
    peak = min(max(1, round(peak_at * total_steps) - 1), max(0, last - 1))

    def between(step: int, first: float, top: float, end: float) -> float:
        if step < peak:
            a, b, x = first, top, step / peak
        else:
            a, b, x = top, end, min((step - peak) / (last - peak), 1.0) if last > 0 else 0.0
        return a + (b - a) * (x if shape == "linear" else 0.5 * (1 - math.cos(math.pi * x)))

    def factor(step: int) -> float:
        return between(step, start, 1.0, final)

    if momentum is None:
        return factor
    low, high = momentum
    if low > high:
        raise ValueError(
            f"momentum={[low, high]}: the first, at the full rate, must not be above the second, that at both ends: "
            f"set momentum={[high, low]}"
        )
    return Moving(factor, lambda step: between(step, high, low, high))
