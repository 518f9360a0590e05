"""MobileNet 1 and 2. Shapes: B batch, C channels, H height, W width, K classes; t expansion."""

from __future__ import annotations

from typing import Annotated, Literal

from torch import Tensor, nn

from dlrun.models.blocks import GlobalAverage, classifier, conv_norm_act, pick_form, scaled
from dlrun.registry import MODELS
from dlrun.types import PositiveFloat, Range

Form = Literal["auto", "imagenet", "small"]
Init = Literal["he", "xavier", "orthogonal", "small_gaussian", "constant", "lsuv", "default"]
Rate = Annotated[float, Range(ge=0, lt=1)]

SEPARABLE = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)
"""Version 1, table 1 of the paper: (channels, stride) of each separable convolution."""

INVERTED = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Version 2, table 2 of the paper: (t, channels, blocks, stride of the first) of each stage."""


class Inverted(nn.Module):
    """An inverted residual block with an identity: body(x) + x.

    Args:
        body: keeps the shape; ends in a linear convolution with batch norm.
    """

    def __init__(self, body: nn.Sequential) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        out: Tensor = self.body(x)
        return out + x


def separable(c_in: int, c_out: int, stride: int) -> nn.Sequential:
    """Make a separable convolution: 3x3 on each channel apart, then 1x1; each with batch norm and ReLU."""
    return nn.Sequential(
        *conv_norm_act(c_in, c_in, 3, stride=stride, groups=c_in),
        *conv_norm_act(c_in, c_out, 1),
    )


def inverted(c_in: int, c_out: int, stride: int, expansion: int) -> nn.Module:
    """Make an inverted residual block: 1x1 to t times the channels, 3x3 on each apart, linear 1x1 to few.

    Args:
        c_in: channels of the input.
        c_out: channels of the output; the input is added where the shape stays.
        stride: of the 3x3 convolution.
        expansion: t; at 1 the first convolution is left out.
    """
    wide = c_in * expansion
    layers = _conv(c_in, wide, 1) if expansion > 1 else []
    layers += [*_conv(wide, wide, 3, stride=stride, groups=wide), *conv_norm_act(wide, c_out, 1, act=False)]
    body = nn.Sequential(*layers)
    return Inverted(body) if stride == 1 and c_in == c_out else body


@MODELS.register
def mobilenet(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    version: Literal[1, 2] = 2,
    form: Form = "auto",
    dropout: Rate = 0.2,
    width: PositiveFloat = 1.0,
    init: Init = "he",
) -> nn.Module:
    """MobileNet: convolutions on each channel apart, mixed by 1x1 convolutions; a global average and one layer.

    Maps (B, C, H, W) to class scores (B, K); takes any image size. Version 1 is 13 separable convolutions (4.2M
    parameters, 569M multiply-adds at 224x224), version 2 is 17 inverted residual blocks with linear bottlenecks
    and ReLU6 (3.5M and 301M). The small form has stride 1 in the first convolution and in the first block of
    stride 2: 32x32 becomes 4x4 before the average.

    Args:
        input_shape: (C, H, W) of one image.
        num_classes: K.
        version: 1 or 2.
        form: imagenet, small, or auto: small up to 64 pixels on the shorter side.
        dropout: probability of dropping a feature before the head, in [0, 1).
        width: factor on the channels, > 0 (the paper's width multiplier); version 1 rounds, at least 1 remains;
            version 2 rounds to multiples of 8, and widens the last convolution only above 1.
        init: initialisation of all but the last layer; that one starts small, so that the loss is ln K.

    Raises:
        Nothing: every image has a MobileNet.

    Source: Howard et al. 2017, "MobileNets", table 1; Sandler et al. 2018, "MobileNetV2", section 3 and table 2
    """
    small = pick_form(form, input_shape) == "small"
    body, c_in = (_version1 if version == 1 else _version2)(input_shape[0], width, small)
    body.append(GlobalAverage())
    if dropout > 0:
        body.append(nn.Dropout(dropout))
    return classifier(body, c_in, num_classes, init)


def _version1(channels: int, width: float, small: bool) -> tuple[list[nn.Module], int]:
    c_in = scaled(32, width)
    layers: list[nn.Module] = [nn.Sequential(*conv_norm_act(channels, c_in, 3, stride=1 if small else 2))]
    for number, (base, stride) in enumerate(SEPARABLE):
        c_out = scaled(base, width)
        layers.append(separable(c_in, c_out, 1 if small and number == 1 else stride))
        c_in = c_out
    return layers, c_in


def _version2(channels: int, width: float, small: bool) -> tuple[list[nn.Module], int]:
    c_in = _multiple_of_8(32 * width)
    layers: list[nn.Module] = [nn.Sequential(*_conv(channels, c_in, 3, stride=1 if small else 2))]
    for stage, (expansion, base, count, first) in enumerate(INVERTED):
        c_out = _multiple_of_8(base * width)
        for i in range(count):
            stride = 1 if i > 0 or (small and stage == 1) else first
            layers.append(inverted(c_in, c_out, stride, expansion))
            c_in = c_out
    last = _multiple_of_8(1280 * max(1.0, width))
    layers.append(nn.Sequential(*_conv(c_in, last, 1)))
    return layers, last


def _conv(c_in: int, c_out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    layers = conv_norm_act(c_in, c_out, kernel, stride=stride, groups=groups, act=False)
    return [*layers, nn.ReLU6(inplace=True)]


def _multiple_of_8(channels: float) -> int:
    """Round to a multiple of 8, at least 8, and down by at most a tenth, as the authors do."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near
