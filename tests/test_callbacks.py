"""The callbacks, each alone and in runs."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import pty
import re
import shutil
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import forgetting_plugins
from running import SMALL, equal, make_fit

from dlrun import checkpoint as files
from dlrun.assembly import build_callbacks
from dlrun.cli import main
from dlrun.errors import UserError
from dlrun.monitor import better
from dlrun.registry import CALLBACKS
from dlrun.train.callbacks.checkpoint import checkpoint
from dlrun.train.callbacks.early_stopping import early_stopping
from dlrun.train.callbacks.max_time import max_time
from dlrun.train.callbacks.metrics_jsonl import metrics_jsonl
from dlrun.train.callbacks.progress import progress
from dlrun.train.callbacks.tensorboard import tensorboard
from dlrun.train.fit import Callback, Fit
from dlrun.train.loop import train
from dlrun.train.state import State
from dlrun.types import Duration

REQUIRED: dict[str, dict[str, Any]] = {"max_time": {"limit": Duration(1, "h")}, "snapshots": {"count": 2}}
"""Options without a default, or whose default is for cyclic schedules only."""


# The contract of every callback


@pytest.fixture(params=CALLBACKS.names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def through_a_file(state: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def test_a_run_with_it_and_its_state_is_plain(name: str, tmp_path: Path) -> None:
    callback = CALLBACKS.build(name, REQUIRED.get(name, {}))
    fit = make_fit(tmp_path, callbacks={name: callback})
    train(fit)
    state = through_a_file(callback.state_dict())
    assert equal(state, callback.state_dict())
    fresh = CALLBACKS.build(name, REQUIRED.get(name, {}))
    fresh.load_state_dict(state)
    assert equal(fresh.state_dict(), state)


def test_state_is_saved_and_loaded_or_neither(name: str) -> None:
    kind = type(CALLBACKS.build(name, REQUIRED.get(name, {})))
    assert (kind.state_dict is Callback.state_dict) == (kind.load_state_dict is Callback.load_state_dict)


def test_it_survives_an_exception_at_any_moment(name: str, tmp_path: Path) -> None:
    for event in ("fit_start", "epoch_start", "step_end", "eval_end", "epoch_end"):

        class Broken(Callback):
            pass

        setattr(Broken, event, lambda *_: 1 / 0)
        callback = CALLBACKS.build(name, REQUIRED.get(name, {}))
        fit = make_fit(tmp_path, callbacks={name: callback, "broken": Broken()})
        with pytest.raises(ZeroDivisionError):
            train(fit)


def test_it_does_not_change_what_is_learned(name: str, tmp_path: Path) -> None:
    alone, watched = (
        make_fit(tmp_path, "model.dropout=0.5", callbacks=callbacks)
        for callbacks in ({}, {name: CALLBACKS.build(name, REQUIRED.get(name, {}))})
    )
    # Built one after the other, they drew their weights from the same seed; dropout draws in the loop.
    for fit in (alone, watched):
        torch.manual_seed(5)
        train(fit)
    assert equal(alone.model.state_dict(), watched.model.state_dict())


def test_a_callback_that_saves_without_loading_is_refused() -> None:
    class forgetful(Callback):
        def state_dict(self) -> dict[str, Any]:
            return {"count": 1}

    with forgetting_plugins():
        CALLBACKS.register(forgetful)
        chosen = SimpleNamespace(callbacks={"forgetful": SimpleNamespace(name="forgetful", params={})})
        with pytest.raises(UserError, match="callback 'forgetful' has state but no load_state_dict"):
            build_callbacks(chosen)  # type: ignore[arg-type]


# Comparing


@pytest.mark.parametrize(
    ("new", "best", "mode", "delta", "expected"),
    [
        (0.5, None, "min", 0.0, True),
        (math.nan, None, "min", 0.0, False),
        (math.nan, 0.5, "max", 0.0, False),
        (math.inf, 0.5, "max", 0.0, True),
        (math.inf, None, "min", 0.0, True),
        (0.5, math.inf, "min", 0.0, True),
        (0.5, 0.5, "min", 0.0, False),
        (0.4, 0.5, "min", 0.0, True),
        (0.4, 0.5, "max", 0.0, False),
        (0.6, 0.5, "max", 0.0, True),
        (0.6, 0.5, "max", 0.2, False),
        (0.8, 0.5, "max", 0.2, True),
        (-0.8, -0.5, "min", 0.2, True),
        (-0.6, -0.5, "min", 0.2, False),
        (0.0, 0.5, "min", 0.0, True),
        (0.5, 0.0, "min", 0.0, False),
    ],
)
def test_better(new: float, best: float | None, mode: Any, delta: float, expected: bool) -> None:
    assert better(new, best, mode, delta) is expected


# Early stopping


def stops_after(values: list[float], **options: Any) -> tuple[int, str] | None:
    """Number of the evaluation that requested the stop, and its message."""
    callback, fit = early_stopping(**options), SimpleNamespace(state=State())
    for i, value in enumerate(values, 1):
        callback.eval_end(fit, {callback.monitor: value})  # type: ignore[arg-type]
        if fit.state.stop is not None:
            assert fit.state.stop.reason == "early_stopping"
            return i, fit.state.stop.message
    return None


def test_early_stopping_waits_for_its_patience() -> None:
    assert stops_after([3, 2, 1, 0], patience=1) is None
    assert stops_after([3, 2, 2], patience=1) == (3, "val/loss has not improved for 1 evaluations (best 2)")
    assert stops_after([3, 2, 2.5, 2.1, 2.0, 1], patience=3)[0] == 5  # type: ignore[index]
    assert stops_after([3, 2, 2.5, 1.9, 2.5, 1.8, 3], patience=2) is None
    assert stops_after([0.1, 0.2, 0.15, 0.2], mode="max", monitor="val/accuracy", patience=2)[0] == 4  # type: ignore[index]


def test_early_stopping_wants_its_min_delta() -> None:
    values = [1.0, 0.95, 0.9, 0.85]
    assert stops_after(values, patience=2) is None
    assert stops_after(values, patience=2, min_delta=0.1) == (3, "val/loss has not improved for 2 evaluations (best 1)")
    # Measured from the best, not from the last: small steps add up to an improvement.
    assert stops_after(values, patience=3, min_delta=0.12) is None


def test_nan_is_never_an_improvement() -> None:
    nan = math.nan
    assert stops_after([nan, nan, nan], patience=3) == (
        3,
        "val/loss has not improved for 3 evaluations (no finite value)",
    )
    assert stops_after([nan, 1.0, nan, 0.9, nan], patience=2) is None
    assert stops_after([1.0, nan, nan], patience=2, mode="max")[0] == 3  # type: ignore[index]


def test_early_stopping_goes_on_where_it_was_unless_the_metric_is_another() -> None:
    first = early_stopping(patience=3)
    for value in (1.0, 2.0, 2.0):
        first.eval_end(SimpleNamespace(state=State()), {"val/loss": value})  # type: ignore[arg-type]
    again, other = early_stopping(patience=3), early_stopping(patience=3, monitor="val/accuracy", mode="max")
    for callback in (again, other):
        callback.load_state_dict(through_a_file(first.state_dict()))
        fit = SimpleNamespace(state=State())
        callback.eval_end(fit, {"val/loss": 1.5, "val/accuracy": 0.5})  # type: ignore[arg-type]
        assert (fit.state.stop is not None) == (callback is again)


def test_early_stopping_by_a_training_metric_between_two_logs(tmp_path: Path) -> None:
    stopping = early_stopping(monitor="train/loss", patience=1, min_delta=100.0)
    fit = make_fit(tmp_path, "trainer.eval_every=2st", "trainer.log_every=1000", callbacks={"stop": stopping})
    train(fit)
    assert fit.state.step == 4


# Checkpoints


class Saving:
    """A run whose metrics are given."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.callback = checkpoint(**{"monitor": "val/loss", "mode": "min", **options})
        self.fit = make_fit(root, callbacks={"checkpoint": self.callback})
        self.callback.fit_start(self.fit)

    def save(self, step: int, value: float | None = None) -> None:
        self.fit.state.step = step
        self.callback.step_end(self.fit)
        if value is not None:
            self.callback.eval_end(self.fit, {"val/loss": value})
        self.callback.checkpoint(self.fit)

    @property
    def steps(self) -> dict[str, int]:
        """Name of each file -> the step in it."""
        return {path.stem: files.load(path)["state"]["step"] for path in sorted(self.fit.run.checkpoints.glob("*.pt"))}


def test_last_and_best(tmp_path: Path) -> None:
    run = Saving(tmp_path)
    for step, value, best in ((1, 3.0, 1), (2, 2.0, 2), (3, 2.5, 2), (4, math.nan, 2), (5, 2.0, 2), (6, 1.9, 6)):
        run.save(step, value)
        assert run.steps == {"last": step, "best": best, **({"previous_last": step - 1} if step > 1 else {})}
    assert (run.callback.best, run.callback.best_step) == (1.9, 6)
    run.save(7)
    assert run.steps == {"last": 7, "best": 6, "previous_last": 6}
    assert run.fit.state.saved_step == 7


def test_the_largest_can_be_the_best(tmp_path: Path) -> None:
    run = Saving(tmp_path, mode="max")
    for step, value in ((1, 0.1), (2, 0.3), (3, 0.2)):
        run.save(step, value)
    assert run.steps["best"] == 2


def test_a_first_nan_does_not_become_the_best(tmp_path: Path) -> None:
    run = Saving(tmp_path, top_k=2)
    run.save(1, math.nan)
    assert run.steps == {"last": 1}
    run.save(2, 5.0)
    assert run.steps == {"last": 2, "previous_last": 1, "best": 2, "step2": 2}


def test_the_top_k_are_kept(tmp_path: Path) -> None:
    run = Saving(tmp_path, top_k=3)
    for step, value in enumerate([5.0, 3.0, 4.0, 6.0, 1.0, math.nan, 3.5], 1):
        run.save(step, value)
    assert run.steps == {"last": 7, "previous_last": 6, "best": 5, "step2": 2, "step5": 5, "step7": 7}


def test_the_regular_ones_are_kept_or_the_newest_of_them(tmp_path: Path) -> None:
    run = Saving(tmp_path / "all", every=Duration(2, "st"))
    for step in range(1, 8):
        run.save(step)
    assert set(run.steps) == {"last", "previous_last", "step2", "step4", "step6"}
    run = Saving(tmp_path / "two", every=Duration(2, "st"), keep=2)
    for step in range(1, 8):
        run.save(step)
    assert set(run.steps) == {"last", "previous_last", "step4", "step6"}
    run = Saving(tmp_path / "none", every=Duration(2, "st"), keep=0)
    for step in range(1, 8):
        run.save(step)
    assert set(run.steps) == {"last", "previous_last"}
    run = Saving(tmp_path / "both", every=Duration(3, "st"), keep=1, top_k=2)
    for step in range(1, 8):
        run.save(step, float(step))
    assert set(run.steps) == {"last", "previous_last", "best", "step1", "step2", "step6"}


def test_regular_checkpoints_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, clock = Saving(tmp_path, every=Duration(10, "min")), [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    asked = []
    for step in range(1, 8):
        clock[0] += 250
        run.fit.state.checkpoint_due = False
        run.fit.state.step = step
        run.callback.step_end(run.fit)
        asked.append(run.fit.state.checkpoint_due)
    assert asked == [False, False, True, False, False, True, False]


def test_regular_checkpoints_by_epochs_in_a_run(tmp_path: Path) -> None:
    fit = make_fit(tmp_path, callbacks={"checkpoint": checkpoint(every=Duration(0.5, "ep"))})  # of 9 steps
    train(fit)
    assert {path.stem for path in fit.run.checkpoints.glob("step*")} == {"step5", "step9", "step14", "step18"}


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    run = Saving(tmp_path, top_k=2)
    run.save(1, 1.0)
    folder = run.fit.run.checkpoints
    for name in ("step99.pt", ".last.pt.123.tmp"):
        (folder / name).write_bytes(b"")
    run.callback.fit_start(run.fit)
    assert {path.name for path in folder.iterdir()} == {"last.pt", "best.pt", "step1.pt"}


def test_the_best_goes_on_where_it_was_unless_the_metric_is_another(tmp_path: Path) -> None:
    first = Saving(tmp_path, top_k=2, every=Duration(1, "st"))
    first.save(1, 1.0)
    again, other = checkpoint(monitor="val/loss", mode="min", top_k=2), checkpoint(top_k=2)
    for callback in (again, other):
        callback.load_state_dict(through_a_file(first.callback.state_dict()))
        assert callback._kept() == {"step1.pt"}
    assert (again.best, other.best) == (1.0, None)


def test_a_full_disk_is_told_once_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("dlrun.train.fit.log.warning", lambda text, *values: told.append(text % values))
    run = Saving(tmp_path, top_k=2)
    run.save(1, 3.0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    run.save(2, 2.0)
    run.save(3, 1.0)
    assert run.steps == {"last": 1, "best": 1, "step1": 1}
    assert (run.callback.best, run.callback.best_step, run.fit.state.saved_step) == (3.0, 1, 1)
    assert len(told) == 1
    assert "no checkpoint was written at step 2: No space left on device" in told[0]
    monkeypatch.undo()
    run.save(4, 2.5)
    assert run.steps == {"last": 4, "previous_last": 1, "best": 4, "step1": 1, "step4": 4}


# metrics.jsonl


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_of_metrics(tmp_path: Path) -> None:
    fit = make_fit(tmp_path, "trainer.log_every=4", callbacks={"metrics": metrics_jsonl()})
    train(fit)
    made = rows(fit.run.path / "metrics.jsonl")
    assert [(row["event"], row["step"], row["epoch"]) for row in made] == [
        *(("log", 4, 1), ("log", 8, 1), ("log", 9, 1), ("eval", 9, 1), ("epoch", 9, 1)),
        *(("log", 12, 2), ("log", 16, 2), ("log", 18, 2), ("eval", 18, 2), ("epoch", 18, 2)),
    ]
    head = {"event", "step", "epoch"}
    assert set(made[0]) == head | {"train/loss", "train/accuracy", "train/top5", "train/grad_norm", "lr"}
    assert set(made[3]) == head | {"val/loss", "val/accuracy", "val/top5"}
    assert set(made[4]) == head | {"train/loss", "train/accuracy", "train/top5"}
    # The epoch is the mean of its rows, weighted by their samples.
    logs = [(row["train/loss"], n) for row, n in zip(made[:3], (64, 64, 16), strict=True)]
    assert made[4]["train/loss"] == pytest.approx(sum(loss * n for loss, n in logs) / 144)
    timings = rows(fit.run.path / "timings.jsonl")
    assert [row["step"] for row in timings] == [4, 8, 9, 12, 16, 18]
    assert set(timings[0]) == head | {"time/samples_per_second", "time/data_wait"}


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    fit, callback = make_fit(tmp_path, callbacks={}), metrics_jsonl()
    callback.fit_start(fit)
    callback.log(fit, {"train/loss": math.nan, "lr": math.inf, "train/accuracy": 0.0})
    callback.fit_end(fit)
    (row,) = rows(fit.run.path / "metrics.jsonl")
    assert (row["train/loss"], row["lr"], row["train/accuracy"]) == (None, None, 0.0)


def test_the_files_are_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    fit, first = make_fit(tmp_path, callbacks={}), metrics_jsonl()
    path = fit.run.path / "metrics.jsonl"
    first.fit_start(fit)
    first.eval_end(fit, {"val/loss": 1.0})
    state = through_a_file(first.state_dict())
    kept = path.read_bytes()
    first.eval_end(fit, {"val/loss": 2.0})
    first.fit_end(fit)
    with path.open("ab") as file:
        file.write(b'{"event": "ev')
    second = metrics_jsonl()
    second.load_state_dict(state)
    second.fit_start(fit)
    assert path.read_bytes() == kept
    second.eval_end(fit, {"val/loss": 3.0})
    second.fit_end(fit)
    assert [row["val/loss"] for row in rows(path)] == [1.0, 3.0]
    # A run that has no checkpoint yet begins with nothing.
    third = metrics_jsonl()
    third.fit_start(fit)
    third.fit_end(fit)
    assert path.read_bytes() == b""


def test_a_full_disk_does_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    told: list[str] = []
    monkeypatch.setattr("dlrun.train.fit.log.warning", lambda text, *values: told.append(text % values))
    fit, callback = make_fit(tmp_path, callbacks={}), metrics_jsonl()
    callback._open = {"metrics.jsonl": Full(), "timings.jsonl": Full()}
    callback.eval_end(fit, {"val/loss": 1.0})
    callback.eval_end(fit, {"val/loss": 1.0})
    assert told == ["metrics.jsonl cannot be written: No space left on device. The run goes on without it"]


# TensorBoard


@pytest.fixture
def events(tmp_path: Path) -> Any:
    """Reads the events of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def read(fit: Fit) -> Any:
        accumulator = EventAccumulator(
            str(fit.run.tensorboard), size_guidance={"scalars": 0, "images": 0, "tensors": 0}
        )
        return accumulator.Reload()

    return read


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_shows_scalars_images_and_hyperparameters(tmp_path: Path, events: Any) -> None:
    jsonl = metrics_jsonl()
    words = ("trainer.log_every=4", "optimizer.lr=0.03")
    fit = make_fit(tmp_path, *words, callbacks={"jsonl": jsonl, "tensorboard": tensorboard(images=5)})
    train(fit)
    shown = events(fit)
    assert set(shown.Tags()["scalars"]) >= {
        *("train/loss", "train/accuracy", "train/grad_norm", "lr", "time/samples_per_second"),
        *("val/loss", "val/accuracy", "train_epoch/loss", "final/val/accuracy"),
    }
    made = rows(fit.run.path / "metrics.jsonl")
    for tag, event in (("train/loss", "log"), ("lr", "log"), ("val/loss", "eval")):
        expected = [(row["step"], pytest.approx(row[tag], rel=1e-6)) for row in made if row["event"] == event]
        assert [(point.step, point.value) for point in shown.Scalars(tag)] == expected
    (picture,) = shown.Images("train/images")
    assert (picture.width, picture.height) == (5 * 8, 8)
    assert "train/augmented" not in shown.Tags()["images"]
    plugin = shown.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"optimizer.lr" in plugin
    assert b"model.name" in plugin


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_shows_what_the_augmentation_does_once(tmp_path: Path, events: Any) -> None:
    plain = make_fit(tmp_path, "augment=[invert]", callbacks={})
    train(plain)
    fit = make_fit(tmp_path, "augment=[invert]", callbacks={"tensorboard": tensorboard(images=3)})
    train(fit)
    (picture,) = events(fit).Images("train/augmented")
    # Three rows: an image and seven draws, with a frame between.
    assert (picture.width, picture.height) == (8 * (8 + 4) + 4, 3 * (8 + 4) + 4)
    # Looking changes nothing.
    assert equal(fit.model.state_dict(), plain.model.state_dict())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_resumed_run_has_one_curve(tmp_path: Path, events: Any) -> None:
    words = ("trainer.log_every=3",)
    fit = make_fit(tmp_path, *words, callbacks={"tensorboard": tensorboard(), "checkpoint": checkpoint()})
    train(fit)
    again = make_fit(tmp_path, *words, callbacks={"tensorboard": tensorboard(), "checkpoint": checkpoint()})
    again.run = fit.run
    # From the end of the first epoch, though events of the second are there.
    again.resume(files.load(fit.run.checkpoints / "previous_last.pt"))
    time.sleep(1.1)  # the name of an event file has the second in it
    train(again)
    assert [point.step for point in events(fit).Scalars("train/loss")] == [3, 6, 9, 12, 15, 18]
    assert [point.step for point in events(fit).Scalars("val/loss")] == [9, 18]


# Progress


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("epoch ")]


def test_plain_lines_come_at_most_once_per_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dlrun.logs import start_console

    start_console()
    clock = [1000.0]

    class Clock(Callback):
        def step_end(self, fit: Fit) -> None:
            clock[0] += 1.0

    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    callbacks = {"clock": Clock(), "progress": progress(interval=Duration(5, "s"))}
    train(make_fit(tmp_path, "trainer.log_every=1", "trainer.epochs=4", callbacks=callbacks))
    printed = lines(capsys.readouterr().out)
    steps = [int(re.search(r"step (\d+)/36", line)[1]) for line in printed]  # type: ignore[index]
    assert steps[-1] == 36
    assert all(b - a >= 5 for a, b in pairwise(steps[:-1]))
    assert 6 <= len(steps) <= 8
    pattern = (
        r"epoch \d/4  step \d+/36  train/loss [\d.e-]+, train/accuracy [\d.]+%.*, lr [\d.e-]+, [\d,]+/s, ETA \d\d:\d\d"
    )
    assert [line for line in printed if "val/" not in line and not re.fullmatch(pattern, line)] == []
    assert "val/accuracy" in printed[-1]


def test_a_terminal_shows_a_bar(tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (40, 150))
    process = subprocess.Popen(
        [sys.executable, "-m", "dlrun", "train", *SMALL, "callbacks.tensorboard=null", "trainer.epochs=40"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=follower,
        stderr=follower,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm"},
    )
    os.close(follower)
    text = b"".join(_everything(leader)).decode()
    assert process.wait(60) == 0, text
    bar = r"\repoch \d+/40, step \d+/360: +\d+%\|.*\| \[\d\d:\d\d<\d\d:\d\d, train/loss \d.*, lr 0.1, [\d,]+/s\]"
    assert re.search(bar, text)
    # Lines come besides, with the validation, and the bar is gone at the end.
    assert len(re.findall(r"\repoch +\d+/40  step .*val/loss", text)) <= 3
    assert "Traceback" not in text


def test_the_bar_counts_epochs_where_the_batch_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    class Look(Callback):
        def step_end(self, fit: Fit) -> None:
            assert shown._bar is not None
            seen.append((shown._bar.n, float(fit.timeline.epoch(fit.state.step))))

    monkeypatch.setattr(sys, "stderr", Terminal())
    shown, seen = progress(), list[tuple[float, float]]()
    words = ("data.batch_growth=2", "data.batch_growth_at=[0.5]", "trainer.epochs=4")
    fit = make_fit(tmp_path, *words, callbacks={"progress": shown, "look": Look()})
    train(fit)
    assert len({fit.timeline.steps(epoch) for epoch in range(4)}) == 2
    assert [moved for moved, _ in seen] == pytest.approx([epochs for _, epochs in seen])
    assert seen[-1][0] == 4


def _everything(leader: int) -> Iterator[bytes]:
    while True:
        try:
            data = os.read(leader, 65536)
        except OSError:
            break  # the other side has ended
        if not data:
            break
        yield data
    os.close(leader)


# Time


def test_a_time_limit_is_resumable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train", *SMALL, "callbacks.tensorboard=null"]
    assert main([*words, "run.root=whole"]) == 0
    assert main([*words, "callbacks.max_time={limit: 0.0001s}"]) == 75
    (run,) = (tmp_path / "runs").iterdir()
    out = capsys.readouterr().out
    assert "stopped     the time limit of 0.0001s is over at step 1 of 18; the checkpoint of step 1 is saved" in out
    assert f"go on with  dlrun train resume=runs/{run.name}" in out
    assert main(["train", f"resume={run}"]) == 75
    assert files.load(run / "checkpoints/last.pt")["state"]["step"] == 2
    assert main(["train", "resume=auto", "callbacks.max_time=null"]) == 0
    (whole,) = (tmp_path / "whole").iterdir()
    assert (run / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_a_limit_that_is_no_time_is_refused() -> None:
    with pytest.raises((ValueError, UserError), match="not a time"):
        max_time(limit=Duration(3, "ep"))
    with pytest.raises((ValueError, UserError), match="not a time"):
        progress(interval=Duration(3, "st"))
