"""SqueezeNet. Shapes: B batch, C channels, H height, W width, K classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from torch import Tensor, nn

from dlrun.models.blocks import Stack, conv_norm_act, pick_form, scaled, window_out
from dlrun.models.init import initialise, with_data
from dlrun.registry import MODELS
from dlrun.types import PositiveFloat, Range

Form = Literal["auto", "imagenet", "small"]
Init = Literal["he", "xavier", "orthogonal", "small_gaussian", "constant", "lsuv", "default"]
Rate = Annotated[float, Range(ge=0, lt=1)]

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


def fire(c_in: int, squeezed: int, expanded: int) -> nn.Sequential:
    """Make a fire module: (B, c_in, H, W) squeezed by a 1x1 convolution, then expanded by a 1x1 and a 3x3 one.

    Args:
        c_in: channels of the input.
        squeezed: channels between.
        expanded: channels of each expansion; the output has twice as many.
    """
    return nn.Sequential(
        *conv_norm_act(c_in, squeezed, 1, batch_norm=False),
        Stack(
            nn.Sequential(*conv_norm_act(squeezed, expanded, 1, batch_norm=False)),
            nn.Sequential(*conv_norm_act(squeezed, expanded, 3, batch_norm=False)),
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
        dropout: probability of dropping a value before the head, in [0, 1).
        width: factor on the channels, > 0; rounded, at least 1 remains.
        init: initialisation of all but the last layer; that one starts small, so that the loss is ln K.

    Raises:
        ValueError: if the image is too small for the form.

    Source: Iandola et al. 2016, "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model
        size", sections 3 and 6
    """
    plan = PLANS[version]
    small = pick_form(form, input_shape) == "small"
    c_in, size = scaled(plan.channels, width), input_shape[1:]
    remedy = f"use images of at least {plan.smallest}x{plan.smallest} pixels, or form=small"
    if small:
        layers = conv_norm_act(input_shape[0], c_in, 3, batch_norm=False)
    else:
        layers = conv_norm_act(input_shape[0], c_in, plan.kernel, stride=2, padding=0, batch_norm=False)
        size = window_out("conv1", size, plan.kernel, stride=2, remedy=remedy)
    for number, (squeezed, expanded) in enumerate(FIRES, start=2):
        if number in plan.pools and not (small and number == 2):
            layers.append(nn.MaxPool2d(3, stride=2, padding=int(small), ceil_mode=not small))
            pad = (int(small), int(small))
            size = window_out(f"pool{number - 1}", size, 3, stride=2, padding=pad, ceil=not small, remedy=remedy)
        module: nn.Module = fire(c_in, scaled(squeezed, width), scaled(expanded, width))
        layers.append(Bypass(module) if bypass and number in BYPASSED else module)
        c_in = 2 * scaled(expanded, width)
    if dropout > 0:
        layers.append(nn.Dropout(dropout))
    features, head = nn.Sequential(*layers), nn.Linear(c_in, num_classes)
    initialise(features, head, init)
    return with_data(SqueezeNet(features, head), init)
