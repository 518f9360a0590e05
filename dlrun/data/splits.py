"""Stratified splits as pure functions of the labels and a seed.

The randomness is :func:`dlrun.data.order.random_words`, so a split is the same on every machine and with
every version of PyTorch and NumPy. N is the number of labels.
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlrun.data.order import random_words
from dlrun.data.source import ImageData, ImageSource, SubsetSource
from dlrun.errors import DataError


def stratified_split(labels: Tensor, fraction: float, seed: int, stream: str = "test") -> tuple[Tensor, Tensor]:
    """Split samples in two so that both parts have the classes in the same proportion.

    The part has ``fraction * N`` samples, rounded to the nearest (a half goes up). Each class gives the whole
    part of its share; what is missing to the total comes from the classes with the largest remainders, the
    lower class number first. No class gives its last sample.

    Args:
        labels: int64 (N,), class numbers >= 0; of several labels per sample, (N, K), none is stratified by.
        fraction: share of the part, in [0, 1).
        seed: decides which samples of a class are taken.
        stream: name of the use: two splits with one seed and different names choose independently.

    Returns:
        (rest, part): int64 positions in ``labels``, each in ascending order.

    Raises:
        ValueError: if ``fraction`` is not in [0, 1).
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"the fraction to split off must be >= 0 and < 1, got {fraction}")
    numbers = _strata(labels)
    counts = np.bincount(numbers) if len(numbers) else np.zeros(0, dtype=np.int64)
    taken = _apportion(counts.tolist(), fraction)
    # All samples, class by class, in random order inside each class: the first taken[c] of class c are the
    # part.
    order = np.lexsort((random_words(len(numbers), "split", stream, seed), numbers))
    place_in_class = np.arange(len(numbers)) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen = np.zeros(len(numbers), dtype=bool)
    chosen[order] = place_in_class < np.repeat(np.array(taken, dtype=np.int64), counts)
    return torch.from_numpy(np.flatnonzero(~chosen)), torch.from_numpy(np.flatnonzero(chosen))


def _strata(labels: Tensor) -> NDArray[np.int64]:
    """What samples are stratified by: their class; where each has several labels, nothing."""
    return labels.numpy() if labels.dim() == 1 else np.zeros(len(labels), dtype=np.int64)


def _apportion(counts: list[int], fraction: float) -> list[int]:
    # Decimal 0.1 means one tenth: exact, so that no share is lost to binary rounding.
    share = Fraction(str(fraction))
    limits = [max(count - 1, 0) for count in counts]
    quotas = [share * count for count in counts]
    taken = [min(math.floor(quota), limit) for quota, limit in zip(quotas, limits, strict=True)]
    total = min(math.floor(share * sum(counts) + Fraction(1, 2)), sum(limits))
    by_remainder = sorted(range(len(counts)), key=lambda c: (taken[c] - quotas[c], c))
    while sum(taken) < total:
        for c in by_remainder:
            if taken[c] < limits[c] and sum(taken) < total:
                taken[c] += 1
    return taken


def split_off_validation(data: ImageData, fraction: float, split_seed: int) -> ImageData:
    """Take a validation split from the training split, if the data have none of their own.

    Args:
        data: the data set; returned unchanged if it has a validation split or ``fraction`` is 0.
        fraction: share of the training split, in [0, 1).
        split_seed: decides which images; independent of the seed of training.

    Raises:
        DataError: if ``fraction`` is so small that not one image would be split off.
        ValueError: if ``fraction`` is not in [0, 1).
    """
    if data.val is not None or fraction == 0:
        return data
    rest, part = stratified_split(data.train.labels, fraction, split_seed, stream="val")
    if len(part) == 0:
        raise DataError(
            f"val_fraction={fraction:g} of {len(data.train)} training images leaves no validation image: "
            "raise data.val_fraction, or set it to 0 for none"
        )
    return replace(data, train=SubsetSource(data.train, rest), val=SubsetSource(data.train, part))


def fold_of(labels: Tensor, folds: int, split_seed: int) -> Tensor:
    """Which fold of a cross-validation each sample is held out in; a pure function of its arguments.

    The samples, class by class and in random order inside each class, are dealt to the folds in turn: so the folds
    differ by at most one sample in size, and by at most one in each class.

    Args:
        labels: int64 (N,), class numbers >= 0; of several labels per sample, (N, K), the order is random alone.
        folds: k, in 2..N.
        split_seed: decides the order inside the classes.

    Returns:
        int64 (N,): numbers in 1..k.

    Raises:
        ValueError: if ``folds`` is out of range.
    """
    if not 2 <= folds <= len(labels):
        raise ValueError(f"folds must be in 2..{len(labels)} (the samples to divide), got {folds}")
    order = np.lexsort((random_words(len(labels), "split", "folds", split_seed), _strata(labels)))
    result = np.empty(len(labels), dtype=np.int64)
    result[order] = np.arange(len(labels)) % folds + 1
    return torch.from_numpy(result)


def split_off_fold(data: ImageData, fold: int, folds: int, split_seed: int) -> ImageData:
    """Take one fold of the training split as the validation split.

    Args:
        data: the data set; its test split stays as it is.
        fold: which, in 1..folds.
        folds: k.
        split_seed: see :func:`fold_of`.

    Raises:
        DataError: if the data have a validation split of their own, or fewer training images than folds.
    """
    if data.val is not None:
        raise DataError(
            f"folds={folds}: the data bring a validation split of their own, so there is nothing to cross-validate; "
            "leave folds out, or give the data without it"
        )
    try:
        held_out = fold_of(data.train.labels, folds, split_seed) == fold
    except ValueError:
        raise DataError(
            f"folds={folds}: there are only {len(data.train)} training images to divide; set folds to "
            f"{len(data.train)} or less"
        ) from None
    rest, part = (~held_out).nonzero().flatten(), held_out.nonzero().flatten()
    return replace(data, train=SubsetSource(data.train, rest), val=SubsetSource(data.train, part))


def hold_out(source: ImageSource, fraction: float, split_seed: int) -> tuple[ImageSource, ImageSource | None]:
    """Take a test split from the images of a set that has none.

    Args:
        source: all images.
        fraction: share of the test split, in [0, 1); 0 for no test split.
        split_seed: decides which images.

    Returns:
        (train, test).

    Raises:
        DataError: if ``fraction`` is so small that not one image would be held out.
        ValueError: if ``fraction`` is not in [0, 1).
    """
    if fraction == 0:
        return source, None
    rest, part = stratified_split(source.labels, fraction, split_seed)
    if len(part) == 0:
        raise DataError(
            f"test_fraction={fraction:g} of {len(source)} images leaves no test image: "
            "raise data.test_fraction, or set it to 0 for none"
        )
    return SubsetSource(source, rest), SubsetSource(source, part)
