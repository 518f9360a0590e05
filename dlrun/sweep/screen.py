"""What the user sees of a sweep while it runs: one bar on a terminal, else plain lines, and each failure at once."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dlrun.sweep.record import Record
from dlrun.sweep.scalars import counted, number, plain
from dlrun.sweep.space import Space
from dlrun.sweep.stages import Stage
from dlrun.sweep.verdict import Verdict

log = logging.getLogger("dlrun")

_LINE_SECONDS = 5.0
_LOUD = ("failed", "oom", "timeout")


class Screen:
    """Progress, the best so far, the time that is left.

    Args:
        metric: of the score.
        mode: whether small or large scores are good.
        folder: of the sweep, as messages show it.

    Attributes:
        also: called after each trial, for what else shows the sweep while it runs.
    """

    def __init__(self, metric: str, mode: str, folder: str) -> None:
        self._metric, self._mode, self._folder = metric, mode, folder
        self._best: Record | None = None
        self._counts: dict[str, int] = {}
        self._bar: tqdm[Any] | None = None
        self._total = 0
        self._done = 0
        self._shown_at = 0.0
        self._began = time.monotonic()
        self._ran = 0
        self.also: Callable[[], None] = lambda: None

    def begin(self, stage: Stage, space: Space, done: int, recovered: int) -> None:
        """A stage begins.

        Args:
            stage: which.
            space: what it searches.
            done: trials that are over already.
            recovered: trials that were begun and interrupted.
        """
        epochs = "" if stage.epochs is None else f", {counted(stage.epochs, 'epoch')} each"
        if stage.confirms:
            log.info("confirm     %s, the best again with other seeds", counted(stage.trials, "trial"))
        else:
            log.info("stage %d     %s%s", stage.number, counted(stage.trials, "trial"), epochs)
        width = max((len(axis.key) for axis in space), default=0)
        for axis in space:
            log.info("            %-*s  %s", width, axis.key, axis)
        if done or recovered:
            log.info("            %d done before, %d to be continued", done, recovered)
        self._total, self._done, self._ran, self._best = stage.trials, 0, 0, None
        self._counts.clear()
        self._began = self._shown_at = time.monotonic()
        if sys.stderr.isatty():
            self._bar = tqdm(total=stage.trials, unit="trial", dynamic_ncols=True, leave=False, file=sys.stderr)

    def learn(self, record: Record) -> None:
        """A trial that was over before."""
        self._count(record)
        if self._bar is not None:
            # It took no time now: the rate is that of this start.
            self._bar.initial += 1
            self._bar.n += 1

    def show(self, record: Record) -> None:
        """A trial is over."""
        self._ran += 1
        if record.status in _LOUD:
            place = Path(self._folder, "trials", record.folder)
            # A trial whose process died has left none.
            if record.status == "failed" and (place / "error.txt").is_file():
                place /= "error.txt"
            log.warning("trial %d-%04d %s: %s (%s)", record.stage, record.number, record.status, record.reason, place)
        new_best = self._count(record)
        if self._bar is not None:
            self._bar.update()
            self._bar.set_postfix_str(self._summary(), refresh=False)
        elif new_best or time.monotonic() - self._shown_at > _LINE_SECONDS or self._done == self._total:
            self._shown_at = time.monotonic()
            left = (self._total - self._done) * (time.monotonic() - self._began) / self._ran
            log.info("%d/%d  %s  ETA %d:%02d", self._done, self._total, self._summary(), *divmod(round(left), 60))
        self.also()

    def end(self) -> None:
        """The stage is over."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def verdicts(self, stage: Stage, verdicts: Sequence[Verdict]) -> None:
        """What a stage says of its axes."""
        if not verdicts:
            return
        log.info("")
        log.info("verdicts on stage %d", stage.number)
        width = max(len(verdict.axis.key) for verdict in verdicts)
        for verdict in verdicts:
            log.info("  %-*s  %s", width, verdict.axis.key, verdict.text)
        log.info("")

    def _count(self, record: Record) -> bool:
        """Count a trial; whether it is the best so far."""
        self._done += 1
        self._counts[record.status] = self._counts.get(record.status, 0) + 1
        if record.status != "ok" or record.score is None:
            return False
        sign = 1 if self._mode == "max" else -1
        if self._best is None or self._best.score is None or sign * record.score > sign * self._best.score:
            self._best = record
            return True
        return False

    def _summary(self) -> str:
        others = ", ".join(f"{count} {status}" for status, count in sorted(self._counts.items()) if status != "ok")
        best = "no score yet"
        if self._best is not None and self._best.score is not None:
            best = f"best {self._metric} {number(float(f'{self._best.score:.4g}'))} with {told(self._best.values)}"
        return best + (f"; {others}" if others else "")


def told(values: Mapping[str, object], *, but: str = "") -> str:
    """The values of a trial in one line, without that of one axis."""
    return " ".join(f"{key}={_short(value)}" for key, value in values.items() if key != but)


def _short(value: object) -> str:
    if not isinstance(value, float):
        return plain(value)
    short = f"{value:.3g}"
    # Of what is near to 1 the rest counts, as of momentum.
    return short if float(short) != 1.0 else f"{value:.6g}"


def shown(path: Path) -> str:
    """A path as the user would type it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
