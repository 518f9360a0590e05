"""What dlrun says: on the screen, and in the run folder's ``log.txt``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger("dlrun")


class _Console(logging.Handler):
    """Writes messages to stdout, warnings to stderr, around a progress bar if there is one."""

    stdout_is_data = False
    prefix: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if self.prefix is not None:
            if record.levelno < logging.WARNING and record.module not in ("progress", "series"):
                return
            if record.module != "series":
                text = f"{self.prefix}  {text}"
        if record.levelno >= logging.WARNING:
            text = f"warning: {text}"
        stream = sys.stderr if self.stdout_is_data or record.levelno >= logging.WARNING else sys.stdout
        bars = sys.modules.get("tqdm")
        if bars is not None:
            bars.tqdm.write(text, file=stream)
        else:
            print(text, file=stream)
        stream.flush()


def start_console(*, stdout_is_data: bool = False) -> None:
    """Show messages on the screen; safe to call again.

    Args:
        stdout_is_data: a program reads stdout, so every message goes to stderr.
    """
    log.setLevel(logging.INFO)
    log.propagate = False
    console = next((handler for handler in log.handlers if isinstance(handler, _Console)), None)
    if console is None:
        console = _Console()
        log.addHandler(console)
    console.stdout_is_data = stdout_is_data


@contextmanager
def only_progress(prefix: str) -> Iterator[None]:
    """Show progress and warnings alone, behind a prefix, while one of a series of runs goes on; files get all."""
    consoles = [handler for handler in log.handlers if isinstance(handler, _Console)]
    for console in consoles:
        console.prefix = prefix
    try:
        yield
    finally:
        for console in consoles:
            console.prefix = None


def start_file(path: Path) -> logging.Handler:
    """Write messages to a file too, with the time.

    Args:
        path: appended to.

    Returns:
        The handler, for :func:`stop_file`.
    """
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    # A full disk must not print a traceback for every message.
    handler.handleError = lambda record: None  # type: ignore[method-assign]
    log.addHandler(handler)
    return handler


def stop_file(handler: logging.Handler) -> None:
    """Stop writing to the file."""
    log.removeHandler(handler)
    handler.close()
