"""Run folders: never shared, locked while a process trains in them, and a record of how a run was made."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml
from running import SMALL

from dlrun import __version__
from dlrun.cli import main
from dlrun.errors import UserError
from dlrun.reproducibility import random_state, resolve_device, set_random_state
from dlrun.runfolder import RunFolder, create_run_folder, newest_run_folder, open_run_folder


def test_two_folders_of_one_second_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda _: "20260102-120000")
    made = [create_run_folder(tmp_path, "my run/1", {"a": 1}).path.name for _ in range(3)]
    other = create_run_folder(tmp_path, "my run/1", {"a": 2}).path.name
    stem = made[0]
    assert stem.startswith("20260102-120000_my-run-1_")
    assert made == [stem, f"{stem}-1", f"{stem}-2"]
    assert other[:-6] == stem[:-6]
    assert other != stem


def test_many_at_once_never_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda _: "20260102-120000")
    made: list[Path] = []
    threads = [
        threading.Thread(target=lambda: made.extend(create_run_folder(tmp_path, "x", {}).path for _ in range(10)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 80


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"run.root=.*the run folder cannot be made: .*run.root="):
        create_run_folder(tmp_path / "file" / "runs", "x", {})


def test_the_working_directory_stays_and_the_path_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = create_run_folder(Path("deep/runs"), "x", {})
    assert Path.cwd() == tmp_path
    assert run.path.parent == tmp_path / "deep/runs"
    assert run.checkpoints.is_dir()


# The lock


def test_a_locked_folder_is_refused_until_it_is_unlocked(tmp_path: Path) -> None:
    one, other = RunFolder(tmp_path), RunFolder(tmp_path)
    one.lock()
    with pytest.raises(UserError, match=rf"another dlrun process \(pid {os.getpid()}\) is training in it"):
        other.lock()
    one.unlock()
    other.lock()
    other.unlock()
    other.unlock()


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        "import os, signal, pathlib\nfrom dlrun.runfolder import RunFolder\n"
        f"run = RunFolder(pathlib.Path({str(tmp_path)!r}))\nrun.lock()\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    RunFolder(tmp_path).lock()


def test_a_forked_worker_does_not_hold_the_lock(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.lock()
    context = multiprocessing.get_context("fork")
    started, done = context.Event(), context.Event()

    def work() -> None:
        started.set()
        done.wait(30)

    worker = context.Process(target=work)
    worker.start()
    try:
        assert started.wait(30)
        # As if the parent had been killed.
        run.unlock()
        RunFolder(tmp_path).lock()
    finally:
        done.set()
        worker.join()


# Finding


def test_opening(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such run folder"):
        open_run_folder(tmp_path / "absent")
    with pytest.raises(UserError, match=r"is not a run folder \(it has no config.yaml\)"):
        open_run_folder(tmp_path)
    (tmp_path / "config.yaml").write_text("")
    assert open_run_folder(tmp_path).path == tmp_path


def test_the_newest(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match="resume=auto: there is no run in"):
            newest_run_folder(root)
    for i, name in enumerate(["b", "c", "a"]):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("")
        os.utime(tmp_path / name / "config.yaml", (1000 + i, 1000 + i))
    (tmp_path / "unborn").mkdir()
    assert newest_run_folder(tmp_path) == tmp_path / "a"


# What is recorded


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(sys, "argv", ["dlrun", "train", "seed=3"])
        assert main(["train", *SMALL, "seed=3", "run.name=named", "callbacks.tensorboard=null"]) == 0
    (path,) = (place / "runs").iterdir()
    return path


def test_the_files_of_a_run(run: Path) -> None:
    assert "_named_" in run.name
    assert {path.name for path in run.iterdir()} == {
        *("config.yaml", "overrides.txt", "env.json", "log.txt", "metrics.jsonl", "timings.jsonl"),
        *("results.json", "report.html", "checkpoints", ".lock"),
    }


def test_the_environment_is_recorded(run: Path) -> None:
    env = json.loads((run / "env.json").read_text())
    assert env["seed"] == 3
    assert env["versions"]["torch"] == torch.__version__
    assert env["versions"]["dlrun"] == __version__
    assert env["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert env["command"] == ["dlrun", "train", "seed=3"]
    assert env["device"] == "cpu"
    assert env["threads"] == 1
    assert env["folder"] == str(run.parent.parent)
    assert env["resumed"] == []
    assert env["git"] is None


def test_the_state_of_a_git_tree_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dlrun.reproducibility import environment

    def git(*words: str) -> str:
        person = ["-c", "user.name=x", "-c", "user.email=x@y"]
        return subprocess.run(["git", *person, *words], check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-q", "-m", "x")
    assert environment(torch.device("cpu"))["git"] == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "a").write_text("2")
    assert environment(torch.device("cpu"))["git"]["dirty"] is True


def test_the_configuration_and_the_overrides_are_recorded(run: Path) -> None:
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert (saved["seed"], saved["model"]["hidden"], saved["callbacks"]["tensorboard"]) == (3, [16], None)
    words = (run / "overrides.txt").read_text().splitlines()
    assert "seed=3" in words
    assert "model.hidden=[16]" in words


def test_the_log_holds_what_was_said(run: Path) -> None:
    text = (run / "log.txt").read_text()
    assert "INFO run folder  runs/" in text
    assert "dlrun eval checkpoint=runs/" in text


def test_the_report_needs_no_network(run: Path) -> None:
    text = (run / "report.html").read_text()
    assert text.startswith("<!doctype html>")
    assert text.count("<svg") == 1
    assert "val/loss" in text or "loss" in text
    assert not any(mark in text for mark in ('src="http', 'href="http', "<script", "<link"))


# Seeds and devices


def test_random_states_are_restored(tmp_path: Path) -> None:
    import random

    import numpy as np

    def draw() -> tuple[float, ...]:
        return float(torch.rand(())), random.random(), random.gauss(0, 1), float(np.random.rand()), np.random.randn()

    draw()
    torch.save(random_state(torch.device("cpu")), tmp_path / "state.pt")
    first = [draw() for _ in range(3)]
    set_random_state(torch.load(tmp_path / "state.pt", weights_only=True), torch.device("cpu"))
    assert [draw() for _ in range(3)] == first


def test_devices() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    if torch.cuda.is_available():
        assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda:0")
        with pytest.raises(UserError, match="cuda:99: there are"):
            resolve_device("cuda:99")
    else:
        assert resolve_device("auto") == torch.device("cpu")
        with pytest.raises(UserError, match=r"device=cuda:1: .*use device=cpu or device=auto"):
            resolve_device("cuda:1")


def test_json_of_a_run_has_no_nan(run: Path) -> None:
    RunFolder(run).write_json("scores.json", {"a": float("nan"), "b": [float("inf"), 1.0], "c": {"d": 2}})
    assert json.loads((run / "scores.json").read_text()) == {"a": None, "b": [None, 1.0], "c": {"d": 2}}


def test_auto_prefers_what_can_be_continued(tmp_path: Path) -> None:
    for i, (name, files) in enumerate(
        [
            ("unfinished", ["config.yaml", "checkpoints/last.pt"]),
            ("finished", ["config.yaml", "checkpoints/last.pt", "results.json"]),
            ("never began", ["config.yaml"]),
        ]
    ):
        for file in files:
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            os.utime(path, (i, i))
    assert newest_run_folder(tmp_path).name == "unfinished"
