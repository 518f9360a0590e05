"""A file of the run that grows while the training goes on, and is cut back where that goes on from a checkpoint."""

from __future__ import annotations

from pathlib import Path

from dlrun.logs import log


class GrownFile:
    """Bytes at the end of a file. Where it cannot be written, that is told once, and the run goes on without it.

    Args:
        name: of the file, in the run folder.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.size = 0
        """Its length in bytes: what a checkpoint holds of it."""
        self._failed = False

    def cut_back(self, folder: Path) -> None:
        """Leave of the file in a run folder what it held at the checkpoint: :attr:`size` bytes."""
        path = folder / self.name
        try:
            if path.is_file() and path.stat().st_size > self.size:
                with path.open("r+b") as file:
                    file.truncate(self.size)
        except OSError as error:
            self.complain(error)

    def append(self, folder: Path, text: str) -> None:
        """Write more."""
        try:
            with (folder / self.name).open("ab") as file:
                file.write(text.encode())
                self.size = file.tell()
        except OSError as error:
            self.complain(error)

    def complain(self, error: OSError) -> None:
        """Tell that it cannot be written, once."""
        if not self._failed:
            log.warning("%s cannot be written: %s. The run goes on without it", self.name, error.strerror)
        self._failed = True
