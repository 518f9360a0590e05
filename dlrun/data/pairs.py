"""Pairs of a source and a target: generated tasks that have one right answer, or the lines of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Annotated, Literal, NamedTuple

from dlrun.data.held_out import hold_out
from dlrun.data.lines import read_lines
from dlrun.data.shape import TextShape, tells_shape
from dlrun.errors import DataError
from dlrun.registry import DATASETS
from dlrun.types import Fraction, Path, Range

Kind = Literal["dates", "reverse", "arithmetic"]
Samples = Annotated[int, Range(ge=10, le=200_000)]


class Pair(NamedTuple):
    """One source and what it shall become."""

    source: str
    target: str


@dataclass(frozen=True)
class PairData:
    """Pairs in their splits, not yet cut into tokens. No source is in two splits.

    Attributes:
        train: pairs to learn from, and to take the vocabularies from.
        val: pairs to choose hyper-parameters and checkpoints by; empty if there are none.
        test: pairs for the one final score; empty if there are none.
        source: where they come from, in a few words.
    """

    train: tuple[Pair, ...]
    val: tuple[Pair, ...]
    test: tuple[Pair, ...]
    source: str


@DATASETS.register
def pairs(
    split_seed: int,
    val_fraction: float,
    *,
    kind: Kind = "dates",
    samples: Samples = 20_000,
    path: Path | None = None,
    test_fraction: Fraction = 0.1,
) -> PairData:
    """Pairs of texts for seq2seq: dates, reversed digits, arithmetic, or the lines of a file; held out by input.

    Held out is what makes the answer: of dates the day itself, in every way of writing it; of sums both orders; else
    the source.

    Args:
        kind: dates ('thursday 3 may 1979' to '1979-05-03'), reverse (of 3 to 12 digits), or arithmetic ('123+48' to
            '171', '7-30' to '-23'); made in memory.
        samples: generated pairs in all splits together, 10..200000, all with different sources.
        path: file in UTF-8 with one pair in each line, source<TAB>target, instead of what is generated; null: none.
        test_fraction: share of what is held out for the test split, 0..1; 1 for dlrun eval on other pairs.

    Raises:
        DataError: if the file cannot be read, or a line is not a pair, with its number.
    """
    if path is None:
        found = _generated(kind, samples, split_seed)
        keys = [_GENERATORS[kind].key(pair) for pair in found]
    else:
        found = _read(path)
        keys = [pair.source for pair in found]
    parts = hold_out(found, keys, val_fraction, test_fraction, "pairs", split_seed)
    return PairData(*parts, kind if path is None else path.name)


_LONGEST: dict[Kind, int] = {"dates": 29, "reverse": 12, "arithmetic": 7}


@tells_shape(pairs)
def _shape(kind: Kind, samples: int, path: Path | None, test_fraction: float) -> TextShape:
    # A file is short beside images: it is read.
    return TextShape(_LONGEST[kind] if path is None else max(len(pair.source) for pair in _read(path)), None)


def _read(path: Path) -> list[Pair]:
    found = []
    for number, line in enumerate(read_lines(path), start=1):
        parts = line.split("\t")
        if len(parts) != 2 or not all(parts):
            what = "an empty side" if len(parts) == 2 else f"{len(parts) - 1} tabs"
            raise DataError(f"{path}:{number}: must be source<TAB>target, both not empty, but has {what}")
        found.append(Pair(*parts))
    if not found:
        raise DataError(f"data.path: {path} is empty; write one pair in each line, source<TAB>target")
    return found


class _Generator(NamedTuple):
    """How pairs of one kind are made from random numbers, and what of them is held out together."""

    make: Callable[[Iterator[int]], Pair]
    key: Callable[[Pair], str]


def _generated(kind: Kind, samples: int, seed: int) -> list[Pair]:
    from dlrun.data.order import random_words

    found: dict[str, Pair] = {}
    generator, turn = _GENERATORS[kind], 0
    while len(found) < samples:
        # No pair takes more than four numbers.
        words = random_words(4 * samples, "pairs", kind, seed, turn).tolist()
        for index in range(0, len(words), 4):
            pair = generator.make(iter(words[index : index + 4]))
            found.setdefault(pair.source, pair)
            if len(found) == samples:
                break
        turn += 1
    return list(found.values())


_FIRST_DAY = date(1950, 1, 1)
_DAYS = (date(2050, 1, 1) - _FIRST_DAY).days
"""A century, so that two digits name a year."""
_MONTHS = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
]
_WEEKDAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
_WAYS = 13


def _date(numbers: Iterator[int]) -> Pair:
    day = _FIRST_DAY + timedelta(days=next(numbers) % _DAYS)
    return Pair(_written(day, next(numbers) % _WAYS), day.isoformat())


def _written(day: date, way: int) -> str:
    month, weekday, short = _MONTHS[day.month - 1], _WEEKDAYS[day.weekday()], day.year % 100
    return (
        f"{day.day} {month} {day.year}",
        f"{day.day} {month.capitalize()} {day.year}",
        f"{day.day} {month[:3]} {day.year}",
        f"{day.day} {month[:3].capitalize()} {short:02d}",
        f"{month} {day.day}, {day.year}",
        f"{month[:3].capitalize()} {day.day}, {day.year}",
        f"{weekday} {day.day} {month} {day.year}",
        f"{weekday[:3].capitalize()} {day.day} {month[:3].capitalize()} {day.year}",
        f"{weekday}, {month} {day.day}, {day.year}",
        f"{day.month}/{day.day}/{short:02d}",
        f"{day.month:02d}/{day.day:02d}/{day.year}",
        f"{day.day}.{day.month}.{day.year}",
        f"{day.day:02d}.{day.month:02d}.{short:02d}",
    )[way]


def _reverse(numbers: Iterator[int]) -> Pair:
    length = 3 + next(numbers) % 10
    digits = f"{next(numbers) % 10**length:0{length}d}"
    return Pair(digits, digits[::-1])


def _arithmetic(numbers: Iterator[int]) -> Pair:
    first, second = next(numbers) % 1000, next(numbers) % 1000
    if next(numbers) % 2:
        return Pair(f"{first}-{second}", str(first - second))
    return Pair(f"{first}+{second}", str(first + second))


def _operands(pair: Pair) -> str:
    return "+".join(sorted(pair.source.split("+")))


_GENERATORS: dict[Kind, _Generator] = {
    "dates": _Generator(_date, lambda pair: pair.target),
    "reverse": _Generator(_reverse, lambda pair: pair.source),
    "arithmetic": _Generator(_arithmetic, _operands),
}
