"""The lines of text files, with the place of what is wrong in them."""

from __future__ import annotations

from pathlib import Path

from dlrun.errors import DataError


def read_lines(path: Path) -> list[str]:
    """The lines of a file in UTF-8, without their ends; a line break at its end begins no further line.

    Raises:
        DataError: if it cannot be read, or a line is not UTF-8, with its number and the column of the byte.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"data.path: cannot read {path}: {error.strerror}") from error
    lines = raw.split(b"\n")
    if not lines[-1]:
        lines.pop()
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(line.decode("utf-8").removesuffix("\r"))
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}:{number}: is not UTF-8 text: byte 0x{line[error.start]:02x} at column {error.start + 1}; "
                "convert the file"
            ) from error
    return found
