"""What a folder of images holds: splits, classes and files, by their names alone."""

from __future__ import annotations

import logging
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from dlrun.errors import DataError

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga"}
    | {".tif", ".tiff", ".webp"}
)
"""Files with these endings, in any case, are images."""
_SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_LOG = logging.getLogger("dlrun")


@dataclass(frozen=True)
class ImageFile:
    """One file of a listing.

    Attributes:
        name: path relative to the root, with ``/``; bytes that are not UTF-8 as :func:`os.fsdecode` gives them.
        label: class number.
        stamp: size in bytes, and times of the last change of contents and of the entry in ns; zeros if the
            file cannot be looked at. It tells whether the file was changed since.
    """

    name: str
    label: int
    stamp: tuple[int, int, int]


@dataclass(frozen=True)
class Listing:
    """The image files below a root.

    Attributes:
        root: the folder.
        classes: names of the class folders, sorted; a class's number is its place here.
        splits: ``train`` and, where there is a folder for it, ``val`` and ``test``: files sorted by class,
            then name.
        given: whether the root has split folders (or else all is in ``train``, still to be split).
    """

    root: Path
    classes: tuple[str, ...]
    splits: dict[str, tuple[ImageFile, ...]]
    given: bool


def list_images(root: Path) -> Listing:
    """List a folder of class folders, or of ``train`` / ``val`` / ``test`` folders that hold class folders.

    A class is a folder of the first level; its images may lie in folders below it. Hidden files are passed
    over.

    Raises:
        DataError: if the folder is missing, has no class folders or only one, a class folder holds no image,
            or the splits have different classes.
    """
    folders = _folders(root)
    split_folders = _split_folders(root, folders)
    if not split_folders:
        classes = _classes(root, list(folders))
        return Listing(root, classes, {"train": _files(root, root, classes)}, given=False)
    classes = _classes(split_folders["train"], _subfolders(split_folders["train"]))
    splits = {}
    for split, folder in split_folders.items():
        _compare(classes, _subfolders(folder), split_folders["train"], folder)
        splits[split] = _files(root, folder, classes)
    return Listing(root, classes, splits, given=True)


def list_classes(root: Path) -> tuple[str, ...]:
    """The names of the classes, as :func:`list_images` would give them; no file is looked at.

    Raises:
        DataError: if the folder is missing, or has no class folders or only one.
    """
    folders = _folders(root)
    split_folders = _split_folders(root, folders)
    train = split_folders.get("train")
    return _classes(root, list(folders)) if train is None else _classes(train, _subfolders(train))


def _folders(root: Path) -> dict[str, Path]:
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"the image folder {root} {what}: set data.root to a folder of class folders")
    return {name: root / name for name in _subfolders(root)}


def _subfolders(folder: Path) -> list[str]:
    return sorted(
        entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith((".", "__MACOSX"))
    )


def _split_folders(root: Path, folders: dict[str, Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for split, known in _SPLITS.items():
        # A class may be called `train`: a split's folder holds folders.
        here = [name for name in known if name in folders and _subfolders(folders[name])]
        if len(here) > 1:
            raise DataError(f"{root} has more than one folder for the {split} split: {', '.join(here)}; keep one")
        if here:
            found[split] = folders[here[0]]
    if found and "train" not in found:
        names = ", ".join(path.name for path in found.values())
        raise DataError(f"{root} has the split folder {names} but no class folders in a folder train/")
    others = sorted(set(folders) - {path.name for path in found.values()})
    if found and others:
        _LOG.warning("%s has train/: its other folders are not used: %s", root, ", ".join(others))
    return found


def _classes(folder: Path, names: list[str]) -> tuple[str, ...]:
    if not names:
        raise DataError(f"{folder} has no class folders: put the images of each class into a folder of its own there")
    if len(names) == 1:
        raise DataError(
            f"{folder} has only one class folder, {names[0]}: give data.root the folder "
            "that holds the class folders, of which there must be two or more"
        )
    for name in names:
        if name != printable(name):
            # It would be written to reports and shown on screens as the name of the class.
            raise DataError(f"the name of the class folder {printable(str(folder / name))} is not UTF-8: rename it")
    return tuple(names)


def printable(path: str) -> str:
    r"""A path that can be written to any text: bytes that are not UTF-8 become ``\xNN``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _compare(classes: tuple[str, ...], names: list[str], train: Path, folder: Path) -> None:
    missing, extra = sorted(set(classes) - set(names)), sorted(set(names) - set(classes))
    parts = []
    if missing:
        parts.append(f"only in {train.name}/: {', '.join(missing)}")
    if extra:
        parts.append(f"only in {folder.name}/: {', '.join(extra)}")
    if parts:
        raise DataError(f"the class folders of {train} and {folder} differ; {'; '.join(parts)}")


def _files(root: Path, folder: Path, classes: tuple[str, ...]) -> tuple[ImageFile, ...]:
    files: list[ImageFile] = []
    strange: list[str] = []
    for label, name in enumerate(classes):
        paths, others = _walk(folder / name)
        if not paths:
            endings = Counter(os.path.splitext(path)[1] or "no ending" for path in others)
            hint = "".join(f"; {count} files with {ending}" for ending, count in sorted(endings.items()))
            raise DataError(
                f"the class folder {folder / name} holds no image{hint}: add images "
                f"({', '.join(sorted(ending[1:] for ending in SUFFIXES))}) or remove the folder"
            )
        strange += others
        files += [ImageFile(Path(path).relative_to(root).as_posix(), label, stamp(path)) for path in paths]
    if strange:
        _LOG.warning(
            "%s: %d files are not images by their names and are not used, such as %s",
            folder,
            len(strange),
            printable(strange[0]),
        )
    return tuple(files)


def _walk(folder: Path) -> tuple[list[str], list[str]]:
    """Sorted paths of the images and of the other files in a folder and the folders below it."""
    images: list[str] = []
    others: list[str] = []
    seen: set[str] = set()
    for here, below, names in os.walk(folder, followlinks=True):
        # A link may lead back up: each real folder is entered once.
        real = os.path.realpath(here)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in names:
            if not name.startswith("."):
                (images if os.path.splitext(name)[1].lower() in SUFFIXES else others).append(os.path.join(here, name))
    return sorted(images), sorted(others)


def stamp(path: str) -> tuple[int, int, int]:
    """What tells whether a file was changed; see :class:`ImageFile`."""
    try:
        status = os.stat(path)
    except OSError:
        # A broken link: the decoder will say so, with the reason.
        return (0, 0, 0)
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
