"""Images with any number of labels each, listed in a CSV file."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from dlrun.data.folder_listing import ImageFile, stamp
from dlrun.errors import DataError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class LabelledFiles:
    """What a file of labels lists.

    Attributes:
        classes: all labels that occur, sorted.
        splits: ``train`` and, where the file names them, ``val`` and ``test``: images in the order of the file.
        labels: of each split, for each image the numbers of its labels, ascending.
        given: whether the file has a column of splits (or else all is in ``train``, still to be split).
    """

    classes: tuple[str, ...]
    splits: dict[str, tuple[ImageFile, ...]]
    labels: dict[str, tuple[tuple[int, ...], ...]]
    given: bool


def read_label_file(path: Path, root: Path, separator: str) -> LabelledFiles:
    """Read a CSV file with a header and the columns file, labels and, if the splits are fixed, split.

    Args:
        path: the file, UTF-8; other columns are not looked at.
        root: folder that the column ``file`` is relative to.
        separator: between the labels in one cell; an empty cell is an image without any.

    Raises:
        DataError: if the file is missing or not of that form, names an image twice or one that does not exist, or has
            fewer than two labels in all.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in ("file", "labels") if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(
                    f"{path}: no column {' and '.join(missing)}; its first line must be file,labels or "
                    "file,labels,split"
                )
            rows = [(reader.line_num, row) for row in reader]
            given = "split" in (reader.fieldnames or ())
    except OSError as error:
        raise DataError(f"the labels {path} cannot be read: {error.strerror}; set data.labels to a CSV file") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8: {error}") from None
    found: dict[str, list[tuple[ImageFile, list[str]]]] = {}
    seen: set[str] = set()
    for line, row in rows:
        name, cell, split = (row["file"] or "").strip(), row["labels"] or "", (row.get("split") or "train").strip()
        if split not in SPLITS:
            raise DataError(f"{path}:{line}: unknown split {split!r}; write train, val or test")
        if name in seen:
            raise DataError(f"{path}:{line}: {name} is there twice; put all its labels into one line")
        if not (root / name).is_file():
            raise DataError(f"{path}:{line}: there is no image {name!r} in {root}")
        seen.add(name)
        words = [word.strip() for word in cell.split(separator)]
        found.setdefault(split, []).append((ImageFile(name, -1, stamp(str(root / name))), [w for w in words if w]))
    if not found.get("train"):
        raise DataError(f"{path} lists no image to train on")
    classes = tuple(sorted({word for items in found.values() for _, words in items for word in words}))
    if len(classes) < 2:
        raise DataError(f"{path} has fewer than two labels in all ({', '.join(classes) or 'none'})")
    number = {name: index for index, name in enumerate(classes)}
    order = [split for split in SPLITS if split in found]
    return LabelledFiles(
        classes,
        {split: tuple(file for file, _ in found[split]) for split in order},
        {split: tuple(tuple(sorted({number[w] for w in words})) for _, words in found[split]) for split in order},
        given,
    )
