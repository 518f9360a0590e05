"""GoogLeNet. Shapes: B batch, C channels, H height, W width, K classes."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from dlrun.models.blocks import (
    GlobalAverage,
    Stack,
    classifier,
    local_response_norm,
    pick_form,
    scaled,
    window_out,
)
from dlrun.models.init import initialise, with_data
from dlrun.models.options import Kit
from dlrun.registry import MODELS
from dlrun.tasks.base import WithAuxiliary
from dlrun.types import NonNegativeFloat, PositiveFloat, PositiveInt, Rate

Activation = Literal["relu", "leaky_relu", "prelu", "elu", "gelu", "silu", "tanh", "sigmoid"]
Form = Literal["auto", "imagenet", "small"]
Init = Literal["he", "xavier", "orthogonal", "small_gaussian", "constant", "lsuv", "default"]
Norm = Literal["batch", "group", "layer", "instance", "none"]

INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
"""Table 1 of the paper: channels of 1x1, 3x3 reduced, 3x3, 5x5 reduced, 5x5 and of the projected pool."""

AUXILIARY = ("inception4a", "inception4d")
"""The modules with an auxiliary head on their output."""


@dataclass(frozen=True)
class _Plan:
    """What differs with and without a norm: the wide window, the last pool, LRN, and the smallest image."""

    window: Literal[3, 5]
    last_pool: int
    lrn: bool
    smallest: int


PLANS = {
    True: _Plan(window=3, last_pool=2, lrn=False, smallest=15),
    False: _Plan(window=5, last_pool=3, lrn=True, smallest=31),
}

EPS = 1e-3
"""What batch norm adds to the variance, as in TensorFlow's net and so in torchvision's."""

PAPER = Kit(eps=EPS)
"""The paper's layers: ReLU and no norm."""


class GridAverage(nn.Module):
    """Average over a grid of windows that tile the map, overlapping where they must.

    The same as ``nn.AdaptiveAvgPool2d``, but with a gradient that is deterministic on CUDA too.

    Args:
        side: windows in each direction.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, side, side)."""
        rows = torch.stack([x[:, :, part].mean(2) for part in self._parts(x.shape[2])], dim=2)
        return torch.stack([rows[..., part].mean(3) for part in self._parts(x.shape[3])], dim=3)

    def _parts(self, size: int) -> list[slice]:
        return [slice(i * size // self.side, -(-(i + 1) * size // self.side)) for i in range(self.side)]


def inception(
    c_in: int, channels: tuple[int, int, int, int, int, int], *, window: Literal[3, 5] = 5, kit: Kit = PAPER
) -> Stack:
    """Make an inception module: (B, c_in, H, W) through four branches, stacked.

    Args:
        c_in: channels of the input.
        channels: of 1x1, 3x3 reduced, 3x3, 5x5 reduced, 5x5, and of the projection behind the 3x3 max pool.
        window: side of the wide window, 5 in the paper.
        kit: norm and activation of the convolutions.
    """
    c1, reduced3, c3, reduced5, c5, pooled = channels
    conv = kit.conv
    return Stack(
        nn.Sequential(*conv(c_in, c1, 1)),
        nn.Sequential(*conv(c_in, reduced3, 1), *conv(reduced3, c3, 3)),
        nn.Sequential(*conv(c_in, reduced5, 1), *conv(reduced5, c5, window)),
        nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), *conv(c_in, pooled, 1)),
    )


def naive_inception(c_in: int, channels: tuple[int, int, int], *, window: Literal[3, 5] = 5, kit: Kit = PAPER) -> Stack:
    """Make an inception module without reductions: (B, c_in, H, W) to c_in + sum(channels) channels.

    Args:
        c_in: channels of the input; the pool passes them all on, so the channels grow from module to module.
        channels: of 1x1, 3x3 and 5x5.
        window: side of the wide window, 5 in the paper.
        kit: norm and activation of the convolutions.
    """
    c1, c3, c5 = channels
    conv = kit.conv
    return Stack(
        nn.Sequential(*conv(c_in, c1, 1)),
        nn.Sequential(*conv(c_in, c3, 3)),
        nn.Sequential(*conv(c_in, c5, window)),
        nn.MaxPool2d(3, stride=1, padding=1),
    )


class GoogLeNet(nn.Module):
    """GoogLeNet with auxiliary heads; see :func:`googlenet`.

    Args:
        features: named parts in order, to (B, N).
        auxiliary: heads by the name of the part they stand on.
        head: N to K.
        weight: factor on the loss of each auxiliary head.
    """

    def __init__(self, features: nn.Sequential, auxiliary: nn.ModuleDict, head: nn.Linear, weight: float) -> None:
        super().__init__()
        self.features = features
        self.auxiliary = auxiliary
        self.head = head
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor | WithAuxiliary:
        """Map (B, C, H, W) to class scores (B, K), in training with those of the auxiliary heads."""
        if not self.training:
            result: Tensor = self.head(self.features(x))
            return result
        auxiliary = []
        for name, part in self.features.named_children():
            x = part(x)
            if name in self.auxiliary:
                auxiliary.append(self.auxiliary[name](x))
        return WithAuxiliary(self.head(x), tuple(auxiliary), self.weight)


@MODELS.register
def googlenet(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    form: Form = "auto",
    norm: Norm = "batch",
    norm_groups: PositiveInt | None = None,
    activation: Activation = "relu",
    negative_slope: NonNegativeFloat | None = None,
    window: Literal[3, 5] | None = None,
    naive: bool = False,
    auxiliary_weight: NonNegativeFloat = 0.3,
    dropout: Rate = 0.4,
    width: PositiveFloat = 1.0,
    init: Init = "he",
) -> nn.Module:
    """GoogLeNet: nine inception modules, a global average, one linear layer, and two auxiliary heads in training.

    Maps (B, C, H, W) to class scores (B, K); in training to
    :class:`dlrun.tasks.base.WithAuxiliary`, the scores of the last head and of the two heads on modules 4a and
    4d. An inception module runs 1x1, 3x3 and 5x5 convolutions and a 3x3 max pool side by side, and stacks their
    channels; 1x1 convolutions reduce the channels before the wide windows. The small form begins with a 3x3
    convolution of stride 1 in the place of the stem, and pads its two pools, so it takes any image.

    Deviations: batch norm, by default; set norm=none for the paper's net. With it the net is
    torchvision's: no local response normalisation, a last pool of 2x2, and 3x3 windows in the 5x5 branches. The
    auxiliary heads average over a 4x4 grid of any map, which is about the paper's 5x5 windows of stride 3.

    Args:
        input_shape: (C, H, W) of one image; the imagenet form needs at least 15 pixels on each side (without
            norm 31).
        num_classes: K.
        form: imagenet (7x7 stride 2 first), small, or auto: small up to 64 pixels on the shorter side.
        norm: normalisation after each convolution; the auxiliary heads have it too.
        norm_groups: groups of norm=group; divides all channels; null: each layer's own, up to 8.
        activation: nonlinearity.
        negative_slope: slope below zero of leaky_relu (null: 0.01), start value of prelu (null: 0.25).
        window: side of the wide window of the inception modules; null: 3 with a norm, 5 without.
        naive: leave out the 1x1 reductions, to show what they save; then the pool passes all channels on.
        auxiliary_weight: factor on the loss of each auxiliary head, >= 0; 0 for no auxiliary heads.
        dropout: probability of dropping a feature before the head, in [0, 1); the auxiliary heads have 0.7, or 0
            if it is 0.
        width: factor on the channels and the auxiliary heads' hidden units, > 0; rounded, at least 1 remains.
        init: initialisation of all but the last layers; those start small, so that the loss is ln K.

    Raises:
        ValueError: if the image is too small for the form; a slope or groups are given to an activation or norm that
            has none; the groups do not divide a layer's channels; or norm=instance is left single pixels.

    Source: Szegedy et al. 2015, "Going Deeper with Convolutions", table 1 and section 5; batch norm: Ioffe and
        Szegedy 2015, "Batch Normalization"
    """
    kit = Kit(norm, norm_groups, activation, negative_slope, eps=EPS)
    plan = PLANS[norm != "none"]
    small = pick_form(form, input_shape) == "small"
    side = plan.window if window is None else window
    parts, c_in, size = _stem(input_shape, plan, small, kit, width)
    edge = (int(small), int(small))
    heads = nn.ModuleDict()
    for name, full in INCEPTIONS.items():
        if name in ("4a", "5a"):
            kernel = 3 if small or name == "4a" else plan.last_pool
            parts[f"pool{int(name[0]) - 1}"] = nn.MaxPool2d(kernel, stride=2, padding=edge, ceil_mode=not small)
            size = window_out(
                f"pool{int(name[0]) - 1}", size, kernel, stride=2, padding=edge, ceil=not small, remedy=_remedy(plan)
            )
        c1, reduced3, c3, reduced5, c5, pooled = (scaled(channels, width) for channels in full)
        part = f"inception{name}"
        if naive:
            parts[part] = naive_inception(c_in, (c1, c3, c5), window=side, kit=kit)
            c_in = c1 + c3 + c5 + c_in
        else:
            channels = (c1, reduced3, c3, reduced5, c5, pooled)
            parts[part] = inception(c_in, channels, window=side, kit=kit)
            c_in = c1 + c3 + c5 + pooled
        if auxiliary_weight > 0 and part in AUXILIARY:
            heads[part] = _auxiliary_head(c_in, num_classes, kit, 0.7 if dropout > 0 else 0.0, width, init)
    kit.refuse_single_pixels("inception5b", size)
    parts["average"] = GlobalAverage()
    if dropout > 0:
        parts["dropout"] = nn.Dropout(dropout)

    features = nn.Sequential(parts)
    net = classifier(features, c_in, num_classes, init)
    head = net.get_submodule("head")
    assert isinstance(head, nn.Linear)
    return with_data(GoogLeNet(features, heads, head, auxiliary_weight), init) if heads else net


def _remedy(plan: _Plan) -> str:
    return f"use images of at least {plan.smallest}x{plan.smallest} pixels, or form=small"


def _stem(
    input_shape: tuple[int, int, int], plan: _Plan, small: bool, kit: Kit, width: float
) -> tuple[OrderedDict[str, nn.Module], int, tuple[int, int]]:
    """Make what stands before the inception modules; with the channels and the size it gives."""
    conv = kit.conv
    c1, c3 = scaled(64, width), scaled(192, width)
    channels, *sides = input_shape
    size = (sides[0], sides[1])
    if small:
        return OrderedDict(stem=nn.Sequential(*conv(channels, c3, 3))), c3, size
    layers = conv(channels, c1, 7, stride=2)
    size = window_out("conv1", size, 7, stride=2, padding=(3, 3), remedy=_remedy(plan))
    layers.append(nn.MaxPool2d(3, stride=2, ceil_mode=True))
    size = window_out("pool1", size, 3, stride=2, ceil=True, remedy=_remedy(plan))
    if plan.lrn:
        layers.append(local_response_norm())
    layers += [*conv(c1, c1, 1), *conv(c1, c3, 3)]
    if plan.lrn:
        layers.append(local_response_norm())
    layers.append(nn.MaxPool2d(3, stride=2, ceil_mode=True))
    size = window_out("pool2", size, 3, stride=2, ceil=True, remedy=_remedy(plan))
    return OrderedDict(stem=nn.Sequential(*layers)), c3, size


def _auxiliary_head(c_in: int, num_classes: int, kit: Kit, dropout: float, width: float, init: str) -> nn.Sequential:
    channels, units = scaled(128, width), scaled(1024, width)
    body = nn.Sequential(
        GridAverage(4),
        *kit.conv(c_in, channels, 1),
        nn.Flatten(),
        *replace(kit, norm="none", norm_groups=None, dropout=dropout).hidden(channels * 16, units),
    )
    head = nn.Linear(units, num_classes)
    initialise(body, head, init)
    return nn.Sequential(OrderedDict(features=body, head=head))
