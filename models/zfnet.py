"""ZFNet. Shapes: B batch, C channels, H height, W width, K classes."""

from __future__ import annotations

from dataclasses import dataclass
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

REMEDY = "use images of at least 53x53 pixels, or form=small"


@dataclass(frozen=True)
class _Plan:
    """What differs between the forms: (kernel, stride, padding) of two convolutions, the last pool, units, LRN."""

    conv1: tuple[int, int, int]
    conv2: tuple[int, int, int]
    pool5_padding: int
    units: int
    lrn: bool


PLANS = {
    "imagenet": _Plan(conv1=(7, 2, 1), conv2=(5, 2, 0), pool5_padding=0, units=4096, lrn=True),
    "small": _Plan(conv1=(3, 1, 1), conv2=(5, 1, 2), pool5_padding=1, units=1024, lrn=False),
}


@MODELS.register
def zfnet(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    form: Form = "auto",
    channels: tuple[PositiveInt, PositiveInt, PositiveInt] = (512, 1024, 512),
    activation: Nonlinearity = "relu",
    negative_slope: NonNegativeFloat | None = None,
    norm: Norm = "none",
    norm_groups: PositiveInt | None = None,
    lrn: bool | None = None,
    pool: Pool = "max",
    dropout: Rate = 0.5,
    drop_connect: Rate = 0.0,
    width: PositiveFloat = 1.0,
    init: Init = "he",
) -> nn.Module:
    """ZFNet: AlexNet with a first convolution of 7x7, stride 2, and more channels in the last three.

    Maps (B, C, H, W) to class scores (B, K). For images of 224 pixels the maps are 110x110x96 after the first
    convolution, 55x55 pooled, 26x26x256 after the second (5x5, stride 2), 13x13 pooled and through the three
    3x3 convolutions, and 6x6 pooled before two hidden layers. The small form, for about 8 to 64 pixels, has a
    first convolution of 3x3 and takes both at stride 1, halves the image in each pool and has 1024 hidden units.

    Deviation: local response normalisation (AlexNet's) in the place of local contrast normalisation.

    Args:
        input_shape: (C, H, W) of one image; the imagenet form needs at least 53 pixels on each side.
        num_classes: K.
        form: imagenet (4096 hidden units), small, or auto: small up to 64 pixels on the shorter side.
        channels: of the last three convolutions; [384, 384, 256] is the net of the paper's figure 3.
        activation: nonlinearity after each convolution and hidden layer; maxout takes the larger of two, so its layers
            have twice the channels or units.
        negative_slope: slope below zero of leaky_relu (null: 0.01), start value of prelu (null: 0.25).
        norm: normalisation before each activation; instance acts on convolutions alone (not in the paper).
        norm_groups: groups of norm=group; divides all channels and units; null: each layer's own, up to 8.
        lrn: local response normalisation after the first two pools; null: yes in the imagenet form with norm=none.
        pool: 3x3 with stride 2: max, average, strided (a convolution with norm and activation); or fractional, max over
            overlapping 2x2 windows that leaves 0.7 of each side (small form alone).
        dropout: probability of dropping a unit of the two hidden layers, in [0, 1).
        drop_connect: probability of dropping a weight of the hidden layers, in [0, 1); in evaluation they have the
            mean weights.
        width: factor on the channels and hidden units, > 0; rounded, at least 1 remains.
        init: initialisation of all but the last layer; that one starts small, so that the loss is ln K.

    Raises:
        ValueError: if the image is too small for the form; pool=fractional comes with the imagenet form; a slope or
            groups are given to an activation or norm that has none; the groups do not divide a layer's channels; or
            norm=instance is left single pixels.

    Source: Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks", figure 3 and table 2
    """
    picked = blocks.pick_form(form, input_shape)
    refuse_large_maps(pool, picked)
    kit = Kit(norm, norm_groups, activation, negative_slope, pool=pool, dropout=dropout, drop_connect=drop_connect)
    plan = PLANS[picked]
    c1, c2, c3, c4, c5, units = (scaled(n, width) for n in (96, 256, *channels, plan.units))
    normed = plan.lrn and norm == "none" if lrn is None else lrn

    chain = Chain(kit, input_shape, REMEDY)
    for number, (c_out, (kernel, stride, padding)) in enumerate(((c1, plan.conv1), (c2, plan.conv2)), start=1):
        chain.conv(f"conv{number}", c_out, kernel, stride=stride, padding=padding)
        chain.pool(f"pool{number}", 3, padding=1)
        if normed:
            chain.add(blocks.local_response_norm())
    for number, c_out in enumerate((c3, c4, c5), start=3):
        chain.conv(f"conv{number}", c_out, 3)
    chain.pool("pool5", 3, padding=plan.pool5_padding)
    chain.flatten()
    chain.hidden((units, units))
    return blocks.classifier(chain.take(), chain.channels, num_classes, init)
