"""Text from files, or the sources of Python's standard library."""

from __future__ import annotations

import glob
import os
import platform
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dlrun.data.lines import without_mark
from dlrun.data.shape import TextShape, tells_shape
from dlrun.errors import DataError
from dlrun.registry import DATASETS
from dlrun.types import Fraction, Path, PositiveInt

if TYPE_CHECKING:
    from dlrun.data.vocabulary import Text

Level = Literal["character", "byte", "word"]
LIBRARY_BYTES = 4_000_000
"""The sources of the standard library are taken in the order of their names until this size is reached."""


@dataclass(frozen=True)
class TextData:
    """A text in its splits, not yet cut into tokens.

    Attributes:
        train: text to learn from, and to take the vocabulary from.
        val: text to choose hyper-parameters and checkpoints by; empty if there is none.
        test: text for the one final score; empty if there is none.
        level: what a token is.
        sequence_length: T, tokens in a chunk.
        min_count: rarer symbols of the training text are unknown ones.
        source: where it comes from, in a few words.
    """

    train: Text
    val: Text
    test: Text
    level: Level
    sequence_length: int
    min_count: int
    source: str


@DATASETS.register
def text(
    val_fraction: float,
    *,
    path: tuple[Path, ...] | Path | None = None,
    level: Level = "character",
    sequence_length: PositiveInt = 50,
    min_count: PositiveInt = 1,
    test_fraction: Fraction = 0.1,
) -> TextData:
    """Text from any files, by default sources of Python's standard library; split by position.

    Args:
        val_fraction: share of what is not for the test split, at its end, for the validation split.
        path: file, glob such as 'docs/**/*.md', or a list of these, read one after the other (a glob in the order of
            names; a file that is found again only once); null: the modules of Python's standard library (packages left
            out) by name up to 4 MB, a text that depends on the version of Python alone.
        level: token: character, byte (any file; 256 symbols), or word (with the space before it; all else by itself).
        sequence_length: tokens that a step reads of each stream; the gradient goes no further back; >= 1.
        min_count: symbols that occur less often in the training text are unknown ones, >= 1.
        test_fraction: share of the text, at its end, for the test split, 0..1; 1 for dlrun eval on other text.

    Raises:
        DataError: if a file is missing, empty, or not UTF-8 where characters are wanted, with the place of the byte.
    """
    if path is None:
        files = _standard_library()
        source = f"standard library of Python {platform.python_version()}, {len(files)} modules"
    else:
        files = _found([path] if isinstance(path, Path) else path)
        source = files[0].name if len(files) == 1 else f"{len(files)} files"
    raw = [_read(file) for file in files]
    if not any(raw):
        raise DataError(f"data.path: there is no text in {source}: empty")
    whole: Text
    if level == "byte":
        whole = b"".join(raw)
    else:
        whole = "".join(_decoded(data, file) for data, file in zip(raw, files, strict=True))
    rest = len(whole) - round(len(whole) * test_fraction)
    train = rest - round(rest * val_fraction)
    return TextData(whole[:train], whole[train:rest], whole[rest:], level, sequence_length, min_count, source)


@tells_shape(text)
def _shape(
    path: tuple[Path, ...] | Path | None, level: Level, sequence_length: int, min_count: int, test_fraction: Fraction
) -> TextShape:
    return TextShape(sequence_length, 256 if level == "byte" else None)


def _found(paths: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            raise DataError(f"data.path: {path} is a folder; give files, or a glob such as {path}/**/*.txt")
        if path.is_file():
            files.append(path)
            continue
        matches = sorted(match for match in glob.glob(str(path), recursive=True) if os.path.isfile(match))
        if not matches:
            kind = "file matches" if glob.has_magic(str(path)) else "file is"
            raise DataError(f"data.path: no {kind} {path}; set data.path to a file, a glob or a list of these")
        files += map(Path, matches)
    if not files:
        raise DataError("data.path: the list is empty; name a file, or null for the standard library of Python")
    # A file that is read twice would have its end in the training text and in that of the test.
    unique: dict[Path, Path] = {}
    for file in files:
        unique.setdefault(file.resolve(), file)
    return list(unique.values())


def _standard_library() -> list[Path]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    files, size = [], 0
    for name in sorted(sys.stdlib_module_names):
        file = folder / f"{name}.py"
        if file.is_file() and size + file.stat().st_size <= LIBRARY_BYTES:
            files.append(file)
            size += file.stat().st_size
    if not files:
        raise DataError(f"the sources of Python's standard library are not in {folder}; set data.path to a text file")
    return files


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"data.path: cannot read {path}: {error.strerror}") from error


def _decoded(data: bytes, path: Path) -> str:
    text = without_mark(data)
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        offset = error.start + len(data) - len(text)
        raise DataError(
            f"data.path: {path} is not UTF-8 text: byte 0x{data[offset]:02x} at offset {offset} "
            f"({error.reason}); convert the file, or read it as it is with data.level=byte"
        ) from error
