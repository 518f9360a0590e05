"""VGG. Shapes: B batch, C channels, H height, W width, K classes."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from torch import nn

from dlrun.models import blocks
from dlrun.models.blocks import scaled
from dlrun.models.options import Chain, Kit, refuse_large_maps
from dlrun.registry import MODELS
from dlrun.types import NonNegativeFloat, PositiveFloat, PositiveInt, Rate

Form = Literal["auto", "imagenet", "small"]
Init = Literal["he", "xavier", "orthogonal", "small_gaussian", "constant", "lsuv", "default"]
Nonlinearity = Literal["relu", "leaky_relu", "prelu", "elu", "gelu", "silu", "tanh", "sigmoid", "maxout"]
Norm = Literal["batch", "group", "layer", "instance", "none"]
Pool = Literal["max", "average", "strided", "fractional"]

CHANNELS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""3x3 convolutions in each of the five stages, by depth: configurations A, B, D and E of the paper."""

REMEDY = "use images of at least 32x32 pixels, or form=small"


@MODELS.register
def vgg(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    depth: Literal[11, 13, 16, 19] = 16,
    form: Form = "auto",
    activation: Nonlinearity = "relu",
    negative_slope: NonNegativeFloat | None = None,
    norm: Norm | None = None,
    norm_groups: PositiveInt | None = None,
    pool: Pool = "max",
    dropout: Rate | None = None,
    drop_connect: Rate = 0.0,
    width: PositiveFloat = 1.0,
    init: Init = "he",
) -> nn.Module:
    """VGG: five stages of 3x3 convolutions with 64 to 512 channels, each followed by a 2x2 max pool.

    Maps (B, C, H, W) to class scores (B, K). The imagenet form ends in two hidden layers of 4096 units (138M
    parameters for depth 16 at 224x224); the first of them is sized to the image. The small form ends in a
    global average and the linear head, and leaves out the pools that would go below one pixel, so it takes
    any image.

    Deviation: with batch norm (not in the paper) the convolutions have no bias. Keep a norm for images under 32
    pixels: on the last maps, of one pixel, a window is mostly border, and the signal fades without. The norm stands
    behind the convolutions alone, as in the nets with batch norm that are in use.

    Args:
        input_shape: (C, H, W) of one image; the imagenet form needs at least 32 pixels on each side.
        num_classes: K.
        depth: number of layers with weights, as counted in the imagenet form.
        form: imagenet, small, or auto: small up to 64 pixels on the shorter side.
        activation: nonlinearity after each convolution and hidden layer; maxout takes the larger of two, so its layers
            have twice the channels or units.
        negative_slope: slope below zero of leaky_relu (null: 0.01), start value of prelu (null: 0.25).
        norm: normalisation after each convolution; null: the form's own (imagenet none, as in the paper; small batch).
        norm_groups: groups of norm=group; divides all channels; null: each layer's own, up to 8.
        pool: 2x2 with stride 2: max, average, strided (a convolution with norm and activation); or fractional, max over
            overlapping 2x2 windows that leaves 0.7 of each side (small form alone).
        dropout: probability of dropping a unit of the hidden layers (small form: a feature before the head),
            in [0, 1); null: the form's own (imagenet 0.5, small 0).
        drop_connect: probability of dropping a weight of the hidden layers, in [0, 1); in evaluation they have the
            mean weights; imagenet form alone.
        width: factor on the channels and hidden units, > 0; rounded, at least 1 remains.
        init: initialisation of all but the last layer; that one starts small, so that the loss is ln K.

    Raises:
        ValueError: if the image is too small for the form; drop_connect comes with the small form or pool=fractional
            with the imagenet form; a slope or groups are given to an activation or norm that has none; the groups do
            not divide a layer's channels; or norm=instance is left single pixels.

    Source: Simonyan and Zisserman 2015, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
        table 1
    """
    picked = blocks.pick_form(form, input_shape)
    refuse_large_maps(pool, picked)
    small = picked == "small"
    if small and drop_connect > 0:
        raise ValueError(
            f"drop_connect={drop_connect:g} has no effect in the small form, which has no hidden layers; "
            "set drop_connect=0, or form=imagenet"
        )
    normed = ("batch" if small else "none") if norm is None else norm
    rate = (0.0 if small else 0.5) if dropout is None else dropout
    kit = Kit(normed, norm_groups, activation, negative_slope, pool=pool, dropout=rate, drop_connect=drop_connect)

    chain = Chain(kit, input_shape, REMEDY)
    for stage, (base, count) in enumerate(zip(CHANNELS, CONVOLUTIONS[depth], strict=True), start=1):
        for _ in range(count):
            chain.conv(f"conv{stage}", scaled(base, width), 3)
        if not small or min(chain.size) > 1:
            chain.pool(f"pool{stage}", 2)
    if small:
        chain.average()
        if rate > 0:
            chain.add(nn.Dropout(rate))
    else:
        units = scaled(4096, width)
        chain.kit = replace(kit, norm="none", norm_groups=None)
        chain.flatten()
        chain.hidden((units, units))
    return blocks.classifier(chain.take(), chain.channels, num_classes, init)
