"""Noise on the inputs.

Letters used below: B images in one call, C channels, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlrun.augment.base import Augmentation, channels_innermost, uniform
from dlrun.augment.planes import WHITE
from dlrun.registry import AUGMENTATIONS
from dlrun.types import Fraction, NonNegativeFloat


def add(images: Tensor, noise: Tensor) -> Tensor:
    """``x + n``, cut off at 0 and 255; of uint8 the nearest whole number.

    Args:
        images: (B, C, H, W) uint8, or float in the same units.
        noise: float32 (B, C, H, W) in units of 0..255; written to.

    Returns:
        A new tensor like ``images``.
    """
    noise.add_(images)
    if not images.is_floating_point():
        noise.round_()
    result = torch.empty_like(images)
    return result.copy_(noise.clamp_(0, WHITE))


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
        noise = torch.randn(images.shape, generator=generator, device=images.device)
        if channels_innermost(images):
            # Drawn in one order whatever the layout, so that a layout changes no pixel.
            noise = noise.contiguous(memory_format=torch.channels_last)
        return add(images, noise.mul_((chosen * (self.std * WHITE))[:, None, None, None]))
