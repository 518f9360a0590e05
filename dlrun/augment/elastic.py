"""Random elastic deformation: the image as if drawn on rubber.

Letters used below: B images in one call, C channels, H x W pixels, G points of the grid along each axis.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from dlrun.augment.base import Augmentation, sometimes
from dlrun.augment.resample import resample
from dlrun.registry import AUGMENTATIONS
from dlrun.types import Annotated, Fill, Fraction, Interpolation, Range


def smooth(points: Tensor, shape: tuple[int, int]) -> Tensor:
    """A displacement for every pixel from those of a few points, by bicubic interpolation.

    Args:
        points: float (B, 2, G, G), G >= 2, displacements along x and y; the outermost points lie on the centres of
            the outermost pixels.
        shape: H and W.

    Returns:
        float (B, 2, H, W).
    """
    count = points.shape[-1]
    unit = torch.eye(count, dtype=points.dtype, device=points.device)

    def weights(size: int) -> Tensor:
        # Bicubic interpolation is linear in the points: two small matrix products for the whole batch.
        columns = interpolate(unit.view(1, count, count, 1), (size, 1), mode="bicubic", align_corners=True)
        return columns.view(count, size)

    height, width = shape
    return weights(height).T @ points @ weights(width)


def displace(images: Tensor, points: Tensor, *, interpolation: Interpolation = "bilinear", fill: Fill = 0.0) -> Tensor:
    """Read every pixel a little beside its place.

    Args:
        images: (B, C, H, W) uint8 or float.
        points: float (B, 2, G, G), G >= 2: how far beside, in pixels along x and y, at the points of a grid that
            covers the image; see :func:`smooth`.
        interpolation: see :func:`dlrun.augment.resample.resample`.
        fill: see :func:`dlrun.augment.resample.resample`.

    Returns:
        A new tensor like ``images``.
    """
    height, width = images.shape[2:]
    x = torch.arange(width, dtype=torch.float32, device=images.device)
    y = torch.arange(height, dtype=torch.float32, device=images.device)

    def places(low: int, high: int) -> Tensor:
        read = smooth(points[low:high].float(), (height, width))
        read[:, 0] += x
        read[:, 1] += y[:, None]
        return read

    return resample(images, places, interpolation=interpolation, fill=fill)


@AUGMENTATIONS.register
def elastic(
    *,
    strength: Fraction = 0.03,
    points: Annotated[int, Range(ge=2)] = 5,
    p: Fraction = 1.0,
    interpolation: Interpolation = "bilinear",
    fill: Fill = 0.0,
) -> Augmentation:
    """Deforms each image smoothly: random displacements at the points of a coarse grid, bicubic between them.

    Args:
        strength: standard deviation of the displacements along each axis as a fraction of the image's width and
            height, 0..1.
        points: points of the grid along each axis, >= 2; more points give smaller waves.
        p: probability, 0..1; the other images stay as they are.
        interpolation: how the image is read between its pixels: ``bilinear``, or ``nearest`` (faster, and no new
            values).
        fill: what comes in from outside: a brightness 0..255, or ``edge`` for the image's outermost pixels.

    Source: Ronneberger, Fischer, Brox, "U-Net: convolutional networks for biomedical image segmentation", 2015,
        3.1.
    """
    return _Elastic(strength, points, p, interpolation, fill)


class _Elastic:
    def __init__(self, strength: float, points: int, p: float, interpolation: Interpolation, fill: Fill) -> None:
        self.strength, self.points, self.p = strength, points, p
        self.interpolation: Interpolation = interpolation
        self.fill: Fill = fill

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        count, _, height, width = images.shape
        points = torch.randn(count, 2, self.points, self.points, generator=generator, device=generator.device)
        points[:, 0] *= self.strength * width
        points[:, 1] *= self.strength * height
        return sometimes(images, self.p, generator, self._displace, points)

    def _displace(self, images: Tensor, points: Tensor) -> Tensor:
        return displace(images, points, interpolation=self.interpolation, fill=self.fill)
