"""Which trials may go on: the median rule, and asynchronous successive halving."""

from __future__ import annotations

import bisect
import statistics
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from dlrun.sweep.record import Advice, Record

Mode = Literal["min", "max"]
STARTUP = 5
"""Other trials that must have come as far before the median rule stops one."""


class Advisor(Protocol):
    """Decides after each evaluation whether a trial goes on."""

    def advise(self, number: int, epochs: float, best: float) -> Advice:
        """What the trial is to do.

        Args:
            number: of the trial.
            epochs: done so far.
            best: best value of the metric so far.
        """

    def learn(self, record: Record) -> None:
        """Take over what was seen of a trial before this process began."""

    def promoted(self) -> int | None:
        """Number of a paused trial that may go on now; it counts as going on from then."""


class NoPruning:
    """Every trial goes on to its end."""

    def advise(self, number: int, epochs: float, best: float) -> Advice:
        """Go on."""
        return "go"

    def learn(self, record: Record) -> None:
        """Nothing."""

    def promoted(self) -> int | None:
        """None: nothing was paused."""
        return None


class MedianRule:
    """Stops a trial whose best value so far is worse than the median of those that the others had at the same epoch.

    Args:
        mode: whether small or large values are good.
        min_epochs: before which none is stopped.

    Source: Golovin et al. 2017, "Google Vizier: a service for black-box optimization", section 3.2 (median stopping
        rule; here with the best value instead of the running mean).
    """

    def __init__(self, mode: Mode, min_epochs: int) -> None:
        self._sign = 1.0 if mode == "max" else -1.0
        self._min_epochs = min_epochs
        self._curves: dict[int, list[tuple[float, float]]] = {}

    def advise(self, number: int, epochs: float, best: float) -> Advice:
        """Stop if the median of the others is better."""
        self._note(number, epochs, best)
        if epochs < self._min_epochs:
            return "go"
        others = [
            value
            for other, curve in self._curves.items()
            if other != number and (value := _at(curve, epochs)) is not None
        ]
        if len(others) < STARTUP:
            return "go"
        return "stop" if self._sign * best < statistics.median(others) else "go"

    def learn(self, record: Record) -> None:
        """See :meth:`Advisor.learn`."""
        best: float | None = None
        for epochs, value in record.curve:
            best = value if best is None else max(best, value, key=lambda v: self._sign * v)
            self._note(record.number, epochs, best)

    def promoted(self) -> int | None:
        """None: what is stopped stays so."""
        return None

    def _note(self, number: int, epochs: float, best: float) -> None:
        curve = self._curves.setdefault(number, [])
        if not curve or curve[-1][0] < epochs:
            curve.append((epochs, self._sign * best))


def _at(curve: Sequence[tuple[float, float]], epochs: float) -> float | None:
    """The value that a curve has at ``epochs``; None if it has not come so far."""
    if curve[-1][0] < epochs:
        return None
    found = bisect.bisect_right([point[0] for point in curve], epochs)
    return curve[found - 1][1] if found else None


class Halving:
    """Asynchronous successive halving (ASHA).

    Trials pause at the rungs, which are min_epochs, min_epochs eta, min_epochs eta^2, ... epochs. Of those that have
    reached a rung the best 1/eta go on: at once if a trial is among them when it arrives, or later when enough others
    have turned out worse. What never goes on was pruned.

    Args:
        mode: whether small or large values are good.
        min_epochs: the first rung (r in the paper).
        eta: one in so many goes on (the reduction factor), >= 2.
        max_epochs: of a trial (R).

    Source: Li et al. 2020, "A system for massively parallel hyperparameter tuning", algorithm 2.
    """

    def __init__(self, mode: Mode, min_epochs: int, eta: int, max_epochs: int) -> None:
        self._sign = 1.0 if mode == "max" else -1.0
        self._eta = eta
        self.rungs: list[int] = []
        rung = min_epochs
        while rung < max_epochs:
            self.rungs.append(rung)
            rung *= eta
        self._scores: list[dict[int, float]] = [{} for _ in self.rungs]
        self._beyond: list[set[int]] = [set() for _ in self.rungs]

    def advise(self, number: int, epochs: float, best: float) -> Advice:
        """Pause at a rung unless the trial is among the best that have reached it."""
        for i, rung in enumerate(self.rungs):
            if epochs < rung:
                break
            self._scores[i].setdefault(number, self._sign * best)
            if number in self._beyond[i]:
                continue
            if number not in self._promotable(i):
                return "pause"
            self._beyond[i].add(number)
        return "go"

    def learn(self, record: Record) -> None:
        """See :meth:`Advisor.learn`: a trial that is over has passed every rung but its last."""
        best: float | None = None
        for epochs, value in record.curve:
            best = value if best is None else max(best, value, key=lambda v: self._sign * v)
            for i, rung in enumerate(self.rungs):
                if epochs >= rung:
                    self._scores[i].setdefault(record.number, self._sign * best)
        for i, rung in enumerate(self.rungs):
            if record.epochs > rung:
                self._beyond[i].add(record.number)

    def promoted(self) -> int | None:
        """The paused trial on the highest rung that has become one of the best there."""
        for i in reversed(range(len(self.rungs))):
            waiting = [number for number in self._promotable(i) if number not in self._beyond[i]]
            if waiting:
                self._beyond[i].add(waiting[0])
                return waiting[0]
        return None

    def _promotable(self, i: int) -> list[int]:
        """The best 1/eta of a rung, best first; of equals the one with the smaller number."""
        scores: Mapping[int, float] = self._scores[i]
        order = sorted(scores, key=lambda number: (-scores[number], number))
        return order[: len(order) // self._eta]
