"""Random sharpness.

Letters used below: B images in one call, b images in a block, C channels, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlrun.augment.base import Augmentation, sometimes, uniform
from dlrun.augment.planes import on_planes
from dlrun.registry import AUGMENTATIONS
from dlrun.types import Fraction, NonNegativeFloat


def sharpen(images: Tensor, factor: Tensor) -> Tensor:
    """``f x + (1 - f) s`` with the image s smoothed over 3 x 3 pixels: weight 5/13 for the middle, 1/13 for each other.

    The outermost pixels stay, as in Pillow; so do images of fewer than 3 rows or columns.

    Args:
        images: (B, C, H, W) uint8, or float in the same units.
        factor: float32 (B,), >= 0; 0 gives the smoothed image, 1 the image, 2 doubles its details.

    Returns:
        A new tensor like ``images``.
    """

    def change(planes: Tensor, factor: Tensor) -> Tensor:
        height, width = planes.shape[2:]
        if min(height, width) < 3:
            return planes
        rows = planes[..., : height - 2, :] + planes[..., 1 : height - 1, :]
        rows.add_(planes[..., 2:, :])
        smooth = rows[..., : width - 2] + rows[..., 1 : width - 1]
        inner = planes[..., 1:-1, 1:-1]
        smooth.add_(rows[..., 2:]).add_(inner, alpha=4).mul_((1 - factor) / 13)
        inner.mul_(factor).add_(smooth)
        return planes

    return on_planes(images, change, factor)


@AUGMENTATIONS.register
def sharpness(*, amount: NonNegativeFloat = 0.5, p: Fraction = 0.5) -> Augmentation:
    """Blurs or sharpens each image a little, by a factor of its own from max(0, 1 - amount) to 1 + amount.

    Args:
        amount: >= 0; 0 leaves the image, 1 reaches from smoothed to twice the details.
        p: probability for each image to be changed, 0..1.

    Source: Cubuk et al., "AutoAugment: learning augmentation strategies from data", 2019, table 6.
    """
    return _Sharpness(amount, p)


class _Sharpness:
    def __init__(self, amount: float, p: float) -> None:
        self.amount = amount
        self.p = p

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        factor = uniform(max(0.0, 1 - self.amount), 1 + self.amount, len(images), generator)
        return sometimes(images, self.p, generator, sharpen, factor)
