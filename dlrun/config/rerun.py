"""What may change when a saved configuration is used again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dlrun.errors import ConfigError

RESUME_MAY_CHANGE = (
    "device",
    "plugins",
    "run",
    "callbacks",
    "trainer.epochs",
    "trainer.log_every",
    "trainer.threads",
    "trainer.compile",
    "trainer.detect_nan",
    "data.root",
    "data.path",
    "data.workers",
    "data.resident",
    "data.eval_batch_size",
)
"""Paths that do not change what is learned, and the length of the training."""

SERIES_MAY_CHANGE = (
    *(path for path in RESUME_MAY_CHANGE if path not in ("callbacks", "trainer.epochs", "run")),
    "seeds",
)
"""Paths that may change when several runs of one experiment go on: all runs must be trained alike, and seeds added."""

_OF_TRAINING = (
    *("batch_size", "batch_growth", "batch_growth_at", "batch_growth_max", "drop_last"),
    *("normalize", "whitening_epsilon", "contrast_normalize", "contrast_scale", "contrast_bias"),
)
"""Options of the data that only the training heeds, or that are in the checkpoint as it left them."""

EVAL_MAY_CHANGE = (
    "device",
    "plugins",
    "data",
    *(f"!data.{name}" for name in _OF_TRAINING),
    "task.beam",
    "task.threshold",
    "trainer.precision",
    "trainer.channels_last",
    "trainer.threads",
    "trainer.limit_batches",
)
"""Paths that say where and how an evaluation runs, and on what; not those behind a ``!``."""

EXPORT_MAY_CHANGE = ("plugins", "trainer.threads")
"""An export is made of the checkpoint alone, on the CPU."""


def refuse_changes(old: Mapping[str, Any], new: Mapping[str, Any], allowed: Iterable[str], why: str) -> None:
    """Check that only allowed paths differ.

    Args:
        old: the tree of the saved configuration.
        new: the tree of the one to go on with.
        allowed: paths that may differ, with everything below them; but for those that begin with ``!``.
        why: end of the message, what to do instead.

    Raises:
        ConfigError: naming every other path that differs.
    """
    before, after = dict(_flat(old)), dict(_flat(new))
    allowed = tuple(allowed)

    def may_change(path: str) -> bool:
        return any(path == prefix or path.startswith(f"{prefix}.") for prefix in allowed) and f"!{path}" not in allowed

    problems = [
        f"{path}: was {before[path]!r}, now {after.get(path)!r}; {why}"
        # What the saved tree does not know is an option that a newer dlrun added, with the former behaviour as default.
        for path in before
        if before[path] != after.get(path) and not may_change(path)
    ]
    if problems:
        raise ConfigError(problems)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
