"""DenseNet. Shapes: B batch, C channels, H height, W width, K classes; k growth, L depth."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from dlrun.models.blocks import GlobalAverage, classifier, pick_form, window_out
from dlrun.models.options import Kit
from dlrun.registry import MODELS
from dlrun.types import NonNegativeFloat, PositiveInt, Range, Rate

Activation = Literal["relu", "leaky_relu", "prelu", "elu", "gelu", "silu", "tanh", "sigmoid"]
Form = Literal["auto", "imagenet", "small"]
Init = Literal["he", "xavier", "orthogonal", "small_gaussian", "constant", "lsuv", "default"]
Norm = Literal["batch", "group", "layer", "instance", "none"]
Share = Annotated[float, Range(gt=0, le=1)]

REMEDY = "use images of at least 29x29 pixels, or form=small"


@dataclass(frozen=True)
class _Plan:
    """Dense layers of each block, k, and channels of the first convolution."""

    blocks: tuple[int, ...]
    growth: int
    channels: int


IMAGENET_PLANS = {
    121: _Plan((6, 12, 24, 16), 32, 64),
    161: _Plan((6, 12, 36, 24), 48, 96),
    169: _Plan((6, 12, 32, 32), 32, 64),
    201: _Plan((6, 12, 48, 32), 32, 64),
}
"""Table 1 of the paper and, 161, the authors' wider net, by depth."""


class Dense(nn.Module):
    """A dense layer: its new channels behind those of its input.

    Args:
        body: from the input's channels to k.
    """

    def __init__(self, body: nn.Sequential) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C + k, H, W)."""
        return torch.cat([x, self.body(x)], dim=1)


def norm_act_conv(kit: Kit, c_in: int, c_out: int, kernel: int) -> list[nn.Module]:
    """Make norm, activation and convolution as a flat list: (B, c_in, H, W) to (B, c_out, H, W)."""
    # A bias is none of the norm's in front of it: only a net without norms needs one.
    conv = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=kit.norm == "none")
    return [*kit.before(c_in), conv]


def dense(kit: Kit, c_in: int, growth: int, bottleneck: bool, dropout: float) -> Dense:
    """Make a dense layer, from ``c_in`` to ``c_in + growth`` channels.

    Args:
        kit: norm and activation.
        c_in: channels of the input.
        growth: new channels, by a 3x3 convolution.
        bottleneck: a 1x1 convolution to 4 ``growth`` channels before it.
        dropout: probability of dropping a new value, in [0, 1).
    """
    layers = norm_act_conv(kit, c_in, 4 * growth, 1) if bottleneck else []
    layers += norm_act_conv(kit, 4 * growth if bottleneck else c_in, growth, 3)
    if dropout > 0:
        layers.append(nn.Dropout(dropout))
    return Dense(nn.Sequential(*layers))


@MODELS.register
def densenet(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    depth: PositiveInt = 121,
    form: Form = "auto",
    growth: PositiveInt | None = None,
    bottleneck: bool = True,
    compression: Share | None = None,
    activation: Activation = "relu",
    negative_slope: NonNegativeFloat | None = None,
    norm: Norm = "batch",
    norm_groups: PositiveInt | None = None,
    dropout: Rate = 0.0,
    init: Init = "he",
) -> nn.Module:
    """DenseNet: blocks of layers that each see the outputs of all layers before them, and add k channels.

    Maps (B, C, H, W) to class scores (B, K). Depths 121, 161, 169 and 201 have the four ImageNet blocks; other
    depths L, 6n+4 with bottlenecks (40, 100, 190, 250) and 3n+4 without (22, 40, 100), have the three equal
    CIFAR blocks. Between blocks a 1x1 convolution keeps a share of the channels and a 2x2 average pool halves
    the image. DenseNet-BC (L=100, k=12), of 0.77M parameters, is ``depth=100``.

    Args:
        input_shape: (C, H, W) of one image; the imagenet form needs at least 29 pixels on each side.
        num_classes: K.
        depth: L, number of layers with weights: 121, 161, 169, 201, or 6n+4 (without bottlenecks 3n+4).
        form: stem; imagenet (7x7 stride 2, then max pool), small (3x3 stride 1; leaves out the pools that would go
            below one pixel), or auto: small up to 64 pixels on the shorter side and for the CIFAR depths, which
            have no other.
        growth: k, new channels of each layer; null: the depth's own (161: 48; 121, 169, 201: 32; others: 12).
        bottleneck: a 1x1 convolution to 4k channels before each 3x3 one ("B").
        compression: share of the channels that is kept between blocks, in (0, 1] ("C"); null: 0.5 with
            bottlenecks, 1 without, as in the paper.
        activation: nonlinearity before each convolution.
        negative_slope: slope below zero of leaky_relu (null: 0.01), start value of prelu (null: 0.25).
        norm: normalisation before each activation; none gives the convolutions a bias.
        norm_groups: groups of norm=group; divides all channels; null: each layer's own, up to 8.
        dropout: probability of dropping a new value, in [0, 1); 0.2 in the paper's nets without augmentation.
        init: initialisation of all but the last layer; that one starts small, so that the loss is ln K.

    Raises:
        ValueError: if there is no DenseNet of this depth, form=imagenet is asked of a CIFAR depth, the image is
            too small for the form, a slope or groups are given to an activation or norm that has none, the groups do
            not divide a layer's channels, or norm=instance is left single pixels.

    Source: Huang, Liu, van der Maaten and Weinberger 2017, "Densely Connected Convolutional Networks", section 3
        and table 1
    """
    plan = _plan(depth, growth, bottleneck, form)
    small = depth not in IMAGENET_PLANS or pick_form(form, input_shape) == "small"
    kit = Kit(norm, norm_groups, activation, negative_slope)
    kept = (0.5 if bottleneck else 1.0) if compression is None else compression
    channels, size = plan.channels, (input_shape[1], input_shape[2])
    if small:
        stem: list[nn.Module] = [nn.Conv2d(input_shape[0], channels, 3, padding=1, bias=False)]
    else:
        stem = [*kit.conv(input_shape[0], channels, 7, stride=2), nn.MaxPool2d(3, stride=2, padding=1)]
        size = window_out("conv0", size, 7, stride=2, padding=(3, 3), remedy=REMEDY)
        size = window_out("pool0", size, 3, stride=2, padding=(1, 1), remedy=REMEDY)
    parts: OrderedDict[str, nn.Module] = OrderedDict(stem=nn.Sequential(*stem))
    for number, count in enumerate(plan.blocks, start=1):
        layers = [dense(kit, channels + i * plan.growth, plan.growth, bottleneck, dropout) for i in range(count)]
        parts[f"block{number}"] = nn.Sequential(*layers)
        channels += count * plan.growth
        if number == len(plan.blocks):
            break
        fewer = max(1, int(channels * kept))
        transition = norm_act_conv(kit, channels, fewer, 1)
        if not small or min(size) > 1:
            transition.append(nn.AvgPool2d(2))
            size = window_out(f"pool{number}", size, 2, stride=2, remedy=REMEDY)
        parts[f"transition{number}"] = nn.Sequential(*transition)
        channels = fewer
    kit.refuse_single_pixels(f"block{len(plan.blocks)}", size)
    parts["norm"] = nn.Sequential(*kit.before(channels))
    parts["pool"] = GlobalAverage()
    return classifier(nn.Sequential(parts), channels, num_classes, init)


def _plan(depth: int, growth: int | None, bottleneck: bool, form: str) -> _Plan:
    if depth in IMAGENET_PLANS:
        plan = IMAGENET_PLANS[depth]
        # The authors' nets begin with 2k channels, whatever k is.
        return plan if growth is None else _Plan(plan.blocks, growth, 2 * growth)
    step = 6 if bottleneck else 3
    n, rest = divmod(depth - 4, step)
    if rest or n < 1:
        near = step * max(1, n) + 4
        raise ValueError(
            f"there is no DenseNet of depth={depth} with bottleneck={str(bottleneck).lower()}; choose 121, 161, 169 "
            f"or 201, or {step}n+4 for small images, such as {near} or {near + step}"
        )
    if form == "imagenet":
        raise ValueError(
            f"form=imagenet does not apply to depth={depth}, a net for small images; "
            "set form=auto, or depth to 121, 161, 169 or 201"
        )
    k = 12 if growth is None else growth
    return _Plan((n, n, n), k, 2 * k if bottleneck else 16)
