"""Averages of the weights along the training: how much each look at the weights counts, as pure functions.

A registered average says after which steps it looks at the weights, and by which share it then moves towards them:

    average <- average + share(n) (weights - average)        n = 0, 1, 2, ... looks before this one

The first look always takes the weights as they are, so what the weights were before it never shows. A look of all
tensors is one fused operation on the device (:func:`move`), and nothing is read from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dlrun.registry import AVERAGERS
from dlrun.timeline import Timeline
from dlrun.types import Duration, Fraction, PositiveDuration, PositiveInt, Rate

BatchNorm = Literal["average", "recompute"]
"""Where the statistics of batch norm in an averaged net come from."""


@dataclass(frozen=True)
class Averaging:
    """When an average looks at the weights, and what share each look has.

    Attributes:
        due: optimizer steps done, >= 1 -> whether to look now.
        share: looks before this one -> part of the way to the weights, in (0, 1]; 1 at the first.
        batches: training batches from which the statistics of batch norm are taken anew before an evaluation; None: all
            of an epoch; 0: never, they are averaged like the weights.
        of_whole: whether the looks depend on the length of the training.
    """

    due: Callable[[int], bool]
    share: Callable[[int], float]
    batches: int | None = 0
    of_whole: bool = False


@AVERAGERS.register
def none() -> None:
    """No average: the weights of the newest step are evaluated."""


@AVERAGERS.register
def ema(
    timeline: Timeline,
    *,
    decay: Rate = 0.995,
    warm_start: bool = True,
    start: Duration = Duration(0, "ep"),
    every: PositiveDuration = Duration(1, "st"),
    batch_norm: BatchNorm = "average",
    batches: PositiveInt | None = 100,
) -> Averaging:
    """Exponential moving average of the weights (Polyak).

    ``average <- d average + (1 - d) weights``, where d is the decay; with a warm start it is
    ``min(decay, (1 + n) / (10 + n))`` after n looks, so that a short training is not ruled by its beginning.

    Args:
        timeline: steps of each epoch.
        decay: what stays of the average at each look, in [0, 1); 1/(1 - decay) looks are remembered.
        warm_start: let the decay grow from 2/11 up to its value.
        start: epochs or steps before the first look.
        every: epochs or steps between two looks.
        batch_norm: average its statistics like the weights, or recompute them from training batches to evaluate.
        batches: training batches of a recomputation; null: a whole epoch.

    Raises:
        ValueError: if ``start`` or ``every`` is a wall-clock time, ``every`` is shorter than one step, or there is no
            look in the whole training.

    Source: Polyak and Juditsky 1992, "Acceleration of stochastic approximation by averaging"; the warm start is that of
        tf.train.ExponentialMovingAverage
    """
    first = _first(timeline, start)
    due = _regular(timeline, first, every)
    if not any(due(step) for step in range(timeline.total, first, -1)):
        raise ValueError(
            f"start={start}, every={every}: the first look would be after the last of the {timeline.total} steps of "
            "the training; make start or every smaller"
        )

    def share(looks: int) -> float:
        if looks == 0:
            return 1.0
        return 1 - (min(decay, (1 + looks) / (10 + looks)) if warm_start else decay)

    return Averaging(due, share, _batches(batch_norm, batches))


@AVERAGERS.register
def swa(
    timeline: Timeline,
    *,
    start: Fraction = 0.75,
    every: PositiveDuration = Duration(1, "ep"),
    batch_norm: BatchNorm = "recompute",
    batches: PositiveInt | None = 100,
) -> Averaging:
    """Stochastic weight averaging: the plain mean of the weights at regular points late in the training.

    The points are counted back from the last step, which is one of them: with ``every`` an epoch, they are ends of
    epochs, and with the period of a cyclic schedule the ends of its cycles. It wants a rate that stays large, so that
    the points differ: a constant or a cyclic schedule.

    Args:
        timeline: steps of each epoch.
        start: part of the training before the first look, in [0, 1].
        every: epochs or steps between two looks; of a cyclic schedule, its period.
        batch_norm: average its statistics like the weights, or recompute them from training batches to evaluate.
        batches: training batches of a recomputation; null: a whole epoch.

    Raises:
        ValueError: if ``every`` is a wall-clock time or shorter than one step, or there are less than two looks, which
            have no mean.

    Source: Izmailov et al. 2018, "Averaging weights leads to wider optima and better generalization", algorithm 1 (a
        whole epoch for the statistics)
    """
    first = round(start * timeline.total)
    looks = frozenset(step for step in _back(timeline, every) if step > first)
    if len(looks) < 2:
        raise ValueError(
            f"start={start:g}, every={every}: the last step of the training would be the only one whose weights count "
            f"(of {timeline.total}, those after {first}); make start or every smaller, or the training longer"
        )
    return Averaging(looks.__contains__, lambda looks: 1 / (1 + looks), _batches(batch_norm, batches), of_whole=True)


def move(averages: Sequence[Tensor], weights: Sequence[Tensor], share: float) -> None:
    """Move averages towards weights, in place: ``average <- average + share (weights - average)``.

    Args:
        averages: floating-point tensors, on one device; changed.
        weights: tensors of the same shapes and types.
        share: in [0, 1]; with 1 the averages are the weights exactly.
    """
    torch._foreach_lerp_(list(averages), list(weights), share)


def _regular(timeline: Timeline, first: int, every: Duration) -> Callable[[int], bool]:
    """Whether a step, counted from 1, lies a multiple of ``every`` after ``first``."""
    rest = timeline.after(first)
    try:
        if every.unit != "ep":
            interval = every.steps(1)
            if interval < 1:
                raise ValueError(f"{every} is shorter than one step")
            return lambda step: step > first and (step - first) % interval == 0
        looks = frozenset(rest.multiples(every)) if rest.total > 0 else frozenset[int]()
    except ValueError as error:
        raise ValueError(f"every: {error}") from None
    return lambda step: step - first in looks


def _back(timeline: Timeline, every: Duration) -> list[int]:
    """The last step, that so long before it, and so on back to the beginning."""
    backwards = Timeline(tuple(reversed(timeline.epochs)))
    try:
        passed = backwards.multiples(every)
    except ValueError as error:
        raise ValueError(f"every: {error}") from None
    return [timeline.total, *(timeline.total - steps for steps in passed if steps < timeline.total)]


def _first(timeline: Timeline, start: Duration) -> int:
    try:
        return timeline.at(start)
    except ValueError as error:
        raise ValueError(f"start: {error}") from None


def _batches(batch_norm: BatchNorm, batches: int | None) -> int | None:
    return 0 if batch_norm == "average" else batches


def cycle_ends(factors: Sequence[float]) -> tuple[int, ...]:
    """Where the cycles of a learning rate end: it has fallen, and rises after that step; and the end of the training.

    Args:
        factors: on the learning rate, of every step of the training.

    Returns:
        Steps done at the ends, >= 1, increasing; only the last step if the rate has no cycles.

    Examples:
        >>> cycle_ends([1.0, 0.5, 1.0, 0.5, 0.0])
        (2, 5)
        >>> cycle_ends([0.5, 1.0, 0.5, 0.0])
        (4,)
    """
    ends, falling = [], False
    for step in range(1, len(factors)):
        before, now = factors[step - 1], factors[step]
        if now > before and falling:
            ends.append(step)
        if now != before:
            falling = now < before
    return (*ends, len(factors))
