"""Language modelling: the next token at every position of a stream."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from dlrun.data.streams import TokenBatch
from dlrun.losses import Loss
from dlrun.registry import TASKS
from dlrun.tasks.base import Carried, StepOutput, last_targets, longest_rows

BITS = {"character": "bpc", "byte": "bpb", "word": "bpw"}
"""Level of the tokens -> name of the loss in bits."""
_LARGEST = math.log(1e300)


@TASKS.register
class language_modeling:  # named as in YAML
    """The next token at every position: loss in nats, bits per token (bpc, bpb, bpw), perplexity and accuracy.

    A batch is :class:`dlrun.data.streams.TokenBatch`, a chunk of T steps of B streams. The model is called with the
    tokens (B, T) and what it carried out of the chunk before (None where the streams begin); it gives logits (B, T, V)
    and what it carries on, or the logits alone. What is carried is detached: the gradient ends with the chunk.

    Masked positions (targets :data:`dlrun.losses.IGNORED`) have no loss and are not averaged: means are over tokens.

    Source: Williams and Peng 1990, "An efficient gradient-based algorithm for on-line training of recurrent network
        trajectories" (truncated backpropagation through time)
    """

    def __init__(self, loss: Loss, vocabulary_size: int, token: str) -> None:
        self.loss = loss
        self.vocabulary_size = vocabulary_size
        self._bits = BITS[token]
        self.metrics: tuple[str, ...] = (self._bits, "perplexity", "accuracy")

    def size(self, batch: TokenBatch) -> int:
        """Tokens that are predicted."""
        return sum(batch.lengths)

    def split(self, batch: TokenBatch, parts: int) -> Sequence[TokenBatch]:
        """Whole streams, dealt out in order."""
        inputs, targets = (tensor.tensor_split(min(parts, len(batch.lengths))) for tensor in batch[:2])
        cut, begin = [], 0
        for one, other in zip(inputs, targets, strict=True):
            cut.append(TokenBatch(one, other, batch.lengths[begin : begin + len(one)]))
            begin += len(one)
        return cut

    def forward(self, model: nn.Module, batch: TokenBatch, carried: Carried = None) -> StepOutput:
        """Logits of the next tokens, and their loss.

        Returns:
            The outputs are the predictions, int64 (B T,), beside the targets (B T,).
        """
        result = model(batch.inputs, carried)
        logits, state = result if isinstance(result, tuple) else (result, None)
        logits, targets = logits.flatten(0, 1), batch.targets.flatten()
        # The mean over no token at all is not a number.
        loss = self.loss(logits, targets) if any(batch.lengths) else 0 * logits.sum()
        after = None if state is None else tuple(tensor.detach() for tensor in state)
        return StepOutput(loss, logits.detach().argmax(1), targets, after)

    def last_only(self, batch: TokenBatch) -> TokenBatch:
        """The longest of the streams with the last prediction of the chunk as the only one."""
        rows = longest_rows(batch.lengths)
        return TokenBatch(batch.inputs[rows], last_targets(batch.targets[rows]), (1,) * len(rows))

    def score(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        """Number of tokens that were predicted; a masked target equals no prediction."""
        return {"accuracy": (outputs == targets).sum()}

    def derive(self, means: Mapping[str, float]) -> Mapping[str, float]:
        """Bits and perplexity, from the mean loss: exp of the mean, not the mean of exps."""
        loss = means["loss"]
        return {self._bits: loss / math.log(2), "perplexity": math.exp(min(loss, _LARGEST))}
