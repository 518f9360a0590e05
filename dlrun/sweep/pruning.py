"""Which trials may go on: the median rule, and asynchronous successive halving.

What an advisor answers depends on the evaluations that it has heard of alone, and hearing of one twice changes nothing:
so a sweep that was killed and is told all of them again (of trials that are over from their records, of the others by
their first question) decides as it would have done.
"""

from __future__ import annotations

import bisect
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, Protocol

from dlrun.sweep.record import Advice, Record

Mode = Literal["min", "max"]
Points = Sequence[tuple[float, float]]
"""Evaluations as (epochs done, value of the metric), in their order."""
STARTUP = 5
"""Other trials that must have come as far before the median rule stops one."""


class Advisor(Protocol):
    """Decides after each evaluation whether a trial goes on."""

    def advise(self, number: int, epochs: float, points: Points) -> Advice:
        """What the trial is to do.

        Args:
            number: of the trial.
            epochs: done so far; more than those of the newest evaluation if the trial was resumed behind it.
            points: the evaluations since the last question; those that are known count once.
        """

    def learn(self, record: Record) -> None:
        """Take over what was seen of a trial that is over, or paused."""

    def release(self, number: int, epochs: float) -> None:
        """A trial may go on beyond so many epochs, whatever the others do."""

    def promoted(self, paused: Collection[int]) -> tuple[int, float] | None:
        """One of the paused trials that may go on now, and the epochs that it is released beyond."""

    def leader(self, paused: Collection[int]) -> int | None:
        """The best of the paused trials among those that came farthest."""


class NoPruning:
    """Every trial goes on to its end."""

    def advise(self, number: int, epochs: float, points: Points) -> Advice:
        """Go on."""
        return "go"

    def learn(self, record: Record) -> None:
        """Nothing."""

    def release(self, number: int, epochs: float) -> None:
        """Nothing."""

    def promoted(self, paused: Collection[int]) -> tuple[int, float] | None:
        """None: nothing was paused."""
        return None

    def leader(self, paused: Collection[int]) -> int | None:
        """None: nothing was paused."""
        return None


class MedianRule(NoPruning):
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

    def advise(self, number: int, epochs: float, points: Points) -> Advice:
        """Stop if the median of the others is better."""
        own = self._note(number, points)
        # Behind its newest evaluation it was told to go on already.
        if epochs < self._min_epochs or not own or own[-1][0] < epochs:
            return "go"
        others = [
            value
            for other, curve in self._curves.items()
            if other != number and (value := _at(curve, epochs)) is not None
        ]
        if len(others) < STARTUP:
            return "go"
        return "stop" if own[-1][1] < statistics.median(others) else "go"

    def learn(self, record: Record) -> None:
        """See :meth:`Advisor.learn`."""
        self._note(record.number, record.curve)

    def _note(self, number: int, points: Points) -> list[tuple[float, float]]:
        """The best value at each evaluation of a trial, larger ones better."""
        curve = self._curves.setdefault(number, [])
        for epochs, value in points:
            if not curve or curve[-1][0] < epochs:
                curve.append((epochs, max(self._sign * value, curve[-1][1]) if curve else self._sign * value))
        return curve


def _at(curve: Sequence[tuple[float, float]], epochs: float) -> float | None:
    """The value that a curve has at ``epochs``; None if it has not come so far."""
    if not curve or curve[-1][0] < epochs:
        return None
    found = bisect.bisect_right([point[0] for point in curve], epochs)
    return curve[found - 1][1] if found else None


class Halving:
    """Asynchronous successive halving (ASHA).

    Trials pause at the rungs, which are min_epochs, min_epochs eta, min_epochs eta^2, ... epochs (at the first
    evaluation from there on). Of those that have reached a rung the best 1/eta go on: at once if a trial is among them
    when it arrives, or later when enough others have turned out worse. What never goes on was pruned.

    Of fewer than eta trials on a rung none is promoted; so a short sweep would end without one that was trained to its
    end. There the best of the highest rung (:meth:`leader`) goes on when nothing else is left to run, as successive
    halving keeps at least one. Optuna and Ray let the first trials pass a rung instead, however bad they are: a trial
    here can wait until it is known to be the best.

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
        self._newest: dict[int, tuple[float, float]] = {}
        # Of each rung: number of a trial -> (its score, larger ones better; the epochs at which it was seen).
        self._arrived: list[dict[int, tuple[float, float]]] = [{} for _ in self.rungs]
        self._beyond: list[set[int]] = [set() for _ in self.rungs]

    def advise(self, number: int, epochs: float, points: Points) -> Advice:
        """Pause at a rung unless the trial is among the best that have reached it."""
        self._note(number, points)
        self._passed(number, epochs)
        for arrived, beyond, best in zip(self._arrived, self._beyond, map(self._best, self._arrived), strict=True):
            if number not in arrived:
                break
            if number in best:
                beyond.add(number)
            elif number not in beyond:
                return "pause"
        return "go"

    def learn(self, record: Record) -> None:
        """See :meth:`Advisor.learn`."""
        self._note(record.number, record.curve)
        self._passed(record.number, record.epochs)

    def release(self, number: int, epochs: float) -> None:
        """See :meth:`Advisor.release`."""
        for rung, beyond in zip(self.rungs, self._beyond, strict=True):
            if rung <= epochs:
                beyond.add(number)

    def promoted(self, paused: Collection[int]) -> tuple[int, float] | None:
        """The paused trial on the highest rung that has become one of the best there."""
        for rung, arrived, beyond in reversed(list(zip(self.rungs, self._arrived, self._beyond, strict=True))):
            for number in self._best(arrived):
                if number in paused and number not in beyond:
                    self.release(number, rung)
                    return number, rung
        return None

    def leader(self, paused: Collection[int]) -> int | None:
        """See :meth:`Advisor.leader`."""
        for arrived in reversed(self._arrived):
            waiting = [number for number in _ranked(arrived) if number in paused]
            if waiting:
                return waiting[0]
        return None

    def _note(self, number: int, points: Points) -> None:
        for epochs, value in points:
            score = self._sign * value
            if number in self._newest:
                newest, best = self._newest[number]
                if epochs <= newest:
                    continue
                score = max(score, best)
            self._newest[number] = epochs, score
            for rung, arrived in zip(self.rungs, self._arrived, strict=True):
                if epochs >= rung:
                    arrived.setdefault(number, (score, epochs))

    def _passed(self, number: int, epochs: float) -> None:
        """A trial that was trained beyond the evaluation at a rung was told there to go on."""
        for arrived, beyond in zip(self._arrived, self._beyond, strict=True):
            if number in arrived and arrived[number][1] < epochs:
                beyond.add(number)

    def _best(self, arrived: Mapping[int, tuple[float, float]]) -> list[int]:
        """The best 1/eta of a rung."""
        return _ranked(arrived)[: len(arrived) // self._eta]


def _ranked(arrived: Mapping[int, tuple[float, float]]) -> list[int]:
    """The trials of a rung, best first; of equals the one with the smaller number."""
    return sorted(arrived, key=lambda number: (-arrived[number][0], number))
