"""LeNet-5. Shapes: B batch, C channels, H height, W width, K classes."""

from __future__ import annotations

from typing import Literal

from torch import nn

from dlrun.models.blocks import classifier, linear_act, make_activation, scaled, window_out
from dlrun.registry import MODELS
from dlrun.types import NonNegativeFloat, PositiveFloat

Activation = Literal["relu", "leaky_relu", "prelu", "elu", "gelu", "silu", "tanh", "sigmoid"]
Init = Literal["he", "xavier", "orthogonal", "small_gaussian", "constant", "lsuv", "default"]

REMEDY = "use images of at least 4x4 pixels, or model=mlp"


@MODELS.register
def lenet5(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    activation: Activation = "tanh",
    negative_slope: NonNegativeFloat | None = None,
    pool: Literal["avg", "max"] = "avg",
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
        activation: nonlinearity after each convolution and hidden layer; the paper's is tanh.
        negative_slope: slope below zero of leaky_relu (null: 0.01), start value of prelu (null: 0.25).
        pool: average (the paper's subsampling) or max pooling, 2x2 with stride 2.
        width: factor on the channels and hidden units, > 0; rounded, at least 1 remains.
        init: initialisation of all but the last layer; that one starts small, so that the loss is ln K.

    Raises:
        ValueError: if the image is too small, or a slope is given to an activation that has none.

    Source: LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document recognition",
        II.B
    """
    channels, height, breadth = input_shape
    maps1, maps2, units1, units2 = (scaled(n, width) for n in (6, 16, 120, 84))
    pooling = {"avg": nn.AvgPool2d, "max": nn.MaxPool2d}[pool]

    pad1 = 0 if min(height, breadth) >= 32 else 2
    size = window_out("conv1", (height, breadth), 5, padding=(pad1, pad1), remedy=REMEDY)
    size = window_out("pool1", size, 2, stride=2, remedy=REMEDY)
    pad2 = 0 if min(size) >= 6 else 2
    size = window_out("conv2", size, 5, padding=(pad2, pad2), remedy=REMEDY)
    size = window_out("pool2", size, 2, stride=2, remedy=REMEDY)

    layers: list[nn.Module] = [
        nn.Conv2d(channels, maps1, 5, padding=pad1),
        make_activation(activation, negative_slope),
        pooling(2),
        nn.Conv2d(maps1, maps2, 5, padding=pad2),
        make_activation(activation, negative_slope),
        pooling(2),
        nn.Flatten(),
        *linear_act(maps2 * size[0] * size[1], units1, make_activation(activation, negative_slope)),
        *linear_act(units1, units2, make_activation(activation, negative_slope)),
    ]
    return classifier(layers, units2, num_classes, init)
