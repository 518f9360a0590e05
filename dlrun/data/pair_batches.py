"""Batches of pairs of sequences, padded among sequences of similar length.

Letters: N pairs, B of them in a batch, S symbols of the longest source, T of the longest target with its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlrun.data.length_batches import LengthBatches, padded
from dlrun.losses import IGNORED


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
    longest: int
    """Symbols of the longest target of the whole split, with its end; 0: nothing is to be decoded."""


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
        self._longest = int(self.target_lengths.max(initial=0))
        self._sources = padded(sources).to(device)
        self._targets = padded(targets, more=1, fill=end).to(device)

    def __len__(self) -> int:
        return len(self.source_lengths)

    @property
    def keys(self) -> tuple[NDArray[np.int64], ...]:
        """See :attr:`dlrun.data.length_batches.Table.keys`."""
        return self.target_lengths, self.source_lengths

    @property
    def counts(self) -> NDArray[np.int64]:
        """Symbols of each target, with its end."""
        return self.target_lengths

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
            self._longest,
        )


PairBatches = LengthBatches[PairBatch]
"""Batches of the pairs of one split."""
