"""Random mirroring, top for bottom.

Letters used below: B images in one call, C channels, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlrun.augment.base import Augmentation
from dlrun.augment.horizontal_flip import flip
from dlrun.registry import AUGMENTATIONS
from dlrun.types import Fraction


@AUGMENTATIONS.register
def vertical_flip(*, p: Fraction = 0.5) -> Augmentation:
    """Mirrors each image top for bottom with probability ``p``: for images without an up, such as those from above.

    Args:
        p: probability, 0..1.

    Source: Dieleman, Willett, Dambre, "Rotation-invariant convolutional neural networks for galaxy morphology
        prediction", 2015 (data augmentation).
    """
    return _VerticalFlip(p)


class _VerticalFlip:
    def __init__(self, p: float) -> None:
        self.p = p

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        mask = torch.rand(len(images), generator=generator, device=images.device) < self.p
        return flip(images, mask, axis=-2)
