"""From text to numbers and back: the vocabulary of a text, fitted on its training part alone.

Letters: N tokens, V symbols in the vocabulary.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dlrun.errors import DataError

Level = Literal["character", "byte", "word"]
Text = str | bytes
"""What is cut into tokens: bytes for the level ``byte``, else decoded text."""

UNKNOWN = 0
"""Number of the symbol for all that the training part does not have; bytes have none, as they are all known."""
UNKNOWN_NAME = "<unk>"

_WORD = re.compile(r" ?\w+|\W")


def words(text: str) -> list[str]:
    """A text cut into words, each with the one space before it; all else is a token by itself."""
    return _WORD.findall(text)


@dataclass(frozen=True)
class Vocabulary:
    """The symbols of a text, numbered.

    Attributes:
        level: what a token is: a character (Unicode code point), a byte, or a word with the one space before it (all
            else is a token by itself, so that the tokens joined are the text).
        symbols: by number, with :data:`UNKNOWN` first; empty for bytes, which number themselves.
    """

    level: Level
    symbols: tuple[str, ...] = ()

    @classmethod
    def fit(cls, text: Text, level: Level, min_count: int = 1) -> Vocabulary:
        """The vocabulary of a training text.

        Args:
            text: bytes for the level ``byte``, else a str.
            level: what a token is.
            min_count: symbols that occur less often are left to :data:`UNKNOWN`, which is then trained; >= 1.
        """
        if level == "byte":
            return cls("byte")
        assert isinstance(text, str)
        if level == "word":
            return cls.of_tokens(words(text), "word", min_count)
        codes, times = np.unique(_codes(text), return_counts=True)
        kept = [chr(code) for code in codes[times >= min_count]]
        return cls(level, (UNKNOWN_NAME, *kept))

    @classmethod
    def of_tokens(cls, tokens: Iterable[str], level: Level, min_count: int = 1) -> Vocabulary:
        """The vocabulary of tokens that were cut before, the most frequent first; ``min_count`` as in :meth:`fit`."""
        counts = Counter(tokens)
        kept = sorted((token for token, count in counts.items() if count >= min_count), key=lambda t: (-counts[t], t))
        return cls(level, (UNKNOWN_NAME, *kept))

    def __len__(self) -> int:
        """V."""
        return 256 if self.level == "byte" else len(self.symbols)

    @property
    def dtype(self) -> torch.dtype:
        """The smallest integers that hold every number."""
        return torch.uint8 if len(self) <= 1 << 8 else torch.int16 if len(self) <= 1 << 15 else torch.int32

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {symbol: number for number, symbol in enumerate(self.symbols) if number != UNKNOWN}

    def encode(self, text: Text) -> Tensor:
        """The tokens of a text.

        Args:
            text: bytes for the level ``byte``, else a str.

        Returns:
            (N,) of :attr:`dtype`, numbers in [0, V).
        """
        if isinstance(text, bytes):
            return torch.frombuffer(bytearray(text), dtype=torch.uint8) if text else torch.empty(0, dtype=torch.uint8)
        if self.level == "word":
            return self.encode_tokens(words(text))
        codes, known = _codes(text), [ord(symbol) for symbol in self._numbers]
        table = np.full(max([*known, int(codes.max(initial=0))]) + 1, UNKNOWN, dtype=np.int32)
        table[known] = list(self._numbers.values())
        return torch.from_numpy(table[codes]).to(self.dtype)

    def encode_tokens(self, tokens: Iterable[str]) -> Tensor:
        """The numbers of tokens that were cut before: (N,) of :attr:`dtype`."""
        numbers = self._numbers
        return torch.tensor([numbers.get(token, UNKNOWN) for token in tokens], dtype=self.dtype)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of some tokens; bytes that are no UTF-8 become U+FFFD.

        Args:
            tokens: numbers in [0, V).
        """
        if self.level == "byte":
            return bytes(tokens).decode("utf-8", errors="replace")
        return "".join(self.symbols[number] for number in tokens)

    def pieces(self, tokens: Iterable[int]) -> Iterator[str]:
        """The text of some tokens, as it comes: joined, the pieces are what :meth:`decode` gives.

        Args:
            tokens: numbers in [0, V).

        Yields:
            One piece for each token: of bytes, an empty one until a character is complete. If the last character is
            not, a last piece of U+FFFD.
        """
        if self.level != "byte":
            yield from (self.symbols[number] for number in tokens)
            return
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        yield from (decoder.decode(bytes([number])) for number in tokens)
        rest = decoder.decode(b"", final=True)
        if rest:
            yield rest

    def missing(self, text: str) -> list[str]:
        """The symbols of a text that are not in the vocabulary, each once, in their order."""
        if self.level == "byte":
            return []
        parts = words(text) if self.level == "word" else text
        return [part for part in dict.fromkeys(parts) if part not in self._numbers]

    def unknown(self, tokens: Tensor) -> int:
        """How many of some tokens are not in the vocabulary."""
        return 0 if self.level == "byte" else int((tokens == UNKNOWN).sum())

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"level": self.level, "symbols": list(self.symbols)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Vocabulary:
        """The vocabulary that :meth:`state_dict` was called on."""
        return cls(state["level"], tuple(state["symbols"]))


def refuse_empty(vocabulary: Vocabulary, min_count: int) -> None:
    """Check that there is something to tell apart.

    Args:
        vocabulary: just fitted.
        min_count: ``data.min_count``, which it was fitted with.

    Raises:
        DataError: if all is unknown.
    """
    if len(vocabulary) <= 1:
        raise DataError(
            f"data.min_count={min_count}: no {vocabulary.level} of the training text occurs so often, so that all "
            "would be unknown; lower data.min_count"
        )


def _codes(text: str) -> Any:
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
