"""Losses of a batch. Every loss returns the mean over the batch in nats (or its own unit), as a scalar tensor.

Letters: B samples, K classes. Targets are labels, int64 (B,), of which :data:`IGNORED` ones have no loss and are not
averaged; or a number for each class, (B, K). What a loss can take of the latter it says by two attributes:
``soft_targets``, the share of each class of one sample (mixed images), and ``multi_label``, whether the sample has each
label or not, 0 or 1.
"""

from dlrun.losses.base import IGNORED, Loss
from dlrun.losses.softmax import cross_entropy

__all__ = ["IGNORED", "Loss", "cross_entropy"]
