"""Learning-rate schedules: pure functions of the step that give the factor on the optimizer's lr.

A registered schedule is called with the number of steps it has to fill (after the warmup) and the steps per epoch; it
returns ``factor(step)`` for ``step`` = 0 .. total_steps - 1. Being pure, a resumed run is at the right rate without
any state, and a curve can be drawn without training. :func:`with_warmup` puts a linear warmup in front of any of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from dlrun.registry import SCHEDULES
from dlrun.types import Duration, Fraction, PositiveDuration, PositiveFloat

Schedule = Callable[[int], float]
"""step (from 0) -> factor on the learning rate, >= 0."""


@SCHEDULES.register
def constant() -> Schedule:
    """The same rate from the first step to the last."""
    return lambda step: 1.0


@SCHEDULES.register
def step(steps_per_epoch: int, *, every: PositiveDuration = Duration(30, "ep"), gamma: PositiveFloat = 0.1) -> Schedule:
    """Multiply the rate by gamma at regular intervals.

    Args:
        steps_per_epoch: optimizer steps in one epoch.
        every: epochs or steps between two drops, counted from the end of the warmup.
        gamma: factor of each drop, > 0.

    Raises:
        ValueError: if every is shorter than one step.

    Source: He et al. 2016, "Deep residual learning", section 3.4.
    """
    interval = every.steps(steps_per_epoch)
    if interval < 1:
        raise ValueError(f"every={every} is shorter than one step")
    return lambda step: gamma ** (step // interval)


@SCHEDULES.register
def multistep(
    total_steps: int,
    steps_per_epoch: int,
    *,
    milestones: tuple[Fraction, ...] = (0.5, 0.75),
    gamma: PositiveFloat = 0.1,
) -> Schedule:
    """Multiply the rate by gamma at given points of the training.

    Args:
        total_steps: steps to fill.
        steps_per_epoch: optimizer steps in one epoch.
        milestones: points of the drops as fractions of the schedule's length, increasing, each in [0, 1].
        gamma: factor of each drop, > 0.

    Raises:
        ValueError: if the milestones do not increase.

    Source: He et al. 2016, "Deep residual learning", section 4.2 (drops at 32k and 48k of 64k steps).
    """
    if any(b <= a for a, b in itertools.pairwise(milestones)):
        raise ValueError(f"milestones must increase, got {list(milestones)}")
    drops = [round(fraction * total_steps) for fraction in milestones]
    return lambda step: gamma ** sum(step >= drop for drop in drops)


@SCHEDULES.register
def cosine(total_steps: int, *, final: Fraction = 0.0) -> Schedule:
    """Half a cosine from the full rate down to a final fraction, which the last step reaches.

    Args:
        total_steps: steps to fill.
        final: factor at the last step, in [0, 1].

    Source: Loshchilov and Hutter 2017, "SGDR: stochastic gradient descent with warm restarts", equation 5.
    """
    last = max(total_steps - 1, 1)
    return lambda step: final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(step, last) / last))


@SCHEDULES.register
def linear(total_steps: int, *, final: Fraction = 0.0) -> Schedule:
    """A straight line from the full rate down to a final fraction, which the last step reaches.

    With a warmup in front it is the triangle of one-cycle training.

    Args:
        total_steps: steps to fill.
        final: factor at the last step, in [0, 1].

    Source: Smith and Topin 2018, "Super-convergence"; Defazio et al. 2023, "When, why and how much?".
    """
    last = max(total_steps - 1, 1)
    return lambda step: final + (1 - final) * (1 - min(step, last) / last)


def with_warmup(schedule: Schedule, steps: int, start: float) -> Schedule:
    """Put a linear warmup in front of a schedule.

    Step ``steps`` is the first of the schedule proper, at its full rate.

    Args:
        schedule: what follows, counted from its own step 0.
        steps: length of the warmup in optimizer steps, >= 0.
        start: where the ramp begins, in [0, 1]. The first step is one notch above it, for with 0 it would change
            nothing: step i has the factor start + (1 - start) (i + 1) / (steps + 1).

    Source: Goyal et al. 2017, "Accurate, large minibatch SGD", section 2.2.
    """
    if steps == 0:
        return schedule

    def factor(step: int) -> float:
        if step >= steps:
            return schedule(step - steps)
        return start + (1 - start) * (step + 1) / (steps + 1)

    return factor
