"""Decoded images on disk: one file per set of images, mapped into memory when it is used again.

A file is named ``PLACE-CONTENT.images``: PLACE is a hash of where the images come from and what form they are
brought into, CONTENT of what tells that they are still the same. A file is used whatever its PLACE is, so a
folder may be moved; writing one removes the older ones of the same PLACE, so a folder that changes often does
not fill the disk.

Layout of a file: 16 bytes of magic and version, 8 bytes (little-endian) length of the header, the header as
JSON, zeros up to the next multiple of 4096, the uint8 array. The header holds the array's shape and checksum,
and the files that could not be decoded. A file appears under its name only when it is whole (temporary file,
fsync, rename).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAGIC = b"dlrun images v1\n"
_ALIGNMENT = 4096
_LOG = logging.getLogger("dlrun")


@dataclass(frozen=True)
class Cached:
    """Contents of a cache file.

    Attributes:
        images: uint8 (N, C, H, W), mapped from the file; writing into it changes memory only.
        bad: (index, reason) of the files that could not be decoded.
    """

    images: NDArray[np.uint8]
    bad: list[tuple[int, str]]


def default_folder() -> Path:
    """``dlrun/images`` below ``$XDG_CACHE_HOME``, or below ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "dlrun" / "images"


@dataclass(frozen=True)
class Key:
    """Which file of the cache.

    Attributes:
        place: see :func:`digest`; of where the images come from and their form.
        content: see :func:`digest`; of all that decides what the decoded images are.
    """

    place: str
    content: str

    @property
    def name(self) -> str:
        """Name of the file."""
        return f"{self.place}-{self.content}.images"


def digest(*parts: Any) -> str:
    """A hash of plain values."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def load(folder: Path, key: Key, shape: tuple[int, ...]) -> Cached | None:
    """Open a cached array.

    Args:
        folder: of the cache.
        key: of the file; another ``place`` will do.
        shape: the shape it must have.

    Returns:
        None if it is not there, or damaged, which is logged.
    """
    path = folder / key.name
    if not os.path.exists(path):
        path = next(iter(sorted(folder.glob(f"*-{key.content}.images"))), path)
    try:
        with path.open("rb") as file:
            start = file.read(len(MAGIC) + 8)
            if start[: len(MAGIC)] != MAGIC:
                raise ValueError("it does not begin as one")
            header = json.loads(file.read(int.from_bytes(start[len(MAGIC) :], "little")))
            offset = _aligned(file.tell())
        if tuple(header["shape"]) != shape:
            raise ValueError(f"it has the shape {header['shape']}")
        images = np.memmap(path, dtype=np.uint8, mode="c", offset=offset, shape=shape)
        if path.stat().st_size != offset + images.size or checksum(images) != header["checksum"]:
            raise ValueError("its checksum is wrong")
        return Cached(images, [(int(index), str(reason)) for index, reason in header["bad"]])
    except FileNotFoundError:
        return None
    except OSError as error:
        _LOG.warning(
            "the cache file %s cannot be read (%s): the images are decoded again",
            path,
            error.strerror or error,
        )
        return None
    except (ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
        _LOG.warning("the cache file %s is damaged (%s): the images are decoded again", path, error)
        return None


def save(folder: Path, key: Key, cached: Cached) -> None:
    """Write an array and remove the older ones of its place; a cache that cannot be written is logged and
    done without."""
    header = json.dumps({"shape": cached.images.shape, "checksum": checksum(cached.images), "bad": cached.bad}).encode()
    start = MAGIC + len(header).to_bytes(8, "little") + header
    temporary: str | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=f"{key.name}.", suffix=".part")
        with os.fdopen(handle, "wb") as file:
            file.write(start.ljust(_aligned(len(start)), b"\0"))
            file.write(np.ascontiguousarray(cached.images).data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, folder / key.name)
        temporary = None
        _remove_older(folder, key)
    except OSError as error:
        _LOG.warning(
            "the decoded images are not kept for the next run, as %s cannot be written (%s): "
            "set data.cache to another folder",
            folder,
            error.strerror or error,
        )
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _remove_older(folder: Path, key: Key) -> None:
    # A run that has one of them mapped keeps its contents: the file is gone when the run is.
    for path in folder.glob(f"{key.place}-*.images"):
        if path.name != key.name:
            with contextlib.suppress(OSError):
                path.unlink()


def checksum(images: NDArray[np.uint8]) -> str:
    """A sum that damage changes (it is no protection against intent): 10 GB/s, so it is checked at every
    start."""
    flat = images.reshape(-1)
    whole = flat[: flat.size // 8 * 8].view("<u8")
    total = int(np.add.reduce(whole, dtype=np.uint64)) if whole.size else 0
    return f"{total:016x}{flat[whole.size * 8 :].tobytes().hex()}"


def _aligned(position: int) -> int:
    return -(-position // _ALIGNMENT) * _ALIGNMENT
