"""The configurable convolutional net. Shapes: B batch, C channels, H height, W width, K classes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated, Literal

from torch import nn

from dlrun.models.blocks import classifier
from dlrun.models.options import Chain, Kit
from dlrun.registry import MODELS
from dlrun.types import NonNegativeFloat, PositiveInt, Range, Rate

Init = Literal["he", "xavier", "orthogonal", "small_gaussian", "constant", "lsuv", "default"]
Nonlinearity = Literal["relu", "leaky_relu", "prelu", "elu", "gelu", "silu", "tanh", "sigmoid", "maxout"]
Norm = Literal["batch", "group", "layer", "instance", "none"]
Pool = Literal["max", "average", "strided", "fractional", "none"]
Pieces = Annotated[int, Range(ge=2)]

REMEDY = "use larger images, fewer stages in pool_after, or pool=none"


@MODELS.register
def convnet(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    channels: tuple[PositiveInt, ...] = (32, 64, 128),
    convs: PositiveInt = 2,
    kernel: Literal[1, 3, 5, 7] = 3,
    pool: Pool = "max",
    pool_after: tuple[PositiveInt, ...] | None = None,
    hidden: tuple[PositiveInt, ...] = (256,),
    average: bool = False,
    activation: Nonlinearity = "relu",
    negative_slope: NonNegativeFloat | None = None,
    pieces: Pieces | None = None,
    norm: Norm = "batch",
    norm_groups: PositiveInt | None = None,
    conv_dropout: Rate = 0.0,
    dropout: Rate = 0.0,
    drop_connect: Rate = 0.0,
    init: Init = "he",
) -> nn.Module:
    """Convolutional net to a pattern: [(CONV-NORM-ACT)*N-POOL?-DROPOUT?]*M-(FC-NORM-ACT-DROPOUT?)*L-FC.

    Maps (B, C, H, W) to class scores (B, K). M is the number of entries of ``channels``, N is ``convs``, and L is
    the number of entries of ``hidden``. The convolutions keep the size, so the pools alone change it.

    Args:
        input_shape: (C, H, W) of one image.
        num_classes: K.
        channels: of each stage, M of them; empty for none.
        convs: N, convolutions of each stage.
        kernel: side of the convolutions' windows.
        pool: what halves the size: max or average of 2x2, rows and columns left over are dropped; strided, a 3x3
            convolution of stride 2 with norm and activation; fractional, max over overlapping 2x2 windows that
            leaves 0.7 of each side; or none.
        pool_after: numbers of the stages with a pool behind, from 1; null: all.
        hidden: units of each hidden layer, L of them; empty for none.
        average: a global average before the hidden layers in the place of flattening: fewer weights, any size.
        activation: nonlinearity; maxout takes the largest of some, so its layers have as many times the channels or
            units.
        negative_slope: slope below zero of leaky_relu (null: 0.01), start value of prelu (null: 0.25).
        pieces: inputs of one maxout; null: 2.
        norm: normalisation before each activation; instance acts on convolutions alone.
        norm_groups: groups of norm=group; divides all channels and units; null: each layer's own, up to 8.
        conv_dropout: probability of dropping a whole map behind each stage, in [0, 1).
        dropout: probability of dropping a hidden unit, in [0, 1).
        drop_connect: probability of dropping a weight of the hidden layers, in [0, 1); in evaluation they have the
            mean weights.
        init: initialisation of all but the last layer; that one starts small, so that the loss is ln K.

    Raises:
        ValueError: if the image is too small for a pool or for norm=instance, pool_after names a stage that is not
            there, the groups do not divide the channels or units, or an option is set that has no effect.

    Source: Stanford CS231n 2017, lecture 5, "Convolutional Neural Networks"
    """
    _refuse_idle(channels, hidden, pool, pool_after, dropout, drop_connect, conv_dropout, average)
    kit = Kit(
        norm, norm_groups, activation, negative_slope, pieces, pool=pool, dropout=dropout, drop_connect=drop_connect
    )
    chain = Chain(kit, input_shape, REMEDY)
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for number, c_out in enumerate(channels, start=1):
        for _ in range(convs):
            chain.conv(f"stage{number}", c_out, kernel)
        if pool != "none" and (pool_after is None or number in pool_after):
            # A strided convolution of 2x2 would see each pixel once.
            chain.pool(f"pool{number}", 3 if pool == "strided" else 2, padding=int(pool == "strided"))
        if conv_dropout > 0:
            chain.add(nn.Dropout2d(conv_dropout))
        parts[f"stage{number}"] = nn.Sequential(*chain.take())
    if average:
        chain.average()
    else:
        chain.flatten()
    (parts["reduce"],) = chain.take()
    for number, units in enumerate(hidden, start=1):
        chain.hidden((units,), bias=True)
        parts[f"hidden{number}"] = nn.Sequential(*chain.take())
    return classifier(nn.Sequential(parts), chain.channels, num_classes, init)


def _refuse_idle(
    channels: tuple[int, ...],
    hidden: tuple[int, ...],
    pool: str,
    pool_after: tuple[int, ...] | None,
    dropout: float,
    drop_connect: float,
    conv_dropout: float,
    average: bool,
) -> None:
    if pool_after is not None and pool == "none":
        raise ValueError(
            f"pool_after={list(pool_after)} has no effect with pool=none; set it to null, or choose a pool"
        )
    for stage in pool_after or ():
        if stage > len(channels):
            raise ValueError(f"pool_after names stage {stage}, but channels has {len(channels)}; remove it")
    if not hidden:
        for name, value in (("dropout", dropout), ("drop_connect", drop_connect)):
            if value > 0:
                raise ValueError(f"{name}={value:g} has no effect without hidden layers; set hidden, or {name}=0")
    if not channels:
        if conv_dropout > 0:
            raise ValueError(f"conv_dropout={conv_dropout:g} has no effect without stages; set channels, or 0")
        if average:
            raise ValueError("average=true leaves one value of each input channel; set channels, or average=false")
