"""Rectangles of random area and shape, one for each image.

B is the number of images, T the number of tries.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dlrun.augment.base import factors, uniform

TRIES = 10
"""As many rectangles are drawn for each image, and the first that fits is taken, as torchvision does."""


class Windows(NamedTuple):
    """A rectangle of whole pixels in each image, int64 (B,) each: ``top`` and ``left`` are the first row and column,
    ``height`` and ``width`` >= 0 the size."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor


def draw_windows(
    shape: tuple[int, int],
    count: int,
    area: tuple[float, float],
    ratio: tuple[float, float],
    otherwise: tuple[int, int],
    generator: torch.Generator,
) -> Windows:
    """Draw rectangles: the area uniform, the logarithm of the ratio uniform, then the place uniform.

    Args:
        shape: height and width of the images.
        count: B.
        area: smallest and largest area as fractions of that of the image.
        ratio: smallest and largest width / height, > 0.
        otherwise: height and width for the images in which none of T rectangles fits; they are put in the middle.
        generator: the source of all randomness, on the device where the result is wanted.

    Returns:
        B rectangles inside of the images.
    """
    high, wide = shape
    areas = uniform(area[0], area[1], TRIES * count, generator).view(TRIES, count) * (high * wide)
    ratios = factors(ratio[0], ratio[1], TRIES * count, generator).view(TRIES, count)
    widths, heights = (areas * ratios).sqrt().round(), (areas / ratios).sqrt().round()
    fits = (widths > 0) & (widths <= wide) & (heights > 0) & (heights <= high)
    number = torch.arange(TRIES, device=fits.device)[:, None]
    first = torch.where(fits, number, TRIES).amin(0)
    found, first = first < TRIES, first.clamp(max=TRIES - 1)[None]
    height = torch.where(found, heights.gather(0, first)[0], otherwise[0]).long()
    width = torch.where(found, widths.gather(0, first)[0], otherwise[1]).long()

    def place(free: Tensor) -> Tensor:
        drawn = uniform(0, 1, count, generator) * (free + 1)
        # A number next to 1 may be rounded up to 1.
        return torch.where(found, drawn.long().minimum(free), free // 2)

    return Windows(place(high - height), place(wide - width), height, width)
