"""Text as a :class:`~dlrun.data.feed.Feed`: a vocabulary and streams of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from dlrun.augment.base import Augmentation, Mixing
from dlrun.config.schema import Config
from dlrun.data.feed import Split
from dlrun.data.padded_feed import refuse_options_of_images
from dlrun.data.recognition import SPLITS, digest, digests, refuse_changed
from dlrun.data.streams import TokenStreams
from dlrun.data.text import TextData
from dlrun.data.vocabulary import Vocabulary, refuse_empty
from dlrun.errors import CheckpointError, DataError

_SHOWN = 2000
"""Characters of the training text that are shown as an example."""


class TextFeed:
    """Tokens in contiguous streams: ``data.batch_size`` of them in training, ``data.eval_batch_size`` in evaluation.

    In training the streams have one length, and up to ``batch_size - 1`` tokens at the end of the split are left out.
    In evaluation every token of the split but its first is predicted once.

    Args:
        data: the splits.
        config: how they are fed: its sections ``data`` and ``trainer``.
        augment: there are no augmentations of text.
        device: where the batches are wanted.
        stored: what a checkpoint holds of its data: the vocabulary is then that.

    Raises:
        UserError: if the configuration has options for images.
        DataError: if there is no training text to take a vocabulary from, all of it is too rare, or a split has one
            token.
        CheckpointError: if the checkpoint was trained on other tokens, such as words instead of characters.
    """

    kind = "text"
    counted = "vocabulary_size"
    unit: Literal["samples", "tokens"] = "tokens"
    classes: tuple[str, ...] | None = None
    soft_targets = False

    def __init__(
        self,
        data: TextData,
        config: Config,
        augment: Sequence[Augmentation | Mixing],
        device: torch.device,
        stored: Mapping[str, Any] | None = None,
    ) -> None:
        refuse_options_of_images(config)
        self.data = data
        self._config, self._device = config, device
        if stored is not None:
            self.vocabulary = Vocabulary.from_state(stored["vocabulary"])
            if self.vocabulary.level != data.level:
                raise CheckpointError(
                    f"was trained on tokens of the level {self.vocabulary.level}, so data.level={data.level} cannot be "
                    "evaluated with it"
                )
        elif not data.train:
            raise DataError("no text is left to train on; lower data.test_fraction or data.val_fraction")
        else:
            self.vocabulary = Vocabulary.fit(data.train, data.level, data.min_count)
            refuse_empty(self.vocabulary, data.min_count)
        self.outputs = self.vocabulary.symbols or (data.level,)
        self.arguments: Mapping[str, Any] = {"vocabulary_size": len(self.vocabulary), "token": data.level}
        self._tokens, self._digests = cache(self._encode), cache(self._hash)
        if stored is None:
            for split in self.sizes():
                self._refuse_single(split)

    def _encode(self, split: Split) -> Tensor:
        return self.vocabulary.encode(getattr(self.data, split))

    def _refuse_single(self, split: Split) -> None:
        if len(self._tokens(split)) > 1:
            return
        remedy = "give more text"
        if split != "train":
            remedy += f", or another data.{split}_fraction (0 for none)"
        raise DataError(f"the {split} split has 1 token, which leaves nothing to predict; {remedy}")

    def _hash(self, split: Split) -> str | None:
        return digest(self._tokens(split).numpy().tobytes()) if getattr(self.data, split) else None

    def sizes(self) -> dict[Split, int]:
        """See :meth:`dlrun.data.feed.Feed.sizes`."""
        return {split: len(self._tokens(split)) for split in SPLITS if getattr(self.data, split)}

    def describe(self) -> str:
        """See :meth:`dlrun.data.feed.Feed.describe`."""
        unknown = [f"{count:,} unknown in {split}" for split in self.sizes() if (count := self.facts(split)["unknown"])]
        return ", ".join([self.data.source, f"{len(self.vocabulary):,} {self.data.level}s", *unknown])

    def facts(self, split: Split) -> dict[str, int]:
        """The number of unknown tokens. See :meth:`dlrun.data.feed.Feed.facts`."""
        return {"unknown": self.vocabulary.unknown(self._tokens(split))}

    def train_loader(self) -> TokenStreams:
        """See :meth:`dlrun.data.feed.Feed.train_loader`."""
        settings, tokens = self._config.data, self._tokens("train")
        try:
            return TokenStreams(
                tokens,
                settings.batch_size,
                self.data.sequence_length,
                self._device,
                whole=False,
                drop_last=settings.drop_last,
                limit=self._config.trainer.limit_batches,
            )
        except ValueError as error:
            asked, remedy = f"data.batch_size={settings.batch_size}", "lower it, or give more text"
            if settings.drop_last:
                asked += f", data.sequence_length={self.data.sequence_length}, data.drop_last=true"
                remedy = "lower them, set data.drop_last=false, or give more text"
            raise DataError(f"{asked}: the training split has {error}; {remedy}") from None

    def eval_loader(self, split: Split) -> TokenStreams | None:
        """See :meth:`dlrun.data.feed.Feed.eval_loader`."""
        tokens = self._tokens(split)
        if len(tokens) == 0:
            return None
        self._refuse_single(split)
        return TokenStreams(
            tokens,
            self._config.data.eval_batch_size,
            self.data.sequence_length,
            self._device,
            whole=True,
            limit=self._config.trainer.limit_batches,
        )

    def sample_inputs(self, count: int) -> Tensor:
        """The beginnings of the streams, int64 (at most ``count``, T)."""
        return next(self.train_loader().epoch(0)).inputs[:count]

    def example(self, count: int) -> str:
        """The beginning of the training text. See :meth:`dlrun.data.feed.Feed.example`."""
        shown = self.data.train[:_SHOWN]
        return shown if isinstance(shown, str) else shown.decode("utf-8", errors="replace")

    def augmented(self, count: int, draws: int) -> None:
        """None: nothing augments text. See :meth:`dlrun.data.feed.Feed.augmented`."""

    def digest(self, split: Split) -> str | None:
        """See :meth:`dlrun.data.feed.Feed.digest`."""
        return self._digests(split)

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`dlrun.data.feed.Feed.state_dict`."""
        return {
            "vocabulary": self.vocabulary.state_dict(),
            **digests(self.digest),
            "eval_batch_size": self._config.data.eval_batch_size,
        }

    def check_unchanged(self, stored: Mapping[str, Any]) -> None:
        """See :meth:`dlrun.data.feed.Feed.check_unchanged`."""
        own = self.state_dict()
        refuse_changed({key: value for key, value in own.items() if key != "eval_batch_size"}, stored, "text")
        if own["eval_batch_size"] != stored["eval_batch_size"]:
            raise CheckpointError(
                f"data.eval_batch_size was {stored['eval_batch_size']}, now {own['eval_batch_size']}: text is "
                "evaluated in so many streams, each without context at its start, so scores would not compare; leave it"
            )
