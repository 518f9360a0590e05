"""MobileNet 1 and 2. Shapes: B batch, C channels, H height, W width, K classes; t expansion."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from dlrun.models.blocks import GlobalAverage, classifier, pick_form, scaled
from dlrun.models.options import Kit
from dlrun.registry import MODELS
from dlrun.types import NonNegativeFloat, PositiveFloat, PositiveInt, Rate

Activation = Literal["relu", "leaky_relu", "prelu", "elu", "gelu", "silu", "tanh", "sigmoid"]
Form = Literal["auto", "imagenet", "small"]
Init = Literal["he", "xavier", "orthogonal", "small_gaussian", "constant", "lsuv", "default"]
Norm = Literal["batch", "group", "layer", "instance", "none"]

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


def separable(kit: Kit, c_in: int, c_out: int, stride: int) -> nn.Sequential:
    """Make a separable convolution: 3x3 on each channel apart, then 1x1; each with norm and activation."""
    return nn.Sequential(*kit.conv(c_in, c_in, 3, stride=stride, groups=c_in), *kit.conv(c_in, c_out, 1))


def inverted(kit: Kit, c_in: int, c_out: int, stride: int, expansion: int) -> nn.Module:
    """Make an inverted residual block: 1x1 to t times the channels, 3x3 on each apart, linear 1x1 to few.

    Args:
        kit: norm and activation.
        c_in: channels of the input.
        c_out: channels of the output; the input is added where the shape stays.
        stride: of the 3x3 convolution.
        expansion: t; at 1 the first convolution is left out.
    """
    wide = c_in * expansion
    layers = kit.conv(c_in, wide, 1) if expansion > 1 else []
    layers += [*kit.conv(wide, wide, 3, stride=stride, groups=wide), *kit.conv(wide, c_out, 1, act=False)]
    body = nn.Sequential(*layers)
    return Inverted(body) if stride == 1 and c_in == c_out else body


@MODELS.register
def mobilenet(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    version: Literal[1, 2] = 2,
    form: Form = "auto",
    activation: Activation | None = None,
    negative_slope: NonNegativeFloat | None = None,
    norm: Norm = "batch",
    norm_groups: PositiveInt | None = None,
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
        activation: nonlinearity; null: the version's own (1 ReLU; 2 ReLU6, cut off at 6).
        negative_slope: slope below zero of leaky_relu (null: 0.01), start value of prelu (null: 0.25).
        norm: normalisation after each convolution.
        norm_groups: groups of norm=group; divides all channels; null: each layer's own, up to 8.
        dropout: probability of dropping a feature before the head, in [0, 1).
        width: factor on the channels, > 0 (the paper's width multiplier); version 1 rounds, at least 1 remains;
            version 2 rounds to multiples of 8, and widens the last convolution only above 1.
        init: initialisation of all but the last layer; that one starts small, so that the loss is ln K.

    Raises:
        ValueError: if a slope or groups are given to an activation or norm that has none, the groups do not divide a
            layer's channels, or norm=instance is left single pixels.

    Source: Howard et al. 2017, "MobileNets", table 1; Sandler et al. 2018, "MobileNetV2", section 3 and table 2
    """
    small = pick_form(form, input_shape) == "small"
    own = "relu" if version == 1 else "relu6"
    kit = Kit(norm, norm_groups, own if activation is None else activation, negative_slope)
    # Five halvings, of the small form three, which round up.
    halved = 8 if small else 32
    kit.refuse_single_pixels("last", (-(-input_shape[1] // halved), -(-input_shape[2] // halved)))
    body, c_in = (_version1 if version == 1 else _version2)(kit, input_shape[0], width, small)
    body.append(GlobalAverage())
    if dropout > 0:
        body.append(nn.Dropout(dropout))
    return classifier(body, c_in, num_classes, init)


def _version1(kit: Kit, channels: int, width: float, small: bool) -> tuple[list[nn.Module], int]:
    c_in = scaled(32, width)
    layers: list[nn.Module] = [nn.Sequential(*kit.conv(channels, c_in, 3, stride=1 if small else 2))]
    for number, (base, stride) in enumerate(SEPARABLE):
        c_out = scaled(base, width)
        layers.append(separable(kit, c_in, c_out, 1 if small and number == 1 else stride))
        c_in = c_out
    return layers, c_in


def _version2(kit: Kit, channels: int, width: float, small: bool) -> tuple[list[nn.Module], int]:
    c_in = _multiple_of_8(32 * width)
    layers: list[nn.Module] = [nn.Sequential(*kit.conv(channels, c_in, 3, stride=1 if small else 2))]
    for stage, (expansion, base, count, first) in enumerate(INVERTED):
        c_out = _multiple_of_8(base * width)
        for i in range(count):
            stride = 1 if i > 0 or (small and stage == 1) else first
            layers.append(inverted(kit, c_in, c_out, stride, expansion))
            c_in = c_out
    last = _multiple_of_8(1280 * max(1.0, width))
    layers.append(nn.Sequential(*kit.conv(c_in, last, 1)))
    return layers, last


def _multiple_of_8(channels: float) -> int:
    """Round to a multiple of 8, at least 8, and down by at most a tenth, as the authors do."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near
