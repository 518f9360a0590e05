"""Random lens distortion: straight lines bend outwards (barrel) or inwards (pincushion).

Letters used below: B images in one call, C channels, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlrun.augment.base import Augmentation, sometimes, uniform
from dlrun.augment.resample import centred, resample
from dlrun.registry import AUGMENTATIONS
from dlrun.types import Annotated, Fill, Fraction, Interpolation, Range


def distort(images: Tensor, strength: Tensor, *, interpolation: Interpolation = "bilinear", fill: Fill = 0.0) -> Tensor:
    """Distort each image radially about its centre.

    Args:
        images: (B, C, H, W) uint8 or float.
        strength: float (B,), k in (-1/3, inf): a pixel at distance r from the centre is read at r (1 + k r^2), with
            r = 1 at the corners. Above 0 a barrel, below 0 a pincushion; from -1/3 on the image would fold over.
        interpolation: see :func:`dlrun.augment.resample.resample`.
        fill: see :func:`dlrun.augment.resample.resample`.

    Returns:
        A new tensor like ``images``.
    """
    height, width = images.shape[2:]
    x, y = centred(width, images.device), centred(height, images.device)
    pixels = torch.stack((x.expand(height, width), y[:, None].expand(height, width)))
    square = (x * x + y[:, None] * y[:, None]) * (4 / (width * width + height * height))

    def places(low: int, high: int) -> Tensor:
        growth = strength[low:high, None, None].float() * square + 1
        read = growth[:, None] * pixels
        read[:, 0] += (width - 1) / 2
        read[:, 1] += (height - 1) / 2
        return read

    return resample(images, places, interpolation=interpolation, fill=fill)


@AUGMENTATIONS.register
def lens_distortion(
    *,
    strength: Annotated[float, Range(ge=0, lt=0.33)] = 0.2,
    p: Fraction = 1.0,
    interpolation: Interpolation = "bilinear",
    fill: Fill = 0.0,
) -> Augmentation:
    """Bends each image as a wide-angle lens (barrel) or a long one (pincushion) does.

    Args:
        strength: how far the corners are moved at most, as a fraction of their distance from the middle,
            0 <= strength < 0.33; uniform, to both sides.
        p: probability, 0..1; the other images stay as they are.
        interpolation: how the image is read between its pixels: ``bilinear``, or ``nearest`` (faster, and no new
            values).
        fill: what comes in from outside: a brightness 0..255, or ``edge`` for the image's outermost pixels.

    Source: Brown, "Decentering distortion of lenses", Photogrammetric Engineering, 1966 (first radial term).
    """
    return _LensDistortion(strength, p, interpolation, fill)


class _LensDistortion:
    def __init__(self, strength: float, p: float, interpolation: Interpolation, fill: Fill) -> None:
        self.strength, self.p, self.interpolation, self.fill = strength, p, interpolation, fill

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        strength = uniform(-self.strength, self.strength, len(images), generator)
        return sometimes(images, self.p, generator, self._distort, strength)

    def _distort(self, images: Tensor, strength: Tensor) -> Tensor:
        return distort(images, strength, interpolation=self.interpolation, fill=self.fill)
