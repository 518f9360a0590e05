"""Random blur.

Letters used below: B images in one call, b images in a block, C channels, H x W pixels, k taps of the kernel.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from dlrun.augment.base import Augmentation, sometimes, uniform
from dlrun.augment.planes import on_planes
from dlrun.registry import AUGMENTATIONS
from dlrun.types import Fraction, PositiveFloat, PositiveInt


def blur(images: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Convolve each image with a Gaussian of its own, cut off to k x k taps; at the border it is mirrored.

    Args:
        images: (B, C, H, W) uint8, or float in the same units; H and W > k / 2.
        sigma: float32 (B,), standard deviations in pixels, > 0.
        kernel_size: k, odd.

    Returns:
        A new tensor like ``images``.

    Raises:
        ValueError: if the kernel reaches as far as the image does.
    """
    reach, (height, width) = kernel_size // 2, images.shape[2:]
    _refuse_small(height, width, kernel_size)
    offsets = torch.arange(-reach, reach + 1, device=images.device)

    def change(planes: Tensor, sigma: Tensor) -> Tensor:
        taps = torch.softmax(offsets.square() / (-2 * sigma.square()), -1)
        padded = F.pad(planes, (reach, reach, reach, reach), mode="reflect")
        # A sum of shifted images: a convolution with a kernel of its own for each image has no fast form.
        rows = padded[..., :height, :] * taps[..., 0, None]
        for i in range(1, kernel_size):
            rows.addcmul_(padded[..., i : i + height, :], taps[..., i, None])
        torch.mul(rows[..., :width], taps[..., 0, None], out=planes)
        for i in range(1, kernel_size):
            planes.addcmul_(rows[..., i : i + width], taps[..., i, None])
        return planes

    return on_planes(images, change, sigma)


def _refuse_small(height: int, width: int, kernel_size: int) -> None:
    if kernel_size // 2 >= min(height, width):
        raise ValueError(
            f"kernel_size={kernel_size} is too large for images of {height}x{width}: "
            f"use {2 * min(height, width) - 1} or less"
        )


@AUGMENTATIONS.register
def gaussian_blur(
    input_shape: tuple[int, int, int] | None = None,
    *,
    kernel_size: PositiveInt = 5,
    sigma: tuple[PositiveFloat, PositiveFloat] = (0.1, 2.0),
    p: Fraction = 0.5,
) -> Augmentation:
    """Blurs each image with a Gaussian of a width of its own.

    Args:
        input_shape: (C, H, W) of one image; None: not known yet.
        kernel_size: taps of the kernel in each direction, odd; about 6 sigma hold nearly all of it.
        sigma: least and greatest standard deviation in pixels, > 0; drawn evenly from between.
        p: probability for each image to be blurred, 0..1.

    Raises:
        ValueError: if the kernel size is even or too large for the images, or the bounds of sigma are the wrong way
            round.

    Source: Chen et al., "A simple framework for contrastive learning of visual representations", 2020, appendix A.
    """
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size={kernel_size} must be odd, so that the kernel has a middle")
    if input_shape is not None:
        _refuse_small(*input_shape[1:], kernel_size)
    if sigma[0] > sigma[1]:
        raise ValueError(f"sigma={list(sigma)} must be the least and then the greatest standard deviation")
    return _GaussianBlur(kernel_size, sigma, p)


class _GaussianBlur:
    def __init__(self, kernel_size: int, sigma: tuple[float, float], p: float) -> None:
        self.kernel_size = kernel_size
        self.sigma = sigma
        self.p = p

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        sigma = uniform(*self.sigma, len(images), generator)
        return sometimes(images, self.p, generator, partial(blur, kernel_size=self.kernel_size), sigma)
