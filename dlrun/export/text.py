"""Language models, to be exported: what they carry from one chunk of a text to the next goes in and comes out.

Letters used below: B texts in a batch, T steps (tokens in a chunk), V symbols in the vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from dlrun.data.vocabulary import Vocabulary
from dlrun.errors import ExportError
from dlrun.export.subject import BATCH, Exportable, Port, Scores, Tensors, scored


class TokenModel(nn.Module):
    """A language model whose state is among its inputs and outputs, one tensor each.

    Args:
        net: maps tokens (B, T), and what it carried (None at the beginning), to logits (B, T, V) and what it carries;
            or to the logits alone.
        carries: whether it carries anything.
        scores: what is given: logits, or their softmax.
    """

    def __init__(self, net: nn.Module, scores: Scores, *, carries: bool) -> None:
        super().__init__()
        self.net = net
        self.scores = scores
        self.carries = carries

    def forward(self, tokens: Tensor, *state: Tensor) -> Tensors:
        """Map tokens (B, T) int64 and the state to scores (B, T, V) float32 and the next state."""
        return _run(self.net, (tokens, *state), self.scores, carries=self.carries)


def _run(net: nn.Module, inputs: Tensors, scores: Scores, *, carries: bool) -> Tensors:
    result = net(inputs[0], inputs[1:] if carries else None)
    logits, state = result if isinstance(result, tuple) else (result, None)
    return (scored(logits, scores), *(state or ()))


def language_model(
    model: str,
    net: nn.Module,
    fresh: Callable[[], nn.Module],
    vocabulary: Vocabulary,
    *,
    steps: int,
    scores: Scores,
    metadata: Mapping[str, str],
) -> Exportable:
    """A language model, to be exported.

    The number of steps is fixed, because torch unrolls recurrent layers when it traces them. Longer texts go through in
    chunks, each with the state that the one before gave; zeros begin a text.

    Args:
        model: registered name of the network.
        net: the network with its trained weights, on the CPU; put into evaluation mode.
        fresh: builds the same network with other weights.
        vocabulary: its symbols.
        steps: T of one call, >= 1.
        scores: what comes out.
        metadata: what every file says about itself, whatever the network.

    Raises:
        ExportError: if a text does not begin with a state of zeros.
    """
    net.eval().requires_grad_(False)
    tokens = Port("tokens", (BATCH, steps), torch.int64, len(vocabulary), f"numbers of {len(vocabulary)} symbols")
    state = _state_ports(model, net, steps)
    carries = bool(state)

    def reference(net: nn.Module, inputs: Tensors) -> Tensors:
        return _run(net, inputs, scores, carries=carries)

    symbols = {"level": vocabulary.level, "symbols": list(vocabulary.symbols)}
    described = {**metadata, "vocabulary": json.dumps(symbols, ensure_ascii=False)}
    return Exportable(
        model,
        net,
        fresh,
        TokenModel(net, scores, carries=carries).eval(),
        reference,
        (tokens, *state),
        (
            Port("scores", (BATCH, steps, len(vocabulary)), torch.float32, meaning=scores),
            *(Port(f"next_{port.name}", port.shape, port.dtype, meaning="for the next chunk") for port in state),
        ),
        metadata={**described, "steps": str(steps), "scores": scores},
        of_weights={**described, "scores": "logits"},
    )


def _state_ports(model: str, net: nn.Module, steps: int) -> tuple[Port, ...]:
    """What the network carries, as it gives it for one text: tensors (layers, 1, ...)."""
    tokens = torch.zeros(1, steps, dtype=torch.int64)
    with torch.no_grad():
        first = _run(net, (tokens,), "logits", carries=False)
        state = first[1:]
        if state:
            again = _run(net, (tokens, *map(torch.zeros_like, state)), "logits", carries=True)
            if not torch.equal(first[0], again[0]):
                raise ExportError(
                    f"model {model!r} cannot be exported: its texts begin with another state than zeros, so a file "
                    "could not be begun with"
                )
    names = ["state"] if len(state) == 1 else [f"state_{i}" for i in range(len(state))]
    return tuple(
        Port(name, (value.shape[0], BATCH, *value.shape[2:]), value.dtype, meaning="zeros where a text begins")
        for name, value in zip(names, state, strict=True)
    )
