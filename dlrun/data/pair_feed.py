"""Pairs of texts as a :class:`~dlrun.data.feed.Feed`: two vocabularies of characters, and padded batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from dlrun.augment.base import Augmentation, Mixing
from dlrun.config.schema import Config
from dlrun.data.feed import Split
from dlrun.data.padded_feed import PaddedFeed
from dlrun.data.pair_batches import EncodedPairs, PairBatch, PairBatches
from dlrun.data.pairs import Pair, PairData
from dlrun.data.recognition import digest_lines, digests
from dlrun.data.vocabulary import Vocabulary
from dlrun.errors import DataError

_SHOWN = 40
"""Training pairs that are shown as an example."""


class PairFeed(PaddedFeed[PairBatch]):
    """Sources and targets as characters. A target ends with a symbol of its own, which the decoder also begins with.

    Args:
        data: the splits.
        config: how they are fed: its sections ``data`` and ``trainer``, and the seed.
        augment: there are no augmentations of text.
        device: where the batches are wanted.
        stored: what a checkpoint holds of its data: the vocabularies are then those.

    Raises:
        UserError: if the configuration has options for images.
        DataError: if there is no pair to train on.
    """

    kind = "pairs"
    counted = "target_size"
    unit: Literal["samples", "tokens"] = "tokens"
    classes: tuple[str, ...] | None = None

    def __init__(
        self,
        data: PairData,
        config: Config,
        augment: Sequence[Augmentation | Mixing],
        device: torch.device,
        stored: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(config, device)
        self.data = data
        if stored is not None:
            self.source, self.target = (Vocabulary.from_state(stored[side]) for side in ("source", "target"))
        elif not data.train:
            raise DataError("no pair is left to train on; lower data.test_fraction or data.val_fraction")
        else:
            self.source = Vocabulary.fit("".join(pair.source for pair in data.train), "character")
            self.target = Vocabulary.fit("".join(pair.target for pair in data.train), "character")
        self.end = len(self.target)
        self.outputs = (*self.target.symbols, "<end>")
        self.arguments: Mapping[str, Any] = {"source_size": len(self.source), "target_size": len(self.target) + 1}
        self._tables, self._digests = cache(self._encode), cache(self._hash)

    def _encode(self, split: Split) -> EncodedPairs:
        pairs = self.pairs(split)
        sides = [self.source.encode(pair.source) for pair in pairs], [self.target.encode(pair.target) for pair in pairs]
        return EncodedPairs(*sides, self.end, self._device)

    def table(self, split: Split) -> EncodedPairs:
        """The pairs of a split; what they count are the symbols of the targets, with their ends."""
        return self._tables(split)

    def pairs(self, split: Split) -> tuple[Pair, ...]:
        """The texts of a split, in the order of :meth:`eval_loader`."""
        found: tuple[Pair, ...] = getattr(self.data, split)
        return found

    def read(self, tokens: Sequence[int]) -> str:
        """The text of a decoded target, up to its end."""
        kept = tokens[: tokens.index(self.end)] if self.end in tokens else tokens
        return self.target.decode(kept)

    def describe(self) -> str:
        """See :meth:`dlrun.data.feed.Feed.describe`."""
        counts = " / ".join(f"{len(self.pairs(split)):,}" for split in self.sizes())
        return f"{self.data.source}, {counts} pairs, {len(self.source)} to {len(self.target)} characters"

    def facts(self, split: Split) -> dict[str, int]:
        """Pairs, and characters of targets and of sources that the training part does not have.

        See :meth:`dlrun.data.feed.Feed.facts`.
        """
        pairs = self.pairs(split)
        sources = self.source.unknown(self.source.encode("".join(pair.source for pair in pairs)))
        targets = self.target.unknown(self.target.encode("".join(pair.target for pair in pairs)))
        return {"pairs": len(pairs), "unknown": targets, "unknown_in_sources": sources}

    def sample_inputs(self, count: int) -> Tensor:
        """Sources, int64 (at most ``count``, S), padded."""
        return next(PairBatches(self.table("train"), count).epoch(0)).source

    def example(self, count: int) -> str:
        """The first pairs of the training split. See :meth:`dlrun.data.feed.Feed.example`."""
        return "\n".join(f"{pair.source}  ->  {pair.target}" for pair in self.data.train[:_SHOWN])

    def digest(self, split: Split) -> str | None:
        """See :meth:`dlrun.data.feed.Feed.digest`."""
        return self._digests(split)

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`dlrun.data.feed.Feed.state_dict`."""
        return {
            "source": self.source.state_dict(),
            "target": self.target.state_dict(),
            **digests(self.digest),
        }

    def _hash(self, split: Split) -> str | None:
        pairs = self.pairs(split)
        return digest_lines(f"{pair.source}\t{pair.target}" for pair in pairs) if pairs else None
