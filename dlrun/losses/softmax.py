"""Losses of the softmax. Letters: B samples, K classes, p the softmax of the scores."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from dlrun.losses.base import Loss, Weights, full, indicators, mean, smoothed, weights_of
from dlrun.registry import LOSSES
from dlrun.types import NonNegativeFloat, PositiveFloat, Rate

ClassWeights = tuple[PositiveFloat, ...] | Literal["balanced"] | None


class _CrossEntropy:
    """See :func:`cross_entropy`."""

    soft_targets = True
    multi_label = False

    def __init__(self, smoothing: float, weights: Weights | None) -> None:
        self._smoothing, self._weights = smoothing, weights

    def __call__(self, scores: Tensor, targets: Tensor) -> Tensor:
        # In half precision the shares of a sample would no longer add up to 1.
        scores = full(scores)
        if targets.dim() > 1:
            targets = targets.to(scores.dtype)
        if self._weights is None:
            return F.cross_entropy(scores, targets, label_smoothing=self._smoothing)
        weights = self._weights.like(scores)
        # Not torch's mean, which divides by the weights of the batch: means of parts would no longer add up.
        losses = F.cross_entropy(scores, targets, weight=weights, label_smoothing=self._smoothing, reduction="none")
        return mean(losses, targets)


@LOSSES.register
def cross_entropy(
    num_outputs: int | None = None,
    label_counts: tuple[int, ...] | None = None,
    *,
    label_smoothing: Rate = 0.0,
    class_weights: ClassWeights = None,
) -> Loss:
    """Softmax cross entropy in nats; ln K at initialisation with K classes.

    The loss maps scores (B, K) and labels (B,) in [0, K) to the mean of -log softmax(scores)[label]; with shares of the
    classes t (B, K) in place of labels, to the mean of -sum_k t_k log softmax(scores)[k], and smoothing mixes t with
    the even shares. With class weights each -log p_k has the factor w_k, and the mean is still over the samples.

    Args:
        num_outputs: K.
        label_counts: training samples of each class.
        label_smoothing: part of the target that is spread evenly over all classes, in [0, 1).
        class_weights: factor on the loss of each class, > 0, in their order; balanced: K classes with n_c of n training
            samples get n / (K n_c).

    Raises:
        ValueError: if there is not a weight for each class, or nothing is known to balance by.

    Source: Szegedy et al. 2016, "Rethinking the Inception architecture", section 7 (label smoothing).
    """
    return _CrossEntropy(label_smoothing, weights_of(class_weights, num_outputs, label_counts))


class _Focal:
    """See :func:`focal`."""

    soft_targets = True
    multi_label = False

    def __init__(self, gamma: float, smoothing: float, weights: Weights | None) -> None:
        self._gamma, self._smoothing, self._weights = gamma, smoothing, weights

    def __call__(self, scores: Tensor, targets: Tensor) -> Tensor:
        if targets.dim() > 1 or self._smoothing:
            scores = full(scores)
            shares = smoothed(indicators(scores, targets), self._smoothing, 1 / scores.shape[1])
            if self._weights is not None:
                shares = shares * self._weights.like(scores)
            return mean((shares * self._of(F.log_softmax(scores, 1))).sum(1), targets)
        logs = F.log_softmax(full(scores), 1).gather(1, targets.clamp(min=0)[:, None]).squeeze(1)
        losses = self._of(logs)
        if self._weights is not None:
            losses = losses * self._weights.like(losses)[targets.clamp(min=0)]
        return mean(losses, targets)

    def _of(self, logs: Tensor) -> Tensor:
        """-(1 - p)^gamma log p, from log p."""
        if not self._gamma:
            return -logs
        # 1 - p is exact where p is nearly 1; the power of 0 would have no gradient.
        misses = (-logs.expm1()).clamp(min=1e-12)
        return -(misses**self._gamma) * logs


@LOSSES.register
def focal(
    num_outputs: int | None = None,
    label_counts: tuple[int, ...] | None = None,
    *,
    gamma: NonNegativeFloat = 2.0,
    label_smoothing: Rate = 0.0,
    class_weights: ClassWeights = None,
) -> Loss:
    """Focal loss: cross entropy that what is well classified hardly adds to; (1 - 1/K)^gamma ln K at initialisation.

    The loss maps scores (B, K) and labels (B,) to the mean of -w_y (1 - p_y)^gamma log p_y; with shares of the classes
    t (B, K) in place of labels, to the mean of -sum_k w_k t_k (1 - p_k)^gamma log p_k, and smoothing mixes t with the
    even shares.

    Args:
        num_outputs: K.
        label_counts: training samples of each class.
        gamma: focus on hard samples, >= 0; 0 is cross entropy.
        label_smoothing: part of the target that is spread evenly over all classes, in [0, 1).
        class_weights: w, the alpha of the paper: factor on the loss of each class, > 0, in their order; balanced: K
            classes with n_c of n training samples get n / (K n_c).

    Raises:
        ValueError: if there is not a weight for each class, or nothing is known to balance by.

    Source: Lin et al. 2017, "Focal loss for dense object detection", equation 5, over the softmax of all classes;
        Mukhoti et al. 2020, "Calibrating deep neural networks using focal loss" (the sum over shares, q there); Szegedy
        et al. 2016, "Rethinking the Inception architecture", section 7 (smoothing)
    """
    return _Focal(gamma, label_smoothing, weights_of(class_weights, num_outputs, label_counts))
