"""How much a result varies from run to run, and what differences that leaves uncertain. No torch.

n is the number of runs, s the standard deviation of one metric over them (of the sample: divided by n - 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

CONFIDENCE = 0.95
"""Of every interval and verdict."""


@dataclass(frozen=True)
class Spread:
    """One metric over several runs.

    Attributes:
        values: of the n >= 1 runs, finite.
        mean: their mean.
        std: s, by n - 1; None for one run.
    """

    values: tuple[float, ...]
    mean: float
    std: float | None

    @property
    def standard_error(self) -> float | None:
        """Standard deviation of the mean, ``s / sqrt(n)``; None for one run."""
        return None if self.std is None else self.std / math.sqrt(len(self.values))

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where the mean over all seeds lies with 95 % confidence, by Student's t; None for one run."""
        if self.standard_error is None:
            return None
        half = quantile(len(self.values) - 1) * self.standard_error
        return self.mean - half, self.mean + half

    @property
    def noise(self) -> float | None:
        """The least difference that tells two settings apart with n seeds each, if both vary like this one.

        ``t * s * sqrt(2 / n)`` with ``2n - 2`` degrees of freedom, two-sided, 95 %; None for one run.
        """
        if self.std is None:
            return None
        n = len(self.values)
        return quantile(2 * n - 2) * self.std * math.sqrt(2 / n)


def spread(values: Sequence[float]) -> Spread | None:
    """Measure a metric over several runs; None if there are no values, or some are not finite."""
    if not values or not all(math.isfinite(value) for value in values):
        return None
    # Of equal values, rounding would leave a standard deviation of 1e-17.
    std = 0.0 if len(set(values)) == 1 else stdev(values)
    return Spread(tuple(values), fmean(values), std if len(values) > 1 else None)


def quantile(degrees: float, confidence: float = CONFIDENCE) -> float:
    """The two-sided quantile of Student's t: with ``degrees`` of freedom, |t| lies below it with this confidence.

    Args:
        degrees: > 0.
        confidence: in (0, 1).
    """
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + confidence) / 2))


@dataclass(frozen=True)
class Difference:
    """How a second setting differs from a first in one metric.

    Attributes:
        value: mean of the second less that of the first.
        half: half the width of its 95 % interval.
        p: probability of a difference as large if there were none, two-sided.
        effect: ``value`` in units of the standard deviation: the pooled one of both (Cohen's d), or of the differences
            where they are paired; None where nothing varies.
    """

    value: float
    half: float
    p: float
    effect: float | None

    @property
    def certain(self) -> bool:
        """Whether the interval leaves out 0."""
        return abs(self.value) > self.half


def paired_difference(first: Spread, second: Spread) -> Difference:
    """The test for two cross-validations over the same k folds, value by value.

    The training sets of the folds overlap, so their differences are not independent: their variance is multiplied by
    ``1/k + 1/(k - 1)`` instead of ``1/k``.

    Args:
        first: of k >= 2 folds.
        second: of the same folds, in their order.

    Raises:
        ValueError: if they are not as many.

    Source: Nadeau and Bengio, "Inference for the generalization error", Machine Learning 52, 2003, section 3.3.
    """
    count = len(first.values)
    found = spread([b - a for a, b in zip(first.values, second.values, strict=True)])
    if found is None or found.std is None:
        raise ValueError("a difference needs at least two folds")
    error = found.std * math.sqrt(1 / count + 1 / (count - 1))
    return _judged(found.mean, error, count - 1, found.std)


def _judged(value: float, error: float, degrees: float, deviation: float) -> Difference:
    from scipy.special import stdtr

    if error == 0:
        return Difference(value, 0.0, 0.0 if value else 1.0, None)
    p = 2 * float(stdtr(degrees, -abs(value) / error))
    return Difference(value, quantile(degrees) * error, p, value / deviation)


def difference(first: Spread, second: Spread) -> Difference:
    """Welch's test: the two may vary differently and have different numbers of runs.

    Args:
        first: of at least two runs.
        second: of at least two runs.

    Raises:
        ValueError: if one has a single run.

    Source: Welch, "The generalization of Student's problem when several different population variances are involved",
    Biometrika 34, 1947.
    """
    if first.std is None or second.std is None:
        raise ValueError("a difference needs at least two runs on each side")
    parts = [one**2 / len(s.values) for one, s in ((first.std, first), (second.std, second))]
    value, error = second.mean - first.mean, math.sqrt(sum(parts))
    pooled = math.sqrt((first.std**2 + second.std**2) / 2)
    if error == 0:
        return _judged(value, error, 1, pooled)
    degrees = sum(parts) ** 2 / sum(
        part**2 / (len(s.values) - 1) for part, s in zip(parts, (first, second), strict=True)
    )
    return _judged(value, error, degrees, pooled)
