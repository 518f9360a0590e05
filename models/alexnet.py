"""AlexNet. Shapes: B batch, C channels, H height, W width, K classes."""

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

REMEDY = "use images of at least 64x64 pixels, or form=small"


CHANNELS = {2012: (96, 256, 384, 384, 256), 2014: (64, 192, 384, 256, 256)}
"""Of the five convolutions, by version."""


@dataclass(frozen=True)
class _Plan:
    """What differs between the forms: the first window, the border of the pools, hidden units, and LRN."""

    kernel: int
    stride: int
    pool_padding: int
    units: int
    lrn: bool


PLANS = {
    "imagenet": _Plan(kernel=11, stride=4, pool_padding=0, units=4096, lrn=True),
    "small": _Plan(kernel=5, stride=1, pool_padding=1, units=1024, lrn=False),
}


@MODELS.register
def alexnet(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    form: Form = "auto",
    version: Literal[2012, 2014] = 2012,
    groups: Literal[1, 2] = 1,
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
    """AlexNet: five convolutions, three overlapping max pools, and two hidden layers.

    Maps (B, C, H, W) to class scores (B, K); the convolutions have 96, 256, 384, 384 and 256 channels. The
    imagenet form gives 55x55x96 after the first convolution (11x11, stride 4) for images of 227 pixels, where
    the windows tile the image, and of 224, where 2 zeros are added on each side; any other size follows the
    same rule. The small form, for about 8 to 64 pixels, keeps the resolution in the first convolution (5x5,
    stride 1), halves it in each pool and has 1024 hidden units.

    The paper's net has two towers, each on a device of its own: groups=2 (61.0M parameters). By default it is one
    tower (62.4M). Version 2014 is the author's later net in one tower, with 64, 192, 384, 256 and 256 channels and
    without local response normalisation: torchvision's (61.1M).

    Deviations: pooling before local response normalisation (as in CaffeNet and the course material: fewer values to
    normalise), which looks across the border of the two groups; dropout behind the hidden layers (torchvision: before).

    Args:
        input_shape: (C, H, W) of one image; the imagenet form needs at least 64 pixels on each side.
        num_classes: K.
        form: imagenet (4096 hidden units), small, or auto: small up to 64 pixels on the shorter side.
        version: 2012, or 2014.
        groups: 2: the second, fourth and fifth convolution see only the channels of their own half (figure 2 of the
            paper); version 2012 alone.
        activation: nonlinearity after each convolution and hidden layer; maxout takes the larger of two, so its layers
            have twice the channels or units.
        negative_slope: slope below zero of leaky_relu (null: 0.01), start value of prelu (null: 0.25).
        norm: normalisation before each activation; instance acts on convolutions alone (not in the paper).
        norm_groups: groups of norm=group; divides all channels and units; null: each layer's own, up to 8.
        lrn: local response normalisation after the first two pools; null: yes in the imagenet form of version 2012
            with norm=none.
        pool: 3x3 with stride 2: max, average, strided (a convolution with norm and activation); or fractional, max over
            overlapping 2x2 windows that leaves 0.7 of each side (small form alone).
        dropout: probability of dropping a unit of the two hidden layers, in [0, 1).
        drop_connect: probability of dropping a weight of the hidden layers, in [0, 1); in evaluation they have the
            mean weights.
        width: factor on the channels and hidden units, > 0; rounded, at least 1 remains.
        init: initialisation of all but the last layer; that one starts small, so that the loss is ln K.

    Raises:
        ValueError: if the image is too small for the form; groups=2 comes with version=2014 or with an odd number of
            channels; pool=fractional comes with the imagenet form; a slope or groups are given to an activation or
            norm that has none; the groups do not divide a layer's channels; or norm=instance is left single pixels.

    Source: Krizhevsky, Sutskever and Hinton 2012, "ImageNet Classification with Deep Convolutional Neural
        Networks", section 3 and figure 2; 2014: Krizhevsky 2014, "One weird trick for parallelizing convolutional
        neural networks", section 5
    """
    picked = blocks.pick_form(form, input_shape)
    refuse_large_maps(pool, picked)
    kit = Kit(norm, norm_groups, activation, negative_slope, pool=pool, dropout=dropout, drop_connect=drop_connect)
    plan = PLANS[picked]
    channels = [scaled(n, width) for n in CHANNELS[version]]
    units = scaled(plan.units, width)
    if groups == 2:
        _refuse_two_towers(version, channels, width)
    normed = plan.lrn and version == 2012 and norm == "none" if lrn is None else lrn
    c1, c2, c3, c4, c5 = channels

    chain = Chain(kit, input_shape, REMEDY)
    border = tuple(_border(side, plan, version) for side in input_shape[1:])
    chain.conv("conv1", c1, plan.kernel, stride=plan.stride, padding=(border[0], border[1]))
    chain.pool("pool1", 3, padding=plan.pool_padding)
    if normed:
        chain.add(blocks.local_response_norm())
    chain.conv("conv2", c2, 5, groups=groups)
    chain.pool("pool2", 3, padding=plan.pool_padding)
    if normed:
        chain.add(blocks.local_response_norm())
    chain.conv("conv3", c3, 3)
    chain.conv("conv4", c4, 3, groups=groups)
    chain.conv("conv5", c5, 3, groups=groups)
    chain.pool("pool5", 3, padding=plan.pool_padding)
    chain.flatten()
    chain.hidden((units, units))
    return blocks.classifier(chain.take(), chain.channels, num_classes, init)


def _border(side: int, plan: _Plan, version: int) -> int:
    if plan.stride == 1:
        return plan.kernel // 2
    return 0 if version == 2012 and (side - plan.kernel) % plan.stride == 0 else 2


def _refuse_two_towers(version: int, channels: list[int], width: float) -> None:
    if version != 2012:
        raise ValueError(
            f"groups=2 does not apply to version={version}, a net in one tower; set groups=1 or version=2012"
        )
    odd = [c for c in channels if c % 2]
    if odd:
        raise ValueError(
            f"width={width:g} makes a convolution of {odd[0]} channels, which groups=2 cannot halve; "
            "choose another width, or groups=1"
        )
