"""Fewer levels of brightness.

Letters used below: B images in one call, C channels, H x W pixels.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from dlrun.augment.base import Augmentation, sometimes
from dlrun.registry import AUGMENTATIONS
from dlrun.types import Fraction, Range


def keep_bits(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest bits of each value: round it down to a multiple of ``2 ** (8 - bits)``.

    Args:
        images: (B, C, H, W) uint8, or float in the same units.
        bits: (B,) integers, 0..8 bits that are kept of each image; 0 gives black.

    Returns:
        A new tensor like ``images``.
    """
    if images.is_floating_point():
        step = torch.exp2(8 - bits.to(images.dtype))[:, None, None, None]
        return (images / step).floor_().mul_(step)
    mask = (256 - torch.bitwise_left_shift(torch.ones_like(bits), 8 - bits)).to(torch.uint8)
    return images & mask[:, None, None, None]


@AUGMENTATIONS.register
def posterize(*, bits: Annotated[int, Range(ge=0, le=8)] = 4, p: Fraction = 0.5) -> Augmentation:
    """Keeps only the highest bits of every value.

    Args:
        bits: how many are kept, 0..8; 8 is the image, 0 black.
        p: probability for each image to be changed, 0..1.

    Source: Cubuk et al., "AutoAugment: learning augmentation strategies from data", 2019, table 6.
    """
    return _Posterize(bits, p)


class _Posterize:
    def __init__(self, bits: int, p: float) -> None:
        self.bits = bits
        self.p = p

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        bits = torch.full((len(images),), self.bits, device=images.device)
        return sometimes(images, self.p, generator, keep_bits, bits)
