"""Optuna's journal file, made to survive a kill at any moment.

Two things of :class:`optuna.storages.journal.JournalFileBackend` are changed. Its lock is a file that stays when its
owner is killed, and others wait for half a minute; here it is one of the system's, which ends with the process. And a
line that a kill has cut short would make every later read fail; here it is cut off before the next line is written:
whoever wrote it never learned that it was there.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import IO, Any

from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.storages.journal._storage import JournalOperation

from dlrun.errors import UserError

_BLOCK = 1 << 16
_LASTING = (JournalOperation.CREATE_STUDY, JournalOperation.SET_TRIAL_STATE_VALUES)


class SystemLock(BaseJournalFileLock):
    """An exclusive lock of the operating system on a file beside the journal; it ends with the process.

    Args:
        path: of the journal.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f".{path.name}.lock")
        self._file: IO[bytes] | None = None

    def acquire(self) -> bool:
        """Wait for the lock."""
        file = self._path.open("ab")
        fcntl.flock(file, fcntl.LOCK_EX)
        self._file = file
        return True

    def release(self) -> None:
        """Let it go."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Journal(JournalFileBackend):
    """The journal of a sweep.

    Args:
        path: of the file; made if it is not there.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), lock_obj=SystemLock(path))
        self._journal = path

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """The entries from a number on.

        Raises:
            UserError: if a line is none of a journal.
        """
        try:
            yield from super().read_logs(log_number_from)
        except ValueError:
            raise UserError(
                f"{self._journal}:{self._broken()}: is no line of a journal; restore the file from a copy, or move it "
                "away: trials that are over are then read from their folders"
            ) from None

    def _broken(self) -> int:
        """Number of the first line, from 1, that cannot be read."""
        with self._journal.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    json.loads(line)
                except ValueError:
                    return number
        return 0

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append whole lines, after what a killed process left behind the last whole one was cut off.

        The end of a trial is on the disk when this returns; the rest is safe from a kill, and costs no sync.

        Raises:
            UserError: if that is not possible.
        """
        lines = "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in logs)
        lasting = any(entry.get("op_code") in _LASTING for entry in logs)
        self._lock.acquire()
        try:
            self._mend()
            with self._journal.open("ab") as file:
                file.write(lines.encode())
                file.flush()
                if lasting:
                    os.fsync(file.fileno())
        except OSError as error:
            raise UserError(
                f"{self._journal}: cannot be written: {error.strerror}; when that is mended, go on with "
                f"dlrun sweep resume={self._journal.parent}"
            ) from error
        finally:
            self._lock.release()

    def _mend(self) -> None:
        with self._journal.open("rb+") as file:
            end = file.seek(0, os.SEEK_END)
            good = end
            while good > 0:
                begin = max(0, good - _BLOCK)
                file.seek(begin)
                cut = file.read(good - begin).rfind(b"\n")
                if cut >= 0:
                    good = begin + cut + 1
                    break
                good = begin
            if good < end:
                file.truncate(good)
