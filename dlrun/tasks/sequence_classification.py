"""Classification of sequences: one label for each (many to one)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from dlrun.data.sequence_batches import SequenceBatch
from dlrun.losses import Loss
from dlrun.registry import TASKS
from dlrun.tasks.base import Carried, Probabilities, StepOutput, longest_rows
from dlrun.tasks.classification import classification


@TASKS.register
class sequence_classification:  # named as in YAML
    """One label per sequence: the loss, the accuracy and, from ten classes on, the top-5 accuracy.

    A batch is :class:`dlrun.data.sequence_batches.SequenceBatch`; the model is called with the tokens (B, T) and their
    lengths, and gives logits (B, K), which must not depend on what stands in the padding.
    """

    probabilities: Probabilities = "softmax"

    def __init__(self, loss: Loss, class_count: int) -> None:
        self.loss = loss
        self._scored = classification(loss, class_count)
        self.metrics: tuple[str, ...] = self._scored.metrics

    def size(self, batch: SequenceBatch) -> int:
        """Sequences in the batch."""
        return len(batch.counts)

    def split(self, batch: SequenceBatch, parts: int) -> Sequence[SequenceBatch]:
        """Whole sequences, dealt out in order."""
        return cut(batch, parts)

    def forward(self, model: nn.Module, batch: SequenceBatch, carried: Carried = None) -> StepOutput:
        """Logits and their loss; sequences are independent, so nothing is carried."""
        logits = model(batch.tokens, batch.lengths)
        return StepOutput(self.loss(logits, batch.targets), logits, batch.targets)

    def last_only(self, batch: SequenceBatch) -> SequenceBatch:
        """The longest of the sequences; each has one loss anyway."""
        return longest(batch)

    def score(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        """See :meth:`dlrun.tasks.classification.classification.score`."""
        return self._scored.score(outputs, targets)

    def derive(self, means: Mapping[str, float]) -> Mapping[str, float]:
        """Nothing."""
        return {}


def longest(batch: SequenceBatch) -> SequenceBatch:
    """Those of the sequences that no other is longer than."""
    rows = longest_rows(batch.lengths.tolist())
    tokens, lengths, targets = (tensor[rows] for tensor in batch[:3])
    return SequenceBatch(tokens, lengths, targets, tuple(batch.counts[row] for row in rows))


def cut(batch: SequenceBatch, parts: int) -> list[SequenceBatch]:
    """At most ``parts`` batches of whole sequences, in their order, as ``Tensor.tensor_split`` cuts them."""
    tables = (tensor.tensor_split(min(parts, len(batch.counts))) for tensor in batch[:3])
    pieces, begin = [], 0
    for tokens, lengths, targets in zip(*tables, strict=True):
        pieces.append(SequenceBatch(tokens, lengths, targets, batch.counts[begin : begin + len(tokens)]))
        begin += len(tokens)
    return pieces
