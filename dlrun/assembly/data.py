"""Data sets and feeds from their configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from dlrun.assembly.make import make
from dlrun.config.schema import Config
from dlrun.data.batch_sizes import batch_sizes
from dlrun.data.colours import Colours, fit_colours
from dlrun.data.feed import Feed
from dlrun.data.image_feed import ImageFeed
from dlrun.data.pair_feed import PairFeed
from dlrun.data.pairs import PairData
from dlrun.data.sequence_feed import SequenceFeed
from dlrun.data.sequences import SequenceData
from dlrun.data.source import ImageData, first
from dlrun.data.splits import split_off_fold, split_off_validation
from dlrun.data.statistics import Statistics
from dlrun.data.text import TextData
from dlrun.data.text_feed import TextFeed
from dlrun.errors import DataError
from dlrun.registry import AUGMENTATIONS, DATASETS


def read_data(config: Config) -> Any:
    """The data set as it is read, which several runs can share: without the validation split that is made.

    Raises:
        DataError: if the data are missing or damaged.
    """
    chosen = config.data
    return make(DATASETS, chosen, split_seed=chosen.split_seed, val_fraction=chosen.val_fraction)


def build_data(config: Config, data: Any = None) -> Any:
    """The data set with its splits: :class:`ImageData`, :class:`TextData` or :class:`PairData`.

    For images a validation split is made where the data bring none, or by ``config.fold``.

    Args:
        config: the checked configuration.
        data: what :func:`read_data` gave; None to read it.

    Raises:
        DataError: if the data are missing or damaged, or cannot be divided into folds.
    """
    if data is None:
        data = read_data(config)
    if isinstance(data, ImageData):
        return _arranged(data, config)
    if config.fold is not None:
        raise DataError(
            f"folds={config.folds}: cross-validation is for images, and data {config.data.name!r} are none; compare "
            f"seeds instead (seeds={config.folds})"
        )
    return data


def _arranged(data: ImageData, config: Config) -> ImageData:
    """With a validation split, and no more than ``trainer.limit_batches`` batches."""
    if config.fold is not None and config.folds is not None:
        data = split_off_fold(data, config.fold, config.folds, config.data.split_seed)
    else:
        data = split_off_validation(data, config.data.val_fraction, config.data.split_seed)
    limit = config.trainer.limit_batches
    if limit is None:
        return data
    evaluated = limit * config.data.eval_batch_size
    return replace(
        data,
        train=first(data.train, limit * batch_sizes(config).largest, config.seed),
        val=None if data.val is None else first(data.val, evaluated, config.seed),
        test=None if data.test is None else first(data.test, evaluated, config.seed),
    )


def build_feed(
    config: Config,
    device: torch.device,
    stored: Mapping[str, Any] | None = None,
    statistics: Statistics | None = None,
    earlier: Mapping[str, Any] | None = None,
    data: Any = None,
) -> Feed:
    """The data, ready to be trained on or evaluated.

    Args:
        config: the checked configuration.
        device: where the batches are wanted.
        stored: what a checkpoint holds of its data, if the model is evaluated as that left it.
        statistics: what images are normalised with; None: ``data.normalize`` of the training split.
        earlier: what a checkpoint holds of its data, if the run goes on from it: what augmentations measure is that.
        data: what :func:`read_data` gave; None to read it.

    Raises:
        UserError: if an augmentation cannot take such images.
        DataError: if the data are missing or damaged.
        CheckpointError: if the data do not fit ``stored``.
    """
    data = build_data(config, data)
    if isinstance(data, TextData):
        return TextFeed(data, config, (), device, stored)
    if isinstance(data, PairData):
        return PairFeed(data, config, (), device, stored)
    if isinstance(data, SequenceData):
        return SequenceFeed(data, config, (), device, stored)
    colours = _colours(data, config, stored or earlier or {})
    augment = [
        make(AUGMENTATIONS, augmentation, input_shape=data.input_shape, colours=colours)
        for augmentation in config.augment
    ]
    return ImageFeed(data, config, augment, device, stored, statistics, colours)


def _colours(data: ImageData, config: Config, known: Mapping[str, Any]) -> Colours | None:
    """The principal axes of the training split's colours, if an augmentation needs them: as saved, or measured."""
    if not any("colours" in AUGMENTATIONS.entry(augmentation.name).needs for augmentation in config.augment):
        return None
    return Colours.from_state(known["colours"]) if "colours" in known else fit_colours(data.train)
