"""Random shift by whole pixels.

Letters used below: B images in one call, C channels, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlrun.augment.base import Augmentation, sometimes
from dlrun.augment.random_crop import crop
from dlrun.registry import AUGMENTATIONS
from dlrun.types import Fill, Fraction


def shift(images: Tensor, right: Tensor, down: Tensor, reach: tuple[int, int], *, fill: Fill = 0.0) -> Tensor:
    """Move each image by whole pixels.

    Args:
        images: (B, C, H, W), any type.
        right: int64 (B,), pixels to the right, -reach[1]..reach[1].
        down: int64 (B,), pixels down, -reach[0]..reach[0].
        reach: the largest shifts that may occur down and to the right; the numbers themselves may lie on a device
            that is not to be waited for.
        fill: what comes in from outside: one value, or ``edge`` for the image's outermost pixels.

    Returns:
        A new tensor like ``images``.
    """
    return crop(images, reach[0] - down, reach[1] - right, reach, fill)


@AUGMENTATIONS.register
def translate(*, x: Fraction = 0.125, y: Fraction = 0.125, p: Fraction = 1.0, fill: Fill = 0.0) -> Augmentation:
    """Shifts each image by whole pixels, every shift equally likely.

    Args:
        x: largest shift to either side as a fraction of the width, 0..1; rounded to pixels.
        y: largest shift up and down as a fraction of the height, 0..1; rounded to pixels.
        p: probability, 0..1; the other images stay as they are.
        fill: what comes in from outside: a brightness 0..255, or ``edge`` for the image's outermost pixels.

    Source: Simard, Steinkraus, Platt, "Best practices for convolutional neural networks applied to visual document
        analysis", 2003, 2.
    """
    return _Translate(x, y, p, fill)


class _Translate:
    def __init__(self, x: float, y: float, p: float, fill: Fill) -> None:
        self.x, self.y, self.p = x, y, p
        self.fill: Fill = fill

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        count, _, height, width = images.shape
        reach = round(self.y * height), round(self.x * width)
        down, right = (
            torch.randint(-most, most + 1, (count,), generator=generator, device=images.device) for most in reach
        )

        def change(part: Tensor, right: Tensor, down: Tensor) -> Tensor:
            return shift(part, right, down, reach, fill=self.fill)

        return sometimes(images, self.p, generator, change, right, down)
