"""Batches of samples of different lengths, cut so that little is padded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlrun.data.order import permutation, random_words

POOL = 50
"""Batches whose samples are sorted by length together: more pad less, fewer mix better."""

B = TypeVar("B")
B_co = TypeVar("B_co", covariant=True)


class Table(Protocol[B_co]):
    """The samples of one split, padded, on the device."""

    @property
    def keys(self) -> tuple[NDArray[np.int64], ...]:
        """Lengths (N,) to sort by; the last counts first, as for ``numpy.lexsort``."""

    @property
    def counts(self) -> NDArray[np.int64]:
        """(N,) what each sample holds, in the unit of the feed."""

    def batch(self, rows: NDArray[np.int64], progress: float) -> B_co:
        """Some samples, padded to the longest of them; ``progress`` is the share of the training before the batch."""

    def __len__(self) -> int: ...


def padded(sequences: Sequence[Tensor], more: int = 0, fill: int = 0) -> Tensor:
    """Sequences of whole numbers as one table.

    Args:
        sequences: N one-dimensional tensors.
        more: columns beyond the longest of them.
        fill: what stands in the padding.

    Returns:
        int32 (N, longest + more).
    """
    table = torch.full((len(sequences), max(map(len, sequences), default=0) + more), fill, dtype=torch.int32)
    for row, sequence in zip(table, sequences, strict=True):
        row[: len(sequence)] = sequence
    return table


class LengthBatches(Generic[B]):
    """Batches of one split. See :class:`dlrun.data.feed.BatchLoader`.

    In training the samples are shuffled, those of :data:`POOL` batches at a time are sorted by length and cut into
    batches, and these are shuffled: a pure function of (seed, epoch). In evaluation they come in their own order.

    Args:
        table: the split, at least one sample.
        batch_size: B.
        seed: of the order; None for the own order.
        epochs: length of the training, for the progress that a batch is told.
        drop_last: leave out the samples that do not fill a batch; others of them in each epoch.
        limit: use only so many batches of an epoch; None: all.
    """

    def __init__(
        self,
        table: Table[B],
        batch_size: int,
        *,
        seed: int | None = None,
        epochs: int = 1,
        drop_last: bool = False,
        limit: int | None = None,
    ) -> None:
        self.batch_size = batch_size
        self._table, self._seed, self._epochs = table, seed, epochs
        self._used = len(table) - len(table) % batch_size if drop_last else len(table)
        batches = -(-self._used // batch_size)
        self.steps_per_epoch = batches if limit is None else min(batches, limit)
        # With something left out, the epochs differ: the first stands for them.
        self.num_samples = sum(int(table.counts[rows].sum()) for rows in self._order(0))

    def _order(self, epoch: int) -> list[NDArray[np.int64]]:
        size, seed = self.batch_size, self._seed
        if seed is None:
            rows = np.arange(self._used)
            return [rows[i : i + size] for i in range(0, self._used, size)][: self.steps_per_epoch]
        drawn = permutation(seed, epoch, len(self._table)).numpy()[: self._used]
        batches = []
        for begin in range(0, self._used, POOL * size):
            pool = drawn[begin : begin + POOL * size]
            pool = pool[np.lexsort(tuple(key[pool] for key in self._table.keys))]
            cuts = [*range(0, len(pool), size), len(pool)]
            batches += [pool[a:b] for a, b in pairwise(cuts)]
        order = random_words(len(batches), "pair batches", seed, epoch).argsort(kind="stable")
        return [batches[index] for index in order.tolist()][: self.steps_per_epoch]

    def steps(self, epoch: int) -> int:
        """The same in every epoch. See :meth:`dlrun.data.feed.BatchLoader.steps`."""
        return self.steps_per_epoch

    def epoch(self, epoch: int, start: int = 0) -> Iterator[B]:
        """See :meth:`dlrun.data.feed.BatchLoader.epoch`."""
        if epoch < 0 or not 0 <= start <= self.steps_per_epoch:
            raise ValueError(f"no batch {start} in epoch {epoch}: an epoch has {self.steps_per_epoch} batches")
        order, steps = self._order(epoch), self.steps_per_epoch
        for number in range(start, steps):
            done = 0.0 if self._seed is None else (epoch * steps + number) / (self._epochs * steps)
            yield self._table.batch(order[number], done)

    def close(self) -> None:
        """See :meth:`dlrun.data.feed.BatchLoader.close`; there is nothing to end."""
