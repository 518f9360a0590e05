"""The folder of a sweep, and what in it lets it go on."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from dlrun.addresses import masked
from dlrun.config.compose import user_files
from dlrun.config.files import RECIPES
from dlrun.config.search import Search
from dlrun.config.sources import Origin
from dlrun.errors import UserError
from dlrun.runfolder import FolderInUse, RunFolder
from dlrun.yaml_text import as_yaml

log = logging.getLogger("dlrun")

PLAN = "sweep.yaml"
JOURNAL = "journal.log"
FILES = "files"
"""Folder of a sweep that holds copies of the user's files, each below its absolute path."""
_LOST = "restore it from a copy, or start a new sweep; the trials are runs like any other"


@dataclass(frozen=True)
class Saved:
    """What a sweep wrote down when it began.

    Attributes:
        config: the ``config=`` of the command; None for the defaults.
        overrides: its other words.
        cwd: the folder it was started in.
        base: the configuration without the axes.
        space: key -> distribution.
        settings: the section ``sweep``.
        threads: CPU threads of each trial.
        file: the user's file that ``config`` named; None for a recipe or the defaults.
        folders: of each override, the current folder when it was typed: relative paths are resolved against it.
        plugins: path of each of the user's modules -> digest of what it was.
    """

    config: str | None
    overrides: tuple[str, ...]
    cwd: str
    base: Mapping[str, Any]
    space: Mapping[str, str]
    settings: Mapping[str, Any]
    threads: int
    file: str | None = None
    folders: tuple[str, ...] = ()
    plugins: Mapping[str, str] = field(default_factory=dict)

    def origin(self, path: Path, *, anew: bool) -> Origin:
        """From where the sweep in the folder ``path`` is composed again.

        Args:
            path: of the sweep's folder, absolute.
            anew: whether from the user's files as they are now, if they are there, and not from their copies.
        """
        folder, folders = Path(self.cwd), tuple(map(Path, self.folders))
        if self.file is None:
            # In this folder a file may have the name of the recipe.
            config = self.config if self.config is None else str(RECIPES / f"{self.config}.yaml")
            return Origin(config, folder, folders)
        file = Path(self.file)
        copy = path / FILES / file.relative_to("/")
        if not copy.is_file() or (anew and file.is_file()):
            return Origin(self.file, folder, folders)
        return Origin(str(copy), folder, folders, path / FILES)


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
    settings["try_first"] = [dict(values) for values in search.settings.try_first]
    settings["confirm"] = dict(search.settings.confirm or {})
    space = {axis.key: str(axis) for axis in search.space}
    return {"base": tree, "space": space, "settings": settings}


def write(folder: RunFolder, search: Search, threads: int) -> None:
    """Write down what lets the sweep go on, from any folder and whatever becomes of the user's files.

    Raises:
        UserError: if it cannot be written.
    """
    origin, file = search.origin, search.composed.file
    copied = origin is not None and origin.copies is not None
    known = () if origin is None else origin.folders
    cwd = Path.cwd()
    tree = {
        "config": search.config,
        "file": origin.original(file) if origin is not None and copied and file is not None else file,
        "overrides": list(search.overrides),
        "folders": [str(place) for place in known] + [str(cwd)] * (len(search.overrides) - len(known)),
        "cwd": str(cwd if origin is None else origin.folder),
        **describe(search),
        "threads": threads,
        "plugins": digests(search),
    }
    try:
        if not copied:
            for path in user_files(search.composed):
                copy = folder.path / FILES / path.relative_to("/")
                copy.parent.mkdir(parents=True, exist_ok=True)
                _write_private(copy, path.read_text(encoding="utf-8"))
        _write_private(folder.path / PLAN, as_yaml(json.loads(json.dumps(tree, default=str))))
    except OSError as error:
        raise UserError(f"sweep folder {folder.path}: cannot be written: {error.strerror}") from None


def _write_private(path: Path, text: str) -> None:
    """Write a file that others may not read if there is a password in it: a resume needs it, nobody else does."""
    before = os.umask(0o077) if masked(text) != text else None
    try:
        RunFolder(path.parent).write_text(path.name, text)
    finally:
        if before is not None:
            os.umask(before)


def digests(search: Search) -> dict[str, str]:
    """Path of each of the user's modules -> digest of its source; of a package, of all its modules."""
    found = {}
    for plugin in search.plugins:
        path = Path(plugin)
        if path.is_absolute():
            files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
            found[plugin] = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
    return found


def newest(root: Path) -> Path:
    """The sweep of a folder that was started or resumed last.

    Raises:
        UserError: if there is none.
    """
    found = [plan for plan in root.glob(f"*/{PLAN}") if plan.is_file()]
    if not found:
        raise UserError(f"resume=auto: there is no sweep in {root}; say where they are, with sweep.root=...")
    return max(found, key=lambda plan: (plan.stat().st_mtime_ns, plan)).parent


def read(path: Path) -> Saved:
    """What the sweep in a folder wrote down.

    Raises:
        UserError: if there is none.
    """
    if not path.is_dir():
        raise UserError(f"resume={path}: there is no such sweep folder")
    plan = path / PLAN
    try:
        tree = yaml.safe_load(plan.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"resume={path}: is not a sweep's folder (it has no {PLAN})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{plan}: is not a text file in UTF-8 (byte {error.start}); {_LOST}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{plan}: is not valid YAML: {' '.join(str(error).split())}; {_LOST}") from None
    except OSError as error:
        raise UserError(f"{plan}: cannot be read: {error.strerror}") from None
    needed = [item.name for item in fields(Saved) if item.default is MISSING and item.default_factory is MISSING]
    missing = [name for name in needed if name not in tree] if isinstance(tree, dict) else needed
    if missing:
        raise UserError(f"{plan}: is not what dlrun sweep wrote: it has no {', '.join(missing)}; {_LOST}")
    known = {item.name: tree[item.name] for item in fields(Saved) if item.name in tree}
    return Saved(**known | {key: tuple(known[key]) for key in ("overrides", "folders") if key in known})


def lock(folder: RunFolder) -> None:
    """Hold the folder of a sweep until the process ends or ``folder.unlock()``.

    Raises:
        UserError: if another process holds it.
    """
    try:
        folder.lock()
    except FolderInUse as error:
        raise UserError(
            f"sweep folder {folder.path}: another dlrun process ({error.owner}) works in it; wait until it is done, or "
            "stop it: its trials save themselves"
        ) from None


def tell_lost_journal(path: Path) -> None:
    """Warn if the journal of a sweep that has trials is gone."""
    journal = path / JOURNAL
    size = journal.stat().st_size if journal.is_file() else None
    if not size and any((path / "trials").glob("*/*")):
        log.warning(
            "%s is %s: trials that are over are read from their folders, others go on from their checkpoints",
            journal,
            "missing" if size is None else "empty",
        )
