"""Losses of the multiclass support vector machine. Letters: B samples, K classes."""

from __future__ import annotations

from torch import Tensor

from dlrun.losses.base import Loss, full, mean
from dlrun.registry import LOSSES
from dlrun.types import PositiveFloat


class _Hinge:
    """See :func:`hinge` and :func:`squared_hinge`."""

    soft_targets = False
    multi_label = False

    def __init__(self, margin: float, *, squared: bool) -> None:
        self._margin, self._squared = margin, squared

    def __call__(self, scores: Tensor, targets: Tensor) -> Tensor:
        scores, own = full(scores), targets.clamp(min=0)[:, None]
        short = (scores - scores.gather(1, own) + self._margin).clamp(min=0).scatter(1, own, 0.0)
        return mean((short.square() if self._squared else short).sum(1), targets)


@LOSSES.register
def hinge(*, margin: PositiveFloat = 1.0) -> Loss:
    """Multiclass hinge loss: what other classes lack to lie a margin below the right one; K - 1 at initialisation.

    The loss maps scores s (B, K) and labels y (B,) to the mean of sum_{j != y} max(0, s_j - s_y + margin).

    Args:
        margin: by which the score of the right class must be the largest, > 0; (K - 1) margin at initialisation.

    Source: Weston and Watkins 1999, "Support vector machines for multi-class pattern recognition"; Stanford CS231n,
        lecture 3.
    """
    return _Hinge(margin, squared=False)


@LOSSES.register
def squared_hinge(*, margin: PositiveFloat = 1.0) -> Loss:
    """Multiclass hinge loss with each term squared: large violations weigh more; K - 1 at initialisation.

    The loss maps scores s (B, K) and labels y (B,) to the mean of sum_{j != y} max(0, s_j - s_y + margin)^2.

    Args:
        margin: by which the score of the right class must be the largest, > 0; (K - 1) margin^2 at initialisation.

    Source: Tang 2013, "Deep learning using linear support vector machines", section 2.1 (L2-SVM); Stanford CS231n,
        lecture 3.
    """
    return _Hinge(margin, squared=True)
