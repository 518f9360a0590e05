"""TrivialAugment: one operation of many for each image, at any strength."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from dlrun.augment.base import Augmentation
from dlrun.augment.policy import Policy, Reach
from dlrun.registry import AUGMENTATIONS
from dlrun.types import Annotated, Fill, Interpolation, Range

WIDE = Reach(shear=0.99, shift_x=32, shift_y=32, degrees=135, factor=0.99, bits=6)
"""The wide space of the paper."""


def _any_strength(count: int, generator: torch.Generator, *, bins: int) -> Tensor:
    return torch.randint(bins, (count,), generator=generator) / (bins - 1)


@AUGMENTATIONS.register
def trivial_augment(
    *,
    bins: Annotated[int, Range(ge=2)] = 31,
    interpolation: Interpolation = "nearest",
    fill: Fill = 0.0,
) -> Augmentation:
    """Gives each image one operation of the wide space of TrivialAugment, at a strength of its own.

    The operations, all equally likely: none, shear and shift (x, y), rotation, brightness, saturation, contrast,
    sharpness, posterising, solarising, autocontrast, equalising. Shifts reach 32 pixels, which empties small images.

    Args:
        bins: strengths from 0 to the greatest, >= 2, all equally likely.
        interpolation: how moved images are read between their pixels: ``nearest``, or ``bilinear`` (slower).
        fill: what comes in from outside: a brightness 0..255, or ``edge`` for the image's outermost pixels.

    Source: Müller and Hutter, "TrivialAugment: tuning-free yet state-of-the-art data augmentation", 2021, table 6.
    """
    return Policy(lambda height, width: WIDE, 1, partial(_any_strength, bins=bins), interpolation, fill)
