"""How operations on colours and neighbourhoods run: on planes of floats, block by block.

A block is one channel after the other, whole images each, in a piece that stays in a processor's cache while an
operation goes over it several times. So an operation sees one layout and one type whatever the images have, its results
do not depend on them, and it may write into what it is given. Results are rounded once, at the end.

Letters used below: B images in one call, b images in a block, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Change = Callable[..., Tensor]
"""(planes float32 (C, b, H, W), parameters (b, 1, 1), ...) -> planes; it may write into the planes."""

WHITE = 255.0
"""The largest value of a pixel."""
_BLOCK_NUMBERS = 1 << 17


def on_planes(images: Tensor, change: Change, *parameters: Tensor) -> Tensor:
    """Change images as planes of floats.

    Args:
        images: (B, C, H, W) uint8, or float in the same units.
        change: what is done to a block; it looks at each image alone.
        parameters: (B,) each, numbers of each image; ``change`` gets them as (b, 1, 1).

    Returns:
        A new tensor like ``images``: of uint8 the nearest whole number, and all values in 0..255.
    """
    result = torch.empty_like(images)
    count = len(images)
    on_cpu = images.device.type == "cpu"
    step = max(1, _BLOCK_NUMBERS * count // max(1, images.numel()) if on_cpu else count)
    for begin in range(0, count, step):
        block = slice(begin, begin + step)
        planes = torch.empty(images[block].transpose(0, 1).shape, device=images.device)
        planes.copy_(images[block].transpose(0, 1))
        planes = change(planes, *(parameter[block].view(-1, 1, 1) for parameter in parameters))
        if not images.is_floating_point():
            planes = planes.round_()
        result[block].transpose(0, 1).copy_(planes.clamp_(0, WHITE))
    return result


def gray(planes: Tensor) -> Tensor:
    """Brightness of each pixel.

    Args:
        planes: (C, b, H, W), any type.

    Returns:
        float (b, H, W): the weighted sum of red, green and blue (ITU-R 601, as torchvision rounds it); where there are
        not three channels, their mean.
    """
    if len(planes) != 3:
        return planes.float().mean(0)
    return planes[0].mul(0.2989).add_(planes[1], alpha=0.587).add_(planes[2], alpha=0.114)
