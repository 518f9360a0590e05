"""Rectangles out of other images, and labels by their area.

Letters used below: B images in one call, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from dlrun.augment.base import Mixing, take, uniform
from dlrun.augment.draws import beta
from dlrun.augment.mixup import blend_targets
from dlrun.registry import AUGMENTATIONS
from dlrun.types import Fraction, PositiveFloat


def boxes(share: Tensor, middle: Tensor, height: int, width: int) -> Tensor:
    """Rectangles with the proportions of the image, cut off at its border.

    Args:
        share: float32 (B,), 0..1: part of the image that stays, if nothing is cut off.
        middle: float32 (2, B), 0..1: row and column of the middle, as parts of height and width.
        height: H.
        width: W.

    Returns:
        int64 (4, B): first row, row after the last, first column, column after the last.
    """
    side = (1 - share).clamp(min=0).sqrt()
    edges = []
    for length, where in ((height, middle[0]), (width, middle[1])):
        size = (side * length).long()
        centre = (where * length).long()
        first = centre - size // 2
        edges += [first.clamp(0, length), (first + size).clamp(0, length)]
    return torch.stack(edges)


def paste(images: Tensor, partners: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
    """Put a rectangle of the partner's image into each image, at its own place.

    Args:
        images: (B, C, H, W), any type.
        partners: int64 (B,), number of each image's partner, in [0, B).
        box: int64 (4, B), see :func:`boxes`.

    Returns:
        A new tensor like ``images``; and float32 (B,), the part of each image that is still its own.
    """
    height, width = images.shape[2:]
    top, bottom, left, right = (edge[:, None] for edge in box)
    rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    inside = ((rows >= top) & (rows < bottom))[:, None, :, None] & ((columns >= left) & (columns < right))[
        :, None, None
    ]
    area = (box[1] - box[0]) * (box[3] - box[2])
    return torch.where(inside, take(images, partners), images), 1 - area / (height * width)


@AUGMENTATIONS.register
def cutmix(*, alpha: PositiveFloat = 1.0, weights: Literal["sample", "batch"] = "sample", p: Fraction = 1.0) -> Mixing:
    """Pastes a rectangle of another image into each image, and mixes the labels by the area that each has.

    The rectangle's part of the image is drawn from Beta(alpha, alpha), its middle from the whole image; what the border
    cuts off counts for neither. Partners are drawn from the same chunk of the data (some batches), every image being
    the partner of one. It makes soft targets: the loss must be able to take them.

    Args:
        alpha: > 0; 1 draws all areas alike.
        weights: draw a rectangle for each sample, or for each batch (here: chunk), as published.
        p: probability for each image to be mixed, 0..1.

    Source: Yun et al., "CutMix: regularization strategy to train strong classifiers", 2019, section 3 and appendix A.
    """
    return _Cutmix(alpha, weights == "sample", p)


class _Cutmix:
    def __init__(self, alpha: float, each: bool, p: float) -> None:
        self.alpha = alpha
        self.each = each
        self.p = p

    def mix(self, images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        count = len(images)
        drawn = count if self.each else 1
        partners = torch.randperm(count, generator=generator, device=images.device)
        share = beta(drawn, self.alpha, generator)
        middle = uniform(0, 1, 2 * drawn, generator).view(2, drawn)
        box = boxes(share, middle, *images.shape[2:]).expand(4, count)
        box = box * (uniform(0, 1, count, generator) < self.p)
        mixed, kept = paste(images, partners, box)
        return mixed, blend_targets(targets, partners, kept)
