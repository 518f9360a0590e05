"""Random perspective: the image as seen from another side.

Letters used below: B images in one call, C channels, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlrun.augment.base import Augmentation, sometimes
from dlrun.augment.resample import warp
from dlrun.registry import AUGMENTATIONS
from dlrun.types import Fill, Fraction, Interpolation, Rate


def corner_matrices(corners: Tensor, shape: tuple[int, int]) -> Tensor:
    """Matrices for :func:`dlrun.augment.resample.warp` that move the corners of the image.

    Args:
        corners: float (B, 4, 2), where the upper left, upper right, lower right and lower left corner of the image
            come to lie: x to the right and y down in pixels from its centre, (-W/2, -H/2) for the first one where
            it was. They bound a convex area with the centre inside.
        shape: H and W.

    Returns:
        float32 (B, 3, 3), from the pixels of the result to those of the image.

    Source: Heckbert, "Fundamentals of texture mapping and image warping", 1989 (projective mappings).
    """
    height, width = shape
    first, second, third, fourth = corners.double().unbind(1)
    excess, across, along = first - second + third - fourth, second - third, fourth - third

    def crossed(a: Tensor, b: Tensor) -> Tensor:
        return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]

    area = crossed(across, along)
    g, h = (crossed(excess, along) / area)[:, None], (crossed(across, excess) / area)[:, None]
    one = torch.ones_like(g)
    # The columns of the matrix from the unit square to the corners; its inverse, but for a factor, is made of the
    # cross products of its columns, which needs no solver.
    columns = [
        torch.cat((second - first + g * second, g), dim=1),
        torch.cat((fourth - first + h * fourth, h), dim=1),
        torch.cat((first, one), dim=1),
    ]
    u, v, w = (torch.linalg.cross(columns[i - 2], columns[i - 1]) for i in range(3))
    product = torch.stack(((u - w / 2) * width, (v - w / 2) * height, w), dim=1)
    return (product / product[:, 2:, 2:]).float()


@AUGMENTATIONS.register
def perspective(
    *,
    distortion: Rate = 0.3,
    p: Fraction = 0.5,
    interpolation: Interpolation = "bilinear",
    fill: Fill = 0.0,
) -> Augmentation:
    """Moves the four corners of each image towards its middle, each by its own amount.

    Args:
        distortion: how far a corner moves at most along each axis, as a fraction of the way to the middle,
            0 <= distortion < 1; uniform.
        p: probability, 0..1; the other images stay as they are.
        interpolation: how the image is read between its pixels: ``bilinear``, or ``nearest`` (faster, and no new
            values).
        fill: what comes in from outside: a brightness 0..255, or ``edge`` for the image's outermost pixels.

    Source: Heckbert, "Fundamentals of texture mapping and image warping", 1989 (projective mappings); the
        corners as torchvision's RandomPerspective draws them, but not in whole pixels.
    """
    return _Perspective(distortion, p, interpolation, fill)


class _Perspective:
    def __init__(self, distortion: float, p: float, interpolation: Interpolation, fill: Fill) -> None:
        self.distortion, self.p, self.interpolation, self.fill = distortion, p, interpolation, fill

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        count, _, height, width = images.shape
        device = generator.device
        moved = 1 - self.distortion * torch.rand(count, 4, 2, generator=generator, device=device)
        signs = torch.stack((torch.arange(4, device=device) % 3 != 0, torch.arange(4, device=device) > 1), dim=1)
        half = torch.stack((torch.full((4,), width / 2, device=device), torch.full((4,), height / 2, device=device)), 1)
        corners = moved * half * (2.0 * signs - 1)
        return sometimes(images, self.p, generator, self._warp, corner_matrices(corners, (height, width)))

    def _warp(self, images: Tensor, matrices: Tensor) -> Tensor:
        return warp(images, matrices, interpolation=self.interpolation, fill=self.fill)
