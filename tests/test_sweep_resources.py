"""What the trials of a sweep take: GPUs, and memory that runs out or must not grow."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from sweeping import rows, the_sweep

from dlrun.sweep.conduct import automatic_jobs, cores, devices
from dlrun.sweep.record import Trial, Watch
from dlrun.sweep.runner import PoolRunner

TINY = (
    "data=synthetic",
    "data.samples=64",
    "data.batch_size=16",
    "model=mlp",
    "model.hidden=[8]",
    "trainer.epochs=2",
    "trainer.threads=1",
)
PLUGIN = '''
from dlrun.registry import CALLBACKS
from dlrun.train.fit import Callback

@CALLBACKS.register
class hungry(Callback):
    """Needs a small micro-batch."""
    def __init__(self, *, parts: int = 1) -> None:
        self.parts = parts
    def epoch_start(self, fit):
        if fit.state.epoch == 1 and fit.config.trainer.accumulate < self.parts:
            raise MemoryError(f"{fit.config.trainer.accumulate} parts are too few")
'''


def _sweep(home: Path, *words: str) -> list[dict[str, str]]:
    done = subprocess.run(
        [sys.executable, "-m", "dlrun", "sweep", *TINY, *words], cwd=home, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return rows(the_sweep(home))


@pytest.mark.parametrize("jobs", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_trial_out_of_memory_is_run_with_half_the_micro_batch(tmp_path: Path, jobs: int) -> None:
    (tmp_path / "hungry.py").write_text(PLUGIN)
    words = ("plugins=[./hungry.py]", "callbacks.hungry.parts=choice(1, 2, 4)", "sweep.search=grid")
    found = {row["callbacks.hungry.parts"]: row for row in _sweep(tmp_path, *words, f"sweep.jobs={jobs}")}
    assert {parts: row["status"] for parts, row in found.items()} == {"1": "ok", "2": "ok", "4": "oom"}
    assert found["1"]["reason"] == ""
    assert found["2"]["reason"] == "ran out of memory, then ran with trainer.accumulate=2"
    assert "with trainer.accumulate=2: out of memory" in found["4"]["reason"]
    # Parts of a batch give the gradient of the batch: the score is that of the others but for rounding.
    assert float(found["2"]["score"]) == pytest.approx(float(found["1"]["score"]), rel=1e-4)
    assert float(found["1"]["memory_mib"]) > 50


@pytest.mark.slow
def test_the_best_configuration_has_the_micro_batch_that_fits(tmp_path: Path) -> None:
    (tmp_path / "hungry.py").write_text(PLUGIN)
    words = ("plugins=[./hungry.py]", "callbacks.hungry.parts=2", "optimizer.lr=log(1e-3, 1e-2)", "sweep.trials=1")
    _sweep(tmp_path, *words, "sweep.jobs=0")
    (best,) = tmp_path.glob("sweeps/*/best.yaml")
    assert yaml.safe_load(best.read_text())["trainer"]["accumulate"] == 2


@pytest.mark.slow
def test_no_second_run_unless_it_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "hungry.py").write_text(PLUGIN)
    words = ("plugins=[./hungry.py]", "callbacks.hungry.parts=choice(1, 2)", "sweep.search=grid", "sweep.jobs=0")
    found = {row["callbacks.hungry.parts"]: row for row in _sweep(tmp_path, *words, "sweep.retry_oom=false")}
    assert {parts: row["status"] for parts, row in found.items()} == {"1": "ok", "2": "oom"}


def _with_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    # What torch counts are the GPUs that CUDA_VISIBLE_DEVICES leaves.
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("device", "count", "expected"),
    [
        ("auto", 3, ["cuda:0", "cuda:1", "cuda:2"]),
        ("cuda", 2, ["cuda:0", "cuda:1"]),
        ("auto", 0, []),
        ("cpu", 3, []),
        ("cuda:1", 3, []),
    ],
)
def test_trials_are_divided_among_the_gpus(
    device: str, count: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_gpus(monkeypatch, count)
    search: Any = SimpleNamespace(composed=SimpleNamespace(tree={"device": device}))
    assert devices(search) == expected
    if expected:
        assert automatic_jobs(search) == count


def test_jobs_are_as_many_as_the_cores_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    search: Any = SimpleNamespace(composed=SimpleNamespace(tree={"device": "cpu"}))
    for allowed in (1, 3):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, allowed=allowed: set(range(allowed)), raising=False)
        assert (cores(), automatic_jobs(search)) == (allowed, allowed)


class Line:
    """Takes what is sent to a process."""

    def __init__(self) -> None:
        self.sent: list[Trial] = []

    def send(self, trial: Trial) -> None:
        self.sent.append(trial)


@pytest.mark.parametrize(
    ("jobs", "gpus", "expected"),
    [
        (2, ["cuda:0", "cuda:1"], ["cuda:0", "cuda:1"]),
        # More jobs than GPUs: two trials on each.
        (4, ["cuda:0", "cuda:1"], ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]),
        (1, ["cuda:0", "cuda:1"], ["cuda:0"]),
        (2, [], ["auto", "auto"]),
    ],
)
def test_each_process_keeps_its_gpu(
    jobs: int, gpus: list[str], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, lines = PoolRunner(jobs, gpus), []

    def begin() -> Any:
        lines.append(Line())
        return SimpleNamespace(line=lines[-1], trial=None, served=0)

    monkeypatch.setattr(runner, "_start", begin)
    watch = Watch("val/loss", "min", None)
    numbers = iter(range(1, jobs + 1))

    def packs() -> list[Trial] | None:
        number = next(numbers, None)
        return None if number is None else [Trial(1, number, {}, {"device": "auto"}, "", watch)]

    runner._fill(packs)
    assert [line.sent[0].config["device"] for line in lines] == expected


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [0, 1])
def test_memory_does_not_grow_over_200_trials(tmp_path: Path, jobs: int) -> None:
    rows = _sweep(tmp_path, "optimizer.lr=log(1e-4, 1e-2)", "sweep.trials=200", f"sweep.jobs={jobs}")
    assert len(rows) == 200
    memory = [float(row["memory_mib"]) for row in rows]
    # The first trials import what they need.
    early, late = statistics.median(memory[10:40]), statistics.median(memory[-30:])
    assert late < early + 60, memory
    assert max(memory) < early + 120, memory
