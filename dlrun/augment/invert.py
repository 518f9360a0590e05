"""The negative of an image.

Letters used below: B images in one call, C channels, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlrun.augment.base import Augmentation, sometimes
from dlrun.augment.planes import WHITE
from dlrun.registry import AUGMENTATIONS
from dlrun.types import Fraction


def negative(images: Tensor) -> Tensor:
    """``255 - x``.

    Args:
        images: (B, C, H, W) uint8, or float in the same units.

    Returns:
        A new tensor like ``images``.
    """
    return WHITE - images if images.is_floating_point() else ~images


@AUGMENTATIONS.register
def invert(*, p: Fraction = 0.5) -> Augmentation:
    """Replaces each image by its negative with probability ``p``.

    Args:
        p: probability, 0..1.

    Source: Cubuk et al., "AutoAugment: learning augmentation strategies from data", 2019, table 6.
    """
    return _Invert(p)


class _Invert:
    def __init__(self, p: float) -> None:
        self.p = p

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return sometimes(images, self.p, generator, negative)
