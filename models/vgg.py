"""VGG. Shapes: B batch, C channels, H height, W width, K classes."""

from __future__ import annotations

from typing import Annotated, Literal

from torch import nn

from dlrun.models import blocks
from dlrun.models.blocks import conv_norm_act, linear_act, make_activation, scaled, window_out
from dlrun.registry import MODELS
from dlrun.types import PositiveFloat, Range

Form = Literal["auto", "imagenet", "small"]
Init = Literal["he", "xavier", "orthogonal", "small_gaussian", "constant", "lsuv", "default"]
Rate = Annotated[float, Range(ge=0, lt=1)]

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
    batch_norm: bool | None = None,
    dropout: Rate | None = None,
    width: PositiveFloat = 1.0,
    init: Init = "he",
) -> nn.Module:
    """VGG: five stages of 3x3 convolutions with 64 to 512 channels, each followed by a 2x2 max pool.

    Maps (B, C, H, W) to class scores (B, K). The imagenet form ends in two hidden layers of 4096 units (138M
    parameters for depth 16 at 224x224); the first of them is sized to the image. The small form ends in a
    global average and the linear head, and leaves out the pools that would go below one pixel, so it takes
    any image.

    Deviation: with batch norm (not in the paper) the convolutions have no bias. Keep it for images under 32
    pixels: on the last maps, of one pixel, a window is mostly border, and the signal fades without a norm.

    Args:
        input_shape: (C, H, W) of one image; the imagenet form needs at least 32 pixels on each side.
        num_classes: K.
        depth: number of layers with weights, as counted in the imagenet form.
        form: imagenet, small, or auto: small up to 64 pixels on the shorter side.
        batch_norm: batch norm after each convolution; null: the form's own (imagenet no, as in the paper;
            small yes).
        dropout: probability of dropping a unit of the hidden layers (small form: a feature before the head),
            in [0, 1); null: the form's own (imagenet 0.5, small 0).
        width: factor on the channels and hidden units, > 0; rounded, at least 1 remains.
        init: initialisation of all but the last layer; that one starts small, so that the loss is ln K.

    Raises:
        ValueError: if the image is too small for the form.

    Source: Simonyan and Zisserman 2015, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
        table 1
    """
    c_in, height, breadth = input_shape
    small = blocks.pick_form(form, input_shape) == "small"
    normed = small if batch_norm is None else batch_norm
    rate = (0.0 if small else 0.5) if dropout is None else dropout

    layers: list[nn.Module] = []
    size = (height, breadth)
    for stage, (base, count) in enumerate(zip(CHANNELS, CONVOLUTIONS[depth], strict=True), start=1):
        channels = scaled(base, width)
        for _ in range(count):
            layers += conv_norm_act(c_in, channels, 3, batch_norm=normed)
            c_in = channels
        if not small or min(size) > 1:
            layers.append(nn.MaxPool2d(2))
            size = window_out(f"pool{stage}", size, 2, stride=2, remedy=REMEDY)

    if small:
        layers.append(blocks.GlobalAverage())
        if rate > 0:
            layers.append(nn.Dropout(rate))
        return blocks.classifier(layers, c_in, num_classes, init)
    units = scaled(4096, width)
    layers += [
        nn.Flatten(),
        *linear_act(c_in * size[0] * size[1], units, make_activation("relu"), dropout=rate),
        *linear_act(units, units, make_activation("relu"), dropout=rate),
    ]
    return blocks.classifier(layers, units, num_classes, init)
