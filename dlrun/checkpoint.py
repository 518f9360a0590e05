"""Checkpoint files: tensors and plain values only, written atomically, verified when read.

A checkpoint is an ordinary ``torch.save`` file whose zip comment holds the SHA-256 of everything before it, so torch
alone can open it too. Reading a checkpoint never runs code: it is always loaded with ``weights_only=True``. Building
the experiment that it describes imports the plug-ins that it names: installed modules, or files at the absolute path
recorded, each logged before it runs (:func:`dlrun.config.plugins.import_saved_plugins`).
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import pickle
import re
import shutil
import struct
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from dlrun import __version__
from dlrun.errors import CheckpointError

FORMAT = "dlrun-checkpoint"
VERSION = 1
"""Version of the layout of :func:`save`; raised when an older dlrun could not read the new one."""

_MARK = b"dlrun-sha256:"
_COMMENT_LENGTH = len(_MARK) + 64


def save(path: Path, payload: Mapping[str, Any], *, links: tuple[Path, ...] = (), sync: bool = True) -> None:
    """Write a checkpoint: temporary file, flush, fsync, rename, fsync of the folder.

    Whoever kills the process at whatever moment finds the old file or the new one, never a part; with ``sync`` this
    also holds when the machine loses its power.

    Args:
        path: final place.
        payload: nested mappings, lists, tensors, numbers, texts, booleans, None.
        links: further places that receive the same file, before ``path`` does.
        sync: wait until the disk has it; if not, :func:`sync_files` does so later.

    Raises:
        CheckpointError: if the payload holds anything else, naming its place: such a file could never be loaded.
        OSError: if there is no space or no permission; the old file is still there.
    """
    strange = _not_plain(payload, "")
    if strange is not None:
        raise CheckpointError(f"a checkpoint holds tensors and plain values only: {strange}")
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "version": VERSION, "dlrun": __version__, **payload}, buffer)
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < buffer.tell() + _COMMENT_LENGTH:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    temporary = folder / f".{path.name}.{os.getpid()}.tmp"
    try:
        with temporary.open("wb") as file:
            for part in _with_digest(buffer.getbuffer()):
                file.write(part)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        for place in links:
            _link(temporary, place)
        if path.exists():
            _link(path, previous_of(path))
        os.replace(temporary, path)
        if sync:
            _sync_folder(folder)
    finally:
        temporary.unlink(missing_ok=True)


def previous_of(path: Path) -> Path:
    """Where the checkpoint that ``path`` replaced is kept, in case ``path`` gets damaged."""
    return path.with_name(f"previous_{path.name}")


def find(path: Path, option: str) -> Path:
    """The checkpoint that a user means by a path.

    Args:
        path: a file, which is taken as it is; or a run folder or its ``checkpoints`` folder, whose best is taken, or
            else the last.
        option: how messages name the path.

    Raises:
        CheckpointError: if a folder holds no checkpoint.
    """
    place = path.expanduser()
    if not place.is_dir():
        return place
    folder = place / "checkpoints" if (place / "checkpoints").is_dir() else place
    for name in ("best.pt", "last.pt"):
        if (folder / name).is_file():
            return folder / name
    members = sorted(found.parent.parent.name for found in place.glob("*/checkpoints/last.pt"))
    if members:
        raise CheckpointError(
            f"{option}={path}: the folder holds {len(members)} runs; give one of them ({option}={path}/{members[0]}), "
            "or the list of those you want"
        )
    raise CheckpointError(f"{option}={path}: the folder holds no checkpoint yet (looked for {folder}/best.pt)")


def is_ours(path: Path) -> bool:
    """Whether a file ends as the checkpoints of dlrun do; False if it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _COMMENT_LENGTH))
            return file.read().startswith(_MARK)
    except OSError:
        return False


def load(path: Path) -> dict[str, Any]:
    """Read and verify a checkpoint; tensors on the CPU.

    Raises:
        CheckpointError: if it is missing, truncated, damaged, not from dlrun, from a newer dlrun, or holds code.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {path}: no such file; give a checkpoint file or a run folder") from None
    except OSError as error:
        raise CheckpointError(f"checkpoint {path}: cannot be read: {error.strerror}") from None
    intact = _verify(data)
    if intact is False:
        raise CheckpointError(
            f"checkpoint {path}: is damaged (its content does not match its SHA-256); use another one of the run"
        )
    try:
        with warnings.catch_warnings():
            # About the pickle protocol of a foreign file, which is refused anyway.
            warnings.simplefilter("ignore")
            payload = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if intact is None and not data.startswith(b"PK") and not data.startswith(b"\x80"):
            raise CheckpointError(
                f"checkpoint {path}: is not a checkpoint file; give a .pt file of dlrun, or a run folder"
            ) from None
        raise CheckpointError(
            f"checkpoint {path}: refused, because it holds more than tensors and plain values{_called_by(error)}, and "
            "loading it could run code; open it only with the program that wrote it, if you trust its origin"
        ) from None
    except Exception:
        # What torch says of a torn zip file depends on where it is torn, and helps nobody.
        raise CheckpointError(
            f"checkpoint {path}: is truncated or not a checkpoint file; use another one of the run"
        ) from None
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        held = ", ".join(str(key) for key in list(payload)[:5]) if isinstance(payload, dict) else type(payload).__name__
        raise CheckpointError(f"checkpoint {path}: was not written by dlrun (it holds: {held}), so it cannot be used")
    version = payload.get("version")
    if not isinstance(version, int):
        raise CheckpointError(f"checkpoint {path}: is damaged (it names no format version)")
    if version > VERSION:
        raise CheckpointError(
            f"checkpoint {path}: was written by dlrun {payload.get('dlrun')} in format {version}; this is dlrun "
            f"{__version__}, which reads up to format {VERSION}; upgrade dlrun"
        )
    if intact is None:
        raise CheckpointError(f"checkpoint {path}: is damaged (its SHA-256 is missing); use another one of the run")
    return payload


def load_newest(folder: Path) -> tuple[Path, dict[str, Any], list[str]] | None:
    """The newest intact checkpoint of a run.

    Args:
        folder: the run's ``checkpoints`` folder.

    Returns:
        Its path, its content, and what was wrong with newer ones; None if the folder holds none at all.

    Raises:
        CheckpointError: if there are checkpoints but none can be used.
    """
    last = folder / "last.pt"
    others = [path for path in folder.glob("*.pt") if path not in (last, previous_of(last))]
    others.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    complaints: list[str] = []
    for path in (last, previous_of(last), *others):
        if path.is_file():
            try:
                return path, load(path), complaints
            except CheckpointError as error:
                complaints.append(str(error))
    if complaints:
        raise CheckpointError("no checkpoint of the run can be used:\n  " + "\n  ".join(complaints))
    return None


def _not_plain(value: Any, place: str) -> str | None:
    """Where a payload holds something else than tensors and plain values, and what."""
    if isinstance(value, Mapping):
        if type(value) not in (dict, OrderedDict):
            return f"{place} is a {type(value).__module__}.{type(value).__qualname__}; make it a dict"
        named = ((f"{place}.{key}".lstrip("."), item) for key, item in value.items())
    elif type(value) in (list, tuple):
        named = ((f"{place}[{i}]", item) for i, item in enumerate(value))
    elif value is None or type(value) in (bool, int, float, str, bytes) or isinstance(value, torch.Tensor):
        return None
    else:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        return f"{place} is a {kind}; make it a number, a text, a list, a dict or a tensor"
    return next((found for found in (_not_plain(item, inside) for inside, item in named) if found), None)


def _with_digest(data: memoryview) -> Iterator[bytes | memoryview]:
    # The zip ends with the length of its comment (0); the comment follows.
    length = struct.pack("<H", _COMMENT_LENGTH)
    digest = hashlib.sha256(data[:-2])
    digest.update(length)
    yield data[:-2]
    yield length
    yield _MARK + digest.hexdigest().encode()


def _verify(data: bytes) -> bool | None:
    """Whether the digest fits; None if there is none."""
    head, comment = data[:-_COMMENT_LENGTH], data[-_COMMENT_LENGTH:]
    if not comment.startswith(_MARK):
        return None
    return hashlib.sha256(head).hexdigest().encode() == comment[len(_MARK) :]


def _link(source: Path, target: Path) -> None:
    """Put ``source`` at ``target`` too, atomically; a copy where the file system has no hard links."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def sync_files(folder: Path) -> None:
    """Wait until the disk has all checkpoints of a folder.

    Raises:
        OSError: if it cannot take them.
    """
    for path in folder.glob("*.pt"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _called_by(error: Exception) -> str:
    """What the pickle would call, such as ``os.system``, if torch names it."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    return f" ({found[1]})" if found else ""
