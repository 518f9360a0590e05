"""Cutout: a square of fixed size painted over, at a random place.

Letters used below: B images in one call, C channels, H x W pixels.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from dlrun.augment.base import Augmentation
from dlrun.augment.erase import Paint, draw_paint, erase
from dlrun.augment.windows import Windows
from dlrun.registry import AUGMENTATIONS
from dlrun.types import Annotated, Fraction, Level, Range


@AUGMENTATIONS.register
def cutout(
    *,
    size: Annotated[float, Range(gt=0, le=1)] = 0.5,
    p: Fraction = 1.0,
    fill: Level | Literal["mean", "noise"] = "mean",
) -> Augmentation:
    """Paints over a square in each image; its middle is any pixel, so at the border a part of it may be cut off.

    Args:
        size: side of the square as a fraction of the image's shorter side, 0 < size <= 1; rounded to pixels.
        p: probability, 0..1; the other images stay as they are.
        fill: what it is painted with: a brightness 0..255, ``mean`` for each image's own mean colour, ``noise`` for
            random pixels.

    Source: DeVries, Taylor, "Improved regularization of convolutional neural networks with cutout", 2017, 3.
    """
    return _Cutout(size, p, fill)


class _Cutout:
    def __init__(self, size: float, p: float, fill: Paint) -> None:
        self.size, self.p = size, p
        self.fill: Paint = fill

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        count, _, height, width = images.shape
        side = max(1, round(self.size * min(height, width)))
        top, left = (
            torch.randint(length, (count,), generator=generator, device=images.device) - side // 2
            for length in (height, width)
        )
        size = torch.full((count,), side, device=images.device)
        if self.p < 1:
            size *= torch.rand(count, generator=generator, device=images.device) < self.p
        return erase(images, Windows(top, left, size, size), draw_paint(images, self.fill, generator))
