"""Scores of a classifier's outputs over a whole split, and how scores are shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


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


def average_precision(scores: Tensor, there: Tensor) -> float | None:
    """Area under the curve of precision over recall, as a sum of steps: mean precision at the samples with the label.

    Args:
        scores: (N,); samples of equal score are taken together.
        there: bool (N,), whether a sample has the label.

    Returns:
        In [0, 1]; None if no sample has the label.

    Source: Everingham et al. 2010, "The PASCAL visual object classes challenge", without its interpolation, as in
        scikit-learn's ``average_precision_score``
    """
    if not there.any():
        return None
    order = scores.argsort(descending=True, stable=True)
    hits = there[order].double().cumsum(0)
    ends = torch.cat([scores[order].diff() != 0, torch.ones(1, dtype=torch.bool)])
    hits, ranks = hits[ends], torch.arange(1, len(scores) + 1, dtype=torch.float64)[ends]
    gained = torch.diff(hits, prepend=torch.zeros(1, dtype=torch.float64))
    return float((gained * hits / ranks).sum() / hits[-1])


def macro_f1(rows: Sequence[Mapping[str, Any]]) -> float:
    """The mean F1 of the classes that occur or were predicted, each counted alike; NaN if there are none.

    Args:
        rows: what :func:`per_class` gives.
    """
    found = [row["f1"] for row in rows if row["f1"] is not None]
    return sum(found) / len(found) if found else math.nan


def is_bio(tags: Sequence[str]) -> bool:
    """Whether tags mark spans: O outside, B-KIND at the beginning of a span, I-KIND inside it."""
    return any(tag[:2] == "B-" for tag in tags) and all(tag == "O" or tag[:2] in ("B-", "I-") for tag in tags)


def spans(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """The spans of BIO tags: (first, behind the last, kind).

    An I without a span of its kind before it begins one, as in the official script of CoNLL-2000 (conlleval).

    Args:
        tags: of tokens in their order; between two sequences there must be an O.
    """
    found, begin, kind = set(), 0, ""
    for place, tag in enumerate([*tags, "O"]):
        own = tag[2:] if tag != "O" else ""
        if kind and (tag[:1] != "I" or own != kind):
            found.add((begin, place, kind))
            kind = ""
        if own and not kind:
            begin, kind = place, own
    return found


def span_f1(predicted: Sequence[str], true: Sequence[str]) -> float:
    """F1 of exact spans: both ends and the kind are right; NaN where there is none to find or found.

    Args:
        predicted: BIO tags, as for :func:`spans`.
        true: as many.

    Source: Tjong Kim Sang and Buchholz 2000, "Introduction to the CoNLL-2000 shared task: chunking", section 2
    """
    guessed, wanted = spans(predicted), spans(true)
    total = len(guessed) + len(wanted)
    return 2 * len(guessed & wanted) / total if total else math.nan
