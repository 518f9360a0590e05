"""Network in Network. Shapes: B batch, C channels, H height, W width, K classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from dlrun.models import blocks
from dlrun.models.blocks import scaled
from dlrun.models.options import Chain, Kit
from dlrun.registry import MODELS
from dlrun.types import NonNegativeFloat, PositiveFloat, PositiveInt, Rate

Form = Literal["auto", "imagenet", "small"]
Init = Literal["he", "xavier", "orthogonal", "small_gaussian", "constant", "lsuv", "default"]
Nonlinearity = Literal["relu", "leaky_relu", "prelu", "elu", "gelu", "silu", "tanh", "sigmoid", "maxout"]
Norm = Literal["batch", "group", "layer", "instance", "none"]
Pool = Literal["max", "average", "strided", "fractional"]

REMEDY = "use images of at least 39x39 pixels, or form=small"


@dataclass(frozen=True)
class _Block:
    """An mlpconv block: the window of its first convolution, channels of it and the 1x1 ones, the pool behind."""

    kernel: int
    stride: int
    channels: tuple[int, ...]
    pool: Literal["max", "average"] | None


PLANS = {
    "imagenet": (
        _Block(11, 4, (96, 96, 96), "max"),
        _Block(5, 1, (256, 256, 256), "max"),
        _Block(3, 1, (384, 384, 384), "max"),
        _Block(3, 1, (1024, 1024), None),
    ),
    "small": (
        _Block(5, 1, (192, 160, 96), "max"),
        _Block(5, 1, (192, 192, 192), "average"),
        _Block(3, 1, (192, 192), None),
    ),
}
"""The authors' nets for ImageNet and CIFAR-10. The last 1x1 convolution of each, to K channels, is the head."""


@MODELS.register
def nin(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    form: Form = "auto",
    activation: Nonlinearity = "relu",
    negative_slope: NonNegativeFloat | None = None,
    norm: Norm = "none",
    norm_groups: PositiveInt | None = None,
    pool: Pool | None = None,
    dropout: Rate = 0.5,
    width: PositiveFloat = 1.0,
    init: Init = "he",
) -> nn.Module:
    """Network in Network: mlpconv blocks, each a convolution and 1x1 convolutions, then a global average.

    Maps (B, C, H, W) to class scores (B, K). There is no stack of fully connected layers: the last 1x1
    convolution makes a map for each class, whose average is the score. As both are linear, the average is taken
    first and the convolution is the linear head: the same function, a map's size times cheaper. The small form
    is the CIFAR-10 net of 0.97M parameters, whose blocks end in overlapping 3x3 pools of stride 2.

    Deviation: no ReLU on the class maps (the authors' code has one, and so never gives a score below zero).

    Args:
        input_shape: (C, H, W) of one image; the imagenet form needs at least 39 pixels on each side.
        num_classes: K.
        form: imagenet (11x11 stride 4 first, four blocks), small, or auto: small up to 64 pixels on the shorter
            side.
        activation: nonlinearity after each convolution; maxout takes the larger of two, so its layers
            have twice the channels.
        negative_slope: slope below zero of leaky_relu (null: 0.01), start value of prelu (null: 0.25).
        norm: normalisation before each activation (not in the paper).
        norm_groups: groups of norm=group; divides all channels; null: each layer's own, up to 8.
        pool: 3x3 with stride 2: max, average, strided (a convolution with norm and activation); or fractional, max over
            overlapping 2x2 windows that leaves 0.7 of each side; null: the form's own (imagenet max; small max, then
            average).
        dropout: probability of dropping a value before each block but the first (imagenet: before the last
            alone), in [0, 1).
        width: factor on the channels, > 0; rounded, at least 1 remains.
        init: initialisation of all but the last layer; that one starts small, so that the loss is ln K.

    Raises:
        ValueError: if the image is too small for the form; a slope or groups are given to an activation or norm that
            has none; the groups do not divide a layer's channels; or norm=instance is left single pixels.

    Source: Lin, Chen and Yan 2014, "Network in Network", section 3 and figure 2
    """
    picked = blocks.pick_form(form, input_shape)
    small = picked == "small"
    chain = Chain(Kit(norm, norm_groups, activation, negative_slope), input_shape, REMEDY)
    for number, block in enumerate(PLANS[picked], start=1):
        first, *rest = (scaled(channels, width) for channels in block.channels)
        border = block.kernel // 2 if block.stride == 1 else 0
        chain.conv(f"conv{number}", first, block.kernel, stride=block.stride, padding=border)
        for channels in rest:
            chain.conv(f"conv{number}", channels, 1)
        if block.pool is not None:
            # Small maps get a border, so that none is too small; the authors' code (Caffe) rounds up.
            chain.pool(f"pool{number}", 3, padding=int(small), ceil=not small, kind=pool or block.pool)
            if dropout > 0 and (small or number == len(PLANS[picked]) - 1):
                chain.add(nn.Dropout(dropout))
    chain.average()
    return blocks.classifier(chain.take(), chain.channels, num_classes, init)
