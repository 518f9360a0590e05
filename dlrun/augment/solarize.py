"""Inversion of what is bright.

Letters used below: B images in one call, C channels, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlrun.augment.base import Augmentation, sometimes
from dlrun.augment.invert import negative
from dlrun.augment.planes import WHITE
from dlrun.registry import AUGMENTATIONS
from dlrun.types import Fraction


def invert_above(images: Tensor, threshold: Tensor) -> Tensor:
    """``255 - x`` where x is at least the threshold of the image.

    Args:
        images: (B, C, H, W) uint8, or float in the same units.
        threshold: float32 (B,), 0..255; 0 inverts all.

    Returns:
        A new tensor like ``images``.
    """
    limit = threshold[:, None, None, None]
    if images.is_floating_point():
        return torch.where(images >= limit, negative(images), images)
    # A whole number is at least t if it is at least the next whole number from t on; -1 has all bits, and inverts by
    # exclusive or: all in bytes, measured eight times as fast as floats and `where`.
    return images ^ (images >= limit.ceil().to(torch.uint8)).to(torch.uint8).neg_()


@AUGMENTATIONS.register
def solarize(*, threshold: Fraction = 0.5, p: Fraction = 0.5) -> Augmentation:
    """Inverts every value that is at least a threshold.

    Args:
        threshold: as a part of the way from black to white, 0..1; 0 inverts all.
        p: probability for each image to be changed, 0..1.

    Source: Cubuk et al., "AutoAugment: learning augmentation strategies from data", 2019, table 6.
    """
    return _Solarize(threshold, p)


class _Solarize:
    def __init__(self, threshold: float, p: float) -> None:
        self.threshold = threshold
        self.p = p

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        threshold = torch.full((len(images),), self.threshold * WHITE, device=images.device)
        return sometimes(images, self.p, generator, invert_above, threshold)
