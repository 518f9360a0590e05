"""Augmentations: equal to a reference one image at a time, pure, and the same on any number of threads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dlrun.augment.base import Mixing
from dlrun.augment.horizontal_flip import flip
from dlrun.augment.random_crop import crop, pad
from dlrun.data.colours import Colours
from dlrun.errors import UserError
from dlrun.registry import AUGMENTATIONS

FEW = settings(derandomize=True, deadline=None, max_examples=40)
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def images(batch: int, channels: int = 3, height: int = 8, width: int = 8, dtype: torch.dtype = torch.uint8) -> Tensor:
    random = torch.Generator().manual_seed(batch)
    return torch.randint(0, 256, (batch, channels, height, width), generator=random).to(dtype)


@FEW
@given(
    batch=st.integers(1, 9),
    channels=st.sampled_from([1, 3]),
    height=st.integers(3, 9),
    width=st.integers(3, 9),
    padding=st.integers(0, 5),
    mode=st.sampled_from(["zero", "reflect", "edge"]),
    dtype=st.sampled_from([torch.uint8, torch.float32]),
    layout=st.sampled_from(LAYOUTS),
    draw=st.data(),
)
def test_crop_equals_torchvision_image_by_image(
    batch: int,
    channels: int,
    height: int,
    width: int,
    padding: int,
    mode: str,
    dtype: torch.dtype,
    layout: torch.memory_format,
    draw: st.DataObject,
) -> None:
    from torchvision.transforms.v2 import functional

    if mode == "reflect":
        padding = min(padding, height - 1, width - 1)
    given_images = images(batch, channels, height, width, dtype).contiguous(memory_format=layout)
    before = given_images.clone()
    offsets = st.lists(st.integers(0, 2 * padding), min_size=batch, max_size=batch).map(torch.tensor)
    top, left = draw.draw(offsets), draw.draw(offsets)
    result = crop(given_images, top, left, padding, mode)  # type: ignore[arg-type]
    for i in range(batch):
        border = functional.pad(
            before[i].contiguous().float(), [padding] * 4, padding_mode="constant" if mode == "zero" else mode
        )
        expected = functional.crop(border, int(top[i]), int(left[i]), height, width)
        assert result[i].float().equal(expected)
    assert result.dtype == dtype
    assert result.is_contiguous(memory_format=layout)
    assert given_images.equal(before)


@FEW
@given(batch=st.integers(1, 20), layout=st.sampled_from(LAYOUTS), draw=st.data())
def test_flip_mirrors_the_chosen_images_only(batch: int, layout: torch.memory_format, draw: st.DataObject) -> None:
    given_images = images(batch).contiguous(memory_format=layout)
    before = given_images.clone()
    mask = draw.draw(st.lists(st.booleans(), min_size=batch, max_size=batch).map(torch.tensor))
    result = flip(given_images, mask)
    for i in range(batch):
        assert result[i].equal(before[i].flip(-1) if mask[i] else before[i])
    assert result.is_contiguous(memory_format=layout)
    assert given_images.equal(before)
    assert flip(result, mask).equal(before)


def test_padding_of_zero_is_black_and_no_padding_is_a_copy() -> None:
    square = images(2)
    padded = pad(square, 2, "zero")
    assert padded.shape == (2, 3, 12, 12)
    assert padded[:, :, :2].eq(0).all()
    assert padded[:, :, 2:-2, 2:-2].equal(square)
    same = pad(square, 0, "reflect")
    assert same.equal(square)
    assert same.data_ptr() != square.data_ptr()


def test_reflection_needs_a_larger_image() -> None:
    with pytest.raises(ValueError, match=r"padding=8 cannot be reflected in images of 8x8: use padding <= 7"):
        pad(images(1), 8, "reflect")


def built(name: str) -> Any:
    """An augmentation with its defaults, for 16x17 colour images."""
    values, problems = AUGMENTATIONS.check(name, EXAMPLES.get(name, {}))
    assert not problems
    colours = Colours(torch.eye(3), torch.tensor([0.2, 0.1, 0.05]))
    return AUGMENTATIONS.build(name, values, input_shape=(3, 16, 17), colours=colours)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 1), (3, 2, 2), (1, 3, 3), (3, 1, 5)])
@pytest.mark.parametrize("name", AUGMENTATIONS.names())
def test_images_are_large_enough_or_refused_when_it_is_built(name: str, shape: tuple[int, int, int]) -> None:
    values, _ = AUGMENTATIONS.check(name, EXAMPLES.get(name, {}))
    colours = Colours(torch.eye(shape[0]), torch.full((shape[0],), 0.1))
    try:
        augment = AUGMENTATIONS.build(name, values, input_shape=shape, colours=colours)
    except UserError as error:
        assert "images of" in str(error)  # noqa: PT017
        return
    batch = torch.randint(256, (6, *shape), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    mixes = isinstance(augment, Mixing)
    changed = augment.mix(batch, torch.eye(6), generator)[0] if mixes else augment(batch, generator)
    assert changed.shape == batch.shape


EXAMPLES = {"torchvision": {"transform": "RandomAdjustSharpness", "options": {"sharpness_factor": 2}}}
"""The options without a default."""
CHANGING = [name for name in AUGMENTATIONS.names() if name not in ("mixup", "cutmix")]
"""Those that leave the labels alone; the others are in test_mixing.py."""


@pytest.mark.parametrize("name", CHANGING)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_contract_of_every_augmentation(name: str, layout: torch.memory_format) -> None:
    augment = built(name)
    assert AUGMENTATIONS.entry(name).source
    # More pixels than levels: equalising leaves smaller images as they are.
    given_images = images(200, 3, 16, 17).contiguous(memory_format=layout)
    before, state = given_images.clone(), torch.random.get_rng_state()
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(augment(given_images, torch.Generator().manual_seed(5)))
    finally:
        torch.set_num_threads(threads)
    assert results[0].equal(results[1])
    assert not results[0].equal(before)
    assert not results[0].equal(augment(given_images, torch.Generator().manual_seed(6)))
    assert results[0].shape == before.shape
    assert results[0].dtype == torch.uint8
    assert results[0].is_contiguous(memory_format=layout)
    assert given_images.equal(before)
    assert torch.random.get_rng_state().equal(state)
    # The layout in memory makes no difference to the pixels, nor does the type but for rounding.
    plain = augment(before.contiguous(), torch.Generator().manual_seed(5))
    assert plain.equal(results[0])
    exact = augment(before.contiguous().float(), torch.Generator().manual_seed(5))
    assert exact.dtype == torch.float32
    assert exact.min() >= 0
    assert exact.max() <= 255
    assert (exact - plain).abs().max() <= 0.501


def test_every_shift_is_equally_likely() -> None:
    dot = torch.zeros(20_000, 1, 5, 5, dtype=torch.uint8)
    dot[:, 0, 2, 2] = 1
    augment = AUGMENTATIONS.build("random_crop", {"padding": 1, "mode": "zero"})
    places = augment(dot, torch.Generator().manual_seed(0)).flatten(1).argmax(1).bincount(minlength=25)
    assert places.view(5, 5)[1:4, 1:4].sum() == 20_000
    share = places.view(5, 5)[1:4, 1:4] / 20_000
    assert (share - 1 / 9).abs().max() < 5 * (1 / 9 / 20_000) ** 0.5


@pytest.mark.parametrize(("p", "share"), [(0.0, 0.0), (0.25, 0.25), (1.0, 1.0)])
def test_share_of_flips(p: float, share: float) -> None:
    arrow = torch.tensor([1, 0], dtype=torch.uint8).view(1, 1, 1, 2).repeat(20_000, 1, 1, 1)
    augment = AUGMENTATIONS.build("horizontal_flip", {"p": p})
    flipped = augment(arrow, torch.Generator().manual_seed(0))[:, 0, 0, 1].float().mean().item()
    assert abs(flipped - share) < 0.015
    assert share not in (0.0, 1.0) or flipped == share


def test_options_out_of_range_are_refused() -> None:
    assert AUGMENTATIONS.check("random_crop", {"padding": -1, "mode": "wrap"})[1]
    assert AUGMENTATIONS.check("horizontal_flip", {"p": 1.5})[1]
    with pytest.raises(UserError, match="did you mean random_crop"):
        AUGMENTATIONS.get("random_crpo")
