"""Images as a :class:`~dlrun.data.feed.Feed`. Letters: N images, C channels, H x W pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from dlrun.augment.base import Augmentation, Mixing, Place
from dlrun.augment.pipeline import Pipeline
from dlrun.config.schema import Config
from dlrun.data.batch_sizes import BatchSizes, batch_sizes
from dlrun.data.colours import Colours
from dlrun.data.feed import Augmented, BatchLoader, Split
from dlrun.data.loaders import make_loader
from dlrun.data.order import generator, permutation
from dlrun.data.recognition import digest, digests
from dlrun.data.source import ImageData, ImageSource, SubsetSource, first
from dlrun.data.statistics import Statistics
from dlrun.data.statistics import fit as fit_statistics
from dlrun.data.whitening import WHITENINGS, Contrast
from dlrun.errors import CheckpointError, DataError, UserError

PIXELS = Statistics("channel", torch.zeros(1, 1, 1), torch.full((1, 1, 1), 1 / 255))
"""Normalising with these leaves the pixels as they are, but for their type."""


class ImageFeed:
    """Normalised images with one label each, or several.

    Args:
        data: the splits.
        config: how they are fed: its sections ``data`` and ``trainer``, and the seed.
        augment: applied to the training images, in this order.
        device: where the batches are wanted.
        stored: what a checkpoint holds of its data: the statistics are then those, and the classes and the size of the
            images must be.
        statistics: of the weights that training starts from, or of the checkpoint that it goes on from; None: what
            ``data.normalize`` says, of the training split.
        colours: of the training split, where augmentations were made with them; the checkpoint keeps them.

    Raises:
        CheckpointError: if the images do not fit ``stored``.
        UserError: if they do not fit ``statistics``.
    """

    kind = "images"
    counted = "num_classes"
    unit: Literal["samples", "tokens"] = "samples"

    def __init__(
        self,
        data: ImageData,
        config: Config,
        augment: Sequence[Augmentation | Mixing],
        device: torch.device,
        stored: Mapping[str, Any] | None = None,
        statistics: Statistics | None = None,
        colours: Colours | None = None,
    ) -> None:
        self.data = data
        self.classes: tuple[str, ...] | None = None if data.multi_label else data.classes
        self.outputs = data.classes
        # Weights of classes are those of the training, whatever is evaluated.
        self._counted: Mapping[str, Any] = (
            {"label_counts": data.label_counts(), "label_total": len(data.train)}
            if stored is None or "label_counts" not in stored
            else {"label_counts": tuple(stored["label_counts"]), "label_total": stored["label_total"]}
        )
        self.arguments: Mapping[str, Any] = {
            "input_shape": data.input_shape,
            "num_classes": len(data.classes),
            **({"num_labels": len(data.classes)} if data.multi_label else {}),
            **self._counted,
        }
        self._config, self._augment, self._device = config, tuple(augment), device
        self._pipeline = Pipeline(self._augment, len(data.classes))
        self.soft_targets = self._pipeline.soft
        self._colours = colours
        self._digests = cache(self._hash)
        if stored is None:
            self.statistics = (
                _fitted(data, config) if statistics is None else _fitting(statistics, data.input_shape, config)
            )
        else:
            _check_classes(tuple(stored["classes"]), data.classes)
            if list(data.input_shape) != list(stored["input_shape"]):
                raise CheckpointError(
                    f"was trained on images of shape {stored['input_shape']} (channels, height, width), but the data "
                    f"have {list(data.input_shape)}"
                )
            self.statistics = Statistics.from_state(stored["statistics"])

    def _source(self, split: Split) -> ImageSource | None:
        source: ImageSource | None = getattr(self.data, split)
        return source

    def sizes(self) -> dict[Split, int]:
        """See :meth:`dlrun.data.feed.Feed.sizes`."""
        splits: tuple[Split, ...] = ("train", "val", "test")
        return {split: len(source) for split in splits if (source := self._source(split)) is not None}

    def describe(self) -> str:
        """See :meth:`dlrun.data.feed.Feed.describe`."""
        what = "labels, several per image" if self.data.multi_label else "classes"
        return f"{len(self.data.classes)} {what}, {'x'.join(str(side) for side in self.data.input_shape)}"

    def facts(self, split: Split) -> dict[str, int]:
        """None. See :meth:`dlrun.data.feed.Feed.facts`."""
        return {}

    def train_loader(self) -> BatchLoader:
        """Shuffled, augmented batches. See :meth:`dlrun.data.feed.Feed.train_loader`."""
        samples, sizes = len(self.data.train), batch_sizes(self._config)
        if sizes.of(0) > samples:
            raise DataError(
                f"data.batch_size={sizes.of(0)} is larger than the training split ({samples} samples); "
                f"set it to {samples} or less"
            )
        if sizes.largest > samples:
            raise DataError(
                f"data.batch_growth={self._config.data.batch_growth:g} reaches a batch of {sizes.largest}, which is "
                f"larger than the training split ({samples} samples); set data.batch_growth_max={samples} or less"
            )
        return self._loader(
            self.data.train,
            sizes,
            shuffle=True,
            augment=self._augment,
            drop_last=self._config.data.drop_last,
            limit=self._config.trainer.limit_batches,
        )

    def eval_loader(self, split: Split) -> BatchLoader | None:
        """See :meth:`dlrun.data.feed.Feed.eval_loader`."""
        source = self._source(split)
        return None if source is None else self._loader(source, self._config.data.eval_batch_size, shuffle=False)

    def pixels(self, split: Split) -> BatchLoader | None:
        """As :meth:`eval_loader`, but of float32 (B, C, H, W) in 0..255, for what is to be done before normalising."""
        source = self._source(split)
        if source is None:
            return None
        return self._loader(source, self._config.data.eval_batch_size, shuffle=False, statistics=PIXELS)

    def _loader(
        self,
        source: ImageSource,
        batch_size: int | BatchSizes,
        *,
        shuffle: bool,
        augment: Sequence[Augmentation | Mixing] = (),
        statistics: Statistics | None = None,
        drop_last: bool = False,
        limit: int | None = None,
    ) -> BatchLoader:
        return make_loader(
            source,
            batch_size=batch_size,
            seed=self._config.seed,
            shuffle=shuffle,
            augment=augment,
            num_classes=len(self.data.classes),
            statistics=self.statistics if statistics is None else statistics,
            device=self._device,
            resident=self._config.data.resident,
            workers=self._config.data.workers,
            channels_last=self._config.trainer.channels_last,
            drop_last=drop_last,
            limit=limit,
        )

    def sample_inputs(self, count: int) -> Tensor:
        """Normalised images (N, C, H, W); a random part, as folders list their images class by class."""
        images = first(self.data.train, count, self._config.seed)
        return self.statistics.normalize(images.read(range(len(images)))).to(self._device)

    def example(self, count: int) -> Tensor:
        """A random choice of images. See :meth:`dlrun.data.feed.Feed.example`."""
        return self.data.train.read(permutation(self._config.seed, 0, len(self.data.train))[:count])

    def augmented(self, count: int, draws: int) -> Augmented | None:
        """Those of :meth:`example`, each as it came and in some draws. See :meth:`dlrun.data.feed.Feed.augmented`."""
        if not self._pipeline:
            return None
        chosen = permutation(self._config.seed, 0, len(self.data.train))[:count]
        before = self.data.train.read(chosen)
        images, labels = before.to(self._device), self.data.train.labels.index_select(0, chosen).to(self._device)
        rows, targets = [before], []
        for draw in range(draws):
            stream = generator(self._config.seed, draw, 0, self._device, stream="show")
            place = Place(self._config.seed, draw, chosen.to(self._device))
            after, target = self._pipeline(images, labels, stream, place)
            rows.append(after.cpu())
            targets.append(target.cpu())
        return Augmented(torch.stack(rows, 1), labels.cpu(), torch.stack(targets, 1))

    def digest(self, split: Split) -> str | None:
        """See :meth:`dlrun.data.feed.Feed.digest`."""
        return self._digests(split)

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`dlrun.data.feed.Feed.state_dict`."""
        colours = {} if self._colours is None else {"colours": self._colours.state_dict()}
        return {
            "classes": list(self.data.classes),
            "input_shape": list(self.data.input_shape),
            "statistics": self.statistics.state_dict(),
            "label_counts": list(self._counted["label_counts"]),
            "label_total": self._counted["label_total"],
            **digests(self.digest),
            **colours,
        }

    def _hash(self, split: Split) -> str | None:
        """Of the labels and which images of the set they belong to: the pixels take too long."""
        source = self._source(split)
        # A random part of the splits, which depends on the sizes of batches, is not theirs.
        if source is None or self._config.trainer.limit_batches is not None:
            return None
        chosen = source.indices.numpy().tobytes() if isinstance(source, SubsetSource) else b""
        return digest(source.labels.numpy().tobytes(), chosen)

    def check_unchanged(self, stored: Mapping[str, Any]) -> None:
        """See :meth:`dlrun.data.feed.Feed.check_unchanged`."""
        statistics = Statistics.from_state(stored["statistics"])
        same = (
            list(self.data.classes) == stored["classes"]
            and list(self.data.input_shape) == stored["input_shape"]
            and self._measured_again().agrees(statistics)
            and list(self._counted["label_counts"]) == stored.get("label_counts", list(self._counted["label_counts"]))
        )
        if not same:
            raise CheckpointError(
                "the data are not those that the checkpoint was trained on (their classes, size, labels or "
                "the statistics of the training split differ), so the run cannot be continued exactly; start a new run"
            )

    def _measured_again(self) -> Statistics:
        """The statistics, or the part of them that is quickly measured, of the images as they are now."""
        if self._config.data.normalize not in WHITENINGS:
            return self.statistics
        # A resumed run whitens with the matrix of its checkpoint; the mean image tells whether the images are the same.
        mean = fit_statistics(self.data.train, "mean_image", contrast=self.statistics.contrast).mean
        return replace(self.statistics, mean=mean)


def _fitting(statistics: Statistics, input_shape: tuple[int, int, int], config: Config) -> Statistics:
    """Statistics of weights or of a checkpoint, for images of another number of channels where that has a meaning."""
    channels, *size = input_shape
    mean, std = statistics.mean, statistics.std
    if channels == 1 and len(mean) == 3 and statistics.matrix is None:
        # Grey images are what the sum of the colour filters sees in an image of equal channels.
        return replace(statistics, mean=mean.mean(0, keepdim=True), std=std.mean(0, keepdim=True))
    fitting = len(mean) in (1, channels) and list(mean.shape[1:]) in ([1, 1], size)
    if statistics.matrix is not None:
        fitting = tuple(mean.shape) == tuple(input_shape)
    if not fitting:
        raise UserError(
            f"data.normalize={config.data.normalize}: the weights were trained on images of another form (means of "
            f"shape {tuple(mean.shape)}, images of {tuple(input_shape)}); set data.normalize=channel"
        )
    return statistics


def _fitted(data: ImageData, config: Config) -> Statistics:
    kind = config.data.normalize
    assert kind != "weights"
    chosen = config.data
    contrast = Contrast(chosen.contrast_scale, chosen.contrast_bias) if chosen.contrast_normalize else None
    try:
        return fit_statistics(data.train, kind, contrast=contrast, epsilon=chosen.whitening_epsilon)
    except ValueError as error:
        raise UserError(
            f"data.normalize={kind}, data.whitening_epsilon={chosen.whitening_epsilon:g}: {error}"
        ) from None


def _check_classes(trained: tuple[str, ...], found: tuple[str, ...]) -> None:
    if trained == found:
        return
    if len(trained) != len(found):
        raise CheckpointError(
            f"was trained on {len(trained)} classes, but the data have {len(found)}; give the "
            f"data it was trained for with data.root=... (trained: {_some(trained)}; found: {_some(found)})"
        )
    different = [f"{i}: {a!r} is now {b!r}" for i, (a, b) in enumerate(zip(trained, found, strict=True)) if a != b]
    raise CheckpointError(f"the classes of the data are not those it was trained on ({'; '.join(different[:3])})")


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
