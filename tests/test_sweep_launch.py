"""``dlrun sweep`` through the launchers: SLURM's by submitit's local executor, Ray's by its local cluster."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sweeping import TINY, TROUBLE, rows, start_sweep, the_sweep

from dlrun.cli import main
from dlrun.errors import ConfigError, UserError
from dlrun.sweep import launch_submitit
from dlrun.sweep.launcher import RayOptions, SubmititOptions, make_runner, read_launcher
from dlrun.sweep.record import Record, Trial, Watch
from dlrun.sweep.remote import Ending, RemoteRunner

WORDS = (
    "plugins=[./trouble.py]",
    *TINY,
    "sweep.jobs=3",
)
LAUNCHERS = {
    "submitit": ("sweep.launcher=submitit", "sweep.launcher_options={cluster: local, cpus: 1, time: 10min}"),
    "ray": ("sweep.launcher=ray", "sweep.launcher_options={address: local, cpus: 1}"),
}
launchers = pytest.mark.parametrize(
    "launcher",
    [
        pytest.param(name, marks=pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"no {name} here"))
        for name in LAUNCHERS
    ],
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "trouble.py").write_text(TROUBLE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@launchers
def test_every_kind_of_trouble_has_its_status(home: Path, launcher: str) -> None:
    kinds = ("none", "raise", "memory", "lost", "nan")
    process = start_sweep(
        home,
        *WORDS,
        *LAUNCHERS[launcher],
        f"callbacks.trouble.kind=choice({', '.join(kinds)})",
        "sweep.search=grid",
    )
    out, _ = process.communicate(timeout=400)
    assert process.returncode == 0, out
    found = {row["callbacks.trouble.kind"]: row for row in rows(the_sweep(home))}
    assert {kind: row["status"] for kind, row in found.items()} == {
        "none": "ok",
        "raise": "failed",
        "memory": "oom",
        # Its process was killed; another job went on from the checkpoint.
        "lost": "ok",
        "nan": "diverged",
    }
    assert found["lost"]["score"] == found["none"]["score"]
    assert "RuntimeError: boom" in found["raise"]["reason"]
    assert "goes on in another job" in out


@pytest.mark.slow
@launchers
def test_pruning_asks_through_the_launcher(home: Path, launcher: str) -> None:
    words = ("optimizer.lr=log(1e-5, 1e-2)", "sweep.trials=6", "sweep.prune=halving", "trainer.epochs=3")
    process = start_sweep(home, *WORDS, *LAUNCHERS[launcher], *words)
    out, _ = process.communicate(timeout=400)
    assert process.returncode == 0, out
    assert sorted(row["status"] for row in rows(the_sweep(home))) == ["ok"] * 2 + ["pruned"] * 4
    assert {row["epochs"] for row in rows(the_sweep(home)) if row["status"] == "pruned"} == {"1"}


@pytest.mark.slow
@launchers
def test_a_signal_saves_the_trials(home: Path, launcher: str) -> None:
    words = ("callbacks.trouble.kind=slow", "optimizer.lr=log(1e-4, 1e-2)", "sweep.trials=2")
    process = start_sweep(home, *WORDS, *LAUNCHERS[launcher], *words)
    deadline = time.monotonic() + 200
    while not list(home.glob("sweeps/*/trials/*/checkpoints/last.pt")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 75, out
    (folder,) = (home / "sweeps").iterdir()
    process = start_sweep(home, f"resume={folder}")
    out, _ = process.communicate(timeout=400)
    assert process.returncode == 0, out
    assert [row["status"] for row in rows(the_sweep(home))] == ["ok"] * 2
    # The first epoch of what was interrupted was trained once.
    for log in folder.glob("trials/*/metrics.jsonl"):
        assert log.read_text().count('"event": "eval"') == 3


class Backend:
    """Jobs that do in this process what a test says."""

    def __init__(self, *acts: Any) -> None:
        self.acts, self.cancelled, self.boxes = list(acts), [], []

    def submit(self, boxes: Any) -> list[Any]:
        self.boxes += [Path(box) for box in boxes]
        return [self.acts.pop(0)(Path(box)) for box in boxes]

    def ended(self, job: Any) -> Ending | None:
        return job

    def cancel(self, job: Any) -> None:
        self.cancelled.append(job)

    def close(self) -> None:
        pass


def _trial(folder: Path) -> Trial:
    return Trial(1, 7, {"lr": 0.1}, {}, str(folder / "trials" / "1-0007"), Watch("val/loss", "min", None, seconds=5.0))


def _record(box: Path, **values: Any) -> None:
    (box / "record.json").write_text(
        json.dumps(Record(7, 1, **{"status": "ok", "values": {"lr": 0.1}, **values}).to_plain())
    )


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlrun.sweep.remote.POLL_SECONDS", 0.01)
    monkeypatch.setattr("dlrun.sweep.remote._RECORD_SECONDS", 0.02)


def _run(backend: Backend, folder: Path) -> list[Record]:
    packs, found = [[_trial(folder)]], []
    runner = RemoteRunner(backend, folder / "launch", 4)
    runner.run(lambda: packs.pop() if packs else None, found.append, lambda *asked: "go")
    return found


def test_a_lost_job_is_begun_again(tmp_path: Path, quick: None) -> None:
    def lost(box: Path) -> Ending:
        return Ending("state NODE_FAIL")

    backend = Backend(lost, lambda box: _record(box, score=0.5))
    (record,) = _run(backend, tmp_path)
    assert (record.status, record.score) == ("ok", 0.5)
    assert len(backend.boxes) == 2
    # Should the lost job still run somewhere, it finds that it is to stop.
    assert (backend.boxes[0] / "stop").exists()


def test_a_job_that_is_lost_again_and_again_has_failed(tmp_path: Path, quick: None) -> None:
    backend = Backend(*[lambda box: Ending("state OUT_OF_MEMORY", memory=True)] * 3)
    (record,) = _run(backend, tmp_path)
    assert record.status == "oom"
    assert record.reason == "its job ended without a result 3 times: state OUT_OF_MEMORY"


def test_jobs_that_come_further_are_begun_as_often_as_it_takes(tmp_path: Path, quick: None) -> None:
    checkpoints = tmp_path / "trials" / "1-0007" / "checkpoints"
    checkpoints.mkdir(parents=True)

    def further(step: int) -> Any:
        def act(box: Path) -> None:
            (checkpoints / "last.pt").touch()
            os.utime(checkpoints / "last.pt", (step, step))
            _record(box, status="interrupted", reason="received SIGUSR1")

        return act

    backend = Backend(*[further(step) for step in range(1, 7)], lambda box: _record(box, score=0.5))
    (record,) = _run(backend, tmp_path)
    assert record.status == "ok"
    assert len(backend.boxes) == 7


def test_a_hanging_job_is_cancelled(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlrun.sweep.remote._GRACE_SECONDS", -4.99)
    backend = Backend(lambda box: (box / "started").touch())
    (record,) = _run(backend, tmp_path)
    assert record.status == "timeout"
    assert len(backend.cancelled) == 1


def problems(**settings: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_launcher(SimpleNamespace(jobs=None, **settings))
    return list(caught.value.problems)


@pytest.mark.parametrize(
    ("launcher", "options", "message"),
    [
        ("local", {"cpus": 1}, "sweep.launcher=local has none"),
        ("submitit", {"partion": "gpu"}, "partion: unknown option of submitit; did you mean partition"),
        ("submitit", {"cpus": 0}, "cpus: must be >= 1, got 0"),
        ("submitit", {"time": "4ep"}, "time: must be a time such as 90min or 4h, got '4ep'"),
        ("submitit", {"gpus": 0.5}, "gpus: must be a whole number, got 0.5"),
        ("submitit", {"cluster": "slrum"}, "cluster: must be slurm or local"),
        ("ray", {"partition": "gpu"}, "partition: unknown option of ray"),
        ("ray", {"address": 3}, "address: must be a word, got 3"),
    ],
)
def test_wrong_options(launcher: str, options: dict[str, Any], message: str) -> None:
    (found,) = problems(launcher=launcher, launcher_options=options)
    assert message in found


def test_wrong_options_are_told_before_the_first_trial(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("data=synthetic", "optimizer.lr=log(1e-3, 1)", "sweep.launcher=ray", "sweep.launcher_options={cpu: 2}")
    assert main(["sweep", *words]) == 2
    assert "sweep.launcher_options.cpu: unknown option of ray; did you mean cpus" in capsys.readouterr().err
    assert not (home / "sweeps").exists()


@pytest.mark.parametrize(("package", "extra"), [("submitit", "slurm"), ("ray", "ray")])
def test_a_missing_package_names_the_extra(
    package: str, extra: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{package} is not installed; install dlrun\[{extra}\]"):
        make_runner(RayOptions() if package == "ray" else SubmititOptions(), tmp_path)


def test_no_slurm_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="start the sweep on a login node"):
        launch_submitit.Submitit(SubmititOptions(), tmp_path)


def _fake_slurm(folder: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    folder.mkdir()
    for name in ("srun", "sbatch", "sacct", "scancel"):
        (folder / name).write_text(f"#!/bin/sh\n{answer if name == 'sbatch' else 'exit 0'}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SUBMITIT_PREEMPT_SIGNAL", "USR2")


def test_trials_become_one_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    _fake_slurm(tmp_path / "bin", monkeypatch, 'cp "$1" written.sh; echo Submitted batch job 12')
    monkeypatch.chdir(tmp_path)
    options = SubmititOptions(parallel=2, time="90min", cpus=3, gpus=1, memory_gb=8.0, partition="gpu", account="lab")
    jobs = launch_submitit.Submitit(options, tmp_path / "jobs").submit([str(tmp_path / str(i)) for i in range(3)])
    assert [job.job_id for job in jobs] == ["12_0", "12_1", "12_2"]
    lines = (tmp_path / "written.sh").read_text().splitlines()
    for line in (
        "array=0-2%2",
        "time=90",
        "cpus-per-task=3",
        "gpus-per-node=1",
        "mem=8GB",
        "partition=gpu",
        "account=lab",
    ):
        assert f"#SBATCH --{line}" in lines
    # The signal before the time limit is one that a trial saves itself at.
    assert "#SBATCH --signal=USR1@120" in lines


def test_a_refused_array_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    _fake_slurm(tmp_path / "bin", monkeypatch, "echo invalid partition >&2; exit 1")
    with pytest.raises(UserError, match=r"cannot be submitted: .*invalid partition"):
        launch_submitit.Submitit(SubmititOptions(partition="gpv"), tmp_path / "jobs").submit([str(tmp_path)])
