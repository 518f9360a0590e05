"""Classification: one label per sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from dlrun.losses import Loss
from dlrun.registry import TASKS
from dlrun.tasks.base import Carried, Probabilities, StepOutput, WithAuxiliary

TOP5_FROM = 10
"""Number of classes from which top-5 accuracy says something."""

Batch = tuple[Tensor, Tensor]


@TASKS.register
class classification:  # named as in YAML
    """One label per sample: the loss, the accuracy and, from ten classes on, the top-5 accuracy.

    A batch is (inputs (B, ...) float, labels (B,) int64); the model gives logits (B, K), or in training
    :class:`WithAuxiliary`, whose auxiliary heads add their weighted losses. Where images are mixed, the labels are
    shares of the classes, (B, K) float; the metrics then count the class with the largest share as the right one.
    """

    probabilities: Probabilities = "softmax"
    soft_targets = True
    """It takes shares of the classes if its loss does; augmentations that mix images need both."""

    def __init__(self, loss: Loss, num_classes: int) -> None:
        self.loss = loss
        self.num_classes = num_classes
        self.metrics: tuple[str, ...] = ("accuracy", "top5") if num_classes >= TOP5_FROM else ("accuracy",)

    def size(self, batch: Batch) -> int:
        """Samples in the batch."""
        return batch[1].shape[0]

    def split(self, batch: Batch, parts: int) -> Sequence[Batch]:
        """Cut a batch into at most ``parts`` micro-batches of nearly equal size."""
        inputs, labels = batch
        parts = min(parts, labels.shape[0])
        return list(zip(inputs.tensor_split(parts), labels.tensor_split(parts), strict=True))

    def forward(self, model: nn.Module, batch: Batch, carried: Carried = None) -> StepOutput:
        """Logits and their loss; samples are independent, so nothing is carried."""
        inputs, labels = batch
        logits = model(inputs)
        # What the metrics count is one class: the meters keep it for many steps.
        classes = labels if labels.dim() == 1 else labels.argmax(1)
        if isinstance(logits, WithAuxiliary):
            logits, auxiliary, weight = logits
            loss = self.loss(logits, labels)
            for scores in auxiliary:
                loss = loss + weight * self.loss(scores, labels)
            return StepOutput(loss, logits, classes)
        return StepOutput(self.loss(logits, labels), logits, classes)

    def score(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        """Number of correct labels, and of labels among the five highest scores."""
        # argmax for top-1 everywhere: at ties topk may name another class first.
        sums = {"accuracy": (outputs.argmax(1) == targets).sum()}
        if self.num_classes >= TOP5_FROM:
            sums["top5"] = (outputs.topk(5, dim=1).indices == targets[:, None]).any(1).sum()
        return sums

    def derive(self, means: Mapping[str, float]) -> Mapping[str, float]:
        """Nothing."""
        return {}
