"""What machines that share a sweep must agree on, and who they are."""

from __future__ import annotations

import json
import socket
import uuid
from collections.abc import Mapping
from typing import Any

from dlrun.addresses import masked
from dlrun.config.search import Search
from dlrun.errors import UserError
from dlrun.runfolder import RunFolder
from dlrun.sweep.changes import FREE, differences
from dlrun.sweep.folder import describe

_OWN = ("storage", "threads")
"""Settings of a sweep, beside those of :data:`FREE`, that each machine has of its own."""
_OWN_BASE = (
    "device",
    "plugins",
    "run",
    "trainer.threads",
    "data.root",
    "data.path",
    "data.workers",
    "data.resident",
)
"""Paths of the configuration that say where and how a trial runs, and not what it learns."""


def home(folder: RunFolder) -> str:
    """What tells a sweep's folder from all others, also on machines of the same name.

    Raises:
        UserError: if it can neither be read nor written.
    """
    path = folder.path / ".home"
    try:
        if not path.exists():
            folder.write_text(path.name, uuid.uuid4().hex[:12])
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UserError(f"sweep folder {folder.path}: cannot be written: {error.strerror}") from None


def place(folder: RunFolder) -> str:
    """Where the trials of a folder are, for those who look from another machine: ``host:path``."""
    return f"{socket.gethostname()}:{folder.path / 'trials'}"


def identity(search: Search) -> dict[str, Any]:
    """What makes a search the same on all machines, as JSON."""
    tree: dict[str, Any] = json.loads(json.dumps(describe(search), default=str))
    tree["settings"] = {key: value for key, value in tree["settings"].items() if key not in (*FREE, *_OWN)}
    return tree


def check(search: Search, name: str, known: Mapping[str, Any]) -> None:
    """Refuse to join another search.

    Args:
        search: of this machine.
        name: of the study in the database.
        known: what :func:`identity` said on the machine that began it.

    Raises:
        UserError: naming what is different.
    """
    found = differences(known, identity(search), free_base=_OWN_BASE)
    if found:
        listed = "\n".join(f"  - {line}" for line in found[:20])
        raise UserError(
            f"sweep.storage={masked(search.settings.storage or '')}: the sweep '{name}' there is another search:\n"
            f"{listed}\nRun the command that it was begun with, or choose another sweep.name"
        )
