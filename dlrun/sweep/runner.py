"""Who runs trials: this process, one after the other, or a pool of warm processes.

A runner is given packs of trials and hands back their records. Packs have one trial today; a runner that trains many
trials of one shape in one program takes larger ones, and nothing else has to know.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any, Protocol

from dlrun.sweep.record import Record, Trial, best_of
from dlrun.sweep.trial import run_trial
from dlrun.sweep.warming import warm_up
from dlrun.sweep.watcher import Advise

log = logging.getLogger("dlrun")

Pack = Sequence[Trial]
RECYCLE_AFTER = 50
"""Trials after which a process is replaced by a fresh one: whatever a library leaks ends with it."""
_GRACE_SECONDS = 10.0
"""Time that a trial has, beyond its own limit, to end by itself before its process is killed."""
_POLL_SECONDS = 0.5


class Runner(Protocol):
    """Runs packs of trials."""

    def run(self, packs: Callable[[], Pack | None], done: Callable[[Record], None], advise: Advise) -> None:
        """Run until ``packs`` has none left and every trial that was begun is over, or :meth:`stop` was called.

        Args:
            packs: gives the next trials; None if there are none now. Asked again after each record.
            done: told of every trial that is over, or interrupted.
            advise: asked by the trials after each evaluation.
        """

    def stop(self) -> None:
        """Ask the running trials to save themselves; a second call ends them at once."""


class InlineRunner:
    """Trials one after the other in this process: nothing starts faster, but a hanging or dying trial takes the sweep
    with it.

    Args:
        patience: seconds after which a trial is interrupted, to be moved, and no other is begun; None: never.

    Attributes:
        impatient: whether a trial took longer.
    """

    def __init__(self, patience: float | None = None) -> None:
        self._patience = patience
        self._stopped = False
        self.impatient = False

    def run(self, packs: Callable[[], Pack | None], done: Callable[[Record], None], advise: Advise) -> None:
        """See :meth:`Runner.run`."""
        while not self._stopped:
            pack = packs()
            if pack is None:
                return
            for trial in pack:
                watch = replace(trial.watch, patience=self._patience)
                record = run_trial(replace(trial, watch=watch), advise)
                if record.status in ("interrupted", "moved"):
                    self._stopped = True
                    self.impatient = record.status == "moved"
                done(record)

    def stop(self) -> None:
        """See :meth:`Runner.stop`; the trial itself hears the signal."""
        self._stopped = True


@dataclass
class _Worker:
    """A process of the pool.

    Attributes:
        process: the process.
        line: to it and from it.
        life: held open for as long as this process lives.
        trial: what it runs; None if it waits.
        curve: what the trial has reported, for the case that it dies.
        deadline: when it is killed, by ``time.monotonic``.
        served: trials it has run.
    """

    process: ForkServerProcess
    line: Connection
    life: Connection
    trial: Trial | None = None
    curve: list[tuple[float, float]] = field(default_factory=list)
    deadline: float | None = None
    began: float = 0.0
    served: int = 0


class PoolRunner:
    """Trials in processes of their own, several at a time.

    The processes are forked from one that has imported torch, so each is there in milliseconds; each runs trials one
    after the other and is replaced after :data:`RECYCLE_AFTER` of them, or when a trial killed it.

    Args:
        jobs: processes, >= 1.
        devices: on which the trials run, in turn; empty: as their configuration says.
    """

    def __init__(self, jobs: int, devices: Sequence[str] = ()) -> None:
        self._context = warm_up()
        self._devices = devices
        self._workers: list[_Worker | None] = [None] * jobs
        self._stops = 0

    def run(self, packs: Callable[[], Pack | None], done: Callable[[Record], None], advise: Advise) -> None:
        """See :meth:`Runner.run`."""
        try:
            while True:
                if not self._stops:
                    self._fill(packs)
                busy = [worker for worker in self._workers if worker is not None and worker.trial is not None]
                if not busy:
                    return
                self._listen(busy, done, advise)
        finally:
            self.close()

    def stop(self) -> None:
        """See :meth:`Runner.stop`."""
        self._stops += 1
        for worker in self._workers:
            if worker is not None and worker.trial is not None and worker.process.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.process.pid, signal.SIGTERM if self._stops == 1 else signal.SIGKILL)

    def close(self) -> None:
        """End all processes."""
        for i, worker in enumerate(self._workers):
            if worker is not None:
                self._dismiss(worker)
                self._workers[i] = None

    def _fill(self, packs: Callable[[], Pack | None]) -> None:
        for i, known in enumerate(self._workers):
            if known is not None and known.trial is not None:
                continue
            pack = packs()
            if pack is None:
                return
            (trial,) = pack
            worker = known if known is not None else self._start()
            self._workers[i] = worker
            if self._devices:
                device = self._devices[i % len(self._devices)]
                trial = replace(trial, config={**trial.config, "device": device})
            worker.trial, worker.curve, worker.began = trial, [], time.monotonic()
            limit = trial.watch.seconds
            worker.deadline = None if limit is None else worker.began + limit + min(limit, _GRACE_SECONDS)
            worker.line.send(trial)

    def _start(self) -> _Worker:
        mine, its = self._context.Pipe()
        listening, life = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_serve, args=(its, listening), name="dlrun-trial")
        process.start()
        its.close()
        listening.close()
        return _Worker(process, mine, life)

    def _listen(self, busy: Sequence[_Worker], done: Callable[[Record], None], advise: Advise) -> None:
        handles: list[Any] = [handle for worker in busy for handle in (worker.line, worker.process.sentinel)]
        ready = set(wait(handles, timeout=_POLL_SECONDS))
        now = time.monotonic()
        for worker in busy:
            if worker.line in ready:
                self._hear(worker, done, advise)
            elif worker.process.sentinel in ready:
                self._bury(worker, done)
            elif worker.deadline is not None and now > worker.deadline:
                worker.process.kill()
                worker.process.join()
                self._bury(worker, done, timeout=True)

    def _hear(self, worker: _Worker, done: Callable[[Record], None], advise: Advise) -> None:
        try:
            message = worker.line.recv()
        except (EOFError, OSError):
            self._bury(worker, done)
            return
        if isinstance(message, Record):
            worker.trial = None
            worker.served += 1
            if worker.served >= RECYCLE_AFTER:
                self._replace(worker)
            done(message)
            return
        number, epochs, points = message
        worker.curve.extend(points)
        # A trial that died meanwhile is noticed at its sentinel.
        with contextlib.suppress(OSError):
            worker.line.send(advise(number, epochs, points))

    def _bury(self, worker: _Worker, done: Callable[[Record], None], *, timeout: bool = False) -> None:
        worker.process.join()
        code, trial = worker.process.exitcode, worker.trial
        self._replace(worker)
        if trial is None:
            return
        record = Record(
            trial.number,
            trial.stage,
            "failed",
            dict(trial.values),
            score=best_of(worker.curve, trial.watch.mode),
            epochs=worker.curve[-1][0] if worker.curve else 0.0,
            folder=os.path.basename(trial.folder),
            seconds=round(time.monotonic() - worker.began, 3),
            curve=tuple(worker.curve),
        )
        if self._stops:
            done(replace(record, status="interrupted", reason="killed"))
        elif timeout:
            done(replace(record, status="timeout", reason=f"took longer than {trial.watch.seconds:g} s, and hung"))
        elif code == -signal.SIGKILL:
            done(replace(record, status="oom", reason="its process was killed, most likely for want of memory"))
        else:
            how = f"by {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit code {code}"
            done(replace(record, reason=f"its process ended {how}"))

    def _replace(self, worker: _Worker) -> None:
        self._dismiss(worker)
        self._workers[self._workers.index(worker)] = None

    def _dismiss(self, worker: _Worker) -> None:
        worker.line.close()
        worker.life.close()
        worker.process.join(2)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.process.close()


def _serve(line: Connection, life: Connection) -> None:
    """What a process of the pool does: trials, until its line is closed."""
    # A Ctrl-C of the terminal is for the sweep, which then asks each trial to save itself.
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_die_with, args=(life,), daemon=True).start()

    def ask(number: int, epochs: float, points: Sequence[tuple[float, float]]) -> Any:
        try:
            line.send((number, epochs, points))
            return line.recv()
        except (EOFError, OSError):
            # The sweep was killed: were this raised, the trial would be written down as failed.
            os._exit(1)

    while True:
        try:
            trial = line.recv()
        except (EOFError, OSError):
            return
        record = run_trial(trial, ask)
        try:
            line.send(record)
        except OSError:
            return


def _die_with(life: Connection) -> None:
    """End this process when the one that began it is gone, however it ended."""
    with contextlib.suppress(EOFError, OSError):
        life.recv()
    os._exit(1)
