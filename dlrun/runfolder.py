"""The folder of a run: created so that two jobs never share it, locked while a process trains in it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import math
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from dlrun.errors import UserError

log = logging.getLogger("dlrun")


class FolderInUse(UserError):
    """Another process holds a folder.

    Attributes:
        owner: which one.
    """

    def __init__(self, message: str, owner: str) -> None:
        super().__init__(message)
        self.owner = owner


@dataclass
class RunFolder:
    """A run's folder and the places in it.

    Attributes:
        path: absolute path of the folder.
    """

    path: Path
    _lock: IO[str] | None = field(default=None, repr=False)

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """Folder of the TensorBoard events."""
        return self.path / "tensorboard"

    def lock(self) -> None:
        """Hold the folder until the process ends or :meth:`unlock`.

        Raises:
            FolderInUse: if another process holds it.
            UserError: if it cannot be written.
        """
        try:
            file = (self.path / ".lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise UserError(f"run folder {self.path}: cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            file.close()
            raise FolderInUse(
                f"run folder {self.path}: another dlrun process ({owner}) is training in it; stop it first, or start "
                "a new run without resume=",
                owner,
            ) from None
        except OSError as error:
            log.warning("the file system of %s has no locks (%s): do not train in it twice", self.path, error.strerror)
        file.truncate(0)
        file.write(f"pid {os.getpid()}")
        file.flush()
        self._lock = file
        # A forked data worker outlives a killed parent by seconds, and must not hold the lock meanwhile.
        os.register_at_fork(after_in_child=self.unlock)

    def unlock(self) -> None:
        """Let the folder go."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def write_text(self, name: str, text: str) -> None:
        """Write a small file of the folder atomically."""
        self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file of the folder atomically."""
        target = self.path / name
        temporary = target.with_name(f".{name}.tmp")
        try:
            temporary.write_bytes(content)
            os.replace(temporary, target)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def write_json(self, name: str, value: Any) -> None:
        """Write a small JSON file of the folder atomically; NaN and infinity as null, for JSON has neither."""
        self.write_text(name, json.dumps(finite(value), indent=2, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """A plain tree with null in place of NaN and infinity."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def create_run_folder(root: Path, name: str, config: Mapping[str, Any]) -> RunFolder:
    """Make ``root/<time>_<name>_<hash>``; the folder is new, whoever else makes one in the same second.

    Args:
        root: folder of all runs; made if it is not there.
        name: short name of the experiment.
        config: plain tree whose hash tells experiments apart.

    Raises:
        UserError: if the folder cannot be made or written.
    """
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:6]
    label = re.sub(r"[^\w.-]+", "-", name)
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}_{label}_{digest}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        for attempt in range(1000):
            path = root / (stem if attempt == 0 else f"{stem}-{attempt}")
            try:
                # mkdir fails when the folder exists: the one atomic test-and-make that also works on network disks.
                path.mkdir()
            except FileExistsError:
                continue
            (path / "checkpoints").mkdir()
            return RunFolder(path.resolve())
    except OSError as error:
        raise UserError(
            f"run.root={root}: the run folder cannot be made: {error.strerror} ({error.filename}); choose a folder "
            "that you can write, with run.root=..."
        ) from None
    raise UserError(f"run.root={root}: holds a thousand runs named {stem}; choose another run.name")


def open_run_folder(path: Path) -> RunFolder:
    """An existing run's folder.

    Raises:
        UserError: if there is no run at ``path``.
    """
    if not path.is_dir():
        raise UserError(f"resume={path}: there is no such run folder")
    if not (path / "config.yaml").is_file():
        raise UserError(f"resume={path}: is not a run folder (it has no config.yaml)")
    return RunFolder(path.resolve())


def newest_run_folder(root: Path) -> Path:
    """The run that was started last; unfinished runs with a checkpoint go before all others.

    Raises:
        UserError: if ``root`` holds no run.
    """
    runs = [path.parent for path in root.glob("*/config.yaml")] if root.is_dir() else []
    if not runs:
        raise UserError(f"resume=auto: there is no run in {root}")

    def rank(run: Path) -> tuple[bool, bool, int]:
        # Of several runs in one folder, each has its own folder below it.
        saved = any(run.glob("checkpoints/last.pt")) or any(run.glob("*/checkpoints/last.pt"))
        unfinished = not any((run / name).is_file() for name in ("results.json", "summary.json"))
        return saved and unfinished, saved, (run / "config.yaml").stat().st_mtime_ns

    return max(runs, key=rank)
