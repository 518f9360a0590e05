"""The multilayer perceptron. Shapes: B batch, C channels, H height, W width, K classes."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import Annotated, Literal

from torch import nn

from dlrun.models.blocks import classifier, linear_act, make_activation
from dlrun.registry import MODELS
from dlrun.types import NonNegativeFloat, PositiveInt, Range

Activation = Literal["relu", "leaky_relu", "prelu", "elu", "gelu", "silu", "tanh", "sigmoid"]
Init = Literal["he", "xavier", "orthogonal", "small_gaussian", "constant", "lsuv", "default"]
Rate = Annotated[float, Range(ge=0, lt=1)]


@MODELS.register
def mlp(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    hidden: tuple[PositiveInt, ...] = (256, 256),
    activation: Activation = "relu",
    negative_slope: NonNegativeFloat | None = None,
    batch_norm: bool = False,
    dropout: Rate = 0.0,
    init: Init = "he",
) -> nn.Module:
    """Multilayer perceptron: fully connected layers on the flattened image; linear if none is hidden.

    Maps (B, C, H, W) to class scores (B, K). Each hidden layer is linear, batch norm, activation, dropout.

    Args:
        input_shape: (C, H, W) of one image.
        num_classes: K.
        hidden: units of each hidden layer, in order; empty for a linear classifier.
        activation: nonlinearity after each hidden layer.
        negative_slope: slope below zero of leaky_relu (null: 0.01), start value of prelu (null: 0.25).
        batch_norm: batch norm before each activation.
        dropout: probability of dropping a hidden unit, in [0, 1).
        init: initialisation of all but the last layer; that one starts small, so that the loss is ln K.

    Raises:
        ValueError: if an option is set that has no effect: one of hidden layers without any, a slope without
            its use.

    Source: Rumelhart, Hinton and Williams 1986, "Learning representations by back-propagating errors"
    """
    if not hidden:
        _refuse_idle(activation=(activation, "relu"), batch_norm=(batch_norm, False), dropout=(dropout, 0.0))
    make_activation(activation, negative_slope)
    widths = (prod(input_shape), *hidden)
    layers: list[nn.Module] = [nn.Flatten()]
    for n_in, n_out in pairwise(widths):
        act = make_activation(activation, negative_slope)
        layers += linear_act(n_in, n_out, act, batch_norm=batch_norm, dropout=dropout)
    return classifier(layers, widths[-1], num_classes, init)


def _refuse_idle(**options: tuple[object, object]) -> None:
    for name, (value, neutral) in options.items():
        if value != neutral:
            raise ValueError(f"{name}={value} has no effect without hidden layers; set hidden, or {name}={neutral}")
