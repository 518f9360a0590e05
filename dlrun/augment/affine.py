"""Random affine maps: rotation, translation, scale and shear in one.

``rotate``, ``translate``, ``scale``, ``stretch`` and ``shear`` are the same map with one part of it drawn.
Letters used below: B images in one call, C channels, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dlrun.augment.base import Augmentation, ascending, factors, sometimes, uniform
from dlrun.augment.resample import warp
from dlrun.registry import AUGMENTATIONS
from dlrun.types import Annotated, Fill, Fraction, Interpolation, PositiveFloat, Range

Degrees = Annotated[float, Range(ge=0, le=180)]
Lean = Annotated[float, Range(ge=0, lt=90)]


def affine_matrices(
    count: int,
    *,
    device: torch.device | None = None,
    angle: Tensor | float = 0.0,
    translate_x: Tensor | float = 0.0,
    translate_y: Tensor | float = 0.0,
    scale_x: Tensor | float = 1.0,
    scale_y: Tensor | float = 1.0,
    shear_x: Tensor | float = 0.0,
    shear_y: Tensor | float = 0.0,
) -> Tensor:
    """Matrices for :func:`dlrun.augment.resample.warp`, each from its own numbers.

    About the centre of the image, in this order: the scales, the shear along x, the shear along y, the rotation, the
    translation. So with equal scales it is torchvision's ``affine`` with the same numbers (its ``angle`` is
    clockwise too, that of its ``rotate`` is not).

    Args:
        count: B.
        device: where the result is wanted.
        angle: degrees, clockwise.
        translate_x: pixels to the right.
        translate_y: pixels down.
        scale_x: factor > 0 along x; 2 shows everything twice as wide.
        scale_y: factor > 0 along y.
        shear_x: degrees in (-90, 90): how far vertical lines lean, to the left at the bottom.
        shear_y: degrees in (-90, 90): how far horizontal lines lean, up at the right.

    Each of these is a float (B,), or one number for all.

    Returns:
        float32 (B, 2, 3), from the pixels of the result to those of the image.
    """
    given = (angle, translate_x, translate_y, scale_x, scale_y, shear_x, shear_y)
    turn, right, down, wide, high, lean_x, lean_y = (
        value.double() if isinstance(value, Tensor) else torch.full((count,), value, dtype=torch.float64, device=device)
        for value in given
    )
    turn, lean_x, lean_y = turn.deg2rad(), lean_x.deg2rad(), lean_y.deg2rad()
    # R(turn) SHy(lean_y) SHx(lean_x) has determinant 1, so its inverse needs no division.
    a, b = (turn - lean_y).cos() / lean_y.cos(), (turn - lean_y).sin() / lean_y.cos()
    c = -a * lean_x.tan() - turn.sin()
    d = -b * lean_x.tan() + turn.cos()
    inverse = torch.stack((d / wide, -c / wide, -b / high, a / high), dim=1).view(-1, 2, 2)
    shift = -(inverse @ torch.stack((right, down), dim=1)[:, :, None])
    return torch.cat((inverse, shift), dim=2).float()


@AUGMENTATIONS.register
def affine(
    *,
    degrees: Degrees = 10.0,
    translate: Fraction = 0.1,
    scale: tuple[PositiveFloat, PositiveFloat] = (0.9, 1.1),
    shear: Lean = 10.0,
    p: Fraction = 1.0,
    interpolation: Interpolation = "bilinear",
    fill: Fill = 0.0,
) -> Augmentation:
    """Rotates, shifts, scales and shears each image about its centre, in one reading of the pixels.

    Args:
        degrees: largest rotation to either side, 0..180; uniform.
        translate: largest shift along each axis as a fraction of the image's width and height, 0..1; uniform.
        scale: smallest and largest factor of size, > 0; its logarithm is uniform.
        shear: largest shear along x in degrees, to either side, 0 <= shear < 90; uniform.
        p: probability, 0..1; the other images stay as they are.
        interpolation: how the image is read between its pixels: ``bilinear``, or ``nearest`` (faster, and no new
            values).
        fill: what comes in from outside: a brightness 0..255, or ``edge`` for the image's outermost pixels.

    Raises:
        ValueError: if ``scale`` is no range.

    Source: Simard, Steinkraus, Platt, "Best practices for convolutional neural networks applied to visual document
        analysis", 2003, 2.
    """
    return RandomAffine(
        degrees=degrees,
        translate=(translate, translate),
        scale=ascending("scale", scale),
        shear=(shear, 0.0),
        p=p,
        interpolation=interpolation,
        fill=fill,
    )


@dataclass(frozen=True, kw_only=True)
class RandomAffine:
    """An affine map of each image about its centre; a part with an empty range is not drawn.

    Attributes:
        degrees: largest rotation to either side.
        translate: largest shift along x and y as fractions of the width and height.
        scale: smallest and largest factor of both axes together.
        stretch: smallest and largest factor of each axis alone.
        shear: largest shear along x and y in degrees.
        p: probability.
        interpolation: see :func:`dlrun.augment.resample.resample`.
        fill: see :func:`dlrun.augment.resample.resample`.
    """

    degrees: float = 0.0
    translate: tuple[float, float] = (0.0, 0.0)
    scale: tuple[float, float] = (1.0, 1.0)
    stretch: tuple[float, float] = (1.0, 1.0)
    shear: tuple[float, float] = (0.0, 0.0)
    p: float
    interpolation: Interpolation
    fill: Fill

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """See :class:`Augmentation`."""
        return sometimes(images, self.p, generator, self._warp, self.draw(images, generator))

    def draw(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The matrices of a batch.

        Args:
            images: (B, C, H, W); only the shape is looked at.
            generator: the source of all randomness.

        Returns:
            float32 (B, 2, 3), as :func:`affine_matrices`.
        """
        count, _, height, width = images.shape

        def even(limit: float) -> Tensor | float:
            return uniform(-limit, limit, count, generator) if limit else 0.0

        def times(ends: tuple[float, float]) -> Tensor | float:
            return factors(*ends, count, generator) if ends != (1.0, 1.0) else 1.0

        size = times(self.scale)
        return affine_matrices(
            count,
            device=generator.device,
            angle=even(self.degrees),
            translate_x=even(self.translate[0] * width),
            translate_y=even(self.translate[1] * height),
            scale_x=size * times(self.stretch),
            scale_y=size * times(self.stretch),
            shear_x=even(self.shear[0]),
            shear_y=even(self.shear[1]),
        )

    def _warp(self, images: Tensor, matrices: Tensor) -> Tensor:
        return warp(images, matrices, interpolation=self.interpolation, fill=self.fill)
