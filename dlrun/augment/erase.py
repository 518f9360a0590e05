"""A rectangle of each image painted over: what cutout and random erasing share.

Letters used below: B images in one call, C channels, H x W pixels.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from dlrun.augment.base import channels_innermost, level
from dlrun.augment.resample import BLOCK_NUMBERS
from dlrun.augment.windows import Windows
from dlrun.types import Level

Paint = Level | Literal["mean", "noise"]
"""A brightness for all channels; or the mean of the image's own pixels, per channel; or random numbers of 0..255."""


def erase(images: Tensor, windows: Windows, paint: float | Tensor = 0.0) -> Tensor:
    """Paint over a rectangle in each image.

    Args:
        images: (B, C, H, W) uint8, or float without infinities.
        windows: B rectangles, which may lie partly or wholly outside.
        paint: one value, or values of the type of ``images`` that broadcast to its shape.

    Returns:
        A new tensor like ``images``.
    """
    height, width = images.shape[2:]

    def inside(first: Tensor, size: Tensor, count: int) -> Tensor:
        pixels = torch.arange(count, device=images.device) - first[:, None]
        return ((pixels >= 0) & (pixels < size[:, None])).to(images.dtype)

    rows = inside(windows.top, windows.height, height).view(-1, 1, height, 1)
    painted = rows * inside(windows.left, windows.width, width).view(-1, 1, 1, width)
    # Products of small numbers take a tenth of the time of `where` and `masked_fill`.
    result = images * (1 - painted)
    if isinstance(paint, Tensor) or paint != 0:
        result += painted * (paint if isinstance(paint, Tensor) else level(images, paint))
    return result


def draw_paint(images: Tensor, paint: Paint, generator: torch.Generator) -> float | Tensor:
    """What to paint with.

    Args:
        images: (B, C, H, W) uint8 or float.
        paint: see :data:`Paint`.
        generator: of the noise, on the device of ``images``.

    Returns:
        A value for all; or (B, C, 1, 1), the means (for uint8 rounded); or (B, C, H, W), whole numbers of 0..255. Of
        the type of ``images``.
    """
    if paint == "mean":
        # In blocks, so that the floats stay in the processor's cache.
        block = max(1, BLOCK_NUMBERS // images.shape[1:].numel()) if images.device.type == "cpu" else len(images)
        mean = torch.cat([part.float().mean((2, 3), keepdim=True) for part in torch.split(images, max(1, block))])
        return (mean if images.is_floating_point() else mean.round_()).to(images.dtype)
    if paint == "noise":
        return random_bytes(images, generator).to(images.dtype)
    return level(images, paint)


def random_bytes(images: Tensor, generator: torch.Generator) -> Tensor:
    """uint8 (B, C, H, W), uniform in 0..255, in the memory format of ``images``; the same for either format."""
    # Eight numbers from each random word.
    words = math.ceil(images.numel() / 8)
    drawn = torch.empty(words, dtype=torch.int64, device=images.device)
    drawn.random_(-(2**63), None, generator=generator)
    noise = drawn.view(torch.uint8)[: images.numel()].view(images.shape)
    return noise.contiguous(memory_format=torch.channels_last) if channels_innermost(images) else noise
