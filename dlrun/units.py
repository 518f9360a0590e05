"""Lengths of training with their unit inside the value: ``10ep``, ``500st``, ``30min``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

Unit = Literal["ep", "st", "s", "min", "h"]
_SECONDS: dict[str, float] = {"s": 1.0, "min": 60.0, "h": 3600.0}
_PATTERN = re.compile(r"^\s*(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*(ep|st|s|min|h)\s*$")


@dataclass(frozen=True)
class Duration:
    """An immutable length of training.

    Attributes:
        value: a non-negative number of ``unit``.
        unit: ``ep`` epochs, ``st`` optimizer steps, ``s`` / ``min`` / ``h`` wall-clock time.

    Examples:
        >>> Duration.parse("2.5ep").steps(steps_per_epoch=10)
        25
        >>> Duration.parse("30min").seconds
        1800.0
    """

    value: float
    unit: Unit

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Read ``<number><unit>``.

        Raises:
            ValueError: if the text has no number, no unit or an unknown unit.
        """
        match = _PATTERN.match(text)
        if match is None or not math.isfinite(float(match[1])):
            raise ValueError(
                f"{text!r} is not a duration: write a number and a unit, such as 5ep (epochs), 500st (steps), 90s, "
                "30min, 2h"
            )
        return cls(float(match[1]), match[2])  # type: ignore[arg-type]

    @property
    def is_time(self) -> bool:
        """Whether the unit is wall-clock time."""
        return self.unit in _SECONDS

    @property
    def seconds(self) -> float:
        """The length in seconds.

        Raises:
            ValueError: if the unit is epochs or steps.
        """
        if not self.is_time:
            raise ValueError(f"{self} is not a time: write it in s, min or h")
        return self.value * _SECONDS[self.unit]

    def steps(self, steps_per_epoch: int) -> int:
        """The length in whole optimizer steps, rounded to the nearest.

        Args:
            steps_per_epoch: optimizer steps in one epoch, >= 1.

        Raises:
            ValueError: if the unit is wall-clock time.
        """
        if self.is_time:
            raise ValueError(f"{self} is a wall-clock time: write it in epochs (ep) or steps (st)")
        return round(self.value * (steps_per_epoch if self.unit == "ep" else 1))

    def __str__(self) -> str:
        # Every digit, so that parsing the text gives the same length again.
        whole = self.value < 1e15 and self.value == int(self.value)
        return f"{int(self.value) if whole else repr(self.value)}{self.unit}"
