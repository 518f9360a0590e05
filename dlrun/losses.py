"""Losses of a batch. Every loss returns the mean over the batch in nats (or its own unit), as a scalar tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch.nn.functional as F
from torch import Tensor

from dlrun.registry import LOSSES
from dlrun.types import Range

Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) -> mean loss over the batch."""

IGNORED = -100
"""Label of a masked position: it has no loss and is not averaged."""


def taking_shares(loss: Loss) -> Loss:
    """Say of a loss that its targets may also be the share of each class, float (B, K): ``loss.soft_targets`` is true.

    Augmentations that mix images are refused with any other loss.
    """
    loss.soft_targets = True  # type: ignore[attr-defined]
    return loss


@LOSSES.register
def cross_entropy(*, label_smoothing: Annotated[float, Range(ge=0, lt=1)] = 0.0) -> Loss:
    """Softmax cross entropy in nats; ln K at initialisation with K classes.

    The loss maps logits (B, K) and labels (B,) in [0, K) to the mean of -log softmax(logits)[label] over the labels
    that are not :data:`IGNORED`. With shares t (B, K) in place of labels, it is the mean of -sum_k t_k log
    softmax(logits)[k]; smoothing then mixes t with the even shares.

    Args:
        label_smoothing: part of the target that is spread evenly over all classes, in [0, 1).

    Source: Szegedy et al. 2016, "Rethinking the Inception architecture", section 7 (label smoothing).
    """

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, ignore_index=IGNORED, label_smoothing=label_smoothing)

    return taking_shares(loss)
