"""Random offsets of the colour along the principal axes of the training split's colours.

Letters used below: B images in one call, b images in a block, C channels, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlrun.augment.base import Augmentation, sometimes
from dlrun.augment.planes import WHITE, on_planes
from dlrun.data.colours import Colours
from dlrun.registry import AUGMENTATIONS
from dlrun.types import Fraction, NonNegativeFloat


def offset(images: Tensor, amounts: Tensor) -> Tensor:
    """Add a number to all pixels of a channel, and cut off at 0 and 255.

    Args:
        images: (B, C, H, W) uint8, or float in the same units.
        amounts: float32 (B, C), in units of 0..255.

    Returns:
        A new tensor like ``images``.
    """

    def change(planes: Tensor, *amounts: Tensor) -> Tensor:
        for plane, amount in zip(planes, amounts, strict=True):
            plane.add_(amount)
        return planes

    return on_planes(images, change, *amounts.unbind(1))


@AUGMENTATIONS.register
def pca_colour(colours: Colours, *, std: NonNegativeFloat = 0.1, p: Fraction = 1.0) -> Augmentation:
    """Adds a colour to each image, drawn along the principal axes of the colours in the training split.

    The colour is the sum over the axes e of ``a v e``, where v is the variance of the training pixels along e, in units
    of 0..1 for the values, and a is drawn from a Gaussian for each image and axis. The axes are measured once, and
    are part of the checkpoint.

    Args:
        colours: the principal axes.
        std: standard deviation of a, >= 0; 0.1 as published.
        p: probability for each image to be changed, 0..1.

    Source: Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural networks", 2012, 4.1.
    """
    return _PcaColour(colours, std, p)


class _PcaColour:
    def __init__(self, colours: Colours, std: float, p: float) -> None:
        self.directions = colours.axes * colours.variances * (WHITE * std)
        self.p = p

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        self.directions = self.directions.to(images.device, non_blocking=True)
        drawn = torch.randn(len(images), len(self.directions), generator=generator, device=images.device)
        # A sum of a few products, and no matrix product: that may round otherwise for other numbers of rows.
        amounts = (drawn[:, None, :] * self.directions).sum(2)
        return sometimes(images, self.p, generator, offset, amounts)
