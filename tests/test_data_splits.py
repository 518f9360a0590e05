"""Splits and orders: pure, seeded, exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dlrun.data.order import generator, permutation
from dlrun.data.source import ArraySource, ImageData, SubsetSource
from dlrun.data.splits import hold_out, split_off_validation, stratified_split
from dlrun.errors import DataError

FEW = settings(derandomize=True, deadline=None, max_examples=40)
LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=200).map(torch.tensor)
FRACTIONS = st.floats(0, 0.95).map(lambda x: round(x, 3))
# A change of these changes the splits and the runs of every user.
SPLIT_OF_SEED_0 = [3, 9, 12, 14]
ORDER_OF_SEED_0 = [7, 5, 1, 6, 3, 4, 2, 0]


def data(labels: Tensor) -> ImageData:
    images = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    return ImageData(ArraySource(images, labels), None, None, tuple(map(str, range(int(labels.max()) + 1))))


@FEW
@given(LABELS, FRACTIONS, st.integers(0, 2**40))
def test_split_is_exact_stratified_and_keeps_every_class(labels: Tensor, fraction: float, seed: int) -> None:
    rest, part = stratified_split(labels, fraction, seed)
    assert torch.cat((rest, part)).sort().values.equal(torch.arange(len(labels)))
    assert rest.equal(rest.sort().values)
    assert part.equal(part.sort().values)
    counts, taken = labels.bincount(minlength=7), labels[part].bincount(minlength=7)
    present = counts > 0
    assert (counts - taken)[present].min() >= 1
    assert len(part) == min(int(len(labels) * fraction + 0.5 + 1e-9), int((counts - 1).clamp(min=0).sum()))
    if bool((counts[present] * (1 - fraction) >= 2).all()):
        # No class is near its last sample: each gives its share, up to rounding.
        assert (taken - counts * fraction).abs().max() < 1 + 1e-6


@FEW
@given(LABELS, FRACTIONS, st.integers(0, 2**40))
def test_split_is_a_pure_function_of_its_arguments(labels: Tensor, fraction: float, seed: int) -> None:
    torch.manual_seed(1)
    first = stratified_split(labels, fraction, seed)
    torch.manual_seed(2)
    np.random.seed(3)
    before = torch.random.get_rng_state()
    second = stratified_split(labels, fraction, seed)
    assert torch.random.get_rng_state().equal(before)
    assert first[0].equal(second[0])
    assert first[1].equal(second[1])


def test_split_stays_the_same_for_ever() -> None:
    labels = torch.arange(20) % 2
    assert stratified_split(labels, 0.2, 0)[1].tolist() == SPLIT_OF_SEED_0
    assert stratified_split(labels, 0.2, 1)[1].tolist() != SPLIT_OF_SEED_0
    assert stratified_split(labels, 0.2, 0, stream="val")[1].tolist() != SPLIT_OF_SEED_0
    assert permutation(0, 0, 8).tolist() == ORDER_OF_SEED_0


def test_a_decimal_fraction_is_meant_exactly() -> None:
    # 0.29 * 100 is 28.999999999999996 in floating point.
    assert len(stratified_split(torch.zeros(100, dtype=torch.int64), 0.29, 0)[1]) == 29


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 1.5, float("nan")])
def test_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="must be >= 0 and < 1"):
        stratified_split(torch.zeros(4, dtype=torch.int64), fraction, 0)


def test_validation_comes_from_training_only_when_there_is_none() -> None:
    whole = data(torch.arange(40) % 4)
    split = split_off_validation(whole, 0.1, split_seed=0)
    assert split.val is not None
    assert (len(split.train), len(split.val)) == (36, 4)
    assert split.val.labels.bincount().tolist() == [1, 1, 1, 1]
    pixels = torch.cat((split.train.read(range(36)), split.val.read(range(4))))[:, 0, 0, 0]
    assert pixels.sort().values.tolist() == list(range(40))
    assert split_off_validation(split, 0.5, split_seed=0) is split
    assert split_off_validation(whole, 0, split_seed=0) is whole


def test_too_small_a_share_is_an_error() -> None:
    small = data(torch.tensor([0, 0, 1, 1]))
    with pytest.raises(DataError, match=r"val_fraction=0.1 of 4 training images leaves no validation image"):
        split_off_validation(small, 0.1, 0)
    with pytest.raises(DataError, match=r"test_fraction=0.1 of 4 images"):
        hold_out(small.train, 0.1, 0)
    assert hold_out(small.train, 0, 0) == (small.train, None)


def test_subset_of_a_subset_shares_the_innermost_pixels() -> None:
    source = data(torch.arange(10)).train
    inner = SubsetSource(SubsetSource(source, torch.tensor([9, 7, 5, 3])), torch.tensor([3, 0]))
    assert inner.source is source
    assert inner.labels.tolist() == [3, 9]
    assert inner.read([1, 0])[:, 0, 0, 0].tolist() == [9, 3]


@FEW
@given(st.integers(0, 2**63), st.integers(0, 10_000), st.integers(0, 300))
def test_order_is_a_permutation(seed: int, epoch: int, n: int) -> None:
    order = permutation(seed, epoch, n)
    assert order.dtype == torch.int64
    assert order.sort().values.equal(torch.arange(n))
    assert order.equal(permutation(seed, epoch, n))


def test_neighbouring_seeds_and_epochs_have_nothing_in_common() -> None:
    n = 4000
    orders = [permutation(seed, epoch, n) for seed in range(3) for epoch in range(3)]
    ranks = torch.stack(orders).double()
    correlation = torch.corrcoef(ranks) - torch.eye(len(orders))
    assert correlation.abs().max() < 5 / n**0.5
    draws = torch.stack(
        [
            torch.rand(n, generator=generator(seed, epoch, chunk))
            for seed in range(2)
            for epoch in range(2)
            for chunk in range(2)
        ]
    )
    assert (torch.corrcoef(draws) - torch.eye(len(draws))).abs().max() < 5 / n**0.5


def test_streams_have_names() -> None:
    one, other = generator(0, 0, 0, stream="augment"), generator(0, 0, 0, stream="mixup")
    assert not torch.rand(4, generator=one).equal(torch.rand(4, generator=other))
    assert permutation(np.int64(3), 0, 9).equal(permutation(3, 0, 9))  # type: ignore[arg-type]
