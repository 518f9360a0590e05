"""Noise on the inputs.

Letters used below: B images in one call, b images in a block, C channels, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlrun.augment.base import Augmentation, uniform
from dlrun.augment.planes import WHITE, on_planes
from dlrun.registry import AUGMENTATIONS
from dlrun.types import Fraction, NonNegativeFloat


def add(images: Tensor, std: Tensor, generator: torch.Generator) -> Tensor:
    """``x + s n`` with Gaussian n of deviation 1, cut off at 0 and 255.

    Args:
        images: (B, C, H, W) uint8, or float in the same units.
        std: float32 (B,), s in units of 0..255.
        generator: of the noise.

    Returns:
        A new tensor like ``images``.
    """

    def change(planes: Tensor, std: Tensor) -> Tensor:
        # Block by block, the noise is used while it is in the cache.
        noise = torch.empty_like(planes).normal_(generator=generator)
        return planes.addcmul_(noise, std)

    return on_planes(images, change, std)


@AUGMENTATIONS.register
def gaussian_noise(*, std: NonNegativeFloat = 0.05, p: Fraction = 1.0) -> Augmentation:
    """Adds Gaussian noise to each channel of each pixel; what leaves the range of the pixels is cut off.

    Args:
        std: standard deviation of the noise, as a part of the way from black to white, >= 0: 0.1 is 25.5 levels of 255.
        p: probability for each image to be changed, 0..1.

    Source: Sietsma and Dow, "Creating artificial neural networks that generalize", Neural Networks 4, 1991.
    """
    return _GaussianNoise(std, p)


class _GaussianNoise:
    def __init__(self, std: float, p: float) -> None:
        self.std = std
        self.p = p

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        chosen = uniform(0, 1, len(images), generator) < self.p
        return add(images, chosen * (self.std * WHITE), generator)
