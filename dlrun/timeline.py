"""How the optimizer steps of a training lie in its epochs."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import accumulate

from dlrun.units import Duration


@dataclass(frozen=True)
class Timeline:
    """Epochs of so many steps each; they may differ, as with a growing batch.

    Attributes:
        epochs: optimizer steps of each epoch, >= 1 each, at least one epoch.
        origin: the step that is called 0 here: what lies before it, such as a warmup, is not seen.

    Examples:
        >>> timeline = Timeline((10, 10, 5))
        >>> timeline.total, timeline.at(Duration(2, "ep")), timeline.at(Duration(2.4, "ep"))
        (25, 20, 22)
        >>> timeline.after(20).at(Duration(1, "ep"))
        5
    """

    epochs: tuple[int, ...]
    origin: int = 0
    _starts: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.epochs or min(self.epochs) < 1:
            raise ValueError(f"every epoch needs a step, and there must be an epoch, got {self.epochs}")
        object.__setattr__(self, "_starts", (0, *accumulate(self.epochs)))

    @classmethod
    def even(cls, steps_per_epoch: int, epochs: int) -> Timeline:
        """Epochs of equal length."""
        return cls((steps_per_epoch,) * epochs)

    @property
    def total(self) -> int:
        """Steps from the origin to the end of the training."""
        return self._starts[-1] - self.origin

    def steps(self, epoch: int) -> int:
        """Steps of an epoch, counted from 0; those after the last are as long as that."""
        return self.epochs[min(epoch, len(self.epochs) - 1)]

    def start(self, epoch: int) -> int:
        """The first step of an epoch."""
        beyond = max(0, epoch - len(self.epochs))
        return self._starts[epoch - beyond] + beyond * self.epochs[-1] - self.origin

    def epoch(self, step: int) -> Fraction:
        """Epochs between the origin and a step, exactly."""
        return self._epoch(step + self.origin) - self._epoch(self.origin)

    def _epoch(self, step: int) -> Fraction:
        index = min(bisect_right(self._starts, step), len(self.epochs)) - 1
        return index + Fraction(step - self._starts[index], self.epochs[index])

    def at(self, length: Duration) -> int:
        """The step at which so much time has passed since the origin, rounded to the nearest.

        Raises:
            ValueError: if the unit is wall-clock time.
        """
        return self._at(Fraction(str(length.value))) if length.unit == "ep" else length.steps(1)

    def _at(self, epochs: Fraction) -> int:
        position = self._epoch(self.origin) + epochs
        whole = min(int(position), len(self.epochs) - 1)
        # A half goes up: so what lies a step or more apart never falls together, as with round().
        return math.floor(self._starts[whole] + (position - whole) * self.epochs[whole] + Fraction(1, 2)) - self.origin

    def after(self, steps: int) -> Timeline:
        """The same training, seen from ``steps`` later on."""
        return Timeline(self.epochs, self.origin + steps)

    def multiples(self, length: Duration) -> list[int]:
        """The steps at which one, two, three, ... times ``length`` has passed, up to the end of the training.

        Raises:
            ValueError: if the unit is wall-clock time, or the length is shorter than half a step.
        """
        if length.unit != "ep":
            every = length.steps(1)
            if every < 1:
                raise ValueError(f"{length} is shorter than one step")
            return list(range(every, self.total + 1, every))
        epochs = Fraction(str(length.value))
        found: list[int] = []
        while not found or found[-1] < self.total:
            following = self._at(epochs * (len(found) + 1))
            if following <= (found[-1] if found else 0):
                raise ValueError(f"{length} is shorter than one step")
            found.append(following)
        return found if found[-1] == self.total else found[:-1]

    def beat(self, every: Duration) -> Callable[[int], bool]:
        """Whether a step, counted from 1, ends a multiple of ``every``; each step does where that is shorter.

        Raises:
            ValueError: if the unit is wall-clock time.
        """
        if every.unit != "ep":
            interval = max(1, every.steps(1))
            return lambda step: step % interval == 0
        if every.value * min(self.epochs) < 1:
            return lambda step: True
        return frozenset(self.multiples(every)).__contains__
