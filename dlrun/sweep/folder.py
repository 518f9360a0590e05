"""The folder of a sweep, and what in it lets it go on."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dlrun.addresses import masked
from dlrun.config.search import Search
from dlrun.errors import UserError
from dlrun.runfolder import RunFolder
from dlrun.yaml_text import as_yaml

PLAN = "sweep.yaml"
FREE = (
    "trials",
    "jobs",
    "timeout",
    "retry_oom",
    "fail_fast",
    "max_failures",
    "confirm",
    "launcher",
    "launcher_options",
    "root",
    "name",
)
"""Settings that may change from one start of a sweep to the next: none of them changes a trial."""


@dataclass(frozen=True)
class Saved:
    """What a sweep wrote down when it began.

    Attributes:
        config: the ``config=`` of the command; None for the defaults.
        overrides: its other words.
        cwd: the folder it was started in, against which relative paths of the words were resolved.
        base: the configuration without the axes.
        space: key -> distribution.
        settings: the section ``sweep``.
        threads: CPU threads of each trial.
    """

    config: str | None
    overrides: tuple[str, ...]
    cwd: str
    base: Mapping[str, Any]
    space: Mapping[str, str]
    settings: Mapping[str, Any]
    threads: int


def create(search: Search) -> RunFolder:
    """A new folder ``root/<time>_<name>_<hash>``.

    Raises:
        UserError: if it cannot be made.
    """
    settings = search.settings
    label = re.sub(r"[^\w.-]+", "-", settings.name or search.composed.name)
    digest = hashlib.sha256(json.dumps(describe(search), sort_keys=True, default=str).encode()).hexdigest()[:6]
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}_{label}_{digest}"
    try:
        settings.root.mkdir(parents=True, exist_ok=True)
        for attempt in range(1000):
            path = settings.root / (stem if attempt == 0 else f"{stem}-{attempt}")
            try:
                path.mkdir()
            except FileExistsError:
                continue
            (path / "trials").mkdir()
            return RunFolder(path.resolve())
    except OSError as error:
        raise UserError(
            f"sweep.root={settings.root}: the folder cannot be made: {error.strerror} ({error.filename}); choose a "
            "folder that you can write, with sweep.root=..."
        ) from None
    raise UserError(f"sweep.root={settings.root}: holds a thousand sweeps named {stem}; choose another sweep.name")


def describe(search: Search) -> dict[str, Any]:
    """What makes a sweep the one that it is: base, space and settings, as plain values."""
    tree = {key: value for key, value in search.composed.tree.items() if key != "sweep"}
    settings = {
        key: str(value) if isinstance(value, Path) or type(value).__name__ == "Duration" else value
        for key, value in vars(search.settings).items()
        if key != "space"
    }
    settings["stages"] = [dict(stage) for stage in search.settings.stages]
    settings["launcher_options"] = dict(search.settings.launcher_options)
    settings["confirm"] = dict(search.settings.confirm)
    space = {axis.key: str(axis) for axis in search.space}
    return {"base": tree, "space": space, "settings": settings}


def write(folder: RunFolder, search: Search, threads: int) -> None:
    """Write down what lets the sweep go on.

    Raises:
        UserError: if it cannot be written.
    """
    tree = {
        "config": search.config,
        "overrides": list(search.overrides),
        "cwd": str(Path.cwd()),
        **describe(search),
        "threads": threads,
    }
    text = as_yaml(json.loads(json.dumps(tree, default=str)))
    try:
        # A resume needs the password of the database; nobody else does.
        before = os.umask(0o077) if masked(text) != text else None
        try:
            folder.write_text(PLAN, text)
        finally:
            if before is not None:
                os.umask(before)
    except OSError as error:
        raise UserError(f"sweep folder {folder.path}: cannot be written: {error.strerror}") from None


def read(path: Path) -> Saved:
    """What the sweep in a folder wrote down.

    Raises:
        UserError: if there is none.
    """
    if not path.is_dir():
        raise UserError(f"resume={path}: there is no such sweep folder")
    try:
        tree = yaml.safe_load((path / PLAN).read_text(encoding="utf-8"))
        return Saved(**{**tree, "overrides": tuple(tree["overrides"])})
    except FileNotFoundError:
        raise UserError(f"resume={path}: is not a sweep's folder (it has no {PLAN})") from None
    except (OSError, yaml.YAMLError, TypeError, KeyError) as error:
        raise UserError(f"resume={path}: {PLAN} cannot be read: {error}") from None


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
            if part == "settings" and key.split(".")[0] in FREE:
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
