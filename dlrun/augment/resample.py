"""Images read at other places: the part that all geometric augmentations share.

An augmentation says, for every pixel of the result, where in the image its value comes from; this file reads it
there. The same places serve a mask or a second image: call again with ``interpolation="nearest"``.

Letters used below: B images in one call, C channels, H x W pixels, n images in a block.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from dlrun.augment.base import channels_innermost, level
from dlrun.types import Fill, Interpolation

Places = Callable[[int, int], Tensor]
"""``places(low, high)``: float (n, 2, H, W) for the images ``low`` to ``high``, n = high - low: where each pixel
of the result is read, first x, then y, in pixels; (0, 0) is the centre of the upper left pixel. A new tensor,
which is written to."""

BLOCK_NUMBERS = 1 << 18
"""On the CPU, as many images are read at once as have at most this many numbers (C * H * W each), so that what is
computed for them stays in the processor's cache. Measured on one core between 2^16 and 2^20: half the time of a
whole chunk."""


def resample(images: Tensor, places: Places, *, interpolation: Interpolation, fill: Fill = 0.0) -> Tensor:
    """Read images at the given places.

    Args:
        images: (B, C, H, W) uint8 or float.
        places: where each pixel of the result is read.
        interpolation: ``nearest`` takes the pixel whose centre is nearest, ``bilinear`` the mean of the four
            pixels around, weighted by distance and, for uint8, rounded.
        fill: what lies outside.

    Returns:
        A new tensor like ``images``.
    """
    batch, channels, height, width = images.shape
    layout = torch.channels_last if channels_innermost(images) else torch.contiguous_format
    result = torch.empty(images.shape, dtype=images.dtype, device=images.device, memory_format=layout)
    block = max(1, BLOCK_NUMBERS // (channels * height * width)) if images.device.type == "cpu" else max(1, batch)
    read = _nearest if interpolation == "nearest" else _bilinear
    for low in range(0, batch, block):
        high = min(low + block, batch)
        read(images[low:high], places(low, high), fill, result[low:high])
    return result


def _bilinear(images: Tensor, places: Tensor, fill: Fill, result: Tensor) -> None:
    height, width = images.shape[2:]
    kind = torch.float64 if images.dtype == torch.float64 else torch.float32
    # To the units of grid_sample, in which the outer edges of the image are at -1 and 1. Its kernel takes x and y
    # in planes of their own as quickly as in pairs.
    for axis, size in enumerate((width, height)):
        places[:, axis].mul_(2 / size).add_(1 / size - 1)
    grid = places.to(kind).permute(0, 2, 3, 1)
    values = images.to(kind)
    border = "border" if fill == "edge" else "zeros"
    shifted = fill not in ("edge", 0)
    if shifted:
        # Outside is 0 for the kernel: so the fill is made the zero.
        values = values - float(fill)
    read = grid_sample(values, grid, mode="bilinear", padding_mode=border, align_corners=False)
    if shifted:
        read += float(fill)
    result.copy_(read if images.dtype.is_floating_point else read.round_())


def _nearest(images: Tensor, places: Tensor, fill: Fill, result: Tensor) -> None:
    count, channels, height, width = images.shape
    last = channels_innermost(images)
    source, target = (images.permute(0, 2, 3, 1), result.permute(0, 2, 3, 1)) if last else (images, result)
    rows, columns = places[:, 1].round_(), places[:, 0].round_()
    if fill == "edge":
        rows.clamp_(0, height - 1)
        columns.clamp_(0, width - 1)
    else:
        # With a frame of the fill, whatever lies outside is a pixel like any other.
        rows.clamp_(-1, height).add_(1)
        columns.clamp_(-1, width).add_(1)
        height, width = height + 2, width + 2
        shape = (count, height, width, channels) if last else (count, channels, height, width)
        framed = torch.full(shape, level(images, fill), dtype=images.dtype, device=images.device)
        inner = framed[:, 1:-1, 1:-1] if last else framed[:, :, 1:-1, 1:-1]
        inner.copy_(source)
        source = framed
    if height * width > 1 << 24:
        # float32 counts no further.
        rows, columns = rows.double(), columns.double()
    pixels = torch.add(columns, rows, alpha=width).to(torch.int64).view(count, -1)
    if last:
        first = torch.arange(count, device=images.device)[:, None] * (height * width)
        read = source.reshape(-1, channels).index_select(0, (pixels + first).view(-1))
        target.copy_(read.view(target.shape))
    else:
        wanted = pixels[:, None].expand(count, channels, pixels.shape[1])
        target.copy_(source.flatten(2).gather(2, wanted).view(target.shape))


def centred(size: int, device: torch.device) -> Tensor:
    """float32 (size,): the pixels of a row or column, counted from its middle."""
    return torch.arange(size, dtype=torch.float32, device=device) - (size - 1) / 2


def warp(images: Tensor, matrices: Tensor, *, interpolation: Interpolation = "bilinear", fill: Fill = 0.0) -> Tensor:
    """Map each image with a matrix of its own.

    Args:
        images: (B, C, H, W) uint8 or float.
        matrices: float (B, 2, 3), affine: result pixel (x, y), measured in pixels from the centre of the image, x
            to the right and y down, is read at ``matrix @ (x, y, 1)``. Or (B, 3, 3), projective: it is read at
            (u / w, v / w) with (u, v, w) that product; where w <= 0 is outside.
        interpolation: see :func:`resample`.
        fill: see :func:`resample`.

    Returns:
        A new tensor like ``images``.
    """
    height, width = images.shape[2:]
    matrices = matrices.float()
    x, y = centred(width, images.device), centred(height, images.device)

    def places(low: int, high: int) -> Tensor:
        part = matrices[low:high]
        across = part[:, :, 0, None] * x
        down = part[:, :, 1, None] * y + part[:, :, 2, None]
        if part.shape[1] == 3:
            product = across[:, :, None, :] + down[:, :, :, None]
            # Behind the horizon there is nothing: far outside, and not the image once more, mirrored.
            read = product[:, :2].div_(product[:, 2:].clamp_min_(1e-6))
            read[:, 0] += (width - 1) / 2
            read[:, 1] += (height - 1) / 2
            return read
        down[:, 0] += (width - 1) / 2
        down[:, 1] += (height - 1) / 2
        return across[:, :, None, :] + down[:, :, :, None]

    return resample(images, places, interpolation=interpolation, fill=fill)
