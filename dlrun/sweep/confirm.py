"""The best trials again with other seeds: what is left of their lead when luck is taken out.

The best of many trials has been lucky as well as good, so its own score is not counted among those of the new seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dlrun.config.sweep_schema import SweepConfig
from dlrun.errors import ConfigError, did_you_mean
from dlrun.spread import difference, spread
from dlrun.sweep.record import Record
from dlrun.sweep.scalars import plain

_KEYS = ("top", "seeds")
SEED = "seed"


@dataclass(frozen=True)
class Confirmed:
    """A trial with the scores of its other seeds.

    Attributes:
        record: the trial itself.
        scores: of the seeds that came to their end.
        failed: seeds that did not.
    """

    record: Record
    scores: tuple[float, ...]
    failed: int

    @property
    def mean(self) -> float:
        """Mean score; NaN without scores."""
        return statistics.fmean(self.scores) if self.scores else math.nan

    @property
    def deviation(self) -> float:
        """Standard deviation between seeds (n - 1 in the denominator); NaN with less than two."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else math.nan


@dataclass(frozen=True)
class Lead:
    """What the lead of one trial over another is worth.

    Attributes:
        gain: difference of the means; > 0 if the first is better.
        half: half the width of its 95 % interval.
        deviation: standard deviation between seeds, of both together.
        p_value: probability of such a difference by the seeds alone, two-sided.
    """

    gain: float
    half: float
    deviation: float
    p_value: float

    @property
    def noise(self) -> bool:
        """Whether the interval holds 0."""
        return abs(self.gain) <= self.half


def read_confirm(settings: SweepConfig) -> tuple[int, int] | None:
    """(trials, seeds of each), or None if nothing is to be confirmed.

    Raises:
        ConfigError: for unknown or missing keys.
    """
    if not settings.confirm:
        return None
    problems = [
        f"sweep.confirm.{key}: unknown key; {did_you_mean(key, _KEYS)}" for key in settings.confirm if key not in _KEYS
    ]
    problems += [f"sweep.confirm.{key}: is missing" for key in _KEYS if key not in settings.confirm]
    if settings.confirm.get("seeds", 2) < 2:
        problems.append("sweep.confirm.seeds: must be >= 2, for one more score says nothing of the noise")
    if problems:
        raise ConfigError(problems)
    return settings.confirm["top"], settings.confirm["seeds"]


def different(best: Sequence[Record], top: int) -> list[Record]:
    """The first ``top`` records with values of their own: of those equal but for their seed, the first."""
    first: dict[tuple[tuple[str, str], ...], Record] = {}
    for record in best:
        values = sorted((key, plain(value)) for key, value in record.values.items() if key != SEED)
        first.setdefault(tuple(values), record)
    return list(first.values())[:top]


def trials(best: Sequence[Record], seeds: int, seed: int) -> list[dict[str, Any]]:
    """The values of the trials: each of ``best`` with the seeds after ``seed``."""
    return [{**record.values, SEED: seed + i} for record in best for i in range(1, seeds + 1)]


def confirmed(best: Sequence[Record], records: Mapping[int, Record], seeds: int, mode: str) -> list[Confirmed]:
    """The trials with the scores of their seeds, the best mean first.

    Args:
        best: what was confirmed.
        records: of the trials that :func:`trials` named, by number.
        seeds: of each.
        mode: whether small or large scores are good.
    """
    found = []
    for i, record in enumerate(best):
        numbers = range(i * seeds + 1, (i + 1) * seeds + 1)
        own = [records[number] for number in numbers if number in records]
        scores = tuple(other.score for other in own if other.status == "ok" and other.score is not None)
        found.append(Confirmed(record, scores, len(own) - len(scores)))
    sign = 1.0 if mode == "max" else -1.0
    return sorted(found, key=lambda item: math.inf if math.isnan(item.mean) else -sign * item.mean)


def lead(one: Confirmed, other: Confirmed, mode: str) -> Lead | None:
    """What the lead of ``one`` over ``other`` is worth; None if a side has less than two scores.

    Source: Henderson et al. 2018, "Deep reinforcement learning that matters" (why seeds must be counted); the test is
        that of :func:`dlrun.spread.difference`.
    """
    first, second = spread(other.scores), spread(one.scores)
    if first is None or second is None or first.std is None or second.std is None:
        return None
    found = difference(first, second)
    sign = 1.0 if mode == "max" else -1.0
    return Lead(sign * found.value, found.half, math.sqrt((first.std**2 + second.std**2) / 2), found.p)
