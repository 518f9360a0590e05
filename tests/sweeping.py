"""Sweeps for tests: small ones, trials that do what they should not, processes, and the table of the results."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

TINY = (
    "data=synthetic",
    "data.samples=120",
    "data.batch_size=16",
    "data.eval_batch_size=32",
    "model=mlp",
    "model.hidden=[8]",
    "trainer.epochs=3",
    "trainer.threads=1",
)
TROUBLE = '''
import os, signal, time
from typing import Literal
from dlrun.registry import CALLBACKS
from dlrun.train.fit import Callback

@CALLBACKS.register
class trouble(Callback):
    """Does what a trial should not do."""
    def __init__(
        self, *, kind: Literal["none", "raise", "memory", "killed", "lost", "hang", "nan", "slow"] = "none"
    ) -> None:
        self.kind = kind
    def epoch_start(self, fit):
        if fit.state.epoch != 1:
            return
        if self.kind == "raise":
            raise RuntimeError("boom")
        if self.kind == "memory":
            raise MemoryError("no more")
        if self.kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "lost":
            mark = fit.run.path / "lost"
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "hang":
            time.sleep(600)
        if self.kind == "nan":
            for parameter in fit.model.parameters():
                parameter.data.fill_(float("nan"))
    def step_end(self, fit):
        if self.kind == "slow":
            time.sleep(0.05)
'''
"""A plug-in; ``lost`` kills its process once only."""


def start_sweep(home: Path, *words: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """``dlrun sweep`` in a process group of its own, with all that it says in one pipe."""
    return subprocess.Popen(
        [sys.executable, "-m", "dlrun", "sweep", *words],
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=environment,
    )


def the_sweep(home: Path) -> Path:
    """The only sweep that was begun in a folder."""
    (found,) = (home / "sweeps").iterdir()
    return found


def rows(sweep: Path) -> list[dict[str, str]]:
    """The table of a sweep."""
    with (sweep / "results.csv").open() as file:
        return list(csv.DictReader(file))


def lasting_rows(sweep: Path) -> list[dict[str, str]]:
    """The table without what differs from one time to the next: times and memory."""
    return [{key: value for key, value in row.items() if key not in ("seconds", "memory_mib")} for row in rows(sweep)]
