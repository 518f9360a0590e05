"""What an augmentation is.

To add one, write a file with a pure function of the images and the numbers that were drawn, and a factory
registered in ``AUGMENTATIONS`` whose result draws the numbers and calls it; ``horizontal_flip.py`` is the
shortest example.

What changes the labels too, such as mixup, is a :class:`Mixing`; both stand in the same list of the configuration.

Letters used below: B images in one call, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

LARGE_NUMBERS = 1 << 15
"""Numbers in one image (C * H * W) from which on, on the CPU, a call for each image costs less than it saves. Measured
on one core for changing half of a batch: images of 3x224x224 take half the time, those of 3x64x64 three times as
long."""


class Augmentation(Protocol):
    """Changes images at random, each one differently, whole batches at a time.

    It keeps the shape, the type, the memory format and the range of the values, does not write into its
    input, draws from ``generator`` only, and waits for no device.
    """

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augment images.

        Args:
            images: (B, C, H, W) uint8 in 0..255, or float in the same units; on any device. Contiguous, or
                with the channels innermost (``torch.channels_last``).
            generator: the source of all randomness, on the device of ``images``.

        Returns:
            The changed images, as ``images`` in shape, type, device and memory format.
        """
        ...


@dataclass(frozen=True)
class Place:
    """Which images of which epoch a call is about.

    Attributes:
        seed: the run's seed.
        epoch: counted from 0.
        samples: int64 (B,), the number of each image in its data set, on the device of the images.
    """

    seed: int
    epoch: int
    samples: Tensor


@runtime_checkable
class PlacedAugmentation(Augmentation, Protocol):
    """An augmentation that also depends on which image it is and in which epoch."""

    def at(self, images: Tensor, generator: torch.Generator, place: Place) -> Tensor:
        """Augment images, as a call does, knowing where in the run they are."""
        ...


@runtime_checkable
class Mixing(Protocol):
    """Blends images with others of the same call, and their labels alike.

    It keeps to all that is said of :class:`Augmentation`, for images and targets.
    """

    def mix(self, images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Mix images.

        Args:
            images: as for :class:`Augmentation`.
            targets: float32 (B, K): the share of each class, whose sum is 1.
            generator: the source of all randomness, on the device of ``images``.

        Returns:
            The mixed images and targets, as they came in shape, type, device and memory format.
        """
        ...


def channels_innermost(images: Tensor) -> bool:
    """Whether the images lie in memory as (B, H, W, C) and not as (B, C, H, W)."""
    return not images.is_contiguous() and images.is_contiguous(memory_format=torch.channels_last)


def take(images: Tensor, rows: Tensor) -> Tensor:
    """Whole images by number, in the memory format of ``images`` (``index_select`` alone would lose it).

    Args:
        images: (B, C, H, W).
        rows: int64 (K,), numbers in [0, B).

    Returns:
        (K, C, H, W), a new tensor.
    """
    if channels_innermost(images):
        return images.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)
    return images.index_select(0, rows)


def level(images: Tensor, value: float) -> float:
    """A brightness as ``images`` can hold it: a whole number if they are uint8."""
    return value if images.is_floating_point() else round(value)


def uniform(low: float, high: float, count: int, generator: torch.Generator) -> Tensor:
    """float32 (count,) on the generator's device, uniform in [low, high)."""
    return torch.rand(count, generator=generator, device=generator.device) * (high - low) + low


def factors(low: float, high: float, count: int, generator: torch.Generator) -> Tensor:
    """float32 (count,) on the generator's device, in [low, high] with a uniform logarithm.

    So in [1/2, 2] halves and doubles are equally likely.
    """
    return uniform(math.log(low), math.log(high), count, generator).exp()


def ascending(name: str, pair: tuple[float, float]) -> tuple[float, float]:
    """The two ends of a range.

    Raises:
        ValueError: if they are in the wrong order.
    """
    if pair[0] > pair[1]:
        raise ValueError(f"{name}: [{pair[0]:g}, {pair[1]:g}] is no range: write the smaller number first")
    return pair


def sometimes(
    images: Tensor, p: float, generator: torch.Generator, change: Callable[..., Tensor], *drawn: Tensor
) -> Tensor:
    """``change(images, *drawn)`` for some of the images, the others as they are.

    Args:
        images: (B, C, H, W).
        p: probability of the change, for each image; 1 draws nothing.
        generator: on the device of ``images``.
        change: a pure function of images and drawn numbers, that works on each image alone.
        drawn: each (B, ...), the numbers of each image.

    Returns:
        A new tensor like ``images``.
    """
    if p == 1:
        return change(images, *drawn)
    mask = torch.rand(len(images), generator=generator, device=images.device) < p
    return change_where(images, mask, change, *drawn)


def change_where(images: Tensor, mask: Tensor, change: Callable[..., Tensor], *drawn: Tensor) -> Tensor:
    """``change(images, *drawn)`` where ``mask`` (bool (B,)) is true. See :func:`sometimes`."""
    if images.device.type != "cpu":
        # To know how many images are changed would be to wait for the device.
        return torch.where(mask[:, None, None, None], change(images, *drawn), images)
    chosen = mask.nonzero().squeeze(1)
    if len(chosen) == 0:
        return images.clone()
    changed = change(take(images, chosen), *(numbers.index_select(0, chosen) for numbers in drawn))
    if images[0].numel() >= LARGE_NUMBERS:
        result = images.clone()
        for row, image in zip(chosen.tolist(), changed, strict=True):
            result[row] = image
        return result
    # Images and changed images one after the other, then one copy of whole images by number: for small images twice
    # as fast as `where` and as writing the changed ones back into a copy.
    count = len(images)
    rows = torch.arange(count)
    rows[chosen] = torch.arange(count, count + len(chosen))
    return take(torch.cat((images, changed)), rows)
