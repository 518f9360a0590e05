"""Scores of a classifier's outputs over a whole split, and how scores are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_NUMBERS = ("loss", "bpc", "bpb", "bpw", "perplexity")


def is_rate(name: str) -> bool:
    """Whether a metric is a share of the samples, shown in percent; or else a number, as losses and perplexities are.

    Args:
        name: of the metric, with or without its split: ``val/accuracy``.
    """
    return not any(word in name for word in _NUMBERS)


def confusion_matrix(predicted: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Count pairs of true and predicted class.

    Args:
        predicted: (N,) int64 in [0, classes).
        targets: (N,) int64 in [0, classes).
        classes: K.

    Returns:
        (K, K) int64: row is the true class, column the predicted one.
    """
    return torch.bincount(targets * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def per_class(confusion: Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
    """Precision, recall and F1 of every class.

    A ratio without any sample in its denominator (a class that was never predicted, or that has no sample) is None.

    Args:
        confusion: (K, K), row is the true class.
        names: K names.

    Returns:
        One mapping per class: class, precision, recall, f1 in [0, 1], support (samples of the class).
    """
    rows = []
    for i, name in enumerate(names):
        hits = int(confusion[i, i])
        predicted, support = int(confusion[:, i].sum()), int(confusion[i].sum())
        rows.append(
            {
                "class": name,
                "precision": hits / predicted if predicted else None,
                "recall": hits / support if support else None,
                "f1": 2 * hits / (predicted + support) if predicted + support else None,
                "support": support,
            }
        )
    return rows
