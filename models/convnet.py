"""The configurable convolutional net. Shapes: B batch, C channels, H height, W width, K classes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from math import prod
from typing import Annotated, Literal

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from dlrun.models.blocks import GlobalAverage, Maxout, classifier, make_activation, make_norm, window_out
from dlrun.registry import MODELS
from dlrun.types import NonNegativeFloat, PositiveInt, Range

Init = Literal["he", "xavier", "orthogonal", "small_gaussian", "constant", "lsuv", "default"]
Nonlinearity = Literal["relu", "leaky_relu", "prelu", "elu", "gelu", "silu", "tanh", "sigmoid", "maxout"]
Norm = Literal["batch", "group", "layer", "instance", "none"]
Pool = Literal["max", "average", "strided", "fractional", "none"]
Rate = Annotated[float, Range(ge=0, lt=1)]

FRACTION = 0.7
"""Size of the output of fractional max pooling relative to its input."""

PIECES = 2
"""Inputs of one maxout unit; the layer before it has that many times its channels or units."""

REMEDY = "use larger images, fewer stages in pool_after, or pool=none"


class FractionalMaxPool(nn.Module):
    """Max pool to 0.7 of the size over 2x2 windows: in training at random places, else at evenly spread ones.

    Source: Graham 2014, "Fractional Max-Pooling"
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, floor(0.7 H), floor(0.7 W))."""
        size = fractional_out((x.shape[2], x.shape[3]))
        if self.training:
            places = torch.rand(x.shape[0], x.shape[1], 2, device=x.device, dtype=x.dtype)
        else:
            places = x.new_full((x.shape[0], x.shape[1], 2), 0.5)
        out, _ = functional.fractional_max_pool2d_with_indices(x, (2, 2), output_size=size, _random_samples=places)
        result: Tensor = out
        return result


class DropConnect(nn.Linear):
    """A linear layer that in training drops single weights, the same for the whole batch, and scales the others up.

    Args:
        n_in: number of inputs.
        n_out: number of units.
        rate: probability of dropping a weight, in [0, 1).

    Source: Wan et al. 2013, "Regularization of Neural Networks using DropConnect"; in evaluation the mean weights,
        as with dropout, in the place of the paper's Gaussian approximation
    """

    def __init__(self, n_in: int, n_out: int, rate: float) -> None:
        super().__init__(n_in, n_out)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, n_in) to (B, n_out)."""
        return functional.linear(x, functional.dropout(self.weight, self.rate, self.training), self.bias)


def fractional_out(size: tuple[int, int]) -> tuple[int, int]:
    """Give the output (H', W') of :class:`FractionalMaxPool`."""
    return int(size[0] * FRACTION), int(size[1] * FRACTION)


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
    norm: Norm = "batch",
    groups: PositiveInt = 8,
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
        activation: nonlinearity; maxout takes the larger of two, so its layers have twice the channels or units.
        negative_slope: slope below zero of leaky_relu (null: 0.01), start value of prelu (null: 0.25).
        norm: normalisation before each activation; instance acts on convolutions alone.
        groups: groups of norm=group; divides the channels and hidden units.
        conv_dropout: probability of dropping a whole map behind each stage, in [0, 1).
        dropout: probability of dropping a hidden unit, in [0, 1).
        drop_connect: probability of dropping a weight of the hidden layers, in [0, 1).
        init: initialisation of all but the last layer; that one starts small, so that the loss is ln K.

    Raises:
        ValueError: if the image is too small for a pool or for norm=instance, pool_after names a stage that is not
            there, the groups do not divide the channels, or an option is set that has no effect.

    Source: Stanford CS231n 2017, lecture 5, "Convolutional Neural Networks"
    """
    _refuse_idle(channels, hidden, pool, pool_after, norm, groups, dropout, drop_connect, conv_dropout, average)
    pieces = PIECES if activation == "maxout" else 1

    def act() -> nn.Module:
        if activation == "maxout" and negative_slope is None:
            return Maxout(PIECES)
        return make_activation(activation, negative_slope)

    act()  # Refuses a slope that has no effect, also where the net has no activation.
    size, c_in = (input_shape[1], input_shape[2]), input_shape[0]
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for number, c_out in enumerate(channels, start=1):
        layers: list[nn.Module] = []
        for _ in range(convs):
            layers += _conv(c_in, c_out * pieces, kernel, 1, _norm(norm, c_out * pieces, groups, size), act)
            c_in = c_out
        if pool != "none" and (pool_after is None or number in pool_after):
            layers += _pool(pool, c_in, c_in * pieces, size, norm, groups, act)
            size = _pooled(f"pool{number}", size, pool)
        if conv_dropout > 0:
            layers.append(nn.Dropout2d(conv_dropout))
        parts[f"stage{number}"] = nn.Sequential(*layers)
    parts["reduce"] = GlobalAverage() if average else nn.Flatten()
    n_in = c_in * (1 if average else prod(size))
    for number, n_out in enumerate(hidden, start=1):
        units = n_out * pieces
        linear = DropConnect(n_in, units, drop_connect) if drop_connect > 0 else nn.Linear(n_in, units)
        layers = [linear, *_norm(norm, units, groups, None), act()]
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
        parts[f"hidden{number}"] = nn.Sequential(*layers)
        n_in = n_out
    return classifier(nn.Sequential(parts), n_in, num_classes, init)


def _refuse_idle(
    channels: tuple[int, ...],
    hidden: tuple[int, ...],
    pool: str,
    pool_after: tuple[int, ...] | None,
    norm: str,
    groups: int,
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
    if norm == "group":
        for width in (*channels, *hidden):
            if width % groups:
                raise ValueError(
                    f"groups={groups} does not divide {width}, an entry of channels or hidden; "
                    "choose a divisor of all of them, or another norm"
                )


def _conv(
    c_in: int, c_out: int, kernel: int, stride: int, norm: list[nn.Module], act: Callable[[], nn.Module]
) -> list[nn.Module]:
    # Every norm but none subtracts a mean; only those of single channels would subtract a bias as a whole.
    bias = not any(isinstance(layer, nn.BatchNorm2d | nn.InstanceNorm2d) for layer in norm)
    return [nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=bias), *norm, act()]


def _pool(
    pool: Pool,
    c_in: int,
    c_out: int,
    size: tuple[int, int],
    norm: Norm,
    groups: int,
    act: Callable[[], nn.Module],
) -> list[nn.Module]:
    if pool == "max":
        return [nn.MaxPool2d(2)]
    if pool == "average":
        return [nn.AvgPool2d(2)]
    if pool == "fractional":
        return [FractionalMaxPool()]
    halved = (-(-size[0] // 2), -(-size[1] // 2))
    return _conv(c_in, c_out, 3, 2, _norm(norm, c_out, groups, halved), act)


def _pooled(layer: str, size: tuple[int, int], pool: Pool) -> tuple[int, int]:
    """Size behind a pool; an error where it takes fewer than 2x2 pixels."""
    halved = window_out(layer, size, 2, stride=2, remedy=REMEDY)
    if pool == "fractional":
        return fractional_out(size)
    if pool == "strided":
        return window_out(layer, size, 3, stride=2, padding=(1, 1), remedy=REMEDY)
    return halved


def _norm(norm: Norm, width: int, groups: int, size: tuple[int, int] | None) -> list[nn.Module]:
    """Make the norm behind a convolution with maps of a size, or (``None``) behind a hidden layer; or nothing."""
    if size is None and norm in ("batch", "instance"):
        return [nn.BatchNorm1d(width)] if norm == "batch" else []
    if norm == "instance" and size is not None and prod(size) < 2:
        raise ValueError(
            "norm=instance needs more than one pixel in each map, and a pool has left 1x1; use larger images, "
            "fewer stages in pool_after, or another norm"
        )
    return make_norm(norm, width, groups)
