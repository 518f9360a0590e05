"""Batches of labelled sequences. Letters: N sequences, B of them in a batch, T tokens of the longest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlrun.data.length_batches import padded
from dlrun.losses import IGNORED


class SequenceBatch(NamedTuple):
    """Sequences padded behind their ends."""

    tokens: Tensor
    """int64 (B, T); beyond the length it is any token."""
    lengths: Tensor
    """int64 (B,) on the CPU, each from 1 to T."""
    targets: Tensor
    """int64 (B,), the class of each sequence; or (B, T), of each token, :data:`dlrun.losses.IGNORED` in the padding."""
    counts: tuple[int, ...]
    """Of each row, how many targets it has."""


class EncodedSequences:
    """Labelled sequences as padded tables on the device.

    Args:
        tokens: of each sequence, one-dimensional integers, at least one each.
        labels: of each sequence as many, or one.
        per_token: whether each token has a label.
        device: where the batches are wanted.
    """

    def __init__(
        self, tokens: Sequence[Tensor], labels: Sequence[Tensor], per_token: bool, device: torch.device
    ) -> None:
        self.lengths = np.array([len(one) for one in tokens], dtype=np.int64)
        self.counts = np.array([len(one) for one in labels], dtype=np.int64)
        self.keys: tuple[NDArray[np.int64], ...] = (self.lengths,)
        self._per_token = per_token
        self._tokens = padded(tokens).to(device)
        self._labels = padded(labels, fill=IGNORED).to(device)

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, rows: NDArray[np.int64], progress: float) -> SequenceBatch:
        """Some sequences, padded to the longest of them."""
        lengths = self.lengths[rows]
        longest = int(lengths.max())
        index = torch.from_numpy(rows).to(self._tokens.device)
        targets = self._labels[index].long()
        return SequenceBatch(
            self._tokens[index, :longest].long(),
            torch.from_numpy(lengths),
            targets[:, :longest] if self._per_token else targets[:, 0],
            tuple(self.counts[rows].tolist()),
        )
