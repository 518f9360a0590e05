"""What the splits of data are recognised by, at a resume and in an evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dlrun.data.feed import Split
from dlrun.errors import CheckpointError

SPLITS: tuple[Split, ...] = ("train", "val", "test")
_TOLD = {"train": "training", "val": "validation", "test": "test"}
Digests = dict[str, str | None]
"""For each split by ``train_digest`` and so on; None where there is no such split."""


def digest(*parts: bytes) -> str:
    """What some data are recognised by."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


def digest_lines(lines: Iterable[str]) -> str:
    """What some texts are recognised by."""
    return digest("\n".join(lines).encode())


def digests(of: Callable[[Split], str | None]) -> Digests:
    """Of all splits, from that of one."""
    return {f"{split}_digest": of(split) for split in SPLITS}


def refuse_changed(own: Mapping[str, Any], stored: Mapping[str, Any], kind: str) -> None:
    """Check that a run goes on with the data that it had.

    Args:
        own: ``state_dict`` of the feed.
        stored: that of the checkpoint; what an older one lacks is not checked.
        kind: what the data are, in the plural or as a mass, for the message.

    Raises:
        CheckpointError: if something differs, with the split.
    """
    different = [key for key in own if key in stored and own[key] != stored[key]]
    if not different:
        return
    # Whatever else a feed keeps comes from the training split.
    split = next((split for split in SPLITS if f"{split}_digest" in different), "train")
    verb, those = ("is", "that") if kind == "text" else ("are", "those")
    raise CheckpointError(
        f"the {_TOLD[split]} {kind} {verb} not {those} of the checkpoint, so the run cannot be continued exactly; "
        f"start a new run, or give the former {kind} with data.path=..."
    )


def seen_in_training(digest_of: Callable[[Split], str | None], stored: Mapping[str, Any], split: Split) -> bool:
    """Whether a split of the data that a checkpoint was trained on, cut anew, may hold what was in its training split.

    Args:
        digest_of: that of a feed for these data.
        stored: ``state_dict`` of the feed that the checkpoint was trained with; an older one may tell less, or nothing.
        split: the split in question.
    """
    if split == "train":
        return False
    # An older checkpoint knows the training split alone, which is another one if what was held out is.
    asked: Split = split if f"{split}_digest" in stored else "train"
    if f"{asked}_digest" not in stored:
        return False
    found = digest_of(asked)
    return found is not None and found != stored[f"{asked}_digest"]
