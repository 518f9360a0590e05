"""The whole range of brightness.

Letters used below: B images in one call, b images in a block, C channels, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlrun.augment.base import Augmentation, sometimes
from dlrun.augment.planes import WHITE, on_planes
from dlrun.registry import AUGMENTATIONS
from dlrun.types import Fraction


def stretch_levels(images: Tensor) -> Tensor:
    """Map the least value of each channel to 0 and its greatest to 255; a channel of one value stays.

    Args:
        images: (B, C, H, W) uint8, or float in the same units.

    Returns:
        A new tensor like ``images``.
    """

    def change(planes: Tensor) -> Tensor:
        low, high = planes.amin((2, 3), keepdim=True), planes.amax((2, 3), keepdim=True)
        even = low == high
        low = low.masked_fill_(even, 0)
        scale = WHITE / (high - low).masked_fill_(even, WHITE)
        return planes.sub_(low).mul_(scale)

    return on_planes(images, change)


@AUGMENTATIONS.register
def autocontrast(*, p: Fraction = 0.5) -> Augmentation:
    """Stretches the levels of each channel over the whole range, from black to white.

    Args:
        p: probability for each image to be changed, 0..1.

    Source: Cubuk et al., "AutoAugment: learning augmentation strategies from data", 2019, table 6.
    """
    return _Autocontrast(p)


class _Autocontrast:
    def __init__(self, p: float) -> None:
        self.p = p

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return sometimes(images, self.p, generator, stretch_levels)
