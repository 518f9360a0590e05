"""Network in Network. Shapes: B batch, C channels, H height, W width, K classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from torch import nn

from dlrun.models import blocks
from dlrun.models.blocks import conv_norm_act, scaled, window_out
from dlrun.registry import MODELS
from dlrun.types import PositiveFloat, Range

Form = Literal["auto", "imagenet", "small"]
Init = Literal["he", "xavier", "orthogonal", "small_gaussian", "constant", "lsuv", "default"]
Rate = Annotated[float, Range(ge=0, lt=1)]

REMEDY = "use images of at least 39x39 pixels, or form=small"


@dataclass(frozen=True)
class _Block:
    """An mlpconv block: the window of its first convolution, channels of it and the 1x1 ones, the pool behind."""

    kernel: int
    stride: int
    channels: tuple[int, ...]
    pool: Literal["max", "avg"] | None


PLANS = {
    "imagenet": (
        _Block(11, 4, (96, 96, 96), "max"),
        _Block(5, 1, (256, 256, 256), "max"),
        _Block(3, 1, (384, 384, 384), "max"),
        _Block(3, 1, (1024, 1024), None),
    ),
    "small": (
        _Block(5, 1, (192, 160, 96), "max"),
        _Block(5, 1, (192, 192, 192), "avg"),
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
    batch_norm: bool = False,
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
        batch_norm: batch norm after each convolution (not in the paper).
        dropout: probability of dropping a value before each block but the first (imagenet: before the last
            alone), in [0, 1).
        width: factor on the channels, > 0; rounded, at least 1 remains.
        init: initialisation of all but the last layer; that one starts small, so that the loss is ln K.

    Raises:
        ValueError: if the image is too small for the form.

    Source: Lin, Chen and Yan 2014, "Network in Network", section 3 and figure 2
    """
    picked = blocks.pick_form(form, input_shape)
    small = picked == "small"
    c_in, size = input_shape[0], input_shape[1:]
    layers: list[nn.Module] = []
    for number, block in enumerate(PLANS[picked], start=1):
        first, *rest = (scaled(channels, width) for channels in block.channels)
        border = block.kernel // 2 if block.stride == 1 else 0
        layers += conv_norm_act(c_in, first, block.kernel, stride=block.stride, padding=border, batch_norm=batch_norm)
        size = window_out(
            f"conv{number}", size, block.kernel, stride=block.stride, padding=(border, border), remedy=REMEDY
        )
        c_in = first
        for channels in rest:
            layers += conv_norm_act(c_in, channels, 1, batch_norm=batch_norm)
            c_in = channels
        if block.pool is not None:
            layers.append(_pool(block.pool, small))
            pad = (int(small), int(small))
            size = window_out(f"pool{number}", size, 3, stride=2, padding=pad, ceil=not small, remedy=REMEDY)
            if dropout > 0 and (small or number == len(PLANS[picked]) - 1):
                layers.append(nn.Dropout(dropout))
    layers.append(blocks.GlobalAverage())
    return blocks.classifier(layers, c_in, num_classes, init)


def _pool(kind: Literal["max", "avg"], small: bool) -> nn.Module:
    # Small maps get a border, so that none is too small; the authors' code (Caffe) rounds up.
    if kind == "max":
        return nn.MaxPool2d(3, stride=2, padding=int(small), ceil_mode=not small)
    return nn.AvgPool2d(3, stride=2, padding=int(small), ceil_mode=not small, count_include_pad=False)
