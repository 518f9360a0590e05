"""Policies: operations of which each image gets some of its own, drawn at random, with a strength of its own.

The images that drew the same operation are changed together. The operations and their strengths are those of
torchvision's TrivialAugmentWide and RandAugment, and work on whole levels: float images are rounded before.

Letters used below: B images in one call, b images of one operation, C channels, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from dlrun.augment.autocontrast import stretch_levels
from dlrun.augment.base import take
from dlrun.augment.colour_jitter import brightness, contrast, saturation
from dlrun.augment.draws import on_host
from dlrun.augment.equalize import even_levels
from dlrun.augment.planes import WHITE, Change, on_planes
from dlrun.augment.posterize import keep_bits
from dlrun.augment.resample import warp
from dlrun.augment.sharpness import sharpen
from dlrun.augment.solarize import invert_above
from dlrun.augment.translate import shift
from dlrun.types import Fill, Interpolation

Apply = Callable[[Tensor, Tensor], Tensor]
"""(images uint8 (b, C, H, W), amounts float32 (b,)) -> a new tensor like the images."""


@dataclass(frozen=True)
class Operation:
    """One operation of a policy.

    Attributes:
        apply: changes images.
        start: its amount at strength 0.
        end: its amount at strength 1; amounts in between are proportional.
        signed: whether the amount is as often negative.
    """

    apply: Apply
    start: float = 0.0
    end: float = 0.0
    signed: bool = False


@dataclass(frozen=True)
class Reach:
    """How far the operations of a policy go at strength 1.

    Attributes:
        shear: tangent of the angle.
        shift_x: columns.
        shift_y: rows.
        degrees: rotation.
        factor: change of the factors of brightness, saturation, contrast and sharpness, which are 1 at strength 0.
        bits: bits that posterising takes away.
    """

    shear: float
    shift_x: float
    shift_y: float
    degrees: float
    factor: float
    bits: float


def operations(reach: Reach, interpolation: Interpolation, fill: Fill) -> dict[str, Operation]:
    """The 14 operations, by torchvision's names for them.

    Args:
        reach: how far they go.
        interpolation: how moved images are read between their pixels.
        fill: what comes in from outside.
    """

    def moved(matrices: Callable[[Tensor, int, int], Tensor]) -> Apply:
        def apply(images: Tensor, amounts: Tensor) -> Tensor:
            found = matrices(amounts, *images.shape[2:])
            return warp(images, found, interpolation=interpolation, fill=fill)

        return apply

    # Shifts are by whole pixels, so rows are copied.
    def to_the_right(images: Tensor, amounts: Tensor) -> Tensor:
        pixels = amounts.trunc().long()
        return shift(images, pixels, torch.zeros_like(pixels), (0, math.ceil(reach.shift_x)), fill=fill)

    def down(images: Tensor, amounts: Tensor) -> Tensor:
        pixels = amounts.trunc().long()
        return shift(images, torch.zeros_like(pixels), pixels, (math.ceil(reach.shift_y), 0), fill=fill)

    def factor(change: Change) -> Operation:
        return Operation(lambda images, amounts: on_planes(images, change, 1 + amounts), 0.0, reach.factor, True)

    return {
        "Identity": Operation(lambda images, amounts: images),
        "ShearX": Operation(moved(_lean_x), 0.0, reach.shear, True),
        "ShearY": Operation(moved(_lean_y), 0.0, reach.shear, True),
        "TranslateX": Operation(to_the_right, 0.0, reach.shift_x, True),
        "TranslateY": Operation(down, 0.0, reach.shift_y, True),
        "Rotate": Operation(moved(_turn), 0.0, reach.degrees, True),
        "Brightness": factor(brightness),
        "Color": factor(saturation),
        "Contrast": factor(contrast),
        "Sharpness": Operation(lambda images, amounts: sharpen(images, 1 + amounts), 0.0, reach.factor, True),
        "Posterize": Operation(
            lambda images, amounts: keep_bits(images, amounts.round().long()), 8.0, 8.0 - reach.bits
        ),
        "Solarize": Operation(invert_above, WHITE, 0.0),
        "AutoContrast": Operation(lambda images, amounts: stretch_levels(images)),
        "Equalize": Operation(lambda images, amounts: even_levels(images)),
    }


def _matrices(amounts: Tensor, *entries: Tensor | float) -> Tensor:
    """(b, 2, 3) for :func:`dlrun.augment.resample.warp`, row by row."""
    columns = [entry if isinstance(entry, Tensor) else torch.full_like(amounts, entry) for entry in entries]
    return torch.stack(columns, 1).view(-1, 2, 3)


def _lean_x(amounts: Tensor, height: int, width: int) -> Tensor:
    # The uppermost row stays where it is.
    return _matrices(amounts, 1.0, amounts, amounts * (height / 2), 0.0, 1.0, 0.0)


def _lean_y(amounts: Tensor, height: int, width: int) -> Tensor:
    return _matrices(amounts, 1.0, 0.0, 0.0, amounts, 1.0, amounts * (width / 2))


def _turn(amounts: Tensor, height: int, width: int) -> Tensor:
    angle = amounts * (math.pi / 180)
    return _matrices(amounts, angle.cos(), -angle.sin(), 0.0, angle.sin(), angle.cos(), 0.0)


def apply_each(images: Tensor, choice: Tensor, amounts: Tensor, known: Sequence[Operation]) -> Tensor:
    """Change each image by an operation of its own.

    Args:
        images: (B, C, H, W) uint8.
        choice: int64 (B,) on the CPU: which operation, in [0, len(known)).
        amounts: float32 (B,) on the CPU, in the units of that operation.
        known: the operations.

    Returns:
        A new tensor like ``images``.
    """
    order = choice.argsort(stable=True)
    counts = choice.bincount(minlength=len(known)).tolist()
    device = images.device
    # The host knows the groups: nothing here waits for a device.
    grouped = torch.split(take(images, order.to(device, non_blocking=True)), counts)
    ordered = torch.split(amounts[order].to(device, non_blocking=True), counts)
    changed = [
        operation.apply(some, own) for operation, some, own in zip(known, grouped, ordered, strict=True) if len(some)
    ]
    return take(torch.cat(changed), order.argsort().to(device, non_blocking=True))


class Policy:
    """Some rounds of drawing an operation for each image, all equally likely, and changing the images.

    Args:
        reach: (H, W) -> how far the operations go.
        rounds: operations that each image gets.
        strength: (count, generator on the CPU) -> float32 (count,) in 0..1.
        interpolation: how moved images are read between their pixels.
        fill: what comes in from outside.
    """

    def __init__(
        self,
        reach: Callable[[int, int], Reach],
        rounds: int,
        strength: Callable[[int, torch.Generator], Tensor],
        interpolation: Interpolation,
        fill: Fill,
    ) -> None:
        self._operations = partial(operations, interpolation=interpolation, fill=fill)
        self._reach, self._rounds, self._strength = reach, rounds, strength

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """See :class:`dlrun.augment.base.Augmentation`."""
        known: Mapping[str, Operation] = self._operations(self._reach(*images.shape[2:]))
        table = list(known.values())
        start, end = (torch.tensor([getattr(one, end) for one in table]) for end in ("start", "end"))
        signed = torch.tensor([one.signed for one in table])
        host, count = on_host(generator), len(images)
        levels = images.round().to(torch.uint8) if images.is_floating_point() else images
        for _ in range(self._rounds):
            choice = torch.randint(len(table), (count,), generator=host)
            strength = self._strength(count, host)
            minus = (torch.rand(count, generator=host) < 0.5) & signed[choice]
            amounts = start[choice] + strength * (end - start)[choice]
            levels = apply_each(levels, choice, torch.where(minus, -amounts, amounts), table)
        return levels.to(images.dtype) if self._rounds else images.clone()
