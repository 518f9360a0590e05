"""RandAugment: a few operations of many for each image, all at one strength."""

from __future__ import annotations

import torch
from torch import Tensor

from dlrun.augment.base import Augmentation
from dlrun.augment.policy import Policy, Reach
from dlrun.registry import AUGMENTATIONS
from dlrun.types import Annotated, Fill, Interpolation, PositiveInt, Range


def reach(height: int, width: int) -> Reach:
    """How far the operations go at magnitude 30; shifts grow with the image."""
    shift = 150 / 331
    return Reach(shear=0.3, shift_x=shift * width, shift_y=shift * height, degrees=30, factor=0.9, bits=4)


@AUGMENTATIONS.register
def rand_augment(
    *,
    operations: PositiveInt = 2,
    magnitude: Annotated[float, Range(ge=0, le=30)] = 9.0,
    interpolation: Interpolation = "nearest",
    fill: Fill = 0.0,
) -> Augmentation:
    """Gives each image some operations, one after the other, all at the same strength.

    Each is drawn from: none, shear and shift (x, y), rotation, brightness, saturation, contrast, sharpness,
    posterising, solarising, autocontrast, equalising, all equally likely; with either sign where it has one.

    Args:
        operations: how many each image gets, >= 1; N of the paper.
        magnitude: 0..30, M of the paper; 30 is the greatest strength.
        interpolation: how moved images are read between their pixels: ``nearest``, or ``bilinear`` (slower).
        fill: what comes in from outside: a brightness 0..255, or ``edge`` for the image's outermost pixels.

    Source: Cubuk et al., "RandAugment: practical automated data augmentation with a reduced search space", 2020,
        section 3.
    """

    def strength(count: int, generator: torch.Generator) -> Tensor:
        return torch.full((count,), magnitude / 30)

    return Policy(reach, operations, strength, interpolation, fill)
