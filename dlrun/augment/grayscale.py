"""Random loss of colour.

Letters used below: B images in one call, C channels, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlrun.augment.base import Augmentation, sometimes
from dlrun.augment.planes import gray
from dlrun.registry import AUGMENTATIONS
from dlrun.types import Fraction


def without_colour(images: Tensor) -> Tensor:
    """Give all channels the brightness of the pixel: 0.2989 red + 0.587 green + 0.114 blue.

    Args:
        images: (B, C, H, W) uint8, or float in the same units.

    Returns:
        A new tensor like ``images``, with as many channels; unless these are three, the mean of all.
    """

    level = gray(images.transpose(0, 1))
    if not images.is_floating_point():
        level = level.round_()
    return torch.empty_like(images).copy_(level[:, None].expand_as(images))


@AUGMENTATIONS.register
def grayscale(*, p: Fraction = 0.1) -> Augmentation:
    """Takes the colour from each image with probability ``p``; it keeps its channels.

    Args:
        p: probability, 0..1.

    Source: Wu et al., "Unsupervised feature learning via non-parametric instance discrimination", 2018; p = 0.2 in Chen
        et al., "A simple framework for contrastive learning" (SimCLR), 2020, appendix A.
    """
    return _Grayscale(p)


class _Grayscale:
    def __init__(self, p: float) -> None:
        self.p = p

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return sometimes(images, self.p, generator, without_colour)
