"""What a run, or a set of runs, goes on from: its folder, its configuration, its newest checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlrun.config.compose import Composed, compose_saved
from dlrun.config.load import finish, load_config
from dlrun.config.rerun import RESUME_MAY_CHANGE, refuse_changes
from dlrun.config.schema import Config
from dlrun.config.sources import read_yaml
from dlrun.errors import ConfigError
from dlrun.logs import log
from dlrun.runfolder import RunFolder, newest_run_folder, open_run_folder

_SAME_EXPERIMENT = (
    "a resumed run continues the same experiment; start a new run to change this (dlrun train config={} ...)"
)


def folder_to_resume(resume: str, overrides: Sequence[str]) -> RunFolder:
    """The folder that ``resume=`` names.

    Raises:
        UserError: if there is none.
    """
    if resume != "auto":
        path = Path(resume).expanduser()
        return open_run_folder(path.parent if path.name == "config.yaml" else path)
    root = load_config(None, [word for word in overrides if word.startswith("run.root=")])[0].run.root
    return open_run_folder(newest_run_folder(root))


def saved_config(folder: RunFolder, overrides: Sequence[str]) -> tuple[Config, Composed]:
    """The configuration of a folder, with overrides.

    Raises:
        ConfigError: if they are wrong, or change what is learned.
    """
    path = folder.path / "config.yaml"
    tree, _ = read_yaml(path, str(path))
    # The recorded place of a plug-in may not exist here: the one given now must be used from the first.
    plugins = [word for word in overrides if word.startswith("plugins=")]
    old = finish(compose_saved(tree, str(path), folder.path, plugins))
    composed = compose_saved(tree, str(path), folder.path, overrides)
    new = finish(composed)
    same = _SAME_EXPERIMENT.format(folder.path)
    # A set has its seeds; that of one run is no part of one.
    allowed = RESUME_MAY_CHANGE if old.seeds is None or new.seeds is None else (*RESUME_MAY_CHANGE, "seeds")
    refuse_changes(old.to_tree(), new.to_tree(), allowed, same)
    if not set(old.all_seeds) <= set(new.all_seeds):
        gone = [seed for seed in old.all_seeds if seed not in new.all_seeds]
        raise ConfigError([f"seeds: seeds can be added to a set, but {gone} of it would be gone; {same}"])
    return new, composed


def newest_checkpoint(folder: RunFolder, config: Config) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint that a run goes on from; None if it was stopped before its first."""
    from dlrun.checkpoint import load_newest

    found = load_newest(folder.checkpoints)
    if found is None:
        log.info("resume: there is no checkpoint yet, so the run starts from its beginning")
        return None
    path, payload, complaints = found
    for complaint in complaints:
        log.warning("%s", complaint)
    if complaints:
        log.warning("going on from %s", path.name)
    refuse_changes(payload["config"], config.to_tree(), RESUME_MAY_CHANGE, _SAME_EXPERIMENT.format(folder.path))
    return path, payload
