"""Losses of each score by itself. Letters: B samples, K classes or labels."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from dlrun.losses.base import Loss, Weights, full, indicators, mean, smoothed, weights_of
from dlrun.registry import LOSSES
from dlrun.types import PositiveFloat, Rate


class _BinaryCrossEntropy:
    """See :func:`binary_cross_entropy`."""

    soft_targets = True
    multi_label = True

    def __init__(self, smoothing: float, weights: Weights | None) -> None:
        self._smoothing, self._weights = smoothing, weights

    def __call__(self, scores: Tensor, targets: Tensor) -> Tensor:
        scores = full(scores)
        weights = None if self._weights is None else self._weights.like(scores)
        wanted = smoothed(indicators(scores, targets), self._smoothing, 0.5)
        losses = F.binary_cross_entropy_with_logits(scores, wanted, pos_weight=weights, reduction="none")
        return mean(losses.mean(1), targets)


@LOSSES.register
def binary_cross_entropy(
    num_outputs: int | None = None,
    label_counts: tuple[int, ...] | None = None,
    label_total: int | None = None,
    *,
    label_smoothing: Rate = 0.0,
    positive_weights: tuple[PositiveFloat, ...] | Literal["balanced"] | None = None,
) -> Loss:
    """Logistic loss of each label by itself, averaged over the labels, in nats; ln 2 at initialisation.

    The loss maps scores s (B, K) and targets t (B, K) in [0, 1] to the mean over samples and labels of
    -w t log sigmoid(s) - (1 - t) log(1 - sigmoid(s)). With one label (B,) per sample, each class is told from all
    others (one against all).

    Args:
        num_outputs: K.
        label_counts: training samples that have each label.
        label_total: training samples.
        label_smoothing: epsilon in [0, 1): t becomes (1 - epsilon) t + epsilon / 2.
        positive_weights: w of each label, > 0, in their order; balanced: a label that n_c of n training samples have
            gets (n - n_c) / n_c, so that those with and without it weigh the same.

    Raises:
        ValueError: if there is not a weight for each label, or nothing is known to balance by.

    Source: torch's BCEWithLogitsLoss; Nam et al. 2014, "Large-scale multi-label text classification" (for several
        labels); Keras' BinaryCrossentropy (smoothing: that of Szegedy et al. 2016 for the two classes of each label)
    """
    if positive_weights == "balanced" and label_counts is not None and label_total is not None:
        # Where all samples have the label, or none, there is nothing to balance.
        ratios = [(label_total - count) / count if 0 < count < label_total else 1.0 for count in label_counts]
        return _BinaryCrossEntropy(label_smoothing, Weights(ratios))
    return _BinaryCrossEntropy(
        label_smoothing, weights_of(positive_weights, num_outputs, label_counts, "positive_weights")
    )


class _Squared:
    """See :func:`mse`."""

    soft_targets = True
    multi_label = True

    def __call__(self, scores: Tensor, targets: Tensor) -> Tensor:
        scores = full(scores)
        return mean((scores - indicators(scores, targets)).square().mean(1), targets)


@LOSSES.register
def mse() -> Loss:
    """Mean squared error to the one-hot label, averaged over the classes; 1/K for scores of zero.

    The loss maps scores s (B, K) and targets t (B, K), or labels (B,) as one-hot t, to the mean over samples and
    classes of (s - t)^2: linear regression on the classes.

    Source: Hui and Belkin 2021, "Evaluation of neural architectures trained with square loss vs cross-entropy in
        classification tasks"
    """
    return _Squared()
