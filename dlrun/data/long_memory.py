"""A task that needs a long memory and nothing else: which symbol stood at the beginning."""

from __future__ import annotations

from typing import Annotated

from dlrun.data.sequences import Labelled, SequenceData, split
from dlrun.data.shape import TextShape, tells_shape
from dlrun.registry import DATASETS
from dlrun.types import Fraction, PositiveInt, Range

_SYMBOLS = "abcdefghijklmnopqrstuvwxyz"
_DISTRACTORS = "0123456789"


@DATASETS.register
def long_memory(
    split_seed: int,
    val_fraction: float,
    *,
    length: PositiveInt = 100,
    symbols: Annotated[int, Range(ge=2, le=26)] = 4,
    samples: Annotated[int, Range(ge=10, le=200_000)] = 10_000,
    test_fraction: Fraction = 0.1,
) -> SequenceData:
    """One of a few letters, then many random digits: the class is the letter, asked for at the end.

    Nothing between the letter and the question tells of it, so that what is learned is to keep it. Equal sequences,
    which only short ones have, are in one split.

    Args:
        length: digits between the letter and the question, >= 1: the lag.
        symbols: letters, 2..26; guessing is right once in so many.
        samples: sequences in all splits together, 10..200000.
        test_fraction: share of the sequences for the test split, 0..1.

    Source: after Hochreiter and Schmidhuber 1997, "Long short-term memory", section 5.2 (experiment 2: a first symbol
        that must be remembered over a lag, with distractors in between; there the sequence's own symbols are predicted)
    """
    from dlrun.data.order import random_words

    words = random_words(samples * (length + 1), "long memory", split_seed).reshape(samples, length + 1)
    letters = words[:, 0] % symbols
    digits = words[:, 1:] % len(_DISTRACTORS)
    found = [
        Labelled(_SYMBOLS[letter] + "".join(map(str, row)), (_SYMBOLS[letter],))
        for letter, row in zip(letters.tolist(), digits.tolist(), strict=True)
    ]
    return split(
        found,
        val_fraction,
        test_fraction,
        split_seed,
        per_token=False,
        level="character",
        min_count=1,
        source=f"a letter and {length} digits",
    )


@tells_shape(long_memory)
def _shape(length: int, symbols: int, samples: int, test_fraction: float) -> TextShape:
    return TextShape(length + 1, None, labelled=True)
