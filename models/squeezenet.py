"""SqueezeNet. Shapes: B batch, C channels, H height, W width, K classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from dlrun.models.blocks import Stack, pick_form, scaled
from dlrun.models.init import initialise, with_data
from dlrun.models.options import Chain, Kit
from dlrun.registry import MODELS
from dlrun.types import NonNegativeFloat, PositiveFloat, PositiveInt, Rate

Activation = Literal["relu", "leaky_relu", "prelu", "elu", "gelu", "silu", "tanh", "sigmoid"]
Form = Literal["auto", "imagenet", "small"]
Init = Literal["he", "xavier", "orthogonal", "small_gaussian", "constant", "lsuv", "default"]
Norm = Literal["batch", "group", "layer", "instance", "none"]
Pool = Literal["max", "average", "strided", "fractional"]

FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
"""Squeezed channels, and channels of each of the two expansions, of fire2 to fire9: table 1 of the paper."""

BYPASSED = (3, 5, 7, 9)
"""Fire modules with as many channels in as out, which an identity can bypass."""


@dataclass(frozen=True)
class _Plan:
    """First convolution of the imagenet form, and the numbers of the fire modules that a pool stands before."""

    kernel: int
    channels: int
    pools: tuple[int, ...]
    smallest: int


PLANS = {
    "v1.0": _Plan(kernel=7, channels=96, pools=(2, 5, 9), smallest=21),
    "v1.1": _Plan(kernel=3, channels=64, pools=(2, 4, 6), smallest=17),
}


def fire(c_in: int, squeezed: int, expanded: int, kit: Kit) -> nn.Sequential:
    """Make a fire module: (B, c_in, H, W) squeezed by a 1x1 convolution, then expanded by a 1x1 and a 3x3 one.

    Args:
        c_in: channels of the input.
        squeezed: channels between.
        expanded: channels of each expansion; the output has twice as many.
        kit: norm and activation of the convolutions.
    """
    return nn.Sequential(
        *kit.conv(c_in, squeezed, 1),
        Stack(
            nn.Sequential(*kit.conv(squeezed, expanded, 1)),
            nn.Sequential(*kit.conv(squeezed, expanded, 3)),
        ),
    )


class Bypass(nn.Module):
    """A module with its input added to its output.

    Args:
        body: keeps the shape.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        out: Tensor = self.body(x)
        return out + x


class SqueezeNet(nn.Module):
    """See :func:`squeezenet`."""

    def __init__(self, features: nn.Sequential, head: nn.Linear) -> None:
        super().__init__()
        self.features = features
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to class scores (B, K)."""
        maps: Tensor = self.head(self.features(x).movedim(1, -1))
        return maps.relu().mean((1, 2))


@MODELS.register
def squeezenet(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    version: Literal["v1.0", "v1.1"] = "v1.0",
    form: Form = "auto",
    bypass: bool = False,
    activation: Activation = "relu",
    negative_slope: NonNegativeFloat | None = None,
    norm: Norm = "none",
    norm_groups: PositiveInt | None = None,
    pool: Pool = "max",
    dropout: Rate = 0.5,
    width: PositiveFloat = 1.0,
    init: Init = "he",
) -> nn.Module:
    """SqueezeNet: a convolution and eight fire modules; AlexNet's accuracy with a fiftieth of its parameters.

    Maps (B, C, H, W) to class scores (B, K). A fire module squeezes the channels by a 1x1 convolution, and
    expands them by a 1x1 and a 3x3 convolution side by side. The head is a 1x1 convolution: the same linear
    layer on every pixel, ReLU, and the average over the pixels. Version 1.1, of the authors too, pools earlier
    and needs 2.4 times fewer operations. The small form begins with a 3x3 convolution at stride 1 without a pool,
    and pads the two pools that are left, so it takes any image.

    Args:
        input_shape: (C, H, W) of one image; the imagenet form needs at least 21 (version 1.1: 17) pixels on each
            side.
        num_classes: K.
        version: v1.0, as in the paper, or v1.1.
        form: imagenet (7x7, version 1.1: 3x3, with stride 2 first), small, or auto: small up to 64 pixels on the
            shorter side.
        bypass: add the input of every second fire module to its output ("simple bypass").
        activation: nonlinearity; the class maps keep their ReLU.
        negative_slope: slope below zero of leaky_relu (null: 0.01), start value of prelu (null: 0.25).
        norm: normalisation after each convolution (not in the paper).
        norm_groups: groups of norm=group; divides all channels; null: each layer's own, up to 8.
        pool: 3x3 with stride 2: max, average, strided (a convolution with norm and activation); or fractional, max over
            overlapping 2x2 windows that leaves 0.7 of each side.
        dropout: probability of dropping a value before the head, in [0, 1).
        width: factor on the channels, > 0; rounded, at least 1 remains.
        init: initialisation of all but the last layer; that one starts small, so that the loss is ln K.

    Raises:
        ValueError: if the image is too small for the form; a slope or groups are given to an activation or norm that
            has none; the groups do not divide a layer's channels; or norm=instance is left single pixels.

    Source: Iandola et al. 2016, "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model
        size", sections 3 and 6
    """
    plan = PLANS[version]
    small = pick_form(form, input_shape) == "small"
    kit = Kit(norm, norm_groups, activation, negative_slope, pool=pool)
    chain = Chain(kit, input_shape, f"use images of at least {plan.smallest}x{plan.smallest} pixels, or form=small")
    first = scaled(plan.channels, width)
    if small:
        chain.conv("conv1", first, 3)
    else:
        chain.conv("conv1", first, plan.kernel, stride=2, padding=0)
    for number, (squeezed, expanded) in enumerate(FIRES, start=2):
        if number in plan.pools and not (small and number == 2):
            chain.pool(f"pool{number - 1}", 3, padding=int(small), ceil=not small)
        kit.refuse_single_pixels(f"fire{number}", chain.size)
        half = scaled(expanded, width)
        module: nn.Module = fire(chain.channels, scaled(squeezed, width), half, kit)
        chain.add(Bypass(module) if bypass and number in BYPASSED else module, channels=2 * half)
    if dropout > 0:
        chain.add(nn.Dropout(dropout))
    features, head = nn.Sequential(*chain.take()), nn.Linear(chain.channels, num_classes)
    initialise(features, head, init)
    return with_data(SqueezeNet(features, head), init)
