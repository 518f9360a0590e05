"""The batch size of each epoch. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from dlrun.config.schema import Config
from dlrun.errors import UserError


@dataclass(frozen=True)
class BatchSizes:
    """The batch size of each epoch.

    Attributes:
        sizes: (first epoch that has it, B), in the order of the epochs; the first is that of epoch 0.
    """

    sizes: tuple[tuple[int, int], ...]

    @classmethod
    def growing(
        cls, size: int, factor: float | None, at: Sequence[float], largest: int | None, epochs: int
    ) -> BatchSizes:
        """Batches that grow at some points of a training, each at the nearest border of two epochs (a half goes up).

        Args:
            size: B of the first epoch.
            factor: of each growth, > 1; None: there is none.
            at: the points as shares of the training, in (0, 1).
            largest: B grows no further.
            epochs: length of the training.

        Raises:
            ValueError: if the points do not increase, or ``largest`` is less than ``size``.

        Source: Smith, Kindermans, Ying and Le 2018, "Don't decay the learning rate, increase the batch size".
        """
        if factor is None:
            return cls(((0, size),))
        if any(b <= a for a, b in pairwise(at)):
            raise ValueError(f"data.batch_growth_at must increase, got {list(at)}")
        if largest is not None and largest < size:
            raise ValueError(f"data.batch_growth_max={largest} is less than data.batch_size={size}")
        found = {0: size}
        for number, share in enumerate(at, 1):
            grown = round(size * factor**number)
            # Two points at one border: the later one holds.
            found[max(1, math.floor(share * epochs + 0.5))] = grown if largest is None else min(grown, largest)
        return cls(tuple((epoch, grown) for epoch, grown in found.items() if epoch < epochs))

    @property
    def largest(self) -> int:
        """The largest B."""
        return max(size for _, size in self.sizes)

    @property
    def grow(self) -> bool:
        """Whether a later epoch has a larger B than the first."""
        return self.largest > self.sizes[0][1]

    def of(self, epoch: int) -> int:
        """B in an epoch."""
        return next((size for first, size in reversed(self.sizes) if first <= epoch), self.sizes[0][1])


def batch_sizes(config: Config) -> BatchSizes:
    """What the section ``data`` of a configuration says of the training batches.

    Raises:
        UserError: if the batch cannot grow so.
    """
    data = config.data
    try:
        return BatchSizes.growing(
            data.batch_size, data.batch_growth, data.batch_growth_at, data.batch_growth_max, config.trainer.epochs
        )
    except ValueError as error:
        raise UserError(str(error)) from None
