"""Networks that give sequences a class, or their tokens a tag, to be exported.

Letters used below: B sequences in a batch, T tokens in each, V symbols in the vocabulary, K classes or tags.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from dlrun.data.vocabulary import Vocabulary
from dlrun.export.subject import BATCH, Exportable, Port, Scores, Tensors, scored


class Reader(nn.Module):
    """Whole sequences of one length, without padding.

    Args:
        net: maps tokens (B, T) to logits (B, K) or (B, T, K).
        scores: what is given: logits, or their softmax.
    """

    def __init__(self, net: nn.Module, scores: Scores) -> None:
        super().__init__()
        self.net = net
        self.scores = scores

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, T) int64 to scores float32."""
        return scored(self.net(tokens), self.scores)


def sequence_reader(
    model: str,
    net: nn.Module,
    fresh: Callable[[], nn.Module],
    vocabulary: Vocabulary,
    labels: Sequence[str],
    *,
    per_token: bool,
    steps: int,
    scores: Scores,
    metadata: Mapping[str, str],
) -> Exportable:
    """A network that labels sequences, to be exported.

    The number of tokens is fixed, because torch unrolls recurrent layers when it traces them, and all of them are read:
    shorter sequences need a file of their own.

    Args:
        model: registered name of the network.
        net: the network with its trained weights, on the CPU; put into evaluation mode.
        fresh: builds the same network with other weights.
        vocabulary: of its tokens.
        labels: names of its K classes or tags.
        per_token: whether each token has scores; else the sequence has.
        steps: T, >= 1.
        scores: what comes out.
        metadata: what every file says about itself, whatever the network.
    """
    net.eval().requires_grad_(False)

    def reference(net: nn.Module, inputs: Tensors) -> Tensors:
        return (scored(net(inputs[0]), scores),)

    symbols = {"level": vocabulary.level, "symbols": list(vocabulary.symbols)}
    described = {
        **metadata,
        "vocabulary": json.dumps(symbols, ensure_ascii=False),
        "classes": json.dumps(list(labels), ensure_ascii=False),
    }
    shape = (BATCH, steps, len(labels)) if per_token else (BATCH, len(labels))
    return Exportable(
        model,
        net,
        fresh,
        Reader(net, scores).eval(),
        reference,
        (Port("tokens", (BATCH, steps), torch.int64, len(vocabulary), f"numbers of {len(vocabulary)} symbols"),),
        (Port("scores", shape, torch.float32, meaning=f"{scores} of each {'token' if per_token else 'sequence'}"),),
        metadata={**described, "steps": str(steps), "scores": scores},
        of_weights={**described, "scores": "logits"},
    )
