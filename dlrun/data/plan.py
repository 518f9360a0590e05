"""Which samples make which chunk, and which chunk holds which batch.

N is the number of images to choose from, B the size of a batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dlrun.data.batch_sizes import BatchSizes
from dlrun.data.order import permutation

CHUNK_NUMBERS = 1 << 20
"""A chunk is as many whole batches as have at most this many numbers (C * H * W per image); at least one
batch.

Measured on two cores: smaller ones pay for more calls, larger ones leave the processor's cache."""


@dataclass(frozen=True)
class Plan:
    """Which samples make which chunk.

    Attributes:
        num_samples: images in one epoch.
        batch_size: B.
        image_numbers: C * H * W.
        seed: of the order and the augmentation.
        shuffle: whether each epoch has an order of its own.
        total: N, images to choose from.
    """

    num_samples: int
    batch_size: int
    image_numbers: int
    seed: int
    shuffle: bool
    total: int

    @property
    def steps(self) -> int:
        """Batches in one epoch."""
        return math.ceil(self.num_samples / self.batch_size)

    @property
    def batches(self) -> int:
        """Batches in one chunk."""
        return max(1, CHUNK_NUMBERS // (self.batch_size * self.image_numbers))

    @property
    def chunks(self) -> int:
        """Chunks in one epoch."""
        return math.ceil(self.steps / self.batches)

    def order(self, epoch: int) -> Tensor:
        """int64 (N,): the samples in the order of an epoch."""
        return permutation(self.seed, epoch, self.total) if self.shuffle else torch.arange(self.total)

    def bounds(self, chunk: int) -> tuple[int, int]:
        """Positions in the order where a chunk begins and ends."""
        size = self.batches * self.batch_size
        return chunk * size, min((chunk + 1) * size, self.num_samples)

    def enter(self, epoch: int, start: int) -> tuple[int, int]:
        """The chunk of batch ``start``, and the batches to skip in it.

        Raises:
            ValueError: if ``epoch`` or ``start`` is out of range.
        """
        if epoch < 0 or not 0 <= start <= self.steps:
            raise ValueError(f"no batch {start} in epoch {epoch}: an epoch has {self.steps} batches")
        return (self.chunks, 0) if start == self.steps else divmod(start, self.batches)


@dataclass(frozen=True)
class Plans:
    """The plan of each epoch; those of one batch size are alike.

    Attributes:
        sizes: B of each epoch.
        image_numbers: C * H * W.
        seed: of the order and the augmentation.
        shuffle: whether each epoch has an order of its own.
        total: N, images to choose from.
        drop_last: leave out the last batch of an epoch if it is smaller than B.
        limit: use only so many batches of an epoch; None: all.
    """

    sizes: BatchSizes
    image_numbers: int
    seed: int
    shuffle: bool
    total: int
    drop_last: bool = False
    limit: int | None = None

    def of(self, epoch: int) -> Plan:
        """The plan of an epoch."""
        size = self.sizes.of(epoch)
        used = self.total - self.total % size if self.drop_last else self.total
        if self.limit is not None:
            used = min(used, self.limit * size)
        return Plan(used, size, self.image_numbers, self.seed, self.shuffle, self.total)
