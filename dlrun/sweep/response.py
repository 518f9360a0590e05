"""How the scores of trials respond to the axes of the space: a fit to their ranks.

The scores become ranks, so that one lucky or one terrible trial weighs no more than its place. A sum of one parabola
per axis (and one level per value of a choice) is fitted to them in the positions of the axes, the scale in which they
were drawn. Resampled fits say how sure it is.

Letters used below: N trials with a score, K columns of one axis.

Source: Bergstra and Bengio 2012, "Random search for hyper-parameter optimization" (few axes matter, and which differs);
    Efron and Tibshirani 1993, "An introduction to the bootstrap", chapter 9 (resampling pairs in regression).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from dlrun.sweep.distributions import Numeric
from dlrun.sweep.space import Axis, Space

Floats = npt.NDArray[np.float64]

RESAMPLES = 400
LEAST_TRIALS = 8
"""Trials with a score below which nothing is concluded."""
_LEAST_FREE = 4
"""Trials more than weights of a fit below which its residuals say nothing of the noise."""
_UNSURE = 0.05
"""Probability that the share of an axis is greater than the bound that is told."""
_LEAST_LEADERS = 3
_SPARE = 8
"""Trials more than columns from which all axes are fitted together; with fewer, each alone."""


@dataclass(frozen=True)
class Outcome:
    """One trial, as it is judged.

    Attributes:
        positions: key of the axis -> position in [0, 1]; axes whose condition did not hold are absent.
        score: greater is better; None if there is none, because it diverged or failed.
        budget: how far it was trained (epochs): a trial that was stopped early ranks behind all that went on.
        diverged: its loss exploded or became NaN.
    """

    positions: Mapping[str, float]
    score: float | None
    budget: float = 0.0
    diverged: bool = False


class Response:
    """The fit to the ranks of trials.

    Args:
        space: the axes.
        outcomes: of the trials; those without a score and those that diverged are left out.
        seed: of the resampling.
    """

    def __init__(self, space: Space, outcomes: Sequence[Outcome], seed: int = 0) -> None:
        self._space = space
        self.scored = [outcome for outcome in outcomes if outcome.score is not None and not outcome.diverged]
        count = len(self.scored)
        self.ranks = _ranks(self.scored)
        self._rows = np.random.default_rng(seed).integers(0, max(count, 1), (RESAMPLES, count))
        self._blocks = [_columns(axis, self.scored) for axis in space]
        self._together = count >= 1 + sum(block.shape[1] for block in self._blocks) + _SPARE

    def known(self, axis: int) -> bool:
        """Whether there are trials enough, and different ones along the axis of this number."""
        columns, count = self._blocks[axis].shape[1], len(self.scored)
        weights = sum(block.shape[1] for block in (self._blocks if self._together else [self._blocks[axis]]))
        return columns > 0 and count >= max(LEAST_TRIALS, 1 + weights + _LEAST_FREE) and not self.tied

    @property
    def tied(self) -> bool:
        """Whether all scores are equal, as accuracies of nets that learn nothing are."""
        return len(self.ranks) > 1 and len(set(self.ranks.tolist())) == 1

    def leaders(self, key: str) -> list[float]:
        """Positions of the best fifth of the trials, three at least, on an axis, the best trial first.

        Those in which the axis was not active have none.
        """
        return self._best(key, self.ranks)

    def _best(self, key: str, ranks: Floats) -> list[float]:
        count = max(_LEAST_LEADERS, len(self.scored) // 5)
        order = np.argsort(-ranks, kind="stable")[:count]
        return [self.scored[i].positions[key] for i in order if key in self.scored[i].positions]

    def good(self, axis: int) -> list[float]:
        """Positions of the best fifth of the trials, three at least, on an axis beside the others.

        What the fit says of the other axes is taken off: a trial may be good for them in spite of its place here.
        """
        block, others = self._blocks[axis], self._others(axis)
        design = _design([block, *others], len(self.ranks))
        weights, *_ = np.linalg.lstsq(design, self.ranks, rcond=None)
        first = 1 + block.shape[1]
        own = self.ranks - design[:, first:] @ weights[first:]
        return self._best(self._space[axis].key, own)

    def p_value(self, axis: int) -> float:
        """Of the F-test that the axis of this number does nothing beside the others, in [0, 1]."""
        statistic, columns, free, _ = self._test(axis)
        return float(special.fdtrc(columns, free, statistic))

    def most(self, axis: int) -> float:
        """The share of the variance of the ranks that an axis may explain and still look as it does, in [0, inf).

        The upper end of a one-sided 95 % interval: with few trials it is large, however little the axis seems to do.

        Source: Steiger and Fouladi 1997, "Noncentrality interval estimation and the evaluation of statistical models"
            (the interval of F's noncentrality).
        """
        statistic, columns, free, noise = self._test(axis)
        # A statistic below its mean under no influence is luck, and no knowledge of a smaller one.
        return float(special.ncfdtrinc(columns, free, _UNSURE, max(statistic, 1.0))) * noise / self._total()

    def refits(self, axis: int) -> Floats:
        """(RESAMPLES, K) weights of an axis's columns, each fitted to as many trials drawn with replacement."""
        block = self._blocks[axis]
        design = _design([block, *self._others(axis)], len(self.ranks))
        # A trace of ridge: a resample may have too few different trials for all columns.
        ridge = 1e-3 * np.eye(design.shape[1])
        drawn, targets = design[self._rows], self.ranks[self._rows]
        squares = np.einsum("bnk,bnl->bkl", drawn, drawn) + ridge
        weights = np.linalg.solve(squares, np.einsum("bnk,bn->bk", drawn, targets)[..., None])[..., 0]
        part: Floats = weights[:, 1 : 1 + block.shape[1]]
        return part

    def importance(self, axis: int) -> float:
        """Share of the variance of the ranks that an axis explains beside the others, in [0, 1]; NaN if not known.

        Source: Hutter, Hoos and Leyton-Brown 2014, "An efficient approach for assessing hyperparameter importance"
            (the share of the variance; there of a random forest, here of the additive fit).
        """
        if not self.known(axis):
            return float("nan")
        without, with_it, _ = self._residuals(axis)
        return max(0.0, (without - with_it) / self._total())

    def _total(self) -> float:
        return float(((self.ranks - self.ranks.mean()) ** 2).sum())

    def _test(self, axis: int) -> tuple[float, int, int, float]:
        """The F statistic with its degrees of freedom, and the variance of what the fit leaves over."""
        columns = self._blocks[axis].shape[1]
        without, with_it, free = self._residuals(axis)
        noise = max(with_it / free, 1e-12)
        return max(0.0, (without - with_it) / columns / noise), columns, free, noise

    def _others(self, axis: int) -> list[Floats]:
        return [block for i, block in enumerate(self._blocks) if i != axis] if self._together else []

    def _residuals(self, axis: int) -> tuple[float, float, int]:
        others, count = self._others(axis), len(self.ranks)
        full = _design([self._blocks[axis], *others], count)
        return _residual(_design(others, count), self.ranks), _residual(full, self.ranks), count - full.shape[1]


def parabola(positions: Floats) -> Floats:
    """(M,) positions to (M, 2) columns: a line and a parabola that are uncorrelated over [0, 1]."""
    centred = 2 * positions - 1
    return np.stack([centred, centred**2 - 1 / 3], axis=1)


def _ranks(scored: Sequence[Outcome]) -> Floats:
    """(N,) in (0, 1), 1 is best; equal trials share their mean rank."""
    keys = [(outcome.budget, outcome.score) for outcome in scored]
    places = {key: place for place, key in enumerate(sorted(set(keys)))}
    numbers = np.array([places[key] for key in keys], dtype=np.int64)
    sizes = np.bincount(numbers, minlength=1)
    middles: Floats = np.cumsum(sizes) - sizes / 2
    return middles[numbers] / max(len(scored), 1)


def _columns(axis: Axis, scored: Sequence[Outcome]) -> Floats:
    """(N, K): a line and a parabola, or one level per value of a choice but the last; 0 where it is not active."""
    positions = np.array([outcome.positions.get(axis.key, np.nan) for outcome in scored], dtype=np.float64)
    active = ~np.isnan(positions)
    if isinstance(axis.distribution, Numeric):
        block = parabola(np.where(active, positions, 0.5))
        block[~active] = 0.0
        different = len(set(positions[active].tolist()))
        part: Floats = block[:, : max(0, min(2, different - 1))]
        return part
    count = len(axis.distribution.values)
    levels = np.eye(count)[np.clip((np.where(active, positions, 0.0) * count).astype(int), 0, count - 1)]
    levels[~active] = 0.0
    present = [i for i in range(count) if levels[:, i].any()]
    chosen: Floats = levels[:, present[:-1]]
    return chosen


def _design(blocks: Sequence[Floats], rows: int) -> Floats:
    return np.concatenate([np.ones((rows, 1)), *blocks], axis=1)


def _residual(design: Floats, ranks: Floats) -> float:
    weights, *_ = np.linalg.lstsq(design, ranks, rcond=None)
    rest: Floats = ranks - design @ weights
    return float(rest @ rest)
