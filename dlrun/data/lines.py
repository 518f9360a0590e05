"""The lines of text files, with the place of what is wrong in them."""

from __future__ import annotations

import codecs
from pathlib import Path

from dlrun.errors import DataError


def read_lines(path: Path) -> list[str]:
    """The lines of a file in UTF-8, without their ends; a line break at its end begins no further line.

    The byte order mark that some programs write at the beginning of a file is no text and left out.

    Raises:
        DataError: if it cannot be read, or a line is not UTF-8, with its number and the column of the byte.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"data.path: cannot read {path}: {error.strerror}") from error
    text = without_mark(raw)
    mark = len(raw) - len(text)
    lines = text.split(b"\n")
    if not lines[-1]:
        lines.pop()
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(line.decode("utf-8").removesuffix("\r"))
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}:{number}: is not UTF-8 text: byte 0x{line[error.start]:02x} at column "
                f"{error.start + 1 + (mark if number == 1 else 0)}; convert the file"
            ) from error
    return found


def without_mark(raw: bytes) -> bytes:
    """The bytes of a file in UTF-8 without one byte order mark at their beginning."""
    return raw.removeprefix(codecs.BOM_UTF8)
