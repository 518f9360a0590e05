"""Several opinions made one: the mean of the probabilities that several nets, or one net on several views, give.

Letters: N samples, K classes, B samples of a batch, T steps of text, V symbols.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlrun.data.statistics import Statistics
from dlrun.tasks.base import Carried, Probabilities
from dlrun.views import Views


def mean_probabilities(
    scores: Sequence[Tensor], weights: Sequence[float] | None = None, kind: Probabilities = "softmax"
) -> Tensor:
    """Scores that stand for the mean of the probabilities that others stand for.

    Of the softmax they are the logarithms of that mean, of the sigmoid its log-odds: their softmax, or sigmoid, is the
    mean, and their cross entropy its negative log-likelihood.

    Args:
        scores: logits (..., K) of each opinion, all of one shape.
        weights: what each counts, > 0, of sum 1; None: all the same.
        kind: how they stand for probabilities, as the task says.

    Returns:
        (..., K), at least float32.

    Source: Krizhevsky et al. 2012, "ImageNet classification with deep convolutional neural networks", section 4.1
    """
    counts = [1 / len(scores)] * len(scores) if weights is None else weights
    precise = [one if one.dtype == torch.float64 else one.float() for one in scores]

    def mean_of(logs: Sequence[Tensor]) -> Tensor:
        weighted = [one + math.log(count) for one, count in zip(logs, counts, strict=True)]
        return torch.logsumexp(torch.stack(weighted), 0)

    if kind == "softmax":
        return mean_of([F.log_softmax(one, -1) for one in precise])
    return mean_of([F.logsigmoid(one) for one in precise]) - mean_of([F.logsigmoid(-one) for one in precise])


class Viewed(nn.Module):
    """A net that looks at several views of each image and gives scores of the mean of its probabilities.

    Args:
        model: called with normalised images (B, C, H, W), gives logits (B, K).
        statistics: what the model's images are normalised with; on the device of the images.
        views: what is made of an image.
        kind: how the logits stand for probabilities.
    """

    def __init__(self, model: nn.Module, statistics: Statistics, views: Views, kind: Probabilities = "softmax") -> None:
        super().__init__()
        self.model = model
        self._statistics = statistics
        self._views = views
        self._kind = kind

    def forward(self, pixels: Tensor) -> Tensor:
        """Scores (B, K) of images, float32 (B, C, H, W) in 0..255: they are normalised after what is done to them, as
        in training."""
        found = [(weight, self.model(self._statistics.normalize(view))) for weight, view in self._views(pixels)]
        return mean_probabilities([scores for _, scores in found], [weight for weight, _ in found], self._kind)


class LanguageEnsemble(nn.Module):
    """Language models that read the same text side by side; it gives the mean of their next-token probabilities.

    What they carry from chunk to chunk is carried together, one after the other.

    Args:
        models: of one vocabulary.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self._counts: list[int] | None = None

    def forward(self, tokens: Tensor, carried: Carried) -> tuple[Tensor, Carried]:
        """Logarithms of the mean probabilities (B, T, V) of the next tokens, and what is carried on."""
        parts: Sequence[Carried] = [None] * len(self.models)
        if carried is not None:
            assert self._counts is not None
            parts = [part or None for part in _cut(carried, self._counts)]
        scores: list[Tensor] = []
        after: list[tuple[Tensor, ...]] = []
        for model, part in zip(self.models, parts, strict=True):
            result = model(tokens, part)
            logits, state = result if isinstance(result, tuple) else (result, None)
            scores.append(logits)
            after.append(() if state is None else tuple(state))
        self._counts = [len(state) for state in after]
        joined = tuple(tensor for state in after for tensor in state)
        return mean_probabilities(scores), joined or None


def _cut(tensors: tuple[Tensor, ...], counts: Sequence[int]) -> list[tuple[Tensor, ...]]:
    parts, begin = [], 0
    for count in counts:
        parts.append(tensors[begin : begin + count])
        begin += count
    return parts
