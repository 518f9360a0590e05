"""Batches of features that were computed once. Letters: N samples, B in a batch."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from dlrun.data.batch_sizes import BatchSizes
from dlrun.data.plan import Plans


class FeatureLoader:
    """Gives the rows of a tensor in the order in which a loader of the images would give these. See
    :class:`dlrun.data.loaders.BatchLoader`.

    Args:
        features: float (N, ...), on the device.
        labels: int64 (N,), on the device.
        batch_size: B of each epoch, in 1..N.
        seed: of the order.
        shuffle: whether each epoch has a random order.
        drop_last: leave out the last batch of an epoch if it is smaller than B.
        limit: use only so many batches of an epoch; None: all.
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        *,
        batch_size: BatchSizes,
        seed: int,
        shuffle: bool,
        drop_last: bool = False,
        limit: int | None = None,
    ) -> None:
        self._features, self._labels = features, labels
        numbers = features[0].numel()
        self._plans = Plans(batch_size, numbers, seed, shuffle, len(features), drop_last, limit)
        plan = self._plans.of(0)
        self.batch_size, self.num_samples, self.steps_per_epoch = plan.batch_size, plan.num_samples, plan.steps

    def steps(self, epoch: int) -> int:
        """See :meth:`dlrun.data.loaders.BatchLoader.steps`."""
        return self._plans.of(epoch).steps

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """(features, labels) of each batch: (B, ...), (B,)."""
        plan = self._plans.of(epoch)
        order, size = plan.order(epoch).to(self._features.device), plan.batch_size
        for first in range(start * size, plan.num_samples, size):
            rows = order[first : min(first + size, plan.num_samples)]
            yield self._features.index_select(0, rows), self._labels.index_select(0, rows)

    def close(self) -> None:
        """Nothing to end."""
