"""What the feeds of sequences have in common: padded tables, batches of similar lengths, recognition."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import torch

from dlrun.config.schema import Config
from dlrun.data.feed import Split
from dlrun.data.length_batches import LengthBatches, Table
from dlrun.data.recognition import SPLITS, refuse_changed
from dlrun.errors import DataError, UserError

B = TypeVar("B")


class PaddedFeed(ABC, Generic[B]):
    """Samples of different lengths, all of them in memory; see :class:`dlrun.data.feed.Feed`.

    Args:
        config: how they are fed: its sections ``data`` and ``trainer``, and the seed.
        device: where the batches are wanted.

    Raises:
        UserError: if the configuration has options for images.
    """

    kind: str
    soft_targets = False

    def __init__(self, config: Config, device: torch.device) -> None:
        refuse_options_of_images(config)
        self._config, self._device = config, device

    @abstractmethod
    def table(self, split: Split) -> Table[B]:
        """The samples of a split."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """See :meth:`dlrun.data.feed.Feed.state_dict`."""

    def sizes(self) -> dict[Split, int]:
        """See :meth:`dlrun.data.feed.Feed.sizes`."""
        return {split: int(self.table(split).counts.sum()) for split in SPLITS if len(self.table(split))}

    def train_loader(self) -> LengthBatches[B]:
        """Shuffled batches of similar lengths. See :meth:`dlrun.data.feed.Feed.train_loader`."""
        settings, table = self._config.data, self.table("train")
        if settings.batch_size > len(table):
            raise DataError(
                f"data.batch_size={settings.batch_size} is larger than the training split ({len(table)} {self.kind}); "
                f"set it to {len(table)} or less"
            )
        return LengthBatches(
            table,
            settings.batch_size,
            seed=self._config.seed,
            epochs=self._config.trainer.epochs,
            drop_last=settings.drop_last,
            limit=self._config.trainer.limit_batches,
        )

    def eval_loader(self, split: Split) -> LengthBatches[B] | None:
        """See :meth:`dlrun.data.feed.Feed.eval_loader`."""
        table = self.table(split)
        if not len(table):
            return None
        return LengthBatches(table, self._config.data.eval_batch_size, limit=self._config.trainer.limit_batches)

    def augmented(self, count: int, draws: int) -> None:
        """None: nothing augments text. See :meth:`dlrun.data.feed.Feed.augmented`."""

    def check_unchanged(self, stored: Mapping[str, Any]) -> None:
        """See :meth:`dlrun.data.feed.Feed.check_unchanged`."""
        refuse_changed(self.state_dict(), stored, self.kind)


def refuse_options_of_images(config: Config) -> None:
    """Check that nothing is asked of text that only images have.

    Raises:
        UserError: naming every such option.
    """
    wrong = []
    if config.augment:
        names = ", ".join(augmentation.name for augmentation in config.augment)
        wrong.append(f"augment: {names} is for images; set augment=none")
    if config.data.normalize != "none":
        wrong.append(f"data.normalize={config.data.normalize} is for images; set data.normalize=none")
    if config.data.contrast_normalize:
        wrong.append("data.contrast_normalize=true is for images; set it to false")
    if config.data.resident is False:
        wrong.append("data.resident=false is for images: text always lies on the device; set data.resident=true")
    if config.data.batch_growth is not None:
        wrong.append(
            f"data.batch_growth={config.data.batch_growth:g} is for images: a batch of text is a number of streams or "
            "of sorted sequences; set data.batch_growth=null"
        )
    if wrong:
        raise UserError("; ".join(wrong))
