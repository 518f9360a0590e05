"""One trial: an ordinary run, watched, in its own folder."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import gc
import json
import logging
import traceback
from collections.abc import Iterator, Mapping
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
from dlrun.reproducibility import environment
from dlrun.runfolder import FolderInUse, RunFolder
from dlrun.sweep.memory import begin_peak, peak_mib
from dlrun.sweep.record import FAILURES, REPEATABLE, Record, Status, Trial
from dlrun.sweep.watcher import Advise, Watcher
from dlrun.train.callbacks.checkpoint import checkpoint
from dlrun.train.fit import Fit
from dlrun.train.loop import train
from dlrun.train.signals import stop_on_signal
from dlrun.yaml_text import as_yaml

log = logging.getLogger("dlrun")

RESULT = "trial.json"
"""File of a trial's folder that holds its :class:`Record` once it is over."""
ERROR = "error.txt"
"""File of a trial's folder that holds the traceback of what ended it."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
UNSYNCED_SECONDS = 5.0
"""Age up to which a trial does not wait for the disk: tiny trials would spend a quarter of their time on it."""


def run_trial(trial: Trial, advise: Advise) -> Record:
    """Run a trial, or go on with it where its newest checkpoint stands.

    Nothing that happens in the trial is raised: the record says it, and ``error.txt`` in its folder has the traceback.

    Args:
        trial: what to do.
        advise: asked after each evaluation.
    """
    folder = Path(trial.folder)
    done = finished(folder)
    if done is not None and not (trial.again and done.status in REPEATABLE):
        return dataclasses.replace(done, number=trial.number, stage=trial.stage)
    with contextlib.suppress(OSError):
        (folder / ERROR).unlink()
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
    watcher = Watcher(trial, advise)
    try:
        with _quiet():
            _train(trial, folder, watcher)
        return watcher.record(*watcher.outcome())
    except FolderInUse:
        raise
    except (Exception, SystemExit) as error:
        status, reason = _explained(error)
        if status == "interrupted":
            return watcher.record(status, reason)
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


def _train(trial: Trial, folder: Path, watcher: Watcher) -> None:
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
                _check_written(fit)
            finally:
                watcher.leave(fit)
                fit.train.close()
                if fit.val is not None:
                    fit.val.close()
    finally:
        stop_file(handler)
        run.unlock()


def _check_written(fit: Fit) -> None:
    """Raise what kept the last checkpoint from being written: what a sweep found best is to be had, too."""
    for callback in fit.callbacks.values():
        if isinstance(callback, checkpoint) and callback.failure is not None:
            raise callback.failure


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


def _explained(error: BaseException) -> tuple[Status, str]:
    causes = (error, error.__cause__)
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in _FULL:
            # No fault of the trial, and the next ones would have it too.
            where = f" ({cause.filename})" if cause.filename else ""
            return "interrupted", f"{cause.strerror}{where}: make room before it goes on"
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
        (folder / ERROR).write_text(text, encoding="utf-8")
    except OSError as failure:
        log.warning("%s: the traceback cannot be written: %s", folder, failure.strerror)


@contextlib.contextmanager
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
