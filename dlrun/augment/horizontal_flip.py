"""Random mirroring, left for right.

Letters used below: B images in one call, C channels, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlrun.augment.base import Augmentation, take
from dlrun.registry import AUGMENTATIONS
from dlrun.types import Fraction


def flip(images: Tensor, mask: Tensor) -> Tensor:
    """Mirror some images about their vertical axis.

    Args:
        images: (B, C, H, W), any type.
        mask: bool (B,), true for the images to mirror.

    Returns:
        A new tensor like ``images``.
    """
    if images.device.type != "cpu":
        # To know how many images are mirrored would be to wait for the device.
        return torch.where(mask[:, None, None, None], images.flip(-1), images)
    # Images and mirrored images one after the other, then one copy of whole images by number: measured twice
    # as fast as `where` and as writing the mirrored ones back into a copy.
    chosen = mask.nonzero().squeeze(1)
    count = len(images)
    both = torch.cat((images, take(images, chosen).flip(-1)))
    rows = torch.arange(count)
    rows[chosen] = torch.arange(count, count + len(chosen))
    return take(both, rows)


@AUGMENTATIONS.register
def horizontal_flip(*, p: Fraction = 0.5) -> Augmentation:
    """Mirrors each image left for right with probability ``p``.

    Args:
        p: probability, 0..1.

    Source: Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural networks",
    2012, 4.1.
    """
    return _HorizontalFlip(p)


class _HorizontalFlip:
    def __init__(self, p: float) -> None:
        self.p = p

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        mask = torch.rand(len(images), generator=generator, device=images.device) < self.p
        return flip(images, mask)
