"""Random size of what an image shows, of its width and its height apart."""

from __future__ import annotations

from dlrun.augment.affine import RandomAffine
from dlrun.augment.base import Augmentation, ascending
from dlrun.registry import AUGMENTATIONS
from dlrun.types import Fill, Fraction, Interpolation, PositiveFloat


@AUGMENTATIONS.register
def stretch(
    *,
    factor: tuple[PositiveFloat, PositiveFloat] = (0.8, 1.25),
    p: Fraction = 1.0,
    interpolation: Interpolation = "bilinear",
    fill: Fill = 0.0,
) -> Augmentation:
    """Widens or narrows each image about its centre, and makes it taller or flatter, by different factors.

    Args:
        factor: smallest and largest factor of the width, and of the height, > 0; the logarithms are uniform.
        p: probability, 0..1; the other images stay as they are.
        interpolation: how the image is read between its pixels: ``bilinear``, or ``nearest`` (faster, and no new
            values).
        fill: what comes in from outside: a brightness 0..255, or ``edge`` for the image's outermost pixels.

    Raises:
        ValueError: if ``factor`` is no range.

    Source: Simonyan, Zisserman, "Very deep convolutional networks for large-scale image recognition", 2015, 3.1 (scale
        jittering), with a factor for each axis.
    """
    return RandomAffine(stretch=ascending("factor", factor), p=p, interpolation=interpolation, fill=fill)
