"""Which of many small samples are held out for validation and test."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeVar

T = TypeVar("T")


def hold_out(
    found: Sequence[T],
    keys: Sequence[Hashable],
    val_fraction: float,
    test_fraction: float,
    name: str,
    split_seed: int,
) -> tuple[tuple[T, ...], tuple[T, ...], tuple[T, ...]]:
    """Split samples so that no key is in two splits.

    Args:
        found: the samples.
        keys: of each sample, what is held out.
        val_fraction: share of the keys outside of the test split that is for validation, 0..1.
        test_fraction: share of the keys that is for the test, 0..1.
        name: of the kind of data, so that two kinds with one seed are split differently.
        split_seed: decides which.

    Returns:
        train, val, test, each in the order of ``found``.
    """
    # numpy comes with it: not before data are read.
    from dlrun.data.order import random_words

    unique = list(dict.fromkeys(keys))
    order = random_words(len(unique), name, "split", split_seed).argsort(kind="stable")
    tested = round(len(unique) * test_fraction)
    validated = tested + round((len(unique) - tested) * val_fraction)
    rank = {unique[index]: place for place, index in enumerate(order.tolist())}
    parts: tuple[list[T], list[T], list[T]] = ([], [], [])
    for sample, key in zip(found, keys, strict=True):
        place = rank[key]
        parts[2 if place < tested else 1 if place < validated else 0].append(sample)
    train, val, test = (tuple(part) for part in parts)
    return train, val, test
