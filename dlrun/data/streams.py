"""Text as parallel streams: what truncated backpropagation through time walks along.

    tokens  0 1 2 3 4 5 6 7 8 9 ...              B streams of L tokens, each read from left to right
    stream 0   0 1 2 | 3 4 5 | ...               a batch is a chunk of T columns; the hidden state of row b after one
    stream 1   L .   |   .   | ...               chunk is that before the next; an epoch begins without a state
    ...

The target of every token is the one after it. Letters: N tokens, B streams, L tokens in each, T steps in a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from dlrun.losses import IGNORED


class TokenBatch(NamedTuple):
    """One chunk of every stream."""

    inputs: Tensor
    """int64 (B, T)."""
    targets: Tensor
    """int64 (B, T): the token that follows each input; :data:`dlrun.losses.IGNORED` where there is none."""
    lengths: tuple[int, ...]
    """Of each row, how many of its targets count; they come first."""


class TokenStreams:
    """All tokens lie on the device in their smallest integer type; a batch is a slice. See
    :class:`dlrun.data.feed.BatchLoader`.

    Args:
        tokens: (N,) integers, N >= 2.
        streams: B.
        steps: T.
        device: where the batches are wanted.
        whole: True predicts every token but the first once, with masked targets at the end of the last streams; False
            leaves out the up to B - 1 tokens at the end that would not give every stream the same length.
        drop_last: leave out the last chunk if it is shorter than T.
        limit: use only so many batches of an epoch; None: all.

    Raises:
        ValueError: if the tokens are too few for one batch.
    """

    def __init__(
        self,
        tokens: Tensor,
        streams: int,
        steps: int,
        device: torch.device,
        *,
        whole: bool,
        drop_last: bool = False,
        limit: int | None = None,
    ) -> None:
        targets = len(tokens) - 1
        length = math.ceil(targets / streams) if whole else targets // streams
        chunks = length // steps if drop_last else math.ceil(length / steps)
        if targets < 1 or chunks < 1:
            least = streams * (steps if drop_last else 1) + 1
            raise ValueError(f"{len(tokens)} tokens, and {max(2, least)} are needed")
        self.batch_size = streams
        self.steps_per_epoch = chunks if limit is None else min(chunks, limit)
        self._width = steps
        self._length = min(length, self.steps_per_epoch * steps)
        # What each stream has to predict; of a whole split the last streams may have less than the others.
        self._valid = tuple(max(0, min(self._length, targets - row * length)) for row in range(streams))
        self.num_samples = sum(self._valid)
        needed = streams * length + 1
        if needed > len(tokens):
            tokens = torch.cat([tokens, tokens.new_zeros(needed - len(tokens))])
        tokens = tokens[:needed].to(device)
        self._inputs, self._targets = tokens[:-1].view(streams, length), tokens[1:].view(streams, length)
        self._ends = torch.tensor(self._valid, device=device)[:, None]

    def steps(self, epoch: int) -> int:
        """The same in every epoch. See :meth:`dlrun.data.feed.BatchLoader.steps`."""
        return self.steps_per_epoch

    def epoch(self, epoch: int, start: int = 0) -> Iterator[TokenBatch]:
        """The same batches in every epoch. See :meth:`dlrun.data.feed.BatchLoader.epoch`."""
        if epoch < 0 or not 0 <= start <= self.steps_per_epoch:
            raise ValueError(f"no batch {start} in epoch {epoch}: an epoch has {self.steps_per_epoch} batches")
        for chunk in range(start, self.steps_per_epoch):
            yield self._batch(chunk * self._width)

    def _batch(self, begin: int) -> TokenBatch:
        end = min(begin + self._width, self._length)
        targets = self._targets[:, begin:end].long()
        lengths = tuple(max(0, min(end, valid) - begin) for valid in self._valid)
        if min(lengths) < end - begin:
            positions = torch.arange(begin, end, device=targets.device)
            targets = targets.masked_fill(positions >= self._ends, IGNORED)
        return TokenBatch(self._inputs[:, begin:end].long(), targets, lengths)

    def close(self) -> None:
        """See :meth:`dlrun.data.feed.BatchLoader.close`; there is nothing to end."""
