"""Random shear: straight lines lean, and parallel ones stay parallel."""

from __future__ import annotations

from dlrun.augment.affine import RandomAffine
from dlrun.augment.base import Augmentation
from dlrun.registry import AUGMENTATIONS
from dlrun.types import Annotated, Fill, Fraction, Interpolation, Range

Degrees = Annotated[float, Range(ge=0, lt=90)]


@AUGMENTATIONS.register
def shear(
    *,
    x: Degrees = 10.0,
    y: Degrees = 10.0,
    p: Fraction = 1.0,
    interpolation: Interpolation = "bilinear",
    fill: Fill = 0.0,
) -> Augmentation:
    """Leans the vertical lines of each image by up to ``x`` degrees, the horizontal ones by up to ``y``.

    Args:
        x: largest angle of vertical lines to either side, 0 <= x < 90; the angle is uniform.
        y: largest angle of horizontal lines to either side, 0 <= y < 90; the angle is uniform.
        p: probability, 0..1; the other images stay as they are.
        interpolation: how the image is read between its pixels: ``bilinear``, or ``nearest`` (faster, and no new
            values).
        fill: what comes in from outside: a brightness 0..255, or ``edge`` for the image's outermost pixels.

    Source: Simard, Steinkraus, Platt, "Best practices for convolutional neural networks applied to visual document
        analysis", 2003, 2.
    """
    return RandomAffine(shear=(x, y), p=p, interpolation=interpolation, fill=fill)
