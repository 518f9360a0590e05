"""Checkpoints of trials that nobody will ask for."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from dlrun.sweep.confirm import different
from dlrun.sweep.record import Record
from dlrun.types import Mode

log = logging.getLogger("dlrun")


def tidy(trials: Path, records: Iterable[Record], mode: Mode, keep: int) -> set[str]:
    """Delete the checkpoints of trials of a stage that came to their end, but for those of the best.

    What failed keeps them, for it may be run again, and goes on from there.

    Args:
        trials: folder of the trials.
        records: of trials of one stage that lie there.
        mode: whether small or large scores are good.
        keep: how many of the best keep theirs, >= 0.

    Returns:
        The folders of the trials that have none any more. They need not be given again: what comes later only pushes
        more of them out.
    """
    over = [record for record in records if record.status in ("ok", "pruned", "diverged") and record.folder]
    sign = 1.0 if mode == "max" else -1.0
    scored = [record for record in over if record.status == "ok" and record.score is not None]
    # Of equal ones the first, as the confirmation takes them.
    best = different(sorted(scored, key=lambda record: (-sign * (record.score or 0.0), record.number)), keep)
    bare = {record.folder for record in over} - {record.folder for record in best}
    for name in sorted(bare):
        for path in (trials / name / "checkpoints").glob("*.pt"):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                log.warning("%s cannot be deleted: %s", path, error.strerror)
    return bare
