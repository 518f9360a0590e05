"""Batches of features that were computed once. Letters: N samples, B in a batch."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from dlrun.data.plan import Plan


class FeatureLoader:
    """Gives the rows of a tensor in the order in which a loader of the images would give these. See
    :class:`dlrun.data.loaders.BatchLoader`.

    Args:
        features: float (N, ...), on the device.
        labels: int64 (N,), on the device.
        batch_size: B, in 1..N.
        seed: of the order.
        shuffle: whether each epoch has a random order.
        drop_last: leave out the last batch of an epoch if it is smaller than B.
    """

    def __init__(
        self, features: Tensor, labels: Tensor, *, batch_size: int, seed: int, shuffle: bool, drop_last: bool = False
    ) -> None:
        total = len(features)
        self._features, self._labels = features, labels
        self._plan = Plan(
            num_samples=total - total % batch_size if drop_last else total,
            batch_size=batch_size,
            image_numbers=features[0].numel(),
            seed=seed,
            shuffle=shuffle,
            total=total,
        )
        self.batch_size, self.num_samples, self.steps_per_epoch = batch_size, self._plan.num_samples, self._plan.steps

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """(features, labels) of each batch: (B, ...), (B,)."""
        order = self._plan.order(epoch).to(self._features.device)
        for first in range(start * self.batch_size, self.num_samples, self.batch_size):
            rows = order[first : min(first + self.batch_size, self.num_samples)]
            yield self._features.index_select(0, rows), self._labels.index_select(0, rows)

    def close(self) -> None:
        """Nothing to end."""
