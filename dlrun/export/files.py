"""Where exported files go: never over a stranger's file, never a part, never unchecked."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dlrun.errors import UserError
from dlrun.export.check import Agreement, check
from dlrun.export.formats import Format
from dlrun.export.metadata import MARK
from dlrun.export.subject import Exportable
from dlrun.export.trace import trace


@dataclass(frozen=True)
class Target:
    """One file to write.

    Attributes:
        format: its format.
        path: its final place.
        replaces: whether an older export lies there.
    """

    format: Format
    path: Path
    replaces: bool


@dataclass(frozen=True)
class Written:
    """One file that was written, read again and found good."""

    target: Target
    size: int
    """Bytes."""
    agreement: Agreement


def targets(formats: Sequence[Format], output: str | None, folder: Path, stem: str) -> list[Target]:
    """The files to write.

    Args:
        formats: one file each.
        output: what the user asked for: a file with the suffix of the one format, or a folder; None: ``folder``.
        folder: of the files, if the user names none.
        stem: name of the files without suffix, if the user names none.

    Raises:
        UserError: if ``output`` does not fit the formats, or names a file that dlrun did not write.
    """
    if output is not None:
        given = Path(output).expanduser()
        if given.suffix and not given.is_dir():
            return [_target(_only_format(formats, given, output), given)]
        folder = given
    return [_target(chosen, folder / f"{stem}{chosen.suffix}") for chosen in formats]


def _only_format(formats: Sequence[Format], path: Path, output: str) -> Format:
    suffixes = ", ".join(chosen.suffix for chosen in formats)
    if len(formats) > 1:
        raise UserError(f"output={output}: several formats need a folder; they write one file each ({suffixes})")
    if path.suffix != formats[0].suffix:
        raise UserError(f"output={output}: a file of format {formats[0].name} ends in {suffixes}")
    return formats[0]


def _target(chosen: Format, path: Path) -> Target:
    exists = os.path.lexists(path)
    if exists and not (path.is_file() and MARK in (_metadata(chosen, path) or {})):
        raise UserError(f"{path} exists and is not an export of dlrun; remove it, or give another place with output=")
    return Target(chosen, path, exists)


def _metadata(chosen: Format, path: Path) -> dict[str, str] | None:
    try:
        found = chosen.metadata(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    return None if found is None else dict(found)


def write(subject: Exportable, chosen: Sequence[Target]) -> list[Written]:
    """Write every file under a temporary name, check it, and only when all are good give them their names.

    Raises:
        ExportError: if the network cannot be written, or a file fails its check; then no file is left.
        UserError: if a place cannot be written.
    """
    program = cache(lambda: trace(subject))
    places: list[Path] = []
    made: list[Path] = []
    try:
        for target in chosen:
            with _explaining(target.path):
                made += _make_folder(target.path.parent)
                place = target.path.with_name(f".{target.path.stem}.{os.getpid()}.tmp{target.path.suffix}")
                places.append(place)
                place.touch()
        written = []
        for target, place in zip(chosen, places, strict=True):
            content = target.format.encode(subject, program)
            with _explaining(target.path), place.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            written.append(Written(target, len(content), check(place, target.format, subject)))
        for target, place in zip(chosen, places, strict=True):
            with _explaining(target.path):
                os.replace(place, target.path)
    except BaseException:
        # What cannot be removed does not hide what went wrong.
        with suppress(OSError):
            for place in places:
                place.unlink(missing_ok=True)
            for folder in reversed(made):
                folder.rmdir()
        raise
    return written


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder with its parents; returns those that were not there, outermost first."""
    made = [parent for parent in reversed((folder, *folder.parents)) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return made


@contextmanager
def _explaining(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; give another place with output=") from None
