"""Schedules that go down once, or stay. T is the number of steps to fill; the last step is T - 1."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from typing import Annotated, Literal

from dlrun.optim.schedules.base import Schedule
from dlrun.registry import SCHEDULES
from dlrun.timeline import Timeline
from dlrun.types import Fraction, PositiveDuration, PositiveFloat, Range

PositiveFraction = Annotated[float, Range(gt=0, le=1)]
Inside = Annotated[float, Range(gt=0, lt=1)]


@SCHEDULES.register
def constant() -> Schedule:
    """The same rate from the first step to the last."""
    return lambda step: 1.0


@SCHEDULES.register
def step(
    total_steps: int, timeline: Timeline, *, every: PositiveDuration | None = None, gamma: PositiveFloat = 0.1
) -> Schedule:
    """Multiply the rate by gamma at regular intervals.

    Args:
        total_steps: steps to fill.
        timeline: of the training.
        every: epochs or steps between two drops, counted from the end of the warmup; null: a third of the schedule.
        gamma: factor of each drop, > 0.

    Raises:
        ValueError: if every is shorter than one step.

    Source: He et al. 2016, "Deep residual learning", section 3.4 (30 of 90 epochs).
    """
    if every is None:
        drops = [max(1, round(total_steps / 3)), max(2, round(2 * total_steps / 3))]
        return lambda step: gamma ** bisect_right(drops, step)
    try:
        drops = timeline.multiples(every)
    except ValueError as error:
        raise ValueError(f"every={error}") from None
    return lambda step: gamma ** bisect_right(drops, step)


@SCHEDULES.register
def multistep(
    total_steps: int, *, milestones: tuple[Inside, ...] = (0.5, 0.75), gamma: PositiveFloat = 0.1
) -> Schedule:
    """Multiply the rate by gamma at given points of the training.

    Args:
        total_steps: steps to fill.
        milestones: points of the drops as fractions of the schedule's length, increasing, each in (0, 1).
        gamma: factor of each drop, > 0.

    Raises:
        ValueError: if the milestones do not increase.

    Source: He et al. 2016, "Deep residual learning", section 4.2 (drops at 32k and 48k of 64k steps).
    """
    if any(b <= a for a, b in itertools.pairwise(milestones)):
        raise ValueError(f"milestones must increase, got {list(milestones)}")
    drops = [round(fraction * total_steps) for fraction in milestones]
    return lambda step: gamma ** bisect_right(drops, step)


@SCHEDULES.register
def exponential(
    total_steps: int,
    timeline: Timeline,
    *,
    final: PositiveFraction | None = 0.01,
    k: PositiveFloat | None = None,
) -> Schedule:
    """Exponential decay: the factor e^(-k t), with t in epochs.

    Args:
        total_steps: steps to fill.
        timeline: of the training.
        final: factor at the last step, in (0, 1]: k then follows from it; null if k is given.
        k: decay per epoch, > 0; null if final is given.

    Raises:
        ValueError: if not exactly one of final and k is given.

    Source: Stanford CS231n, notes on learning, "Annealing the learning rate": a0 e^(-kt).
    """
    _one_of(final, k)
    if k is not None:
        return lambda step: math.exp(-k * timeline.epoch(step))
    assert final is not None
    return lambda step: float(final ** _share(step, total_steps))


@SCHEDULES.register
def inverse_time(
    total_steps: int,
    timeline: Timeline,
    *,
    final: PositiveFraction | None = 0.01,
    k: PositiveFloat | None = None,
) -> Schedule:
    """Decay with one over the time: the factor 1 / (1 + k t), with t in epochs.

    Args:
        total_steps: steps to fill.
        timeline: of the training.
        final: factor at the last step, in (0, 1]: k then follows from it; null if k is given.
        k: decay per epoch, > 0; null if final is given.

    Raises:
        ValueError: if not exactly one of final and k is given.

    Source: Stanford CS231n, notes on learning, "Annealing the learning rate": a0 / (1 + kt).
    """
    _one_of(final, k)
    if k is not None:
        return lambda step: 1 / (1 + k * float(timeline.epoch(step)))
    assert final is not None
    return lambda step: 1 / (1 + (1 / final - 1) * _share(step, total_steps))


@SCHEDULES.register
def polynomial(total_steps: int, *, power: PositiveFloat = 2.0, final: Fraction = 0.0) -> Schedule:
    """The factor (1 - x)^power on the way x from 0 to 1, down to a final fraction, which the last step reaches.

    Args:
        total_steps: steps to fill.
        power: of the curve, > 0: 1 is a straight line, 2 falls fast first, below 1 late.
        final: factor at the last step, in [0, 1].

    Source: Liu, Rabinovich and Berg 2015, "ParseNet", section 4 ("poly", power 0.9).
    """
    return lambda step: final + (1 - final) * (1 - _share(step, total_steps)) ** power


@SCHEDULES.register
def cosine(total_steps: int, *, final: Fraction = 0.0) -> Schedule:
    """Half a cosine from the full rate down to a final fraction, which the last step reaches.

    Args:
        total_steps: steps to fill.
        final: factor at the last step, in [0, 1].

    Source: Loshchilov and Hutter 2017, "SGDR: stochastic gradient descent with warm restarts", equation 5.
    """
    return lambda step: final + (1 - final) * 0.5 * (1 + math.cos(math.pi * _share(step, total_steps)))


@SCHEDULES.register
def linear(total_steps: int, *, final: Fraction = 0.0) -> Schedule:
    """A straight line from the full rate down to a final fraction, which the last step reaches.

    With a warmup in front it is the triangle of one-cycle training.

    Args:
        total_steps: steps to fill.
        final: factor at the last step, in [0, 1].

    Source: Smith and Topin 2018, "Super-convergence"; Defazio et al. 2023, "When, why and how much?".
    """
    return lambda step: final + (1 - final) * (1 - _share(step, total_steps))


@SCHEDULES.register
def trapezoid(
    total_steps: int,
    *,
    decay: PositiveFraction = 0.2,
    final: Fraction = 0.0,
    shape: Literal["linear", "cosine", "sqrt"] = "linear",
) -> Schedule:
    """The full rate, and a descent at the end; with a warmup it is warmup-stable-decay.

    Args:
        total_steps: steps to fill.
        decay: share of the schedule's length in which the rate goes down, in (0, 1].
        final: factor at the last step, in [0, 1].
        shape: of the descent: linear, cosine, or sqrt (1 - the root of the way, which falls fast first).

    Source: Zhai et al. 2022, "Scaling vision transformers", section 3.5; Hägele et al. 2024, "Scaling laws and
        compute-optimal training beyond fixed training durations" (the shapes)
    """
    steps = max(1, min(round(decay * total_steps), total_steps - 1))
    # The plateau's last step is where the descent begins, so that it has one share for each of its steps.
    top = total_steps - 1 - steps

    def factor(step: int) -> float:
        x = min(max(0, step - top) / steps, 1.0) if total_steps > 1 else 0.0
        fallen = {"linear": x, "cosine": 0.5 * (1 - math.cos(math.pi * x)), "sqrt": math.sqrt(x)}[shape]
        return 1 - (1 - final) * fallen

    return factor


def _share(step: int, total_steps: int) -> float:
    """The way gone, from 0 at the first step to 1 at the last and after it."""
    last = max(total_steps - 1, 1)
    return min(step, last) / last


def _one_of(final: float | None, k: float | None) -> None:
    if (final is None) == (k is None):
        raise ValueError("give either final or k, and set the other to null")
