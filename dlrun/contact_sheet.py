"""Images beside what augmentations make of them.

Letters used below: N images, D draws, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_GAP = 4
_LINE = 16
_CELL = 96
_DPI = 100


def grid(images: Tensor, *, scale: int = 1, below: int = 0) -> Tensor:
    """All images in one, on white.

    Args:
        images: uint8 (N, M, C, H, W): N rows of M images.
        scale: times each pixel is repeated in both directions, >= 1.
        below: rows left free below each row of images, for text.

    Returns:
        uint8 (C, h, w).
    """
    rows, columns, channels, height, width = images.shape
    high, wide = height * scale, width * scale
    sheet = torch.full((channels, rows * (high + below + _GAP) + _GAP, columns * (wide + _GAP) + _GAP), 255)
    sheet = sheet.to(torch.uint8)
    for i in range(rows):
        for j in range(columns):
            cell = images[i, j].repeat_interleave(scale, 1).repeat_interleave(scale, 2)
            top, left = _GAP + i * (high + below + _GAP), _GAP + j * (wide + _GAP)
            sheet[:, top : top + high, left : left + wide] = cell
    return sheet


def captions(targets: Tensor, classes: Sequence[str]) -> list[list[str]] | None:
    """What is written below mixed images: the two classes with the largest shares.

    Args:
        targets: labels (N, D, ...) of whole numbers, or float (N, D, K) shares.
        classes: names of the K classes.

    Returns:
        N rows of D texts; None for labels, which an augmentation does not change.
    """
    if not targets.is_floating_point():
        return None

    def text(shares: Tensor) -> str:
        order = shares.argsort(descending=True)[:2].tolist()
        return " + ".join(f"{float(shares[k]):.2f} {classes[k]}" for k in order if shares[k] >= 0.005)

    return [[text(shares) for shares in row] for row in targets]


def draw(
    path: Path, images: Tensor, titles: Sequence[str], texts: Sequence[Sequence[str]] | None, heading: str
) -> None:
    """Draw a contact sheet as PNG.

    Args:
        path: the file to write.
        images: uint8 (N, 1 + D, C, H, W): each image, and what became of it in D draws.
        titles: N names of the images.
        texts: below the draws, N rows of D; None: nothing.
        heading: above all.

    Raises:
        OSError: if the file cannot be written.
    """
    from matplotlib.figure import Figure

    height, width = images.shape[3:]
    scale = max(1, _CELL // max(height, width))
    below = 0 if texts is None else _LINE
    sheet = grid(images, scale=scale, below=below)
    if len(sheet) == 1:
        sheet = sheet.expand(3, -1, -1)
    high, wide = sheet.shape[1:]
    left, top = 8 * max(map(len, titles)) + 8, 2 * _LINE + 8
    figure = Figure(figsize=((wide + left) / _DPI, (high + top) / _DPI), dpi=_DPI)
    axis = figure.add_axes((left / (wide + left), 0, wide / (wide + left), high / (high + top)))
    axis.imshow(sheet[:3].permute(1, 2, 0).numpy(), interpolation="nearest", aspect="auto")
    axis.axis("off")
    style: dict[str, Any] = {"fontsize": 8, "clip_on": False, "parse_math": False}
    for j in range(images.shape[1]):
        middle = _GAP + j * (width * scale + _GAP) + width * scale / 2
        axis.text(middle, -6, "image" if j == 0 else f"draw {j}", ha="center", va="bottom", **style)
        for i in range(len(images)):
            bottom = (i + 1) * (height * scale + below + _GAP) - below / 2
            if texts is not None and j:
                axis.text(middle, bottom, texts[i][j - 1], ha="center", va="center", **(style | {"fontsize": 6}))
    for i, title in enumerate(titles):
        middle = _GAP + i * (height * scale + below + _GAP) + height * scale / 2
        axis.text(-6, middle, title, ha="right", va="center", **style)
    figure.text(0.01, 1 - 4 / (high + top), heading, ha="left", va="top", fontsize=9, parse_math=False)
    figure.savefig(path, dpi=_DPI, format="png")
