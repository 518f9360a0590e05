"""Classification with several labels per sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dlrun.losses import Loss
from dlrun.registry import TASKS
from dlrun.scores import average_precision
from dlrun.tasks.base import Carried, Probabilities, StepOutput, WithAuxiliary
from dlrun.types import Fraction

Batch = tuple[Tensor, Tensor]


@TASKS.register
class multilabel_classification:  # named as in YAML
    """Any number of labels per sample, each there or not: loss, exact matches, micro and macro F1.

    A batch is (inputs (B, ...) float, targets (B, K) of 0 and 1); the model gives scores (B, K). A label is predicted
    where the sigmoid of its score is above the threshold. ``accuracy`` is the share of samples with all labels right;
    ``f1_micro`` counts the labels of all samples together, ``f1_macro`` is the mean over the labels of their F1, which
    is 0 where a label is nowhere there and nowhere predicted. ``dlrun eval`` adds each label's average precision and
    their mean. Where images are mixed, the targets are shares in [0, 1]; the metrics of training then count a label as
    there from more than half of it on.

    Args:
        threshold: probability from which a label is predicted, in [0, 1].

    Raises:
        ValueError: if the loss is for one label per sample.

    Source: Tsoumakas, Katakis and Vlahavas 2010, "Mining multi-label data", section 7 (measures)
    """

    metrics: tuple[str, ...] = ("accuracy", "f1_micro", "f1_macro")
    probabilities: Probabilities = "sigmoid"
    soft_targets = True

    def __init__(self, loss: Loss, num_labels: int, *, threshold: Fraction = 0.5) -> None:
        if not getattr(loss, "multi_label", False):
            raise ValueError("this loss is for one label per sample; set loss=binary_cross_entropy")
        self.loss = loss
        self.num_labels = num_labels
        self._threshold = threshold

    def size(self, batch: Batch) -> int:
        """Samples in the batch."""
        return batch[1].shape[0]

    def split(self, batch: Batch, parts: int) -> Sequence[Batch]:
        """Cut a batch into at most ``parts`` micro-batches of nearly equal size."""
        inputs, targets = batch
        parts = min(parts, targets.shape[0])
        return list(zip(inputs.tensor_split(parts), targets.tensor_split(parts), strict=True))

    def forward(self, model: nn.Module, batch: Batch, carried: Carried = None) -> StepOutput:
        """Scores and their loss; samples are independent, so nothing is carried."""
        inputs, targets = batch
        scores = model(inputs)
        if isinstance(scores, WithAuxiliary):
            scores, auxiliary, weight = scores
            loss = self.loss(scores, targets)
            for others in auxiliary:
                loss = loss + weight * self.loss(others, targets)
            return StepOutput(loss, scores, targets)
        return StepOutput(self.loss(scores, targets), scores, targets)

    def predicted(self, scores: Tensor) -> Tensor:
        """Which labels are predicted, bool (B, K)."""
        return scores.sigmoid() > self._threshold

    def score(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        """Samples with all labels right; of each label the right predictions, the predictions and the samples."""
        predicted, there = self.predicted(outputs), targets > 0.5
        counts = torch.stack([(predicted & there).sum(0), predicted.sum(0) + there.sum(0)])
        right, claimed = counts.unbind()
        return {
            "accuracy": (predicted == there).all(1).sum(),
            **{f"right {label}": count for label, count in enumerate(right.unbind())},
            **{f"claimed {label}": count for label, count in enumerate(claimed.unbind())},
        }

    def derive(self, means: Mapping[str, float]) -> Mapping[str, float]:
        """Both F1: twice the right predictions, by the predictions and the labels that are there."""
        right = [means[f"right {label}"] for label in range(self.num_labels)]
        claimed = [means[f"claimed {label}"] for label in range(self.num_labels)]
        each = [2 * r / c if c else 0.0 for r, c in zip(right, claimed, strict=True)]
        whole = sum(claimed)
        return {"f1_micro": 2 * sum(right) / whole if whole else 0.0, "f1_macro": sum(each) / len(each)}

    def detail(self, outputs: Tensor, targets: Tensor, names: Sequence[str]) -> dict[str, Any]:
        """What only all samples together tell.

        Args:
            outputs: scores (N, K).
            targets: (N, K).
            names: of the labels.

        Returns:
            Plain values: ``mean_average_precision``, over the labels that any sample has; and ``per_class``, a mapping
            for each label.
        """
        predicted, there = self.predicted(outputs), targets > 0.5
        rows: list[dict[str, Any]] = []
        for label, name in enumerate(names):
            hits = int((predicted[:, label] & there[:, label]).sum())
            claimed, support = int(predicted[:, label].sum()), int(there[:, label].sum())
            rows.append(
                {
                    "class": name,
                    "precision": hits / claimed if claimed else None,
                    "recall": hits / support if support else None,
                    "f1": 2 * hits / (claimed + support) if claimed + support else None,
                    "average_precision": average_precision(outputs[:, label], there[:, label]),
                    "support": support,
                }
            )
        known = [row["average_precision"] for row in rows if row["average_precision"] is not None]
        found = {"mean_average_precision": sum(known) / len(known)} if known else {}
        return {**found, "per_class": rows}
