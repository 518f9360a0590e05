"""Batches of pairs of sequences, padded among sequences of similar length.

Letters: N pairs, B of them in a batch, S symbols of the longest source, T of the longest target with its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlrun.data.order import permutation, random_words
from dlrun.losses import IGNORED

POOL = 50
"""Batches whose pairs are sorted by length together: more pad less, fewer mix better."""


class PairBatch(NamedTuple):
    """Pairs padded behind their ends."""

    source: Tensor
    """int64 (B, S); beyond the length it is any symbol."""
    source_lengths: Tensor
    """int64 (B,) on the CPU, each from 1 to S."""
    inputs: Tensor
    """int64 (B, T): what the decoder reads: the end symbol, then the target without its last symbol."""
    targets: Tensor
    """int64 (B, T): the target and the end symbol; :data:`dlrun.losses.IGNORED` in the padding."""
    lengths: tuple[int, ...]
    """Of each row, how many of its targets count; they come first."""
    progress: float
    """Share of the training that lies before this batch, in [0, 1); 0 in an evaluation."""


class EncodedPairs:
    """Sequences of symbols as two padded tables on the device.

    Args:
        sources: symbols of each source, one-dimensional integers, at least one each.
        targets: symbols of each target.
        end: number of the symbol that ends a target.
        device: where the batches are wanted.
    """

    def __init__(self, sources: Sequence[Tensor], targets: Sequence[Tensor], end: int, device: torch.device) -> None:
        self.source_lengths = np.array([len(source) for source in sources], dtype=np.int64)
        self.target_lengths = np.array([len(target) + 1 for target in targets], dtype=np.int64)
        self._end = end
        self._sources = _table(sources, 0, torch.int32).to(device)
        self._targets = _table(targets, 1, torch.int32, fill=end).to(device)

    def __len__(self) -> int:
        return len(self.source_lengths)

    def batch(self, rows: NDArray[np.int64], progress: float) -> PairBatch:
        """Some pairs, padded to the longest of them."""
        lengths = self.target_lengths[rows]
        width, depth = int(self.source_lengths[rows].max()), int(lengths.max())
        device = self._sources.device
        index = torch.from_numpy(rows).to(device)
        targets = self._targets[index, :depth].long()
        begin = targets.new_full((len(rows), 1), self._end)
        beyond = torch.arange(depth, device=device) >= torch.from_numpy(lengths).to(device)[:, None]
        return PairBatch(
            self._sources[index, :width].long(),
            torch.from_numpy(self.source_lengths[rows]),
            torch.cat([begin, targets[:, :-1]], 1),
            targets.masked_fill(beyond, IGNORED),
            tuple(lengths.tolist()),
            progress,
        )


def _table(sequences: Sequence[Tensor], more: int, dtype: torch.dtype, fill: int = 0) -> Tensor:
    table = torch.full((len(sequences), max(map(len, sequences), default=0) + more), fill, dtype=dtype)
    for row, sequence in zip(table, sequences, strict=True):
        row[: len(sequence)] = sequence
    return table


class PairBatches:
    """Batches of one split. See :class:`dlrun.data.feed.BatchLoader`.

    In training the pairs are shuffled, the pairs of :data:`POOL` batches at a time are sorted by length and cut into
    batches, and these are shuffled: a pure function of (seed, epoch). In evaluation they come in their own order.

    Args:
        pairs: the split, at least one pair.
        batch_size: B.
        seed: of the order; None for the own order.
        epochs: length of the training, for :attr:`PairBatch.progress`.
        drop_last: leave out the pairs that do not fill a batch; others of them in each epoch.
        limit: use only so many batches of an epoch; None: all.
    """

    def __init__(
        self,
        pairs: EncodedPairs,
        batch_size: int,
        *,
        seed: int | None = None,
        epochs: int = 1,
        drop_last: bool = False,
        limit: int | None = None,
    ) -> None:
        self.batch_size = batch_size
        self._pairs, self._seed, self._epochs = pairs, seed, epochs
        self._used = len(pairs) - len(pairs) % batch_size if drop_last else len(pairs)
        batches = -(-self._used // batch_size)
        self.steps_per_epoch = batches if limit is None else min(batches, limit)
        # With something left out, the epochs differ: the first stands for them.
        self.num_samples = sum(int(pairs.target_lengths[rows].sum()) for rows in self._order(0))

    def _order(self, epoch: int) -> list[NDArray[np.int64]]:
        size, seed = self.batch_size, self._seed
        if seed is None:
            rows = np.arange(self._used)
            return [rows[i : i + size] for i in range(0, self._used, size)][: self.steps_per_epoch]
        drawn = permutation(seed, epoch, len(self._pairs)).numpy()[: self._used]
        batches = []
        for begin in range(0, self._used, POOL * size):
            pool = drawn[begin : begin + POOL * size]
            pool = pool[np.lexsort((self._pairs.target_lengths[pool], self._pairs.source_lengths[pool]))]
            cuts = [*range(0, len(pool), size), len(pool)]
            batches += [pool[a:b] for a, b in pairwise(cuts)]
        order = random_words(len(batches), "pair batches", seed, epoch).argsort(kind="stable")
        return [batches[index] for index in order.tolist()][: self.steps_per_epoch]

    def steps(self, epoch: int) -> int:
        """The same in every epoch. See :meth:`dlrun.data.feed.BatchLoader.steps`."""
        return self.steps_per_epoch

    def epoch(self, epoch: int, start: int = 0) -> Iterator[PairBatch]:
        """See :meth:`dlrun.data.feed.BatchLoader.epoch`."""
        if epoch < 0 or not 0 <= start <= self.steps_per_epoch:
            raise ValueError(f"no batch {start} in epoch {epoch}: an epoch has {self.steps_per_epoch} batches")
        order, steps = self._order(epoch), self.steps_per_epoch
        for number in range(start, steps):
            done = 0.0 if self._seed is None else (epoch * steps + number) / (self._epochs * steps)
            yield self._pairs.batch(order[number], done)

    def close(self) -> None:
        """See :meth:`dlrun.data.feed.BatchLoader.close`; there is nothing to end."""
