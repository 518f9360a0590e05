"""Random brightness, contrast, saturation and hue.

The four functions change planes of floats (:mod:`dlrun.augment.planes`); f is the factor of an image. They are those of
torchvision, whose uint8 form cuts off fractions after each step, where here all is rounded once, at the end.

Letters used below: B images in one call, b images in a block, C channels, H x W pixels.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from dlrun.augment.base import Augmentation, sometimes, uniform
from dlrun.augment.draws import on_host
from dlrun.augment.planes import WHITE, Change, gray, on_planes
from dlrun.registry import AUGMENTATIONS
from dlrun.types import Fraction, NonNegativeFloat, Range


def brightness(planes: Tensor, factor: Tensor) -> Tensor:
    """``f x``, cut off at 0 and 255.

    Args:
        planes: float32 (C, b, H, W) in 0..255; written to.
        factor: (b, 1, 1), >= 0; 0 gives black, 1 the image.
    """
    return planes.mul_(factor).clamp_(0, WHITE)


def contrast(planes: Tensor, factor: Tensor) -> Tensor:
    """``f x + (1 - f) m`` with the mean brightness m of the image, cut off at 0 and 255.

    Args:
        planes: float32 (C, b, H, W) in 0..255; written to.
        factor: (b, 1, 1), >= 0; 0 gives an even gray, 1 the image.
    """
    # Two means of short rows: one over a whole image would be summed in an order that depends on the threads.
    mean = gray(planes).mean(-1).mean(-1)[:, None, None]
    return planes.mul_(factor).add_(mean.mul_(1 - factor)).clamp_(0, WHITE)


def saturation(planes: Tensor, factor: Tensor) -> Tensor:
    """``f x + (1 - f) g`` with the brightness g of each pixel, cut off at 0 and 255.

    Args:
        planes: float32 (C, b, H, W) in 0..255; written to. Unless C is 3, there is no colour to change.
        factor: (b, 1, 1), >= 0; 0 gives a gray image, 1 the image.
    """
    if len(planes) != 3:
        return planes
    level = gray(planes).mul_(1 - factor)
    return planes.mul_(factor).add_(level).clamp_(0, WHITE)


def hue(planes: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue, in the cone of hue, saturation and value.

    Between the least channel m and the greatest M of a pixel each channel is ``m + (M - m) c``, where c is a trapezium
    over the hue: so a colour is found without asking in which sextant its hue lies.

    Args:
        planes: float32 (C, b, H, W) in 0..255; written to. Unless C is 3, there is no colour to change.
        turns: (b, 1, 1), -0.5..0.5, part of a full turn; 0 is the image.

    Source: Smith, "Color gamut transform pairs", SIGGRAPH 1978 (the cone).
    """
    if len(planes) != 3:
        return planes
    red, green, blue = planes
    low = torch.minimum(torch.minimum(red, green), blue)
    high = torch.maximum(torch.maximum(red, green), blue)
    # Where all three are equal the hue counts for nothing.
    spread = (high - low).clamp_(min=torch.finfo(torch.float32).tiny)
    is_red, is_green = high == red, high == green
    sector = (red - green).div_(spread).add_(4)
    sector = torch.where(is_green, (blue - red).div_(spread).add_(2), sector)
    sector = torch.where(is_red, (green - blue).div_(spread), sector)
    sector.add_(turns * 6).remainder_(6)
    part = torch.empty_like(sector)
    torch.sub(sector, 3, out=part).abs_().sub_(1).clamp_(0, 1)
    torch.addcmul(low, spread, part, out=red)
    for plane, peak in ((green, 2), (blue, 4)):
        torch.sub(sector, peak, out=part).abs_().neg_().add_(2).clamp_(0, 1)
        torch.addcmul(low, spread, part, out=plane)
    return planes


_CHANGES: tuple[Change, ...] = (brightness, contrast, saturation, hue)


def jitter(images: Tensor, amounts: Tensor, order: tuple[int, ...]) -> Tensor:
    """Change brightness, contrast, saturation and hue.

    Args:
        images: (B, C, H, W) uint8, or float in the same units.
        amounts: float32 (B, 4): factors of brightness, contrast and saturation, and turns of the hue.
        order: numbers of the columns in the order in which they are applied; those that are left out are not.

    Returns:
        A new tensor like ``images``.
    """

    def change(planes: Tensor, *parameters: Tensor) -> Tensor:
        for number, parameter in zip(order, parameters, strict=True):
            planes = _CHANGES[number](planes, parameter)
        return planes

    return on_planes(images, change, *(amounts[:, number] for number in order))


@AUGMENTATIONS.register
def colour_jitter(
    *,
    brightness: NonNegativeFloat = 0.4,
    contrast: NonNegativeFloat = 0.4,
    saturation: NonNegativeFloat = 0.4,
    hue: Annotated[float, Range(ge=0, le=0.5)] = 0.0,
    p: Fraction = 1.0,
) -> Augmentation:
    """Changes brightness, contrast, saturation and hue of each image by factors of its own.

    An amount x draws a factor from max(0, 1 - x) to 1 + x; an amount of 0 leaves that part out. The order of the four
    is drawn anew for every chunk of the data (some batches), and is the same for the images in it. Images without
    three channels have no saturation and no hue.

    Args:
        brightness: amount, >= 0.
        contrast: amount, >= 0.
        saturation: amount, >= 0.
        hue: greatest turn of the hue in either direction, 0..0.5 of a full turn.
        p: probability for each image to be changed, 0..1.

    Source: Szegedy et al., "Going deeper with convolutions", 2015, section 6 (after Howard 2013); amounts as in
        Goyal et al., "Accurate, large minibatch SGD", 2017.
    """
    return _ColourJitter((brightness, contrast, saturation, hue), p)


class _ColourJitter:
    def __init__(self, amounts: tuple[float, float, float, float], p: float) -> None:
        self.amounts = amounts
        self.p = p

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        count = len(images)
        drawn = [uniform(max(0.0, 1 - x), 1 + x, count, generator) for x in self.amounts[:3]]
        drawn.append(uniform(-self.amounts[3], self.amounts[3], count, generator))
        order = torch.randperm(4, generator=on_host(generator)).tolist()
        used = tuple(number for number in order if self.amounts[number])
        if not used:
            return images.clone()
        return sometimes(images, self.p, generator, partial(jitter, order=used), torch.stack(drawn, 1))
