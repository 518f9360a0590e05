"""What a command is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dlrun.errors import UserError


@dataclass(frozen=True)
class Request:
    """A parsed command line.

    Attributes:
        words: plain words (the kind and name of list and show, the models of summary).
        overrides: ``key=value`` words without the reserved ones.
        reserved: the command's own keys, such as config and resume.
        print_config: show the configuration and start nothing.
        json: print for programs.
    """

    words: tuple[str, ...]
    overrides: tuple[str, ...]
    reserved: dict[str, str]
    print_config: bool = False
    json: bool = False

    def whole(self, key: str, least: int = 1) -> int | None:
        """The whole number of a key of the command's own; None if it was not given.

        Raises:
            UserError: if it is not a whole number from ``least`` on.
        """
        word = self.reserved.get(key)
        if word is None:
            return None
        if not (word.isascii() and word.isdecimal() and int(word) >= least):
            raise UserError(f"{key}={word}: must be a whole number >= {least}")
        return int(word)

    def number(self, key: str, least: float, most: float) -> float | None:
        """The number of a key of the command's own; None if it was not given.

        Raises:
            UserError: if it is not a number in ``least`` to ``most``.
        """
        word = self.reserved.get(key)
        if word is None:
            return None
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise UserError(f"{key}={word}: must be a number from {least:g} to {most:g}")
        return value

    def one_of(self, key: str, known: Sequence[str], default: str) -> Any:
        """The word of a key of the command's own, of which there are only some.

        Raises:
            UserError: if it is another word.
        """
        word = self.reserved.get(key, default)
        if word not in known:
            raise UserError(f"{key}={word}: must be {', '.join(known[:-1])} or {known[-1]}")
        return word
