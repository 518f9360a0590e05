"""Checkpoints as the commands name them, with the experiment that they describe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from dlrun.commands.request import Request
from dlrun.config.compose import compose_saved
from dlrun.config.load import finish
from dlrun.config.rerun import refuse_changes
from dlrun.config.schema import Config
from dlrun.config.sources import display_path
from dlrun.errors import CheckpointError, UserError


@dataclass(frozen=True)
class Saved:
    """One checkpoint with its configuration."""

    path: Path
    payload: Mapping[str, Any]
    config: Config

    def weights(self, request: Request) -> tuple[Mapping[str, Any], str]:
        """The weights that ``weights=`` asks for, and what they are: averaged, raw, or an empty text if there is only
        one kind.

        Raises:
            UserError: if there is no such kind, or the checkpoint lacks it.
        """
        from dlrun.weights import Choice, saved_weights

        choice: Choice = request.one_of("weights", get_args(Choice), "auto")
        try:
            return saved_weights(self.payload, choice)
        except CheckpointError as error:
            raise CheckpointError(f"checkpoint {display_path(self.path)}: {error}") from None


def home(checkpoint: Path) -> Path:
    """Where the results of a checkpoint go: its run folder, or the folder of a checkpoint that lies elsewhere."""
    run = checkpoint.parent.parent
    return run if (run / "config.yaml").is_file() else checkpoint.parent


def listed(key: str, given: str) -> list[str]:
    """The words of ``key=word`` or ``key=[word,word]``.

    Raises:
        UserError: if the list has an empty entry.
    """
    if given.startswith("[") and given.endswith("]"):
        words = [word.strip().strip("'\"") for word in given[1:-1].split(",")]
        if not all(words):
            raise UserError(f"{key}={given}: an empty entry in the list")
        return words
    return [given]


def load_saved(path: Path, overrides: Sequence[str], may_change: Iterable[str], why: str) -> Saved:
    """Read a checkpoint and the configuration in it, with overrides.

    Args:
        path: the file.
        overrides: ``key=value`` words.
        may_change: paths of the configuration that they may change.
        why: what to say of all others.

    Raises:
        UserError: if the checkpoint cannot be used, or an override is wrong or changes what it may not.
    """
    from dlrun.checkpoint import load

    payload = load(path)
    label = f"checkpoint {display_path(path)}"
    # The recorded place of a plug-in may not exist here: the one given now must be used from the first.
    plugins = [word for word in overrides if word.startswith("plugins=")]
    old = finish(compose_saved(payload["config"], label, path.parent, plugins))
    config = finish(compose_saved(payload["config"], label, path.parent, overrides))
    refuse_changes(old.to_tree(), config.to_tree(), may_change, why)
    return Saved(path, payload, config)
