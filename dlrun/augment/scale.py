"""Random size of what an image shows; the image keeps its own."""

from __future__ import annotations

from dlrun.augment.affine import RandomAffine
from dlrun.augment.base import Augmentation, ascending
from dlrun.registry import AUGMENTATIONS
from dlrun.types import Fill, Fraction, Interpolation, PositiveFloat


@AUGMENTATIONS.register
def scale(
    *,
    factor: tuple[PositiveFloat, PositiveFloat] = (0.8, 1.25),
    p: Fraction = 1.0,
    interpolation: Interpolation = "bilinear",
    fill: Fill = 0.0,
) -> Augmentation:
    """Enlarges or shrinks each image about its centre.

    Args:
        factor: smallest and largest factor, > 0; its logarithm is uniform. Above 1 the border is lost, below 1 a
            border comes in.
        p: probability, 0..1; the other images stay as they are.
        interpolation: how the image is read between its pixels: ``bilinear``, or ``nearest`` (faster, and no new
            values).
        fill: what comes in from outside: a brightness 0..255, or ``edge`` for the image's outermost pixels.

    Raises:
        ValueError: if ``factor`` is no range.

    Source: Simonyan, Zisserman, "Very deep convolutional networks for large-scale image recognition", 2015, 3.1 (scale
        jittering).
    """
    return RandomAffine(scale=ascending("factor", factor), p=p, interpolation=interpolation, fill=fill)
