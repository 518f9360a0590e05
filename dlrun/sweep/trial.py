"""One trial: an ordinary run, watched, in its own folder."""

from __future__ import annotations

import dataclasses
import gc
import json
import logging
import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from dlrun.assembly import build_fit, prepare, read_data
from dlrun.checkpoint import load_newest
from dlrun.commands.explaining import explaining
from dlrun.config.compose import resolved
from dlrun.config.load import finish
from dlrun.config.schema import Config
from dlrun.errors import UserError
from dlrun.logs import start_file, stop_file
from dlrun.monitor import better
from dlrun.reproducibility import environment
from dlrun.runfolder import FolderInUse, RunFolder
from dlrun.sweep.memory import begin_peak, peak_mib
from dlrun.sweep.record import FAILURES, Advice, Record, Status, Trial
from dlrun.train.callbacks.checkpoint import checkpoint
from dlrun.train.fit import Callback, Fit
from dlrun.train.loop import train
from dlrun.train.signals import stop_on_signal
from dlrun.yaml_text import as_yaml

log = logging.getLogger("dlrun")

RESULT = "trial.json"
"""File of a trial's folder that holds its :class:`Record` once it is over."""
UNSYNCED_SECONDS = 5.0
"""Age up to which a trial does not wait for the disk: tiny trials would spend a quarter of their time on it."""
Advise = Callable[[int, float, Sequence[tuple[float, float]]], Advice]
"""(number of the trial, epochs done, evaluations since the last question as (epochs, value)) -> what it is to do. The
first question of a resumed trial brings all its evaluations."""


def run_trial(trial: Trial, advise: Advise) -> Record:
    """Run a trial, or go on with it where its newest checkpoint stands.

    Nothing that happens in the trial is raised: the record says it, and ``error.txt`` in its folder has the traceback.

    Args:
        trial: what to do.
        advise: asked after each evaluation.
    """
    folder = Path(trial.folder)
    done = finished(folder)
    if done is not None:
        return dataclasses.replace(done, number=trial.number, stage=trial.stage)
    begin_peak()
    try:
        record = _attempt(trial, folder, advise)
    except FolderInUse as error:
        # Nothing is written: what is there belongs to the process that trains.
        return Record(trial.number, trial.stage, "failed", dict(trial.values), reason=str(error), folder=folder.name)
    smaller = _halved(trial) if record.status == "oom" else None
    if smaller is not None:
        record = _once_more(smaller, record, folder, advise)
    record = dataclasses.replace(record, memory_mib=round(peak_mib(), 1))
    if record.status not in ("interrupted", "moved", "paused"):
        try:
            RunFolder(folder).write_json(RESULT, record.to_plain())
        except OSError as error:
            log.warning("trial %d: %s cannot be written: %s", trial.number, RESULT, error.strerror)
    return record


def _attempt(trial: Trial, folder: Path, advise: Advise) -> Record:
    watcher = _Watcher(trial, advise)
    try:
        with _quiet():
            _train(trial, folder, watcher)
        return watcher.record(*watcher.outcome())
    except FolderInUse:
        raise
    except (Exception, SystemExit) as error:
        status, reason = _explained(error)
        _write_traceback(folder, error)
        return watcher.record(status, reason)


def _halved(trial: Trial) -> Trial | None:
    """The trial with half the micro-batch, which takes the same steps; None if that is not wanted or not possible."""
    trainer = trial.config["trainer"]
    parts, batch = 2 * trainer["accumulate"], trial.config["data"].get("batch_size")
    if not trial.retry_oom or (isinstance(batch, int) and parts > batch):
        return None
    return dataclasses.replace(trial, config={**trial.config, "trainer": {**trainer, "accumulate": parts}})


def _once_more(trial: Trial, first: Record, folder: Path, advise: Advise) -> Record:
    """Run what ran out of memory with half the micro-batch, from its newest checkpoint."""
    # The first attempt's tensors are in circles of modules and callbacks.
    gc.collect()
    torch.cuda.empty_cache()
    parts = trial.config["trainer"]["accumulate"]
    record = _attempt(trial, folder, advise)
    if record.status in FAILURES:
        return dataclasses.replace(first, reason=f"{first.reason}; with trainer.accumulate={parts}: {record.reason}")
    note = f"ran out of memory, then ran with trainer.accumulate={parts}"
    reason = f"{note}; {record.reason}" if record.reason else note
    return dataclasses.replace(record, reason=reason, changed={"trainer.accumulate": parts})


def finished(folder: Path) -> Record | None:
    """The record of a trial that is over; None if it is not, or was never begun."""
    try:
        return Record.from_plain(json.loads((folder / RESULT).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _train(trial: Trial, folder: Path, watcher: _Watcher) -> None:
    config = finish(resolved(trial.config, f"trial {trial.number}", folder))
    run = RunFolder(folder)
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    run.lock()
    handler = start_file(folder / "log.txt")
    try:
        found = load_newest(run.checkpoints)
        saved: Mapping[str, Any] | None = None if found is None else found[1]
        with explaining(config):
            fit = build_fit(config, prepare(config, saved, _data(config)), lambda: run)
            if saved is None:
                _record_start(fit)
            fit.callbacks = {**fit.callbacks, "trial": watcher}
            for callback in fit.callbacks.values():
                if isinstance(callback, checkpoint):
                    callback.unsynced_for = UNSYNCED_SECONDS
            try:
                with stop_on_signal(fit.state):
                    if saved is not None:
                        fit.resume(saved)
                    train(fit)
            finally:
                watcher.leave(fit)
                fit.train.close()
                if fit.val is not None:
                    fit.val.close()
    finally:
        stop_file(handler)
        run.unlock()


_newest_data: tuple[str, Any] | None = None


def _data(config: Config) -> Any:
    """The data set, read once for all trials of a process that share it."""
    global _newest_data
    chosen = config.data
    key = repr((chosen.name, sorted(chosen.params.items()), chosen.split_seed, chosen.val_fraction))
    if _newest_data is None or _newest_data[0] != key:
        _newest_data = (key, read_data(config))
    return _newest_data[1]


def _record_start(fit: Fit) -> None:
    fit.run.write_json("env.json", {"seed": fit.config.seed, **_environment(fit.device), "resumed": []})
    # Last: a folder with a config.yaml is a run that can be resumed.
    fit.run.write_text("config.yaml", as_yaml(fit.config.to_tree()))


@cache
def _environment(device: torch.device) -> Mapping[str, Any]:
    """Asked once for all trials of a process: the state of the git tree takes a process of its own."""
    return environment(device)


class _Watcher(Callback):
    """Follows a trial, ends it when it is hopeless, and knows what became of it."""

    def __init__(self, trial: Trial, advise: Advise) -> None:
        self._trial, self._watch, self._advise = trial, trial.watch, advise
        self._first: float | None = None
        self._curve: list[tuple[float, float]] = []
        self._best: float | None = None
        self._metrics: dict[str, float] = {}
        self._seconds = 0.0
        self._epochs = 0.0
        self._began = time.monotonic()
        self._verdict: tuple[Status, str] | None = None
        self._stop: tuple[str, str] | None = None
        self._told = 0
        self.monitor = trial.watch.metric

    def fit_start(self, fit: Fit) -> None:
        """Ask again what was asked before it was interrupted: the answer may have been to pause."""
        self._began = time.monotonic()
        if self._curve:
            self._ask(fit)

    def step_end(self, fit: Fit) -> None:
        """End it when its time is over; no tensor is touched."""
        watch, spent = self._watch, time.monotonic() - self._began
        if watch.seconds is not None and self._seconds + spent > watch.seconds:
            self._end(fit, "timeout", f"took longer than {watch.seconds:g} s")
        elif watch.patience is not None and spent > watch.patience:
            fit.state.request_stop("paused", "goes on in a process of its own")

    def log(self, fit: Fit, metrics: Mapping[str, float]) -> None:
        """Compare the cost with that of the first step: the mean of a whole reading may have exploded already."""
        cost = metrics.get("train/loss")
        if cost is None:
            return
        if self._first is None:
            self._first = fit.epoch_reading.losses[0]
        limit = self._watch.explode
        if limit is not None and cost > limit * abs(self._first) and cost > self._first:
            times = f"more than {limit:g} times that of the first step ({self._first:.4g})"
            message = f"the training loss {cost:.4g} is {times}"
            self._verdict = ("diverged", message)
            fit.state.request_stop("diverged", message)

    def eval_end(self, fit: Fit, metrics: Mapping[str, float]) -> None:
        """Note the score, and ask whether to go on."""
        value = metrics.get(self._watch.metric)
        if value is None:
            raise UserError(
                f"sweep.metric={self._watch.metric}: the run has no such metric; it has {', '.join(sorted(metrics))}"
            )
        if not math.isfinite(value):
            self._end(fit, "diverged", f"{self._watch.metric} is {value}")
            return
        self._curve.append((_position(fit), value))
        if better(value, self._best, self._watch.mode):
            self._best, self._metrics = value, dict(metrics)
        self._ask(fit)

    def _ask(self, fit: Fit) -> None:
        if fit.state.step >= fit.total_steps:
            return
        epochs, points = _position(fit), self._curve[self._told :]
        self._told = len(self._curve)
        advice = self._advise(self._trial.number, epochs, points)
        if advice == "stop":
            self._end(fit, "pruned", f"lags behind the others after {epochs:g} epochs")
        elif advice == "pause":
            self._verdict = ("paused", f"waits after {epochs:g} epochs: others do better")
            fit.state.request_stop("paused", "others do better")

    def leave(self, fit: Fit) -> None:
        """Remember where it stands when the loop is left."""
        self._seconds += time.monotonic() - self._began
        self._epochs = fit.state.epoch + fit.state.batch / fit.steps_per_epoch
        stop = fit.state.stop
        self._stop = None if stop is None else (stop.reason, stop.message)

    def outcome(self) -> tuple[Status, str]:
        """Status and reason."""
        if self._verdict is not None:
            return self._verdict
        if self._stop is None or self._stop[0] == "early_stopping":
            return "ok", "" if self._stop is None else self._stop[1]
        reason, message = self._stop
        if reason == "diverged":
            return "diverged", message
        if reason == "paused":
            return "moved", message
        return ("ok", message) if reason == "callback" else ("interrupted", message)

    def record(self, status: Status, reason: str) -> Record:
        """What is known of the trial now."""
        return Record(
            self._trial.number,
            self._trial.stage,
            status,
            dict(self._trial.values),
            score=self._best,
            epochs=self._epochs,
            reason=reason,
            folder=Path(self._trial.folder).name,
            seconds=round(self._seconds, 3),
            metrics=self._metrics,
            curve=tuple(self._curve),
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed trial goes on from."""
        return {
            "first": self._first,
            "curve": [list(point) for point in self._curve],
            "best": self._best,
            "metrics": dict(self._metrics),
            "seconds": self._seconds + time.monotonic() - self._began,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``."""
        self._first, self._best = state["first"], state["best"]
        self._curve = [(epochs, value) for epochs, value in state["curve"]]
        self._metrics, self._seconds = dict(state["metrics"]), state["seconds"]

    def _end(self, fit: Fit, status: Status, reason: str) -> None:
        if self._verdict is None:
            self._verdict = (status, reason)
        fit.state.request_stop("callback", reason)


def _position(fit: Fit) -> float:
    """Epochs trained; rounded, for thirds of an epoch are compared."""
    return round(fit.state.epoch + fit.state.batch / fit.steps_per_epoch, 6)


def _explained(error: BaseException) -> tuple[Status, str]:
    causes = (error, error.__cause__)
    status: Status = "failed"
    if any(isinstance(cause, (torch.OutOfMemoryError, MemoryError)) for cause in causes) or "out of memory" in str(
        error
    ):
        status = "oom"
    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return status, text
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return status, f"{type(error).__name__}: {text} ({frame.filename}:{frame.lineno})"


def _write_traceback(folder: Path, error: BaseException) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = "".join(traceback.format_exception(error))
        (folder / "error.txt").write_text(text, encoding="utf-8")
    except OSError as failure:
        log.warning("%s: the traceback cannot be written: %s", folder, failure.strerror)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what a trial says off the screen; its ``log.txt`` has it."""
    before = list(log.handlers)
    level = log.level
    log.setLevel(logging.INFO)
    log.propagate = False
    for handler in before:
        log.removeHandler(handler)
    try:
        yield
    finally:
        for handler in before:
            log.addHandler(handler)
        log.setLevel(level)
