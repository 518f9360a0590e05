"""Images that are weighted means of two, and labels likewise.

Letters used below: B images in one call, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from dlrun.augment.base import Mixing, take, uniform
from dlrun.augment.draws import beta
from dlrun.registry import AUGMENTATIONS
from dlrun.types import Fraction, PositiveFloat

_BLOCK_NUMBERS = 1 << 17


def blend(images: Tensor, partners: Tensor, share: Tensor) -> Tensor:
    """``l x + (1 - l) x'`` with the image x' of a partner.

    Args:
        images: (B, C, H, W) uint8, or float in the same units.
        partners: int64 (B,), number of each image's partner, in [0, B).
        share: float32 (B,), l in 0..1.

    Returns:
        A new tensor like ``images``; of uint8 the nearest whole number.
    """
    others = take(images, partners)
    weights = share[:, None, None, None]
    step = len(images) if images.device.type != "cpu" else max(1, _BLOCK_NUMBERS // max(1, images[0].numel()))
    parts = zip(*(torch.split(tensor, step) for tensor in (others, images, weights)), strict=True)
    for block, x, weight in parts:
        # Blocks stay in a processor's cache.
        # Half a level more, and the cutting off of the fractions rounds.
        half = 0.0 if images.is_floating_point() else 0.5
        block.copy_(torch.lerp(torch.add(block, half), torch.add(x, half), weight))
    return others


def blend_targets(targets: Tensor, partners: Tensor, share: Tensor) -> Tensor:
    """The same for labels.

    Args:
        targets: float32 (B, K), share of each class.
        partners: as for :func:`blend`.
        share: as for :func:`blend`.

    Returns:
        float32 (B, K), a new tensor.
    """
    return torch.lerp(targets.index_select(0, partners), targets, share[:, None])


@AUGMENTATIONS.register
def mixup(*, alpha: PositiveFloat = 0.2, weights: Literal["sample", "batch"] = "sample", p: Fraction = 1.0) -> Mixing:
    """Replaces each image by a weighted mean of itself and another, and its label by the same mean of both.

    The weight is drawn from Beta(alpha, alpha). Partners are drawn from the same chunk of the data (some batches),
    every image being the partner of one. It makes soft targets: the loss must be able to take them.

    Args:
        alpha: > 0; 0.1..0.4 mixes most images little, 1 draws all weights alike.
        weights: draw one for each sample, or for each batch (here: chunk), as published.
        p: probability for each image to be mixed, 0..1.

    Source: Zhang et al., "mixup: beyond empirical risk minimization", 2018, section 2.
    """
    return _Mixup(alpha, weights == "sample", p)


class _Mixup:
    def __init__(self, alpha: float, each: bool, p: float) -> None:
        self.alpha = alpha
        self.each = each
        self.p = p

    def mix(self, images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        count = len(images)
        partners = torch.randperm(count, generator=generator, device=images.device)
        share = beta(count if self.each else 1, self.alpha, generator).expand(count)
        share = torch.where(uniform(0, 1, count, generator) < self.p, share, 1.0)
        return blend(images, partners, share), blend_targets(targets, partners, share)
