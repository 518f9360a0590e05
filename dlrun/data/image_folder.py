"""Any folder of class folders as a data set."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dlrun.data import array_cache
from dlrun.data.decode import FileSource, Form, decode_all, undecodable
from dlrun.data.folder_listing import ImageFile, Listing, list_classes, list_images
from dlrun.data.label_file import LabelledFiles, read_label_file
from dlrun.data.shape import DataShape, tells_shape
from dlrun.data.source import ArraySource, ImageData, ImageSource, SubsetSource
from dlrun.data.splits import hold_out
from dlrun.errors import DataError
from dlrun.registry import DATASETS
from dlrun.types import Fraction, Path, PositiveInt

ARRAY_BYTES = 2 << 30
"""Decoded images up to this size are kept as one array; larger sets are decoded each time they are read."""
_LOG = logging.getLogger("dlrun")


@DATASETS.register
def image_folder(
    split_seed: int,
    *,
    root: Path,
    size: PositiveInt = 32,
    fit: Literal["crop", "resize"] = "crop",
    channels: Literal[1, 3] = 3,
    test_fraction: Fraction = 0.2,
    on_error: Literal["raise", "skip"] = "raise",
    cache: Path | None = None,
    labels: Path | None = None,
    label_separator: str = " ",
) -> ImageData:
    """Images in class folders, of any size and mode; with train/ val/ test/ folders or split by dlrun.

    ``root`` holds one folder per class, or ``train/`` and, as far as they exist, ``val/`` (also ``valid/``,
    ``validation/``) and ``test/`` that hold one folder per class. The images are decoded once, on all cores,
    and kept in the cache folder, so that the next run starts at once. They are decoded anew if a file was
    added, removed, renamed, moved or changed, going by the names, sizes and times (of the last change of the
    contents and of the entry) of all files and not by their contents, so also after the folder was copied; if
    ``size``, ``fit`` or ``channels`` is another; and with another version of Pillow. The newly decoded images
    replace the older ones of the same ``root``, ``size``, ``fit`` and ``channels``.

    Images of more than 2 GiB decoded are not kept, but decoded each time they are read; the statistics for
    their normalisation are then those of a random sample (:func:`dlrun.data.statistics.fit`).

    Args:
        root: the folder.
        size: height and width in pixels that all images are brought to.
        fit: crop scales the short side to ``size`` and cuts out the centre; resize scales both sides, which
            changes the proportions.
        channels: 1 grey, 3 colour.
        test_fraction: share of the images for the test split, stratified by class, if there are no split
            folders.
        on_error: what to do with a file that cannot be decoded; raise stops and names it, skip goes on and
            counts.
        cache: folder for the decoded images; null is ``dlrun/images`` below ``$XDG_CACHE_HOME`` or
            ``~/.cache``. It is used by all image folders together.
        labels: CSV file with the columns file, labels and perhaps split, for images with any number of labels each
            (task=multilabel_classification); the folder then needs no class folders. null: the class folders tell.
        label_separator: between the labels in a cell of ``labels``, not empty.

    Raises:
        DataError: if the folder is missing, has no class folders, a class without images, splits with
            different classes, or a file that cannot be decoded; or if the file of labels is not of its form.
        ValueError: if label_separator is empty.
    """
    listing, targets = _listed(root.expanduser(), labels, label_separator)
    form = Form(size, fit, channels)
    files = [file for split in listing.splits.values() for file in split]
    lazy = FileSource(root.expanduser(), [file.name for file in files], targets, form)
    everything, bad = _open(lazy, files, cache or array_cache.default_folder(), on_error == "raise")
    good = torch.ones(len(files), dtype=torch.bool)
    good[bad] = False
    if bad:
        _LOG.warning("%s: left out %d of %d files that cannot be decoded", root, len(bad), len(files))

    sources: dict[str, ImageSource] = {}
    first = 0
    for split, members in listing.splits.items():
        rows = torch.arange(first, first + len(members))
        rows = rows[good[rows]]
        first += len(members)
        lost = set(range(len(listing.classes))) - set(targets[rows].tolist()) if labels is None else set()
        if len(rows) == 0:
            raise DataError(f"not one file can be decoded in the {split} split of {root}")
        if lost:
            names = ", ".join(listing.classes[c] for c in sorted(lost))
            raise DataError(f"no file can be decoded of class {names} in the {split} split of {root}")
        whole = len(rows) == len(files) and isinstance(everything, ArraySource)
        sources[split] = everything if whole else SubsetSource(everything, rows)
    train, test = sources["train"], sources.get("test")
    if not listing.given:
        train, test = hold_out(train, test_fraction, split_seed)
    return ImageData(train, sources.get("val"), test, listing.classes, skipped=len(bad))


def _listed(root: Path, labels: Path | None, separator: str) -> tuple[Listing | LabelledFiles, Tensor]:
    """The files, and their labels: int64 (N,), or (N, K) where a file tells them."""
    if labels is None:
        listing = list_images(root)
        return listing, torch.tensor([file.label for split in listing.splits.values() for file in split])
    if not separator:
        raise ValueError("label_separator is empty: give what stands between two labels, such as ';'")
    found = read_label_file(labels.expanduser(), root, separator)
    each = [numbers for split in found.splits for numbers in found.labels[split]]
    targets = torch.zeros(len(each), len(found.classes), dtype=torch.int64)
    for row, numbers in zip(targets, each, strict=True):
        row[list(numbers)] = 1
    return found, targets


@tells_shape(image_folder)
def _shape(root: Path, size: int, channels: int, labels: Path | None, label_separator: str, **_: object) -> DataShape:
    folder = root.expanduser()
    if labels is not None:
        known = folder.is_dir() and labels.expanduser().is_file()
        found = read_label_file(labels.expanduser(), folder, label_separator) if known else None
        return DataShape((channels, size, size), None if found is None else len(found.classes))
    return DataShape((channels, size, size), len(list_classes(folder)) if folder.is_dir() else None)


def _open(lazy: FileSource, files: list[ImageFile], folder: Path, stop_at_error: bool) -> tuple[ImageSource, list[int]]:
    """The images of all files, decoded if they are not too many, and the numbers of the files that cannot
    be."""
    channels, height, width = lazy.image_shape
    shape = (len(lazy), channels, height, width)
    small = len(lazy) * channels * height * width <= ARRAY_BYTES
    if not small and stop_at_error:
        # A damaged file is named when it is read.
        return lazy, []
    cached = _decoded(lazy, files, folder.expanduser(), stop_at_error, shape if small else None)
    if small:
        return ArraySource(torch.from_numpy(cached.images), lazy.labels), [index for index, _ in cached.bad]
    return lazy, [index for index, _ in cached.bad]


def _decoded(
    lazy: FileSource,
    files: list[ImageFile],
    folder: Path,
    stop_at_error: bool,
    shape: tuple[int, int, int, int] | None,
) -> array_cache.Cached:
    """What decoding the files gives, from the cache if it is there; without a shape, only which files are
    bad."""
    import PIL

    # Size and times stand for a file's contents: a copy of a file, or a change to it, has another time of
    # entry.
    contents = [(file.name, *file.stamp) for file in files]
    form = asdict(lazy.form)
    key = array_cache.Key(
        place=array_cache.digest(os.path.realpath(lazy.root), form),
        content=array_cache.digest(form, shape is not None, PIL.__version__, contents),
    )
    cached = array_cache.load(folder, key, shape or (1,))
    if cached is None:
        _LOG.info("decoding %d images of %s once, to be kept in %s", len(lazy), lazy.root, folder)
        images, bad = decode_all(lazy, stop_at_error, keep=shape is not None)
        cached = array_cache.Cached(np.zeros(1, dtype=np.uint8) if images is None else images, bad)
        array_cache.save(folder, key, cached)
    elif cached.bad and stop_at_error:
        index, reason = cached.bad[0]
        raise undecodable(lazy.path(index), reason)
    return cached
