"""The ResNet family; its blocks are in ``residual``. Shapes: B batch, C channels, H height, W width, K classes."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from dlrun.models.blocks import GlobalAverage, classifier, pick_form, scaled
from dlrun.models.residual import PreActivation, Residual, Style, last_scale
from dlrun.registry import MODELS
from dlrun.types import NonNegativeFloat, PositiveFloat, PositiveInt, Rate

Activation = Literal["relu", "leaky_relu", "prelu", "elu", "gelu", "silu", "tanh", "sigmoid"]
Form = Literal["auto", "imagenet", "small"]
Init = Literal["he", "xavier", "orthogonal", "small_gaussian", "constant", "lsuv", "default"]
Norm = Literal["batch", "group", "layer", "instance", "none"]
Shortcut = Literal["A", "B"]


@dataclass(frozen=True)
class _Plan:
    """Stages of a depth: blocks and channels of each, and the forms that the depth has of its own.

    ``wide``: a Wide ResNet: pre-activation, and the width factor does not act on the stem.
    """

    bottleneck: bool
    blocks: tuple[int, ...]
    channels: tuple[int, ...]
    shortcut: Shortcut
    wide: bool = False


IMAGENET_PLANS = {
    18: _Plan(False, (2, 2, 2, 2), (64, 128, 256, 512), "B"),
    34: _Plan(False, (3, 4, 6, 3), (64, 128, 256, 512), "B"),
    50: _Plan(True, (3, 4, 6, 3), (64, 128, 256, 512), "B"),
    101: _Plan(True, (3, 4, 23, 3), (64, 128, 256, 512), "B"),
    152: _Plan(True, (3, 8, 36, 3), (64, 128, 256, 512), "B"),
}
"""Table 1 of the paper, by depth."""

IMAGENET_GROUPS, SMALL_GROUPS = 32, 8
"""Groups of norm=group where norm_groups is null: those of Wu and He 2018, and a number that divides 16 channels."""


@MODELS.register
def resnet(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    depth: PositiveInt = 18,
    form: Form = "auto",
    shortcut: Shortcut | None = None,
    plain: bool = False,
    pre_activation: bool | None = None,
    bottleneck: bool | None = None,
    groups: PositiveInt = 1,
    base_width: PositiveInt = 64,
    squeeze_excite: PositiveInt | None = None,
    stochastic_depth: Rate = 0.0,
    dropout: Rate = 0.0,
    activation: Activation = "relu",
    negative_slope: NonNegativeFloat | None = None,
    norm: Norm = "batch",
    norm_groups: PositiveInt | None = None,
    zero_init_residual: bool = False,
    width: PositiveFloat = 1.0,
    init: Init = "he",
) -> nn.Module:
    """ResNet and its kin: stages of residual blocks, a global average, and one linear layer.

    Maps (B, C, H, W) to class scores (B, K); takes any image size. Depths 18, 34 (basic blocks), 50, 101, 152
    (bottlenecks) have the four ImageNet stages. The others have three stages of n blocks with 16, 32, 64 channels:
    6n+2 (8, 14, 20, 26, 32, 44, 56, 110, ...) the CIFAR nets; 9n+2 with bottleneck=true (29, 164, 1001, ...) those of
    bottlenecks; 6n+4 (10, 16, 22, 28, 40, ...) the Wide ResNets, which count their projections and are of the
    pre-activation form. 34, 50, 101 and 152, which are more than one of these, mean the ImageNet ones.

    Known nets: WRN-28-10 is depth=28 width=10 (dropout=0.3); wide_resnet50_2 depth=50 base_width=128; ResNeXt-50 32x4d
    depth=50 groups=32 base_width=4; ResNeXt-29 8x64d depth=29 bottleneck=true width=4 groups=8; SE-ResNet-50 depth=50
    squeeze_excite=16.

    Deviations: bottlenecks have their stride in the 3x3 convolution, not in the first 1x1 (as torchvision; it
    discards no inputs). Stochastic depth draws for each sample, not for the batch, and scales up in training what the
    paper scales down afterwards. Without norm, the last convolution of each of the L residual bodies starts scaled by
    1 / sqrt(L), so that their sum does not grow with the depth (De and Smith 2020, section 3).

    Args:
        input_shape: (C, H, W) of one image.
        num_classes: K.
        depth: number of layers with weights along the longest path: 18, 34, 50, 101, 152, 6n+2 from 8, 6n+4 from 10,
            or with bottleneck=true 9n+2 from 11.
        form: stem; imagenet (7x7 stride 2, then max pool), small (3x3 stride 1), or auto: small up to 64
            pixels on the shorter side and for all depths of three stages, which have no other.
        shortcut: where shapes differ: A takes the identity with zeros for new channels, B a 1x1 projection;
            null: the depth's own (A for 6n+2 and 9n+2, B for the others).
        plain: leave out all shortcuts, to show the degradation of deep plain nets.
        pre_activation: norm and activation before each convolution, and nothing behind the addition; null: the
            depth's own (true for 6n+4, false for the others).
        bottleneck: blocks of 1x1, 3x3, 1x1 convolutions with 4 times the channels at their end; null: the depth's own
            (true for 50, 101 and 152).
        groups: parts of the channels that a bottleneck's 3x3 convolution treats apart (ResNeXt's cardinality).
        base_width: channels of each of these parts in blocks of 64 channels; more with more channels.
        squeeze_excite: reduction of a squeeze-excite at the end of each body, 16 in the paper; null: none.
        stochastic_depth: probability of leaving out the last body for a sample, in [0, 1), 0.5 in the paper; grows
            from the first block in equal steps.
        dropout: probability of dropping a value before the last convolution of each block, in [0, 1).
        activation: nonlinearity; the squeeze-excite keeps its own.
        negative_slope: slope below zero of leaky_relu (null: 0.01), start value of prelu (null: 0.25).
        norm: normalisation with each convolution; none gives the convolutions a bias.
        norm_groups: groups of norm=group; divides all channels; null: 32, or 8 in nets of three stages.
        zero_init_residual: start the last norm of each block at zero, or its last convolution where no norm stands
            at the end: each block starts as its shortcut.
        width: factor on the channels, > 0; rounded, at least 1 remains; for 6n+4 not on the stem's (the k of the
            Wide ResNet).
        init: initialisation of all but the last layer; that one starts small, so that the loss is ln K.

    Raises:
        ValueError: if there is no ResNet of this depth, or an option does not apply: form=imagenet to a net of
            three stages; bottleneck to another than the depth's own of 18 to 152; groups or base_width to basic
            blocks; shortcut, zero_init_residual, pre_activation or stochastic_depth to a plain net; norm_groups to
            another norm or to channels that it does not divide; negative_slope to an activation that has none; or
            norm=instance to images of which it leaves single pixels.

    Source: He, Zhang, Ren and Sun 2016, "Deep Residual Learning for Image Recognition", sections 3.3 and
        4.2; pre_activation: the same, "Identity Mappings in Deep Residual Networks"; 6n+4: Zagoruyko and Komodakis
        2016, "Wide Residual Networks"; groups: Xie et al. 2017, "Aggregated Residual Transformations";
        squeeze_excite: Hu, Shen and Sun 2018, "Squeeze-and-Excitation Networks"; stochastic_depth: Huang et al. 2016,
        "Deep Networks with Stochastic Depth", equation 4; zero_init_residual: Goyal et al. 2017, "Accurate, Large
        Minibatch SGD", section 5.1
    """
    plan = _plan(depth, bottleneck)
    three_stages = depth not in IMAGENET_PLANS
    small = three_stages or pick_form(form, input_shape) == "small"
    _refuse_idle(depth, form, plan, groups, base_width, norm, norm_groups)
    if plain:
        _refuse_shortcuts(shortcut, zero_init_residual, pre_activation, stochastic_depth)
    style = Style(
        norm=norm,
        norm_groups=norm_groups or (SMALL_GROUPS if three_stages else IMAGENET_GROUPS),
        activation=activation,
        negative_slope=negative_slope,
        pre_activation=not plain and (plan.wide if pre_activation is None else pre_activation),
        bottleneck=plan.bottleneck,
        groups=groups,
        base_width=base_width,
        squeeze_excite=squeeze_excite,
        dropout=dropout,
        shortcut=None if plain else shortcut or plan.shortcut,
    )
    if norm == "instance":
        _refuse_single_pixels(input_shape, small, len(plan.blocks))

    c_in = plan.channels[0] if plan.wide else scaled(plan.channels[0], width)
    parts: OrderedDict[str, nn.Module] = OrderedDict(stem=_stem(style, input_shape[0], c_in, small))
    total, done = sum(plan.blocks), 0
    for stage, (count, base) in enumerate(zip(plan.blocks, plan.channels, strict=True), start=1):
        channels = scaled(base, width)
        blocks: list[nn.Module] = []
        for i in range(count):
            stride = 2 if stage > 1 and i == 0 else 1
            done += 1
            rate = stochastic_depth * done / total
            blocks.append(style.block(c_in, channels, stride, drop_path=rate, first=done == 1))
            c_in = style.c_out(channels)
        parts[f"stage{stage}"] = nn.Sequential(*blocks)
    if style.pre_activation:
        parts["last"] = style.norm_act(c_in)
    parts["pool"] = GlobalAverage()

    net = classifier(nn.Sequential(parts), c_in, num_classes, init)
    if zero_init_residual:
        _scale_bodies(net, 0.0)
    elif norm == "none":
        _scale_bodies(net, total**-0.5)
    return net


def _plan(depth: int, bottleneck: bool | None) -> _Plan:
    if depth in IMAGENET_PLANS:
        plan = IMAGENET_PLANS[depth]
        if bottleneck not in (None, plan.bottleneck):
            raise ValueError(
                f"bottleneck={str(bottleneck).lower()} does not apply to depth={depth}, which has "
                f"{'bottlenecks' if plan.bottleneck else 'basic blocks'}; set bottleneck=null"
            )
        return plan
    channels = (16, 32, 64)
    if bottleneck:
        n, rest = divmod(depth - 2, 9)
        if rest or n < 1:
            raise ValueError(
                f"there is no ResNet of bottlenecks of depth={depth}; choose 50, 101 or 152, or 9n+2 for small "
                f"images, such as {max(11, 9 * n + 2)} or {max(20, 9 * n + 11)}"
            )
        return _Plan(True, (n, n, n), channels, "A")
    n, rest = divmod(depth - 2, 6)
    if n >= 1 and rest == 0:
        return _Plan(False, (n, n, n), channels, "A")
    if n >= 1 and rest == 2:
        return _Plan(False, (n, n, n), channels, "B", wide=True)
    raise ValueError(
        f"there is no ResNet of depth={depth}; choose 18, 34, 50, 101 or 152; 6n+2 for small images, "
        f"such as {max(8, 6 * n + 2)} or {max(14, 6 * n + 8)}; 6n+4 for Wide ResNets; or 9n+2 with bottleneck=true"
    )


def _refuse_idle(
    depth: int, form: str, plan: _Plan, groups: int, base_width: int, norm: str, norm_groups: int | None
) -> None:
    if form == "imagenet" and depth not in IMAGENET_PLANS:
        raise ValueError(
            f"form=imagenet does not apply to depth={depth}, a net for small images; "
            "set form=auto, or depth to 18, 34, 50, 101 or 152"
        )
    if not plan.bottleneck:
        for name, value, idle in (("groups", groups, 1), ("base_width", base_width, 64)):
            if value != idle:
                raise ValueError(
                    f"{name}={value} does not apply to the basic blocks of depth={depth}; "
                    f"set {name}={idle}, or depth to 50, 101 or 152, or bottleneck=true with a depth of 9n+2"
                )
    if norm_groups is not None and norm != "group":
        raise ValueError(f"norm_groups={norm_groups} has no effect with norm={norm}; set it to null, or norm=group")


def _refuse_shortcuts(
    shortcut: str | None, zero_init_residual: bool, pre_activation: bool | None, stochastic_depth: float
) -> None:
    if shortcut is not None:
        raise ValueError(f"shortcut={shortcut} does not apply to a plain net; set shortcut=null or plain=false")
    if zero_init_residual:
        raise ValueError(
            "zero_init_residual=true would silence a plain net; set zero_init_residual=false or plain=false"
        )
    if pre_activation:
        raise ValueError(
            "pre_activation=true does not apply to a plain net, which has no addition to keep free; "
            "set pre_activation=null or plain=false"
        )
    if stochastic_depth > 0:
        raise ValueError(
            f"stochastic_depth={stochastic_depth:g} would cut a plain net in two; set stochastic_depth=0 or plain=false"
        )


def _refuse_single_pixels(input_shape: tuple[int, int, int], small: bool, stages: int) -> None:
    # Each halving, of the stem too, rounds up: two pixels are left of one more than what gives one.
    halved = 2 ** (stages - 1 + (0 if small else 2))
    if max(input_shape[1:]) <= halved:
        raise ValueError(
            f"norm=instance needs more than one pixel in each map, and the last stage has 1x1; "
            f"use images of more than {halved} pixels on a side, or another norm"
        )


def _stem(style: Style, c_in: int, channels: int, small: bool) -> nn.Sequential:
    conv = style.conv(c_in, channels, 3) if small else style.conv(c_in, channels, 7, 2)
    pool = [] if small else [nn.MaxPool2d(3, stride=2, padding=1)]
    return nn.Sequential(conv, *style.normalise(channels), style.act(), *pool)


def _scale_bodies(net: nn.Module, factor: float) -> None:
    """Multiply what each residual body ends in; in a plain net there is none."""
    for block in net.modules():
        if isinstance(block, Residual | PreActivation):
            with torch.no_grad():
                for value in last_scale(block).parameters():
                    value.mul_(factor)
