"""Random erasing: a rectangle of random area and shape painted over.

Letters used below: B images in one call, C channels, H x W pixels.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from dlrun.augment.base import Augmentation, ascending
from dlrun.augment.erase import Paint, draw_paint, erase
from dlrun.augment.windows import draw_windows
from dlrun.registry import AUGMENTATIONS
from dlrun.types import Annotated, Fraction, Level, PositiveFloat, Range


@AUGMENTATIONS.register
def random_erasing(
    *,
    p: Fraction = 0.5,
    scale: tuple[Annotated[float, Range(gt=0, le=1)], Annotated[float, Range(gt=0, le=1)]] = (0.02, 0.33),
    ratio: tuple[PositiveFloat, PositiveFloat] = (0.3, 3.3),
    fill: Level | Literal["mean", "noise"] = 0.0,
) -> Augmentation:
    """Paints over a rectangle in each image, which lies inside wholly.

    Args:
        p: probability, 0..1; the other images stay as they are.
        scale: smallest and largest area of the rectangle as fractions of the image's, 0 < scale <= 1; uniform.
        ratio: smallest and largest width / height of the rectangle, > 0; its logarithm is uniform.
        fill: what it is painted with: a brightness 0..255, ``mean`` for each image's own mean colour, ``noise`` for
            random pixels.

    Raises:
        ValueError: if ``scale`` or ``ratio`` is no range.

    Source: Zhong et al., "Random erasing data augmentation", 2020, 3; as torchvision's RandomErasing, which leaves
        an image as it is if none of ten rectangles fits.
    """
    return _RandomErasing(p, ascending("scale", scale), ascending("ratio", ratio), fill)


class _RandomErasing:
    def __init__(self, p: float, scale: tuple[float, float], ratio: tuple[float, float], fill: Paint) -> None:
        self.p, self.scale, self.ratio = p, scale, ratio
        self.fill: Paint = fill

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        count, _, height, width = images.shape
        windows = draw_windows((height, width), count, self.scale, self.ratio, (0, 0), generator)
        if self.p < 1:
            chosen = torch.rand(count, generator=generator, device=images.device) < self.p
            windows = windows._replace(height=windows.height * chosen)
        return erase(images, windows, draw_paint(images, self.fill, generator))
