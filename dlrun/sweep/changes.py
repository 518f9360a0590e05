"""What of a sweep is no longer as it was when it was begun."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dlrun.addresses import masked
from dlrun.config.search import Search
from dlrun.config.sources import display_path
from dlrun.sweep.folder import FILES, Saved, describe, digests

log = logging.getLogger("dlrun")

FREE = (
    "trials",
    "jobs",
    "threads",
    "timeout",
    "max_time",
    "keep",
    "retry_oom",
    "fail_fast",
    "max_failures",
    "confirm",
    "launcher",
    "launcher_options",
    "root",
    "name",
)
"""Settings that may change from one start of a sweep to the next: none of them changes a trial, but for the last digits
that depend on the number of threads."""
SCORE = ("sweep.metric", "sweep.mode")
"""What a score is: scores of trials before and after a change could not be compared."""


def changes(saved: Saved, search: Search) -> list[str]:
    """What is different now and would change trials, one line each."""
    now = json.loads(json.dumps(describe(search), default=str))
    before = json.loads(json.dumps({"base": saved.base, "space": saved.space, "settings": saved.settings}, default=str))
    return differences(before, now)


def differences(before: Mapping[str, Any], now: Mapping[str, Any], free_base: Sequence[str] = ()) -> list[str]:
    """What two searches, as :func:`describe` gives them, do not share and would change trials, one line each.

    Args:
        before: the one, as JSON.
        now: the other.
        free_base: paths of the configuration that may differ, with everything below them.
    """
    found: list[str] = []
    for part, prefix in (("base", ""), ("space", "search space of "), ("settings", "sweep.")):
        old, new = _flat(before[part]), _flat(now[part])
        for key in sorted(old.keys() | new.keys()):
            # A setting that there was not yet had no influence.
            name = key.split(".")[0]
            if part == "settings" and (name in FREE or name not in before[part]):
                continue
            if part == "base" and any(key == path or key.startswith(f"{path}.") for path in free_base):
                continue
            if old.get(key) != new.get(key):
                found.append(masked(f"{prefix}{key}: was {old.get(key)!r}, is now {new.get(key)!r}"))
    return found


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    return {
        name: value
        for key, item in tree.items()
        for name, value in _flat(item, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def tell_changed_files(path: Path) -> None:
    """Say which of the user's files are no longer what the sweep in the folder ``path`` was begun with."""
    copies = path / FILES
    for copy in sorted(copies.rglob("*.y*ml")):
        original = Path("/") / copy.relative_to(copies)
        if not original.is_file() or original.read_bytes() != copy.read_bytes():
            what = "was changed" if original.is_file() else "is gone"
            log.info("%s %s since the sweep began, which goes on with its copy of it", display_path(original), what)


def tell_changed_plugins(saved: Saved, search: Search) -> None:
    """Say which of the user's modules are others than at the last start: no copy of them is run."""
    now = digests(search)
    for path, digest in saved.plugins.items():
        if path in now and now[path] != digest:
            log.warning(
                "plug-in %s was changed since the sweep was last started: the trials that are left run with it as it "
                "is now, and may not compare with those before",
                display_path(Path(path)),
            )
