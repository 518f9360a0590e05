"""Random mirroring, left for right.

Letters used below: B images in one call, C channels, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlrun.augment.base import LARGE_NUMBERS, Augmentation, Place, change_where
from dlrun.data.order import mix
from dlrun.registry import AUGMENTATIONS
from dlrun.types import Fraction


def flip(images: Tensor, mask: Tensor, axis: int = -1) -> Tensor:
    """Mirror some images.

    Args:
        images: (B, C, H, W), any type.
        mask: bool (B,), true for the images to mirror.
        axis: -1 left for right, -2 top for bottom.

    Returns:
        A new tensor like ``images``.
    """
    if images.device.type == "cpu" and images.shape[1:].numel() >= LARGE_NUMBERS:
        result = torch.empty_like(images)
        for image, target, mirrored in zip(images, result, mask.tolist(), strict=True):
            target.copy_(image.flip(axis) if mirrored else image)
        return result
    return change_where(images, mask, lambda chosen: chosen.flip(axis))


def coin(seed: int, samples: Tensor) -> Tensor:
    """A fair coin that each sample keeps for the whole run.

    Args:
        seed: of the run.
        samples: int64 (B,), numbers >= 0.

    Returns:
        bool (B,), on the device of ``samples``.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014 (the finaliser of SplitMix64).
    """
    # Arithmetic of int64 wraps around, as that of the uint64 of the paper; but its shift brings in the sign.
    word = samples * -0x61C8864680B583EB + mix("alternating flip", seed) % 2**62
    word = (word ^ (word >> 30 & (1 << 34) - 1)) * -0x40A7B892E31B1A47
    word = (word ^ (word >> 27 & (1 << 37) - 1)) * -0x6B2FB644ECCEEE15
    return word < 0


@AUGMENTATIONS.register
def horizontal_flip(*, p: Fraction = 0.5, alternate: bool = False) -> Augmentation:
    """Mirrors each image left for right with probability ``p``.

    Args:
        p: probability, 0..1.
        alternate: mirror each image in every second epoch, half of the images in the even and half in the odd ones,
            so that two epochs show both sides of every image; needs p = 0.5.

    Raises:
        ValueError: if ``alternate`` and ``p`` is not 0.5.

    Source: Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural networks",
    2012, 4.1; alternating: Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024, 3.6.
    """
    if not alternate:
        return _HorizontalFlip(p)
    if p != 0.5:
        raise ValueError(
            f"alternate: true mirrors each image in every second epoch, which p={p:g} contradicts: remove p"
        )
    return _AlternatingFlip(p)


class _HorizontalFlip:
    def __init__(self, p: float) -> None:
        self.p = p

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        mask = torch.rand(len(images), generator=generator, device=images.device) < self.p
        return flip(images, mask)


class _AlternatingFlip(_HorizontalFlip):
    """Outside of a run's epochs (called without a place) a plain random flip."""

    def at(self, images: Tensor, generator: torch.Generator, place: Place) -> Tensor:
        return flip(images, coin(place.seed, place.samples) ^ bool(place.epoch % 2))
