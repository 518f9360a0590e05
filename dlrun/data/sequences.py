"""Sequences of tokens with labels: one for the whole, or one for each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from dlrun.data.held_out import hold_out
from dlrun.errors import DataError

if TYPE_CHECKING:
    from dlrun.data.vocabulary import Level

MODULES = (
    "argparse", "ast", "doctest", "inspect", "pickletools", "subprocess", "tarfile", "turtle", "typing", "zipfile",
)  # fmt: skip
"""Modules of Python's standard library whose sources are data on every machine."""


class Labelled(NamedTuple):
    """A sequence and what it shall be given."""

    tokens: Sequence[str]
    """T tokens, at least one; a str is its characters."""
    labels: tuple[str, ...]
    """One label, or T."""


@dataclass(frozen=True)
class SequenceData:
    """Labelled sequences in their splits. No sequence is in two splits.

    Attributes:
        train: sequences to learn from, and to take the vocabulary from.
        val: sequences to choose hyper-parameters and checkpoints by; empty if there are none.
        test: sequences for the one final score; empty if there are none.
        per_token: whether each token has a label; else each sequence has one.
        level: what a token is.
        min_count: rarer tokens of the training sequences are unknown ones.
        source: where they come from, in a few words.
        cut: sequences that were longer than they may be.
    """

    train: tuple[Labelled, ...]
    val: tuple[Labelled, ...]
    test: tuple[Labelled, ...]
    per_token: bool
    level: Level
    min_count: int
    source: str
    cut: int = 0


def split(
    found: Sequence[Labelled],
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
    *,
    per_token: bool,
    level: Level,
    min_count: int,
    source: str,
    cut: int = 0,
) -> SequenceData:
    """Labelled sequences, held out by their tokens; the arguments as in :class:`SequenceData`."""
    keys = [tuple(one.tokens) for one in found]
    parts = hold_out(found, keys, val_fraction, test_fraction, "sequences", split_seed)
    return SequenceData(*parts, per_token, level, min_count, source, cut)


def library_source(module: str) -> str:
    """The source of a module of Python's standard library.

    Raises:
        DataError: if it is not there.
    """
    import sysconfig
    from pathlib import Path

    path = Path(sysconfig.get_paths()["stdlib"]) / f"{module}.py"
    if not path.is_file():
        # Some modules became packages.
        path = path.with_suffix("") / "__init__.py"
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"the source of Python's module {module} is not there ({path}); set data.path to data of yours"
        ) from error
