"""Networks from their configuration, and what they start from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dlrun.assembly.make import make
from dlrun.config.schema import Config
from dlrun.data.feed import Feed
from dlrun.registry import MODELS, OPTIMIZERS
from dlrun.transfer import ALL_BUT_HEAD, Head


def build_model(config: Config, arguments: Mapping[str, Any], device: torch.device) -> nn.Module:
    """The network with fresh weights, drawn on the CPU so that they do not depend on the device.

    Args:
        config: the checked configuration.
        arguments: what the network must know of the data, as :attr:`dlrun.data.feed.Feed.arguments`.
        device: where it is wanted.

    Raises:
        UserError: if the network cannot take such data.
    """
    model: nn.Module = make(MODELS, config.model, **arguments)
    layout = torch.channels_last if config.trainer.channels_last else torch.preserve_format
    return model.to(device, memory_format=layout)  # type: ignore[call-overload, no-any-return]


def find_head(config: Config, model: nn.Module, arguments: Mapping[str, Any], counted: str) -> Head | None:
    """The layers of a model that depend on the number of classes or symbols; None if no option asks for them.

    Args:
        config: the checked configuration.
        model: the network.
        arguments: what it was built with.
        counted: the argument that is the number of classes or symbols.

    Raises:
        UserError: if there are none.
    """
    asked = config.model.weights is not None or config.model.freeze == ALL_BUT_HEAD
    asked = asked or config.optimizer.layer_decay is not None
    asked = asked or "hidden" in OPTIMIZERS.entry(config.optimizer.name).needs
    if not asked and not {"head", "body"} & set(config.optimizer.lr_factors or ()):
        return None

    def other(device: str) -> nn.Module:
        one_more = {**arguments, counted: arguments[counted] + 1}
        with torch.random.fork_rng(devices=[]), torch.device(device):
            net: nn.Module = make(MODELS, config.model, **one_more)
            return net

    try:
        return Head.between(model, other("meta"))
    except (RuntimeError, NotImplementedError):
        # It computes with values in its constructor.
        return Head.between(model, other("cpu"))


DATA_INIT_SAMPLES = 2048
"""Training samples that a data-dependent initialisation sees."""


def init_from_data(model: nn.Module, feed: Feed) -> None:
    """Let a model that has ``init_from_data`` set weights from inputs of the training split."""
    initialise = getattr(model, "init_from_data", None)
    if initialise is not None:
        initialise(feed.sample_inputs(DATA_INIT_SAMPLES))
