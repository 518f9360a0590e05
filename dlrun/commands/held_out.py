"""Whether what is evaluated was held out of the training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.commands.saved import Saved
from dlrun.logs import log

if TYPE_CHECKING:
    from dlrun.data.feed import Feed, Split

_PLACES = ("path", "root")
_CUT_BY = ("split_seed", "val_fraction", "test_fraction", "max_length")
"""Options of the data that decide which part of them is held out."""
_READ_BY = ("level", "min_count", "sequence_length")
"""Options that change neither the data nor their split."""


def warn_if_seen(saved: Saved, feed: Feed, split: Split) -> None:
    """Say so where a split is cut out of the data of the training, but not as it was then.

    Args:
        saved: the checkpoint, and the configuration of the evaluation.
        feed: the data of the evaluation.
        split: what is evaluated.
    """
    from dlrun.data.recognition import seen_in_training

    before, now = saved.payload["config"]["data"], saved.config.to_tree()["data"]
    if not _same_data(saved.config.data.params, before, now) or not seen_in_training(
        feed.digest, saved.payload["data"], split
    ):
        return
    changed = [f"data.{key}" for key in _CUT_BY if before.get(key) != now.get(key)]
    why = f"{' and '.join(changed)} {'was' if len(changed) == 1 else 'were'} changed" if changed else "the data changed"
    log.warning(
        "split=%s is not what was held out at the training, as %s: it may hold what the net was trained on, and its "
        "scores are then too good",
        split,
        why,
    )


def _same_data(options: Iterable[str], before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether the same data are read, or made, however they are split; an older checkpoint may lack an option."""
    about = {"name", *options} - {*_CUT_BY, *_READ_BY, *_PLACES}
    if any(key in before and before[key] != now[key] for key in about):
        return False
    return all(_resolved(before.get(key)) == _resolved(now.get(key)) for key in _PLACES)


def _resolved(place: Any) -> Any:
    if isinstance(place, (list, tuple)):
        return [_resolved(one) for one in place]
    return None if place is None else Path(str(place)).expanduser().resolve()
