"""Labelled sequences as a :class:`~dlrun.data.feed.Feed`: a vocabulary of tokens, names of labels, padded batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor

from dlrun.augment.base import Augmentation, Mixing
from dlrun.config.schema import Config
from dlrun.data.feed import Split
from dlrun.data.length_batches import LengthBatches
from dlrun.data.padded_feed import PaddedFeed
from dlrun.data.recognition import SPLITS, digest_lines, digests
from dlrun.data.sequence_batches import EncodedSequences, SequenceBatch
from dlrun.data.sequences import Labelled, SequenceData
from dlrun.data.vocabulary import Vocabulary, refuse_empty
from dlrun.errors import CheckpointError, DataError

_SHOWN = 40
"""Training sequences that are shown as an example."""


class SequenceFeed(PaddedFeed[SequenceBatch]):
    """Sequences with one label each, or one for each token.

    The vocabulary is that of the training split; the labels are those of all splits, by name.

    Args:
        data: the splits.
        config: how they are fed: its sections ``data`` and ``trainer``, and the seed.
        augment: there are no augmentations of text.
        device: where the batches are wanted.
        stored: what a checkpoint holds of its data: vocabulary and labels are then those.

    Raises:
        UserError: if the configuration has options for images.
        DataError: if there is nothing to train on, no token is frequent enough, or there are not two labels.
        CheckpointError: if the data have tokens or labels of another kind, or labels that are not in ``stored``.
    """

    kind = "sequences"

    def __init__(
        self,
        data: SequenceData,
        config: Config,
        augment: Sequence[Augmentation | Mixing],
        device: torch.device,
        stored: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(config, device)
        self.data = data
        found = sorted({label for split in SPLITS for one in self.sequences(split) for label in one.labels})
        if stored is not None:
            self.tokens = Vocabulary.from_state(stored["tokens"])
            self.outputs = tuple(stored["labels"])
            self._check_labels(found, stored["per_token"])
            if self.tokens.level != data.level:
                raise CheckpointError(
                    f"was trained on {self.tokens.level}s, and these data are cut into {data.level}s; give data that "
                    "are cut alike (data.level, where there is a choice)"
                )
        elif not data.train:
            raise DataError("no sequence is left to train on; lower data.test_fraction or data.val_fraction")
        elif len(found) < 2:
            raise DataError(f"all sequences have the label {found[0]!r}: there is nothing to learn")
        else:
            self.tokens = _fitted(data)
            refuse_empty(self.tokens, data.min_count)
            self.outputs = tuple(found)
        self.counted = "tag_count" if data.per_token else "class_count"
        self.unit: Literal["samples", "tokens"] = "tokens" if data.per_token else "samples"
        self.classes = None if data.per_token else self.outputs
        self.arguments: Mapping[str, Any] = {"token_count": len(self.tokens), self.counted: len(self.outputs)}
        self._numbers = {label: number for number, label in enumerate(self.outputs)}
        self._tables, self._digests = cache(self._encode), cache(self._hash)

    def _check_labels(self, found: Sequence[str], per_token: bool) -> None:
        if per_token != self.data.per_token:
            raise CheckpointError(f"was trained with one label for each {'token' if per_token else 'sequence'}")
        unknown = [label for label in found if label not in self.outputs]
        if unknown:
            raise CheckpointError(
                f"the data have the labels {', '.join(unknown[:4])}, which it was not trained on; it knows "
                f"{', '.join(self.outputs[:8])}{', ...' if len(self.outputs) > 8 else ''}"
            )

    def _encode(self, split: Split) -> EncodedSequences:
        sequences = self.sequences(split)
        labels = [torch.tensor([self._numbers[label] for label in one.labels]) for one in sequences]
        return EncodedSequences([self._read(one) for one in sequences], labels, self.data.per_token, self._device)

    def _read(self, one: Labelled) -> Tensor:
        tokens = one.tokens
        if isinstance(tokens, str) and self.tokens.level == "character":
            return self.tokens.encode(tokens)
        return self.tokens.encode_tokens(tokens)

    def table(self, split: Split) -> EncodedSequences:
        """The sequences of a split; what they count are their labels."""
        return self._tables(split)

    def sequences(self, split: Split) -> tuple[Labelled, ...]:
        """The sequences of a split, in the order of :meth:`eval_loader`."""
        found: tuple[Labelled, ...] = getattr(self.data, split)
        return found

    def describe(self) -> str:
        """See :meth:`dlrun.data.feed.Feed.describe`."""
        counts = " / ".join(f"{len(self.sequences(split)):,}" for split in self.sizes())
        parts = [
            self.data.source,
            f"{counts} sequences",
            f"{len(self.tokens):,} {self.tokens.level}s",
            f"{len(self.outputs)} {'tags' if self.data.per_token else 'classes'}",
        ]
        if self.data.cut:
            parts.append(f"{self.data.cut:,} cut at data.max_length")
        return ", ".join(parts)

    def facts(self, split: Split) -> dict[str, int]:
        """Sequences, their tokens, and those that the training part does not have.

        See :meth:`dlrun.data.feed.Feed.facts`.
        """
        sequences = self.sequences(split)
        unknown = sum(self.tokens.unknown(self._read(one)) for one in sequences)
        return {"sequences": len(sequences), "read": sum(len(one.tokens) for one in sequences), "unknown": unknown}

    def sample_inputs(self, count: int) -> Tensor:
        """Tokens, int64 (at most ``count``, T), padded."""
        return next(LengthBatches(self.table("train"), count).epoch(0)).tokens

    def example(self, count: int) -> str:
        """The first sequences of the training split. See :meth:`dlrun.data.feed.Feed.example`."""
        return "\n".join(map(_shown, self.data.train[:_SHOWN]))

    def digest(self, split: Split) -> str | None:
        """See :meth:`dlrun.data.feed.Feed.digest`."""
        return self._digests(split)

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`dlrun.data.feed.Feed.state_dict`."""
        return {
            "tokens": self.tokens.state_dict(),
            "labels": list(self.outputs),
            "per_token": self.data.per_token,
            **digests(self.digest),
        }

    def _hash(self, split: Split) -> str | None:
        sequences = self.sequences(split)
        lines = (f"{chr(31).join(one.tokens)}\t{chr(31).join(one.labels)}" for one in sequences)
        return digest_lines(lines) if sequences else None


def _fitted(data: SequenceData) -> Vocabulary:
    if data.level == "character":
        return Vocabulary.fit(
            "".join(chain.from_iterable(one.tokens for one in data.train)), "character", data.min_count
        )
    return Vocabulary.of_tokens(chain.from_iterable(one.tokens for one in data.train), data.level, data.min_count)


def _shown(one: Labelled) -> str:
    if len(one.labels) == 1:
        joined = one.tokens if isinstance(one.tokens, str) else " ".join(one.tokens)
        return f"{one.labels[0]}  <-  {joined}"
    return " ".join(f"{token}/{label}" for token, label in zip(one.tokens, one.labels, strict=True))
