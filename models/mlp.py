"""The multilayer perceptron. Shapes: B batch, C channels, H height, W width, K classes."""

from __future__ import annotations

from typing import Annotated, Literal

from torch import nn

from dlrun.models.blocks import classifier
from dlrun.models.options import Chain, Kit
from dlrun.registry import MODELS
from dlrun.types import NonNegativeFloat, PositiveInt, Range, Rate

Init = Literal["he", "xavier", "orthogonal", "small_gaussian", "constant", "lsuv", "default"]
Nonlinearity = Literal["relu", "leaky_relu", "prelu", "elu", "gelu", "silu", "tanh", "sigmoid", "maxout"]
Norm = Literal["batch", "group", "layer", "none"]
Pieces = Annotated[int, Range(ge=2)]


@MODELS.register
def mlp(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    hidden: tuple[PositiveInt, ...] = (256, 256),
    activation: Nonlinearity = "relu",
    negative_slope: NonNegativeFloat | None = None,
    pieces: Pieces | None = None,
    norm: Norm = "none",
    norm_groups: PositiveInt | None = None,
    dropout: Rate = 0.0,
    drop_connect: Rate = 0.0,
    init: Init = "he",
) -> nn.Module:
    """Multilayer perceptron: fully connected layers on the flattened image; linear if none is hidden.

    Maps (B, C, H, W) to class scores (B, K). Each hidden layer is linear, norm, activation, dropout.

    Args:
        input_shape: (C, H, W) of one image.
        num_classes: K.
        hidden: units of each hidden layer, in order; empty for a linear classifier.
        activation: nonlinearity after each hidden layer; maxout takes the largest of some linear units.
        negative_slope: slope below zero of leaky_relu (null: 0.01), start value of prelu (null: 0.25).
        pieces: linear units of one maxout; null: 2. The paper's MNIST net has 5.
        norm: normalisation before each activation.
        norm_groups: groups of norm=group; divides all hidden units; null: each layer's own, up to 8.
        dropout: probability of dropping a hidden unit, in [0, 1).
        drop_connect: probability of dropping a weight of the hidden layers, in [0, 1); in evaluation they have the
            mean weights.
        init: initialisation of all but the last layer; that one starts small, so that the loss is ln K.

    Raises:
        ValueError: if an option is set that has no effect: one of hidden layers without any; a slope, pieces or
            groups without their activation or norm; or the groups do not divide the units.

    Source: Rumelhart, Hinton and Williams 1986, "Learning representations by back-propagating errors"
    """
    if not hidden:
        _refuse_idle(
            activation=(activation, "relu"),
            norm=(norm, "none"),
            dropout=(dropout, 0.0),
            drop_connect=(drop_connect, 0.0),
        )
    kit = Kit(norm, norm_groups, activation, negative_slope, pieces, dropout=dropout, drop_connect=drop_connect)
    chain = Chain(kit, input_shape, remedy="")
    chain.flatten()
    chain.hidden(hidden)
    return classifier(chain.take(), chain.channels, num_classes, init)


def _refuse_idle(**options: tuple[object, object]) -> None:
    for name, (value, neutral) in options.items():
        if value != neutral:
            raise ValueError(f"{name}={value} has no effect without hidden layers; set hidden, or {name}={neutral}")
