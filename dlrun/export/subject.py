"""What is exported: a trained network with what goes into it and what comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

Scores = Literal["logits", "probabilities", "label_probabilities"]
"""What an exported network gives: scores as they are, the softmax of them, or, where a sample can have several labels,
the sigmoid of each."""
Tensors = tuple[Tensor, ...]
BATCH = "batch"
"""Name of the axis that counts samples: any number from 1 on."""


@dataclass(frozen=True)
class Port:
    """One input or output of an exported network.

    Attributes:
        name: as the file knows it.
        shape: sizes of the axes; a name stands for an axis of any size from 1 on.
        dtype: of its values.
        below: whole numbers lie in [0, below); without meaning for floating-point values.
        meaning: a few words for the user.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: torch.dtype
    below: int = 0
    meaning: str = ""

    @property
    def named_axes(self) -> dict[int, str]:
        """Number -> name of the axes that may have any size."""
        return {axis: side for axis, side in enumerate(self.shape) if isinstance(side, str)}


@dataclass(frozen=True)
class Exportable:
    """A trained network, ready to be written.

    Attributes:
        model: registered name, for messages.
        net: the network in evaluation mode on the CPU, with its trained weights.
        fresh: builds the same network with other weights.
        module: what a graph is traced from: takes the inputs one by one, gives a tensor or a tuple of them.
        reference: (net, inputs) -> what an exported file must give, computed as dlrun itself evaluates.
        inputs: what goes in, in the order of the arguments.
        outputs: what comes out, in order; the first are the scores.
        metadata: what a graph says about itself; texts only, for that is what all formats hold.
        of_weights: what a file of the weights alone says about itself.
    """

    model: str
    net: nn.Module = field(repr=False)
    fresh: Callable[[], nn.Module] = field(repr=False)
    module: nn.Module = field(repr=False)
    reference: Callable[[nn.Module, Tensors], Tensors] = field(repr=False)
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    metadata: Mapping[str, str] = field(repr=False)
    of_weights: Mapping[str, str] = field(repr=False)


def example_inputs(ports: Sequence[Port], sizes: Mapping[str, int], seed: int) -> Tensors:
    """Random inputs, the only place that knows what a port's values look like.

    Args:
        ports: what the network takes.
        sizes: size of every named axis, >= 1.
        seed: of the values.

    Returns:
        One tensor per port: whole numbers uniform in [0, below), or standard normal values.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(port: Port) -> Tensor:
        shape = [sizes[side] if isinstance(side, str) else side for side in port.shape]
        if port.dtype.is_floating_point:
            return torch.randn(shape, generator=generator, dtype=port.dtype)
        return torch.randint(port.below, shape, generator=generator, dtype=port.dtype)

    return tuple(draw(port) for port in ports)


def scored(logits: Tensor, scores: Scores) -> Tensor:
    """Logits (..., K) as they are, their softmax, or the sigmoid of each."""
    if scores == "label_probabilities":
        return logits.sigmoid()
    return logits.softmax(-1) if scores == "probabilities" else logits
