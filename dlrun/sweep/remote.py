"""Trials on other machines, behind whatever starts jobs there; their own side is :mod:`dlrun.sweep.box`.

A job that ends without a record is begun again, and its trial goes on from its newest checkpoint.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from dlrun.sweep.box import ALIVE, POLL_SECONDS, read, write
from dlrun.sweep.record import Record, Trial, best_of
from dlrun.sweep.runner import Pack
from dlrun.sweep.watcher import Advise

log = logging.getLogger("dlrun")

ATTEMPTS = 3
"""Jobs of one trial in a row that may end without a record and without a new checkpoint."""
_ALIVE_SECONDS = 30.0
_RECORD_SECONDS = 5.0
_GRACE_SECONDS = 60.0


@dataclass(frozen=True)
class Ending:
    """How a job ended.

    Attributes:
        text: for the user.
        memory: whether it was for want of memory.
    """

    text: str
    memory: bool = False


class Backend(Protocol):
    """Starts jobs somewhere."""

    def submit(self, boxes: Sequence[str]) -> list[Any]:
        """Start a job :func:`run_box` for each box; returns what names the jobs."""

    def ended(self, job: Any) -> Ending | None:
        """How a job ended; None if it waits or runs."""

    def cancel(self, job: Any) -> None:
        """End a job at once, whether it runs or waits."""

    def close(self) -> None:
        """Let go of what was used to start jobs."""


@dataclass
class _Task:
    trial: Trial
    box: Path
    job: Any
    attempts: int = 1
    asked: int = 0
    curve: list[tuple[float, float]] = field(default_factory=list)
    began: float | None = None
    ended: tuple[float, Ending] | None = None
    checkpoint: float = 0.0


class RemoteRunner:
    """Trials as jobs of a cluster; see :class:`dlrun.sweep.runner.Runner`.

    Args:
        backend: starts the jobs.
        folder: for the boxes, on a file system that all machines share.
        jobs: trials that are submitted at a time, those that wait for a machine included, >= 1.
    """

    def __init__(self, backend: Backend, folder: Path, jobs: int) -> None:
        self._backend, self._folder, self._jobs = backend, folder, jobs
        self._tasks: list[_Task] = []
        self._stops = 0
        self._alive_at = 0.0

    def run(self, packs: Callable[[], Pack | None], done: Callable[[Record], None], advise: Advise) -> None:
        """See :meth:`Runner.run`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            while True:
                self._give_sign()
                if not self._stops:
                    self._fill(packs)
                if not self._tasks:
                    return
                for task in list(self._tasks):
                    self._look(task, done, advise)
                if self._tasks:
                    time.sleep(POLL_SECONDS)
        finally:
            for task in self._tasks:
                (task.box / "stop").touch()
            self._backend.close()

    def stop(self) -> None:
        """See :meth:`Runner.stop`."""
        self._stops += 1

    def _fill(self, packs: Callable[[], Pack | None]) -> None:
        trials: list[Trial] = []
        while len(self._tasks) + len(trials) < self._jobs and (pack := packs()) is not None:
            trials.extend(pack)
        self._submit([_Task(trial, self._folder, None) for trial in trials])

    def _submit(self, tasks: Sequence[_Task]) -> None:
        if not tasks:
            return
        for task in tasks:
            task.box = self._folder / f"{Path(task.trial.folder).name}.{uuid.uuid4().hex[:8]}"
            task.box.mkdir()
            task.checkpoint = _newest(Path(task.trial.folder))
            order = {"trial": dataclasses.asdict(task.trial), "cwd": os.getcwd()}
            write(task.box / "trial.json", order)
        for task, job in zip(tasks, self._backend.submit([str(task.box) for task in tasks]), strict=True):
            task.job = job
            self._tasks.append(task)

    def _look(self, task: _Task, done: Callable[[Record], None], advise: Advise) -> None:
        tree = read(task.box / "record.json")
        if tree is not None:
            self._over(task, Record.from_plain(tree), done)
            return
        if self._stops:
            self._stop(task, done)
            return
        if (question := read(task.box / f"ask-{task.asked}.json")) is not None:
            epochs, told = question
            points = [(float(at), float(value)) for at, value in told]
            task.curve.extend(points)
            write(task.box / f"answer-{task.asked}.json", advise(task.trial.number, epochs, points))
            task.asked += 1
        now = time.monotonic()
        if task.began is None and (task.box / "started").exists():
            task.began = now
        limit = task.trial.watch.seconds
        if limit is not None and task.began is not None and now - task.began > limit + _GRACE_SECONDS:
            self._backend.cancel(task.job)
            self._close(task)
            done(self._record(task, "timeout", f"took longer than {limit:g} s, and hung"))
            return
        self._check(task, now, done)

    def _check(self, task: _Task, now: float, done: Callable[[Record], None]) -> None:
        """Begin again what ended without a record; a shared file system may show the record a little later."""
        if task.ended is None:
            ending = self._backend.ended(task.job)
            if ending is not None:
                task.ended = (now, ending)
        elif now - task.ended[0] > _RECORD_SECONDS:
            ending = task.ended[1]
            if not self._again(task):
                status = "oom" if ending.memory else "failed"
                self._close(task)
                done(self._record(task, status, f"its job ended without a result {task.attempts} times: {ending.text}"))

    def _over(self, task: _Task, record: Record, done: Callable[[Record], None]) -> None:
        # A time limit or a preemption of the cluster interrupts a trial too: it goes on in another job.
        if record.status == "interrupted" and not self._stops and self._again(task):
            return
        if record.status == "interrupted" and not self._stops:
            reason = f"interrupted {task.attempts} times without coming further: {record.reason}"
            record = replace(record, status="failed", reason=reason)
        self._close(task)
        done(record)

    def _again(self, task: _Task) -> bool:
        """Submit a trial once more; False if that was done often enough."""
        further = _newest(Path(task.trial.folder)) > task.checkpoint
        if not further and task.attempts >= ATTEMPTS:
            return False
        ended = "" if task.ended is None else f": {task.ended[1].text}"
        log.info("trial %d-%04d goes on in another job%s", task.trial.stage, task.trial.number, ended)
        self._close(task)
        self._submit([_Task(task.trial, self._folder, None, attempts=1 if further else task.attempts + 1)])
        return True

    def _stop(self, task: _Task, done: Callable[[Record], None]) -> None:
        (task.box / "stop").touch()
        waits = not (task.box / "started").exists()
        if waits or self._stops > 1:
            self._backend.cancel(task.job)
        if waits or self._stops > 1 or self._backend.ended(task.job) is not None:
            # Its record may have come since the look into the box.
            tree = read(task.box / "record.json")
            self._close(task)
            stopped = self._record(task, "interrupted", "the sweep was stopped")
            done(stopped if tree is None else Record.from_plain(tree))

    def _close(self, task: _Task) -> None:
        self._tasks.remove(task)
        if (task.box / "record.json").exists():
            shutil.rmtree(task.box, ignore_errors=True)
        else:
            # It may still run where this process cannot see it.
            (task.box / "stop").touch()

    def _record(self, task: _Task, status: Any, reason: str) -> Record:
        trial = task.trial
        return Record(
            trial.number,
            trial.stage,
            status,
            dict(trial.values),
            score=best_of(task.curve, trial.watch.mode),
            epochs=task.curve[-1][0] if task.curve else 0.0,
            reason=reason,
            folder=Path(trial.folder).name,
            curve=tuple(task.curve),
        )

    def _give_sign(self) -> None:
        if time.monotonic() - self._alive_at > _ALIVE_SECONDS or not self._alive_at:
            self._alive_at = time.monotonic()
            write(self._folder / ALIVE, self._alive_at)


def _newest(folder: Path) -> float:
    """Time of the newest checkpoint of a trial; 0 without one."""
    return max((path.stat().st_mtime for path in (folder / "checkpoints").glob("*.pt")), default=0.0)
