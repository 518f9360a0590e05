"""LeNet-5. Shapes: B batch, C channels, H height, W width, K classes."""

from __future__ import annotations

from typing import Literal

from torch import nn

from dlrun.models.blocks import classifier, scaled
from dlrun.models.options import Chain, Kit
from dlrun.registry import MODELS
from dlrun.types import NonNegativeFloat, PositiveFloat, PositiveInt, Rate

Init = Literal["he", "xavier", "orthogonal", "small_gaussian", "constant", "lsuv", "default"]
Nonlinearity = Literal["relu", "leaky_relu", "prelu", "elu", "gelu", "silu", "tanh", "sigmoid", "maxout"]
Norm = Literal["batch", "group", "layer", "instance", "none"]
Pool = Literal["max", "average", "strided", "fractional"]

REMEDY = "use images of at least 4x4 pixels, or model=mlp"


@MODELS.register
def lenet5(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    activation: Nonlinearity = "tanh",
    negative_slope: NonNegativeFloat | None = None,
    norm: Norm = "none",
    norm_groups: PositiveInt | None = None,
    pool: Pool = "average",
    dropout: Rate = 0.0,
    drop_connect: Rate = 0.0,
    width: PositiveFloat = 1.0,
    init: Init = "xavier",
) -> nn.Module:
    """LeNet-5: two 5x5 convolutions with 2x2 pooling, then three fully connected layers (6, 16, 120, 84, K).

    Maps (B, C, H, W) to class scores (B, K). Images of 32 pixels and more pass as in the paper, unpadded.
    Smaller ones get a border of 2 zeros in the first convolution (28x28 becomes the paper's 32x32) and, where
    fewer than 6 pixels reach the second convolution (images under 12 pixels), in that one too. The shorter
    side decides.

    Deviations: pooling has no trainable scale and bias, the second convolution sees all maps of the first,
    tanh is not scaled, and the output is linear with softmax in the loss instead of radial basis functions.

    Args:
        input_shape: (C, H, W) of one image; H and W at least 4 pixels.
        num_classes: K.
        activation: nonlinearity after each convolution and hidden layer; maxout takes the larger of two, so its layers
            have twice the channels or units. The paper's is tanh.
        negative_slope: slope below zero of leaky_relu (null: 0.01), start value of prelu (null: 0.25).
        norm: normalisation before each activation; instance acts on convolutions alone (not in the paper).
        norm_groups: groups of norm=group; divides all channels and units; null: each layer's own, up to 8.
        pool: 2x2 with stride 2: average (the paper's subsampling), max, strided (a convolution of 2x2 with norm and
            activation); or fractional, max over overlapping 2x2 windows that leaves 0.7 of each side.
        dropout: probability of dropping a hidden unit, in [0, 1) (not in the paper).
        drop_connect: probability of dropping a weight of the hidden layers, in [0, 1); in evaluation they have the
            mean weights (not in the paper).
        width: factor on the channels and hidden units, > 0; rounded, at least 1 remains.
        init: initialisation of all but the last layer; that one starts small, so that the loss is ln K.

    Raises:
        ValueError: if the image is too small, a slope or groups are given to an activation or norm that has none, the
            groups do not divide a layer's channels, or norm=instance is left single pixels.

    Source: LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document recognition",
        II.B
    """
    kit = Kit(norm, norm_groups, activation, negative_slope, pool=pool, dropout=dropout, drop_connect=drop_connect)
    maps1, maps2, *units = (scaled(n, width) for n in (6, 16, 120, 84))
    chain = Chain(kit, input_shape, REMEDY)
    chain.conv("conv1", maps1, 5, padding=0 if min(input_shape[1:]) >= 32 else 2)
    chain.pool("pool1", 2)
    chain.conv("conv2", maps2, 5, padding=0 if min(chain.size) >= 6 else 2)
    chain.pool("pool2", 2)
    chain.flatten()
    chain.hidden(units)
    return classifier(chain.take(), chain.channels, num_classes, init)
