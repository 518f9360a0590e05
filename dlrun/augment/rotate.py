"""Random rotation about the centre."""

from __future__ import annotations

from dlrun.augment.affine import RandomAffine
from dlrun.augment.base import Augmentation
from dlrun.registry import AUGMENTATIONS
from dlrun.types import Annotated, Fill, Fraction, Interpolation, Range


@AUGMENTATIONS.register
def rotate(
    *,
    degrees: Annotated[float, Range(ge=0, le=180)] = 15.0,
    p: Fraction = 1.0,
    interpolation: Interpolation = "bilinear",
    fill: Fill = 0.0,
) -> Augmentation:
    """Turns each image by up to ``degrees`` to either side.

    Args:
        degrees: largest angle, 0..180; the angle is uniform.
        p: probability, 0..1; the other images stay as they are.
        interpolation: how the image is read between its pixels: ``bilinear``, or ``nearest`` (faster, and no new
            values).
        fill: what comes in from outside: a brightness 0..255, or ``edge`` for the image's outermost pixels.

    Source: Simard, Steinkraus, Platt, "Best practices for convolutional neural networks applied to visual document
        analysis", 2003, 2.
    """
    return RandomAffine(degrees=degrees, p=p, interpolation=interpolation, fill=fill)
