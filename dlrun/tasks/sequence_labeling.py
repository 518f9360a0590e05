"""Labelling of sequences: one tag for each token (many to many)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from dlrun.data.sequence_batches import SequenceBatch
from dlrun.losses import Loss
from dlrun.registry import TASKS
from dlrun.tasks.base import Carried, StepOutput, last_targets
from dlrun.tasks.sequence_classification import cut, longest


@TASKS.register
class sequence_labeling:  # named as in YAML
    """One tag per token: the loss and the accuracy, both means over the tokens.

    A batch is :class:`dlrun.data.sequence_batches.SequenceBatch`; the model is called with the tokens (B, T) and their
    lengths, and gives logits (B, T, K). The padding (targets :data:`dlrun.losses.IGNORED`) has no loss and is not
    averaged. ``dlrun eval`` adds the mean F1 of the tags (macro), and of spans where the tags are BIO.
    """

    metrics: tuple[str, ...] = ("accuracy",)

    def __init__(self, loss: Loss, tag_count: int) -> None:
        self.loss = loss
        self.tag_count = tag_count

    def size(self, batch: SequenceBatch) -> int:
        """Tokens that have a tag."""
        return sum(batch.counts)

    def split(self, batch: SequenceBatch, parts: int) -> Sequence[SequenceBatch]:
        """Whole sequences, dealt out in order."""
        return cut(batch, parts)

    def forward(self, model: nn.Module, batch: SequenceBatch, carried: Carried = None) -> StepOutput:
        """Logits of the tags, and their loss.

        Returns:
            The outputs are the predictions, int64 (B T,), beside the targets (B T,).
        """
        logits, targets = model(batch.tokens, batch.lengths).flatten(0, 1), batch.targets.flatten()
        return StepOutput(self.loss(logits, targets), logits.detach().argmax(1), targets)

    def last_only(self, batch: SequenceBatch) -> SequenceBatch:
        """The longest of the sequences, of which the last token alone is to be tagged."""
        kept = longest(batch)
        return kept._replace(targets=last_targets(kept.targets), counts=(1,) * len(kept.counts))

    def score(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        """Number of tokens whose tag was predicted; a masked target equals no prediction."""
        return {"accuracy": (outputs == targets).sum()}

    def derive(self, means: Mapping[str, float]) -> Mapping[str, float]:
        """Nothing."""
        return {}
