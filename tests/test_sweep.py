"""``dlrun sweep``: the search from the command line to its results."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import yaml
from sweeping import TINY, TROUBLE, lasting_rows, rows, start_sweep, the_sweep

from dlrun import checkpoint
from dlrun.cli import main
from dlrun.commands import sweep
from dlrun.config.search import load_search
from dlrun.errors import ConfigError
from dlrun.runfolder import RunFolder
from dlrun.sweep import results
from dlrun.sweep.check import check_sweep
from dlrun.sweep.conduct import Conductor
from dlrun.sweep.confirm import read_confirm
from dlrun.sweep.doubts import doubts
from dlrun.sweep.journal import Journal
from dlrun.sweep.ledger import Ledger
from dlrun.sweep.notation import parse_axis
from dlrun.sweep.outcome import Outcome
from dlrun.sweep.record import Trial, Watch
from dlrun.sweep.storage import open_storage
from dlrun.sweep.trial import run_trial
from dlrun.sweep.watcher import Watcher
from dlrun.train.fit import Callback, Fit
from dlrun.units import Duration


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "trouble.py").write_text(TROUBLE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> int:
    return main(["sweep", *TINY, *words])


def run_apart(home: Path, *words: str) -> tuple[int, str]:
    """In a process of its own: a plug-in stays registered for as long as a process lives."""
    process = start_sweep(home, *TINY, *words)
    out, _ = process.communicate(timeout=300)
    return process.returncode, out


def test_a_search_and_what_it_leaves(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("optimizer.lr=log(1e-3, 0.1)", "optimizer=choice(sgd, adam)", "sweep.trials=4", "sweep.jobs=0") == 0
    out = capsys.readouterr().out
    found = rows(the_sweep(home))
    assert [row["status"] for row in found] == ["ok"] * 4
    assert len({row["optimizer.lr"] for row in found}) == 4
    best = min(found, key=lambda row: float(row["score"]))
    assert f"best of 4 trials by val/loss\n  {float(best['score']):.5g}" in out
    tree = yaml.safe_load((the_sweep(home) / "best.yaml").read_text())
    assert tree["optimizer"]["name"] == best["optimizer"]
    assert tree["optimizer"]["lr"] == float(best["optimizer.lr"])
    assert "progress" in tree["callbacks"]
    trial = the_sweep(home) / "trials" / best["folder"]
    assert {"config.yaml", "metrics.jsonl", "checkpoints", "env.json", "trial.json"} <= {
        p.name for p in trial.iterdir()
    }
    capsys.readouterr()
    assert main(["eval", f"checkpoint={trial}", "split=val"]) == 0
    assert f"{float(best['score']):.4f}" in capsys.readouterr().out
    assert main(["train", f"config={the_sweep(home) / 'best.yaml'}", "callbacks.progress=null"]) == 0
    (again,) = (home / "runs").iterdir()
    results = json.loads((again / "results.json").read_text())
    assert results["best"]["val/loss"] == float(best["score"])


def test_trials_do_not_depend_on_the_number_of_jobs(home: Path) -> None:
    words = ("optimizer.lr=log(1e-3, 1)", "sweep.trials=5")
    assert run(*words, "sweep.jobs=0", "sweep.root=one") == 0
    assert run(*words, "sweep.jobs=2", "sweep.root=two") == 0
    (one,), (two,) = (home / "one").iterdir(), (home / "two").iterdir()
    assert lasting_rows(one) == lasting_rows(two)


def test_every_kind_of_trouble_has_its_status(home: Path) -> None:
    kinds = ("none", "raise", "memory", "killed", "hang", "nan")
    code, out = run_apart(
        home,
        "plugins=[./trouble.py]",
        f"callbacks.trouble.kind=choice({', '.join(kinds)})",
        "sweep.search=grid",
        "sweep.jobs=2",
        "sweep.timeout=3s",
    )
    assert code == 0
    status = {row["callbacks.trouble.kind"]: row["status"] for row in rows(the_sweep(home))}
    assert status == {
        "none": "ok",
        "raise": "failed",
        "memory": "oom",
        "killed": "oom",
        "hang": "timeout",
        "nan": "diverged",
    }
    failed = next(row for row in rows(the_sweep(home)) if row["status"] == "failed")
    assert "failed: RuntimeError: boom" in out
    assert f"trials/{failed['folder']}/error.txt" in out
    assert "RuntimeError: boom" in (the_sweep(home) / "trials" / failed["folder"] / "error.txt").read_text()
    ok = next(row for row in rows(the_sweep(home)) if row["status"] == "ok")
    assert (the_sweep(home) / "best.yaml").read_text().startswith(f"# The best trial of a sweep, {ok['folder']}")


@pytest.mark.parametrize(
    ("limit", "trials"), [("sweep.fail_fast=true", 1), pytest.param("sweep.max_failures=1", 2, marks=pytest.mark.slow)]
)
def test_failures_can_end_the_sweep(home: Path, limit: str, trials: int) -> None:
    words = ("plugins=[./trouble.py]", "callbacks.trouble.kind=raise", "optimizer.lr=log(1e-3, 1)", "sweep.trials=6")
    code, out = run_apart(home, *words, limit, "sweep.jobs=0")
    assert code == 1
    assert [row["status"] for row in rows(the_sweep(home))] == ["failed"] * trials
    assert "go on with  dlrun sweep resume=" in out


def test_an_exploding_loss_ends_a_trial(home: Path) -> None:
    # The whole first epoch is one reading; the loss explodes within it, and stays finite.
    words = ("optimizer=adam", "optimizer.lr=choice(0.01, 10)", "sweep.search=grid", "sweep.jobs=0")
    assert run(*words) == 0
    found = {row["optimizer.lr"]: row for row in rows(the_sweep(home))}
    assert (found["10"]["status"], found["10"]["epochs"]) == ("diverged", "1")
    assert "is more than 3 times what it began with (2.3" in found["10"]["reason"]
    assert found["0.01"]["status"] == "ok"
    assert run(*words, "sweep.explode=null", "sweep.root=kept") == 0
    (kept,) = (home / "kept").iterdir()
    assert {row["status"] for row in rows(kept)} == {"ok"}


def test_a_resumed_sweep_is_idempotent_and_grows(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("optimizer.lr=log(1e-3, 1)", "sweep.trials=3", "sweep.jobs=0") == 0
    before = (the_sweep(home) / "results.csv").read_text()
    assert main(["sweep", f"resume={the_sweep(home)}"]) == 0
    assert (the_sweep(home) / "results.csv").read_text() == before
    assert main(["sweep", f"resume={the_sweep(home)}", "sweep.trials=5"]) == 0
    after = (the_sweep(home) / "results.csv").read_text()
    assert after.startswith(before)
    assert len(after.splitlines()) == 6


def test_another_space_is_refused_unless_extended(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("optimizer.lr=log(1e-3, 1)", "sweep.trials=2", "sweep.jobs=0") == 0
    words = ["sweep", f"resume={the_sweep(home)}", "optimizer.lr=log(1e-2, 1)", "sweep.trials=4"]
    capsys.readouterr()
    assert main(words) == 2
    assert "search space of optimizer.lr: was 'log(0.001, 1)', is now 'log(0.01, 1)'" in capsys.readouterr().err
    assert main([*words, "extend=true"]) == 0
    assert len(rows(the_sweep(home))) == 4
    assert all(float(row["optimizer.lr"]) >= 0.01 for row in rows(the_sweep(home))[2:])


def test_stages_and_confirmation(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(
        "optimizer.lr=log(1e-3, 1)",
        "sweep.stages=[{trials: 12, epochs: 1}, {trials: 3, epochs: 2}]",
        "sweep.confirm={top: 2, seeds: 2}",
        "sweep.jobs=0",
    )
    assert code == 0
    out = capsys.readouterr().out
    assert "verdicts on stage 1" in out
    found = rows(the_sweep(home))
    assert [row["stage"] for row in found] == ["1"] * 12 + ["2"] * 3 + ["3"] * 4
    assert {row["epochs"] for row in found if row["stage"] == "1"} == {"1"}
    assert {row["epochs"] for row in found if row["stage"] == "2" and row["status"] == "ok"} == {"2"}
    assert [row["seed"] for row in found if row["stage"] == "3"] == ["1", "2", "1", "2"]
    assert {row["epochs"] for row in found if row["stage"] == "3"} == {"2"}
    assert "the best with other seeds" in out
    assert "between seeds" in out


def test_what_was_trained_longest_says_how_long_to_confirm(home: Path) -> None:
    """Where a later stage trains less, the best are of both."""
    stages = "sweep.stages=[{trials: 2, epochs: 2}, {trials: 2, epochs: 1}]"
    assert run("optimizer.lr=log(1e-3, 1)", stages, "sweep.confirm={top: 4, seeds: 2}", "sweep.jobs=0") == 0
    assert {row["epochs"] for row in rows(the_sweep(home)) if row["stage"] == "3"} == {"2"}


def test_a_resume_may_confirm_otherwise(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("optimizer.lr=log(1e-3, 1)", "sweep.trials=4", "sweep.confirm={top: 2, seeds: 2}", "sweep.jobs=0") == 0
    before = {(row["optimizer.lr"], row["seed"]): row for row in rows(the_sweep(home)) if row["stage"] == "2"}
    assert len(before) == 4
    assert main(["sweep", f"resume={the_sweep(home)}", "sweep.confirm={top: 1, seeds: 3}"]) == 0
    first = min((row for row in rows(the_sweep(home)) if row["stage"] == "1"), key=lambda row: float(row["score"]))
    confirmed = [row for row in rows(the_sweep(home)) if row["stage"] == "2"]
    assert [(row["optimizer.lr"], row["seed"], row["trial"]) for row in confirmed] == [
        (first["optimizer.lr"], seed, seed) for seed in ("1", "2", "3")
    ]
    # The two seeds that were there count as they are; one is new.
    for row in confirmed[:2]:
        assert row["score"] == before[row["optimizer.lr"], row["seed"]]["score"]
        assert row["seconds"] == before[row["optimizer.lr"], row["seed"]]["seconds"]
    assert "(3 seeds)" in capsys.readouterr().out


def test_the_configuration_is_printed_with_its_axes(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("optimizer=choice(sgd, adamw)", "optimizer.lr=log(1e-3, 1)", "sweep.storage=postgresql://ann:word@db/x")
    assert (
        run(*words, "sweep.space={optimizer.momentum: 'uniform(0.5, 0.9) when optimizer=sgd'}", "--print-config") == 0
    )
    out = capsys.readouterr().out
    tree = yaml.safe_load(out)
    assert tree["optimizer"]["lr"] == "log(0.001, 1)"
    assert tree["sweep"]["space"] == {
        "optimizer": "choice(sgd, adamw)",
        "optimizer.lr": "log(0.001, 1)",
        "optimizer.momentum": "uniform(0.5, 0.9) when optimizer=sgd",
    }
    assert tree["sweep"]["trials"] == 20
    assert "# override optimizer.lr=log(1e-3, 1)" in out
    assert "word" not in out
    assert not list(home.glob("sweeps/*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["extend=true"], "say which one, with resume=SWEEP_FOLDER"),
        (["sweep.trials=3", "sweep.stages=[{trials: 2}]"], "sweep.stages say how many trials each has"),
    ],
)
def test_what_would_not_count_is_refused(
    words: list[str], message: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("optimizer.lr=log(1e-3, 1)", *words) == 2
    assert message in capsys.readouterr().err
    assert not list(home.glob("sweeps/*"))


@pytest.mark.parametrize("prune", ["median", "halving"])
def test_pruning_spends_less(home: Path, prune: str) -> None:
    words = ("optimizer.lr=log(1e-5, 1)", "sweep.trials=12", f"sweep.prune={prune}", "trainer.epochs=9")
    assert run(*words, "sweep.jobs=0") == 0
    found = rows(the_sweep(home))
    status = [row["status"] for row in found]
    assert set(status) <= {"ok", "pruned", "diverged"}
    assert {"ok", "pruned"} <= set(status)
    assert all(float(row["epochs"]) == 9 for row in found if row["status"] == "ok")
    assert all(float(row["epochs"]) < 9 for row in found if row["status"] == "pruned")
    if prune == "halving":
        assert {row["epochs"] for row in found if row["status"] == "pruned"} <= {"1", "3"}
        # A promoted trial went on in its folder: each epoch was trained once.
        done = next(row for row in found if row["status"] == "ok")
        lines = (the_sweep(home) / "trials" / done["folder"] / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines if '"epoch"' in line and '"event": "eval"' in line] == list(
            range(1, 10)
        )


def test_a_signal_saves_the_trials(home: Path) -> None:
    slow = ("plugins=[./trouble.py]", "callbacks.trouble.kind=slow", "optimizer.lr=log(1e-3, 1)", "sweep.trials=2")
    process = start_sweep(home, *TINY, *slow, "sweep.jobs=2")
    _wait_for(home, "checkpoints/last.pt")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 75, out
    assert "go on with  dlrun sweep resume=" in out
    process = start_sweep(home, f"resume={the_sweep(home)}")
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert [row["status"] for row in rows(the_sweep(home))] == ["ok"] * 2


def test_a_signal_while_the_pool_is_warmed(home: Path) -> None:
    process = start_sweep(home, *TINY, "optimizer.lr=log(1e-3, 1)", "sweep.trials=3", "sweep.jobs=2")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        pytest.skip("this system does not list the children of a process")
    deadline = time.monotonic() + 60
    while not children.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.5)
    # As a terminal does: to all that belong to the command.
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert "Traceback" not in out
    assert process.returncode in (75, 130), out


def _wait_for(home: Path, pattern: str) -> None:
    deadline = time.monotonic() + 120
    while not list(home.glob(f"sweeps/*/trials/*/{pattern}")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


TORN = '''

if os.environ.get("TORN"):
    import json
    from dlrun.sweep.journal import Journal

    whole, left = Journal.append_logs, int(os.environ["TORN"])

    def torn(self, logs):
        """Die in the middle of a write."""
        global left
        left -= 1
        if left:
            return whole(self, logs)
        text = "".join(json.dumps(entry) + chr(10) for entry in logs)
        self._lock.acquire()
        self._mend()
        with self._journal.open("ab") as file:
            file.write(text.encode()[: len(text) // 2])
        os.killpg(0, signal.SIGKILL)

    Journal.append_logs = torn
'''


def _progress(home: Path) -> tuple[float, int]:
    """What grows while trials run: the newest checkpoint, and the readings of all of them."""
    trials = list(home.glob("sweeps/*/trials/*"))
    checkpoints = [path.stat().st_mtime_ns for trial in trials for path in trial.glob("checkpoints/*.pt")]
    return max(checkpoints, default=0), sum(path.stat().st_size for t in trials for path in t.glob("metrics.jsonl"))


def _killed_and_resumed(home: Path, words: Sequence[str], kills: int, seed: int) -> None:
    """Kill the whole sweep while trials run, every third time in the middle of a journal write; at last let it end."""
    moments = random.Random(seed)
    for kill in range(kills):
        before = _progress(home)
        torn = kill % 3 == 2
        environment = {**os.environ, "TORN": str(moments.randint(2, 8))} if torn else None
        process = start_sweep(home, *words, environment=environment)
        if not torn:
            deadline = time.monotonic() + 120
            while _progress(home) == before:
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.005)
            time.sleep(moments.uniform(0, 0.3))
            os.killpg(process.pid, signal.SIGKILL)
        out, _ = process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL, out
        if torn:
            assert not (the_sweep(home) / "journal.log").read_bytes().endswith(b"\n")
        words = [f"resume={the_sweep(home)}"]
    process = start_sweep(home, *words)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out


KILLED = (
    *TINY,
    "plugins=[./trouble.py]",
    "callbacks.trouble.kind=slow",
    "optimizer.lr=log(1e-3, 1)",
    "optimizer.weight_decay=log(1e-5, 1e-2)",
)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [0, 2])
def test_kill_and_resume_gives_the_same_sweep(tmp_path: Path, jobs: int) -> None:
    _compare_killed(tmp_path, 1, jobs, "sweep.trials=4", f"sweep.jobs={jobs}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("jobs", "words"),
    [
        (1, ("sweep.trials=12", "trainer.epochs=6")),
        (2, ("sweep.trials=16", "trainer.epochs=6")),
        # Which trials go on depends on their order, which is that of one job.
        (1, ("sweep.trials=27", "trainer.epochs=9", "sweep.prune=halving")),
    ],
)
def test_twenty_kills_give_the_same_sweep(tmp_path: Path, jobs: int, words: tuple[str, ...]) -> None:
    _compare_killed(tmp_path, 20, 10 + jobs, *words, f"sweep.jobs={jobs}")


def _compare_killed(tmp_path: Path, kills: int, seed: int, *words: str) -> None:
    homes = [tmp_path / name for name in ("whole", "killed")]
    for home in homes:
        home.mkdir()
        (home / "trouble.py").write_text(TROUBLE + TORN)
    whole = start_sweep(homes[0], *KILLED, *words)
    out, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0, out
    _killed_and_resumed(homes[1], [*KILLED, *words], kills, seed)
    assert lasting_rows(the_sweep(homes[0])) == lasting_rows(the_sweep(homes[1]))
    metrics = [
        {path.parent.name: path.read_bytes() for path in home.glob("sweeps/*/trials/*/metrics.jsonl")} for home in homes
    ]
    assert metrics[0] == metrics[1]
    assert len(metrics[0]) == len(lasting_rows(the_sweep(homes[0])))


def test_a_torn_journal_line_is_mended(home: Path) -> None:
    assert run("optimizer.lr=log(1e-3, 1)", "sweep.trials=2", "sweep.jobs=0") == 0
    before = (the_sweep(home) / "results.csv").read_text()
    journal = the_sweep(home) / "journal.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code":6,"worker_id":"x","tri')
    assert main(["sweep", f"resume={the_sweep(home)}", "sweep.trials=3"]) == 0
    assert (the_sweep(home) / "results.csv").read_text().startswith(before)
    assert len(rows(the_sweep(home))) == 3
    assert all(json.loads(line) for line in journal.read_bytes().splitlines())


def test_equal_trials_are_confirmed_once(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("optimizer=choice(sgd, adam)", "sweep.trials=4", "sweep.confirm={top: 4, seeds: 2}")
    assert run(*words, "sweep.jobs=0", "trainer.epochs=1") == 0
    confirmed = [(row["optimizer"], row["seed"], row["status"]) for row in rows(the_sweep(home)) if row["stage"] == "2"]
    assert sorted(confirmed) == [(name, seed, "ok") for name in ("adam", "sgd") for seed in ("1", "2")]
    assert capsys.readouterr().out.count("(2 seeds)") == 2


def test_a_trial_that_leaves_the_interpreter_has_failed(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def leave(self: Callback, fit: Fit) -> None:
        if fit.run.path.name == "1-0002":
            raise SystemExit(3)

    monkeypatch.setattr(Watcher, "step_end", leave)
    assert run("optimizer.lr=log(1e-3, 1)", "sweep.trials=3", "sweep.jobs=0", "trainer.epochs=1") == 0
    assert [row["status"] for row in rows(the_sweep(home))] == ["ok", "failed", "ok"]
    error = capsys.readouterr().err
    assert "failed: SystemExit: 3 (" in error
    assert "trials/1-0002/error.txt)" in error


def test_the_total_may_shrink_and_a_grid_ends_where_it_ends(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("optimizer.lr=log(1e-3, 1)", "sweep.search=grid", "sweep.points=2", "sweep.jobs=0") == 0
    assert "2/2  best" in capsys.readouterr().out
    assert main(["sweep", f"resume={the_sweep(home)}", "sweep.trials=5"]) == 0
    assert "2 done before" in capsys.readouterr().out


def test_the_best_configuration_is_that_of_the_trial(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for word in TINY if not word.startswith("trainer.threads")]
    assert main(["sweep", *words, "optimizer.lr=log(1e-2, 1e-1)", "sweep.trials=2", "sweep.jobs=0"]) == 0
    more = [
        f"resume={the_sweep(home)}",
        "extend=true",
        "model.hidden=[4]",
        "optimizer.lr=log(1e-9, 1e-8)",
        "sweep.trials=3",
    ]
    assert main(["sweep", *more]) == 0
    found = rows(the_sweep(home))
    best = min(found, key=lambda row: float(row["score"]))
    assert int(best["trial"]) < 3
    tree = yaml.safe_load((the_sweep(home) / "best.yaml").read_text())
    assert tree["model"]["hidden"] == [8]
    assert yaml.safe_load((the_sweep(home) / "trials" / "1-0003" / "config.yaml").read_text())["model"]["hidden"] == [4]
    threads = yaml.safe_load((the_sweep(home) / "sweep.yaml").read_text())["threads"]
    assert tree["trainer"]["threads"] == threads
    assert list(tree["callbacks"])[:3] == ["progress", "metrics_jsonl", "tensorboard"]
    capsys.readouterr()
    assert main(["train", f"config={the_sweep(home) / 'best.yaml'}", "callbacks.progress=null"]) == 0
    (again,) = (home / "runs").iterdir()
    assert json.loads((again / "results.json").read_text())["best"]["val/loss"] == float(best["score"])


def test_what_a_score_is_cannot_be_changed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("optimizer.lr=log(1e-3, 1)", "sweep.trials=1", "sweep.jobs=0", "trainer.epochs=1") == 0
    more = [f"resume={the_sweep(home)}", "extend=true", "sweep.metric=val/accuracy", "sweep.mode=max"]
    assert main(["sweep", *more]) == 2
    error = capsys.readouterr().err
    assert "sweep.metric: was 'val/loss', is now 'val/accuracy'" in error
    assert "start a new sweep" in error


def test_threads_may_be_changed_at_a_resume(home: Path) -> None:
    words = [word for word in TINY if not word.startswith("trainer.threads")]
    more = ["optimizer.lr=log(1e-3, 1)", "sweep.jobs=0", "trainer.epochs=1"]
    assert main(["sweep", *words, *more, "sweep.trials=1"]) == 0
    assert main(["sweep", f"resume={the_sweep(home)}", "sweep.threads=7", "sweep.trials=2"]) == 0
    tree = yaml.safe_load((the_sweep(home) / "trials" / "1-0002" / "config.yaml").read_text())
    assert tree["trainer"]["threads"] == 7


def test_a_sweep_in_use_is_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("optimizer.lr=log(1e-3, 1)", "sweep.trials=1", "sweep.jobs=0", "trainer.epochs=1") == 0
    held = RunFolder(the_sweep(home))
    held.lock()
    try:
        assert main(["sweep", f"resume={the_sweep(home)}"]) == 2
    finally:
        held.unlock()
    error = capsys.readouterr().err
    assert "sweep folder" in error
    assert f"another dlrun process (pid {os.getpid()}) works in it" in error


def test_nothing_is_written_into_a_folder_that_another_trial_is_training_in(home: Path) -> None:
    search = load_search(None, [*TINY, "optimizer.lr=log(1e-3, 1)"])
    path = home / "trial"
    path.mkdir()
    config = search.trial({"optimizer.lr": 0.1}).to_tree()
    held = RunFolder(path)
    held.lock()
    try:
        record = run_trial(
            Trial(1, 1, {"optimizer.lr": 0.1}, config, str(path), Watch("val/loss", "min", None)), lambda *asked: "go"
        )
    finally:
        held.unlock()
    assert record.status == "failed"
    assert "another dlrun process" in record.reason
    assert {item.name for item in path.iterdir()} <= {".lock", "checkpoints"}


def test_what_failed_is_run_again_when_its_cause_is_mended(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, evaluated = [True], Watcher.eval_end

    def fragile(self: Watcher, fit: Fit, metrics: Mapping[str, float]) -> None:
        if broken and fit.state.epoch == 2 and fit.run.path.name == "1-0002":
            raise RuntimeError("boom")
        evaluated(self, fit, metrics)

    monkeypatch.setattr(Watcher, "eval_end", fragile)
    words = ("optimizer.lr=log(1e-3, 1e-2)", "sweep.trials=2", "sweep.confirm={top: 1, seeds: 2}", "sweep.jobs=0")
    assert run(*words) == 0
    out = capsys.readouterr().out
    assert [row["status"] for row in rows(the_sweep(home))] == ["ok", "failed", "ok", "ok"]
    again = f"dlrun sweep resume=sweeps/{the_sweep(home).name} retry=failed"
    assert f"run again   {again}" in out
    assert again in (the_sweep(home) / "report.html").read_text()
    failed = the_sweep(home) / "trials" / "1-0002"
    assert (failed / "error.txt").is_file()

    def resume(*more: str) -> str:
        assert main(["sweep", f"resume={the_sweep(home)}", *more]) == 0
        return capsys.readouterr().out

    # Without the word it stays; while its cause is there it fails again.
    assert "again     " not in resume()
    assert "again       1 trial of stage 1" in resume("retry=oom,failed")
    assert [row["status"] for row in rows(the_sweep(home))] == ["ok", "failed", "ok", "ok"]
    broken.clear()
    assert "retry=" not in resume("retry=failed")
    assert not (failed / "error.txt").exists()
    assert "again     " not in resume("retry=failed")
    # From its own checkpoint, as if nothing had been.
    assert run(*words, "sweep.root=whole") == 0
    (whole,) = (home / "whole").iterdir()
    assert lasting_rows(the_sweep(home)) == lasting_rows(whole)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("optimizer.lr=log(1e-3, 1)", "retry=failed"), "retry= is about a sweep that was begun"),
        (("resume={folder}", "retry=fail"), "retry=fail: did you mean failed?"),
        (("resume={folder}", "retry=failed,diverged"), "retry=failed,diverged: known: failed, oom, timeout"),
    ],
)
def test_what_cannot_be_run_again(
    home: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert run("optimizer.lr=log(1e-3, 1)", "sweep.trials=1", "sweep.jobs=0") == 0
    assert main(["sweep", *(word.format(folder=the_sweep(home)) for word in words)]) == 2
    assert message in capsys.readouterr().err


def test_seeds_that_are_searched_are_no_settings_to_confirm(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("seed=choice(1, 2)", "optimizer.lr=choice(0.01, 0.02)", "sweep.search=grid", "sweep.trials=4")
    assert run(*words, "sweep.confirm={top: 2, seeds: 2}", "sweep.jobs=0") == 0
    confirmed = [(row["optimizer.lr"], row["seed"]) for row in rows(the_sweep(home)) if row["stage"] == "2"]
    # With seeds that the search has not seen.
    assert sorted(confirmed) == [(rate, seed) for rate in ("0.01", "0.02") for seed in ("3", "4")]
    out = capsys.readouterr().out
    assert "seed=" not in out[out.index("the best with other seeds") :]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"config: \xff\xfe", "is not a text file in UTF-8"),
        (b"", "is not what dlrun sweep wrote"),
        (b"- a\n- b\n", "is not what dlrun sweep wrote"),
        (b"config: null\n", "is not what dlrun sweep wrote: it has no"),
    ],
)
def test_a_broken_sweep_yaml_is_told(
    home: Path, content: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = home / "sweeps" / "x"
    path.mkdir(parents=True)
    (path / "sweep.yaml").write_bytes(content)
    assert main(["sweep", f"resume={path}"]) == 2
    error = capsys.readouterr().err
    assert f"{path}/sweep.yaml" in error
    assert message in error


def test_a_broken_line_of_the_journal_is_told_and_can_be_mended(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("optimizer.lr=log(1e-3, 1)", "sweep.trials=2", "sweep.jobs=0", "trainer.epochs=1") == 0
    before = (the_sweep(home) / "results.csv").read_text()
    journal = the_sweep(home) / "journal.log"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:3], b"\x00\x00garbage\n", *lines[4:]]))
    capsys.readouterr()
    assert main(["sweep", f"resume={the_sweep(home)}"]) == 2
    error = capsys.readouterr().err
    assert f"{journal}:4: is no line of a journal" in error
    assert "move it away" in error
    journal.unlink()
    assert main(["sweep", f"resume={the_sweep(home)}"]) == 0
    assert "journal.log is missing: trials that are over are read from their folders" in capsys.readouterr().err
    assert (the_sweep(home) / "results.csv").read_text() == before


def test_a_full_disk_is_told(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(self: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Journal, "_mend", full)
    assert run("optimizer.lr=log(1e-3, 1)", "sweep.trials=1", "sweep.jobs=0") == 2
    error = capsys.readouterr().err
    assert "journal.log: cannot be written: No space left on device" in error
    assert f"dlrun sweep resume={the_sweep(home)}" in error


def test_trials_wait_for_room_on_the_disk(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = checkpoint.save

    def full(path: Path, *rest: Any, **options: Any) -> None:
        if "1-0001" not in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        whole(path, *rest, **options)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save", full)
        assert run("optimizer.lr=log(1e-3, 1e-2)", "sweep.trials=3", "sweep.jobs=0") == 75
    out = capsys.readouterr().out
    # A score without a checkpoint is none: it is neither done nor a failure.
    assert "stopped     No space left on device" in out
    assert "1-0002/checkpoints/last.pt): make room before it goes on" in out
    assert [row["status"] for row in rows(the_sweep(home))] == ["ok"]
    assert main(["sweep", f"resume={the_sweep(home)}"]) == 0
    assert [row["status"] for row in rows(the_sweep(home))] == ["ok"] * 3
    assert len(list(the_sweep(home).glob("trials/*/checkpoints/best.pt"))) == 3


@pytest.mark.slow
def test_a_trial_that_takes_the_process_with_it_fails_at_the_next_start(home: Path) -> None:
    words = ("plugins=[./trouble.py]", "callbacks.trouble.kind=choice(none, killed)", "sweep.search=grid")
    # Trials as quick as these run in the process of the sweep.
    code, _ = run_apart(home, *words)
    assert code == -signal.SIGKILL
    process = start_sweep(home, f"resume={the_sweep(home)}")
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    assert {row["callbacks.trouble.kind"]: row["status"] for row in rows(the_sweep(home))} == {
        "none": "ok",
        "killed": "oom",
    }


def test_a_sweep_ends_by_the_clock(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("optimizer.lr=log(1e-3, 1e-2)", "trainer.epochs=50", "sweep.trials=500", "sweep.jobs=0")
    assert run(*words, "sweep.max_time=1s") == 75
    out = capsys.readouterr().out
    assert "stopped     sweep.max_time=1s is over" in out
    assert "go on with  dlrun sweep resume=" in out
    done = len(rows(the_sweep(home)))
    assert done < 500
    assert main(["sweep", f"resume={the_sweep(home)}", "sweep.max_time=null", f"sweep.trials={done + 1}"]) == 0
    assert [row["status"] for row in rows(the_sweep(home))] == ["ok"] * (done + 1)


@pytest.mark.parametrize("hangs", [True, False])
def test_trials_that_hang_are_ended_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch, hangs: bool) -> None:
    sent: list[int] = []
    conductor = SimpleNamespace(over=False, outcome=Outcome())

    def kill(pid: int, number: int) -> None:
        sent.append(number)
        conductor.over = conductor.over or not hangs

    monkeypatch.setattr(sweep.os, "kill", kill)
    monkeypatch.setattr(sweep, "_GRACE_SECONDS", 0.2)
    sweep._end(cast(Conductor, conductor), Duration.parse("2h"))
    assert conductor.outcome.stopped == "sweep.max_time=2h is over"
    # The second one ends them at once.
    assert sent == [signal.SIGTERM] * (2 if hangs else 1)
    sweep._end(cast(Conductor, conductor), Duration.parse("2h"))
    assert len(sent) == (2 if hangs else 1)


def test_a_signal_while_the_results_are_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = results.write

    def interrupted(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        write(*arguments)

    monkeypatch.setattr(results, "write", interrupted)
    assert run("optimizer.lr=log(1e-3, 1e-2)", "sweep.trials=1", "sweep.jobs=0") == 0
    assert [row["status"] for row in rows(the_sweep(home))] == ["ok"]
    assert (the_sweep(home) / "report.html").is_file()


@pytest.mark.parametrize("prune", ["none", "halving"])
def test_checkpoints_of_the_best_are_kept(home: Path, prune: str) -> None:
    words = ("optimizer.lr=log(1e-3, 1)", "sweep.trials=6", "sweep.jobs=0", f"sweep.prune={prune}", "sweep.keep=2")
    assert run(*words, "sweep.min_epochs=1", "sweep.eta=2") == 0
    found = rows(the_sweep(home))
    done = sorted((row for row in found if row["status"] == "ok"), key=lambda row: float(row["score"]))
    kept = {path.parent.parent.name for path in the_sweep(home).glob("trials/*/checkpoints/*.pt")}
    assert kept == {row["folder"] for row in done[:2]}
    assert main(["eval", f"checkpoint={the_sweep(home) / 'trials' / done[0]['folder']}", "split=val"]) == 0
    # A trial without checkpoints is no trial that is missing.
    assert main(["sweep", f"resume={the_sweep(home)}"]) == 0
    assert [row["status"] for row in rows(the_sweep(home))] == [row["status"] for row in found]


@pytest.mark.parametrize("search", ["tpe", "gp"])
def test_what_samplers_know_is_extended(home: Path, search: str) -> None:
    words = ("optimizer=choice(sgd, adam)", "optimizer.lr=uniform(0.01, 0.1)", "trainer.epochs=1", "sweep.jobs=0")
    assert run(*words, "sweep.trials=3", f"sweep.search={search}") == 0
    more = ("optimizer=choice(sgd, adam, adamw)", "optimizer.lr=log(1e-3, 0.1)", "sweep.trials=6", "extend=true")
    assert main(["sweep", f"resume={the_sweep(home)}", *more]) == 0
    assert main(["sweep", f"resume={the_sweep(home)}", "sweep.trials=7"]) == 0
    assert [row["status"] for row in rows(the_sweep(home))] == ["ok"] * 7


def test_an_extended_grid_has_each_point_once(home: Path) -> None:
    words = ("optimizer.lr=log(1e-3, 1e-1)", "sweep.search=grid", "sweep.points=3", "trainer.epochs=1", "sweep.jobs=0")
    assert run(*words) == 0
    first = [row["optimizer.lr"] for row in rows(the_sweep(home))]
    resume = f"resume={the_sweep(home)}"
    # Stopped at once, so that a later start, which does not say extend=true, plans it once more.
    assert main(["sweep", resume, "sweep.points=5", "extend=true", "sweep.max_time=0.001s"]) == 75
    assert main(["sweep", resume, "sweep.max_time=null"]) == 0
    found = [row["optimizer.lr"] for row in rows(the_sweep(home))]
    assert found[:3] == first
    assert sorted(map(float, found)) == pytest.approx([1e-3, 10**-2.5, 1e-2, 10**-1.5, 1e-1], rel=1e-4)


@pytest.mark.parametrize("search", ["random", "tpe", "grid"])
def test_what_is_known_to_be_good_is_tried_first(home: Path, search: str) -> None:
    words = ("optimizer=choice(sgd, adam)", "optimizer.momentum=choice(0, 0.9) when optimizer=sgd", "sweep.trials=5")
    first = "sweep.try_first=[{optimizer: sgd, optimizer.momentum: 0.9}, {optimizer: adam}]"
    assert run(*words, first, f"sweep.search={search}", "trainer.epochs=1", "sweep.jobs=0") == 0
    found = [(row["optimizer"], row["optimizer.momentum"]) for row in rows(the_sweep(home))]
    assert found[:2] == [("sgd", "0.9"), ("adam", "")]
    if search != "tpe":
        assert sorted(found) == [("adam", ""), ("sgd", "0"), ("sgd", "0.9")]
    assert main(["sweep", f"resume={the_sweep(home)}"]) == 0
    assert [(row["optimizer"], row["optimizer.momentum"]) for row in rows(the_sweep(home))] == found


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ("[{optimizer: adam, optimizer.lr: 3}]", "sweep.try_first.0.optimizer.lr: 3 is not in log(0.001, 1)"),
        ("[{optimizer: lion, optimizer.lr: 1}]", "sweep.try_first.0.optimizer: 'lion' is not in choice(sgd, adam)"),
        ("[{optimizer.lr: 0.1}]", "sweep.try_first.0: has no value for optimizer"),
        ("[{optimizer: sgd, optimizer.lr: 0.1}]", "sweep.try_first.0: has no value for optimizer.momentum"),
        ("[{optimizer: adam, optimizer.rl: 0.1}]", "sweep.try_first.0.optimizer.rl: is no axis of the sweep; did you"),
        ("[{optimizer: adam, optimizer.momentum: 0}]", "optimizer.momentum: is searched only when optimizer=sgd"),
        ("[{optimizer.name: adam, optimizer.lr: 0.1}, {}, {}]", "has 3 trials, but there are only 2"),
    ],
)
def test_what_cannot_be_tried_first(first: str, message: str) -> None:
    words = [*TINY, RATE, "optimizer=choice(sgd, adam)", "optimizer.momentum=uniform(0, 0.9) when optimizer=sgd"]
    with pytest.raises(ConfigError) as caught:
        check_sweep(load_search(None, [*words, "sweep.trials=2", f"sweep.try_first={first}"]))
    assert any(message in problem for problem in caught.value.problems), caught.value.problems


def test_the_newest_sweep_is_resumed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "resume=auto"]) == 2
    assert "resume=auto: there is no sweep in sweeps" in capsys.readouterr().err
    for name in ("b", "a"):
        words = ("optimizer.lr=log(1e-3, 1)", f"sweep.name={name}", "sweep.root=here", "trainer.epochs=1")
        assert run(*words, "sweep.trials=1", "sweep.jobs=0") == 0
    assert main(["sweep", "resume=auto", "sweep.root=here", "sweep.trials=2"]) == 0
    assert {path.name.split("_")[1]: len(rows(path)) for path in (home / "here").iterdir()} == {"a": 2, "b": 1}


def test_a_trial_is_given_more_time(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("optimizer.lr=log(1e-3, 1e-2)", "sweep.trials=1", "trainer.epochs=4", "sweep.jobs=0")
    assert run(*words, "sweep.root=whole") == 0
    stepped = Watcher.step_end

    def slow(self: Watcher, fit: Fit) -> None:
        if fit.state.epoch == 1:
            time.sleep(0.15)
        stepped(self, fit)

    monkeypatch.setattr(Watcher, "step_end", slow)
    run(*words, "sweep.timeout=0.5s")
    (row,) = rows(the_sweep(home))
    assert row["status"] == "timeout"
    assert float(row["epochs"]) < 4
    assert main(["sweep", f"resume={the_sweep(home)}", "retry=timeout", "sweep.timeout=60s"]) == 0
    (whole,) = (home / "whole").iterdir()
    assert lasting_rows(the_sweep(home)) == lasting_rows(whole)


def test_a_later_stage_keeps_its_space_when_trials_are_run_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken, evaluated = [True], Watcher.eval_end

    def fragile(self: Watcher, fit: Fit, metrics: Mapping[str, float]) -> None:
        if broken and fit.run.path.name.startswith("1-") and int(fit.run.path.name[2:]) % 3 == 0:
            raise RuntimeError("boom")
        evaluated(self, fit, metrics)

    monkeypatch.setattr(Watcher, "eval_end", fragile)
    space = ("model.hidden.0=int(4, 64)", "optimizer.lr=log(1e-3, 1)", "model.dropout=uniform(0, 0.9)")
    assert run(*space, "sweep.stages=[{trials: 30, epochs: 1}, {trials: 3}]", "sweep.jobs=0") == 0
    before = [row for row in lasting_rows(the_sweep(home)) if row["stage"] == "2"]
    broken.clear()
    assert main(["sweep", f"resume={the_sweep(home)}", "retry=failed"]) == 0
    after = lasting_rows(the_sweep(home))
    assert "failed" not in {row["status"] for row in after}
    assert [row for row in after if row["stage"] == "2"] == before
    for row in before:
        trained = yaml.safe_load((the_sweep(home) / "trials" / row["folder"] / "config.yaml").read_text())
        assert str(trained["model"]["hidden"][0]) == row["model.hidden.0"]
        assert trained["model"]["dropout"] == float(row["model.dropout"])


def test_the_best_of_a_confirmation_has_its_checkpoint(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("optimizer.lr=log(1e-3, 0.1)", "sweep.trials=4", "sweep.confirm={top: 3, seeds: 2}", "sweep.jobs=0")
    assert run(*words, "sweep.keep=0") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("evaluate ")]
    assert main([*line.split()[2:], "split=val"]) == 0
    assert run("optimizer.lr=log(1e-3, 0.1)", "sweep.trials=2", "sweep.keep=0", "sweep.jobs=0", "sweep.root=none") == 0
    assert "dlrun eval" not in capsys.readouterr().out.split("best of 2")[1]


def test_fewer_trials_of_a_small_space(home: Path) -> None:
    words = ("optimizer=choice(sgd, adam)", "data.batch_size=int(16, 40)", "trainer.epochs=1", "sweep.jobs=0")
    assert run(*words, "sweep.trials=2") == 0
    resume = f"resume={the_sweep(home)}"
    # All slots are written before the first is taken: then it is stopped, and fewer are wanted.
    assert main(["sweep", resume, "sweep.trials=9", "sweep.max_time=0.001s"]) in (0, 75)
    done = len(rows(the_sweep(home)))
    assert main(["sweep", resume, f"sweep.trials={done + 1}", "sweep.max_time=null"]) == 0
    assert len(rows(the_sweep(home))) == done + 1


@pytest.mark.parametrize(
    ("key", "before", "after", "least"),
    [("optimizer.lr", "log(1e-3, 1e-2)", "log(2e-2, 1)", 2e-2), ("model.hidden.0", "int(4, 20)", "int(30, 60)", 30)],
)
def test_a_stage_that_nobody_has_begun_is_planned_anew(
    home: Path, key: str, before: str, after: str, least: float
) -> None:
    two = "sweep.stages=[{trials: 3}, {trials: 4}]"
    assert run(f"{key}={before}", "sweep.stages=[{trials: 3}]", "trainer.epochs=1", "sweep.jobs=0") == 0
    storage = open_storage(None, the_sweep(home))
    # The second stage of the old search, written down when its process died.
    ledger = Ledger(storage, "sweep/2", (parse_axis(key, before),), "min", "random", 0)
    ledger.study.remember("searched", {"space": {key: before}, "fixed": {}, "of": [before]})
    ledger.plan(1, [{key: value} for value in (4, 5, 6, 7)])
    # Stopped before it comes there; a start that goes on does not say extend=true again.
    words = ("extend=true", f"{key}={after}", two, "sweep.max_time=0.001s")
    assert main(["sweep", f"resume={the_sweep(home)}", *words]) == 75
    assert main(["sweep", f"resume={the_sweep(home)}", "sweep.max_time=null"]) == 0
    late = [float(row[key]) for row in rows(the_sweep(home)) if row["stage"] == "2"]
    assert len(late) == 4
    assert min(late) >= least


def test_only_trials_of_the_plan_are_run_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fragile(self: Watcher, fit: Fit, metrics: Mapping[str, float]) -> None:
        raise RuntimeError("boom")

    with monkeypatch.context() as patched:
        patched.setattr(Watcher, "eval_end", fragile)
        assert run("optimizer.lr=log(1e-3, 1)", "sweep.trials=4", "sweep.jobs=0") == 1
    assert main(["sweep", f"resume={the_sweep(home)}", "retry=failed", "sweep.trials=2"]) == 0
    assert [row["status"] for row in rows(the_sweep(home))] == ["ok", "ok", "failed", "failed"]


def test_a_sweep_of_an_older_version_goes_on(home: Path) -> None:
    assert run("optimizer.lr=log(1e-3, 1)", "sweep.trials=1", "sweep.jobs=0") == 0
    plan = the_sweep(home) / "sweep.yaml"
    tree = yaml.safe_load(plan.read_text())
    for key in ("plugins", "file", "folders"):
        del tree[key]
    for key in ("try_first", "max_time", "keep"):
        del tree["settings"][key]
    plan.write_text(yaml.safe_dump(tree))
    assert main(["sweep", f"resume={the_sweep(home)}", "sweep.trials=2"]) == 0
    assert len(rows(the_sweep(home))) == 2


def test_an_axis_inside_of_another_is_refused() -> None:
    whole = "optimizer.betas=choice([0.9, 0.99], [0.8, 0.999])"
    (problem,) = problems("optimizer=adam", whole, "optimizer.betas.0=uniform(0, 0.5)")
    assert problem.endswith("optimizer.betas.0: is a part of optimizer.betas, which is searched as a whole")


def test_an_element_of_a_list(home: Path) -> None:
    words = ("optimizer=adam", "optimizer.betas.0=logit(0.5, 0.99)", "model.hidden.0=int(4, 9)", "sweep.trials=2")
    assert run(*words, "trainer.epochs=1", "sweep.jobs=0") == 0
    best = yaml.safe_load((the_sweep(home) / "best.yaml").read_text())
    row = min(rows(the_sweep(home)), key=lambda row: float(row["score"]))
    assert best["optimizer"]["betas"] == [float(row["optimizer.betas.0"]), 0.999]
    assert best["model"]["hidden"] == [int(row["model.hidden.0"])]
    (problem,) = problems("optimizer=adam", "optimizer.betas.0=uniform(0.5, 1.5)")
    assert problem.startswith("override optimizer.betas.0=uniform(0.5, 1.5): optimizer.betas: must be a number >= 0")


def test_a_network_that_has_learned_elsewhere_has_not_diverged() -> None:
    """A batch of it costs next to nothing by luck, others cost more."""
    stops: list[str] = []
    loss = torch.nn.functional.cross_entropy
    fit = SimpleNamespace(
        task=SimpleNamespace(loss=loss),
        epoch_reading=SimpleNamespace(losses=[0.0768]),
        state=SimpleNamespace(request_stop=lambda reason, message: stops.append(message)),
    )
    watcher = Watcher(Trial(1, 1, {}, {}, "trial", Watch("val/loss", "min", 3.0)), lambda *asked: "go")
    watcher.fit_start(cast(Fit, fit))
    scores, labels = torch.randn(8, 10), torch.arange(8)
    assert torch.equal(fit.task.loss(scores, labels), loss(scores, labels))
    assert fit.task.loss is loss
    for cost, stopped in ((0.251, False), (3 * math.log(10) - 0.01, False), (3 * math.log(10) + 0.01, True)):
        watcher.log(cast(Fit, fit), {"train/loss": cost})
        assert bool(stops) is stopped
    # A resumed one knows what it began with.
    other = Watcher(Trial(1, 1, {}, {}, "trial", Watch("val/loss", "min", 3.0)), lambda *asked: "go")
    other.load_state_dict(watcher.state_dict())
    other.fit_start(cast(Fit, fit))
    assert fit.task.loss is loss
    other.log(cast(Fit, fit), {"train/loss": 7.0})
    assert len(stops) == 2


def test_a_deleted_trial_is_not_evaluated(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("optimizer.lr=log(1e-3, 1e-2)", "sweep.trials=1", "sweep.jobs=0") == 0
    assert "dlrun eval" in capsys.readouterr().out
    shutil.rmtree(the_sweep(home) / "trials" / "1-0001")
    assert main(["sweep", f"resume={the_sweep(home)}"]) == 0
    out = capsys.readouterr().out
    assert "dlrun train config=" in out
    assert "dlrun eval" not in out


@pytest.mark.parametrize("search", ["sobol", "grid", "tpe"])
def test_searchers(home: Path, search: str) -> None:
    space = ("optimizer.lr=log(1e-3, 1)", "optimizer=choice(sgd, adam)")
    conditional = "optimizer.momentum=logit(0.5, 0.99) when optimizer=sgd"
    assert run(*space, conditional, f"sweep.search={search}", "sweep.points=2", "sweep.jobs=0", "trainer.epochs=1") == 0
    found = rows(the_sweep(home))
    assert len(found) == (6 if search == "grid" else 20)
    for row in found:
        assert (row["optimizer.momentum"] == "") == (row["optimizer"] == "adam")
        assert 1e-3 <= float(row["optimizer.lr"]) <= 1


def problems(*words: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_search(None, [*TINY, *words])
    return list(caught.value.problems)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "there is nothing to search"),
        (
            ("optimizer.lrr=log(1e-3, 1)",),
            "optimizer.lrr: unknown key: optimizer 'sgd' has no option 'lrr'",
        ),
        (("optimizer.momentum=uniform(0, 1)",), "must be a number >= 0 and < 1, got 1.0"),
        (("optimizer=choice(sgd, adamm)",), "unknown optimizer 'adamm'; did you mean adam"),
        (("optimizer.lr=lg(1e-3, 1)",), "there is no lg(); did you mean log"),
        (("optimizer.lr=log(1e-3, 1)", "sweep.trails=3"), "sweep.trails: unknown key; did you mean trials"),
        (("optimizer.momentum=uniform(0, .9) when optimizer=adam",), "never holds, for optimizer is 'sgd'"),
        (("optimizer.momentum=uniform(0, .9) when optimizr=sgd",), "the configuration has no optimizr"),
        (("seed=choice(1, two)",), "seed: must be a whole number"),
        (
            ("seed=int(1, 4)", "optimizer.lr=log(1e-3, 1) when seed=99"),
            "when seed=99: never holds, for seed is int(1, 4)",
        ),
        (("seed=int(1, 4)", "optimizer.lr=log(1e-3, 1) when seed=a"), "when seed=a: never holds"),
        (
            ("seed=int(1, 1000)", "optimizer.momentum=uniform(0, 2) when seed=500"),
            "optimizer.momentum: must be a number >= 0 and < 1",
        ),
        (
            ("optimizer.lr=log(1e-3, 1)", "optimizer.momentum=uniform(0, 0.9) when optimizer.lr=0.1"),
            "hardly ever holds, for optimizer.lr is log(0.001, 1)",
        ),
        (("seeds=choice(2, 3)",), "seeds: a trial is one run"),
        (("folds=choice(2, 3)",), "folds: a trial is one run"),
        (("sweep.space.sweep.trials=int(1, 2)",), "sweep.trials: says nothing of a trial's training"),
        (("run.name=choice(a, b)",), "run.name: says nothing of a trial's training"),
    ],
)
def test_wrong_spaces_are_told_before_the_first_trial(words: tuple[str, ...], message: str) -> None:
    found = problems(*words)
    assert any(message in problem for problem in found), found


RATE = "optimizer.lr=log(1e-3, 1)"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sweep.metric=val/accuracy",), "override sweep.metric=val/accuracy: sweep.metric: say whether large values"),
        (("sweep.max_time=3ep",), "sweep.max_time: 3ep is not a time: write it in s, min or h"),
        (
            ("trainer.epochs=int(1, 3)", "sweep.stages=[{trials: 4, epochs: 2}]"),
            "sweep.stages.0.epochs: trainer.epochs is searched: leave out one of the two",
        ),
        (("sweep.confirm={topp: 1, seeds: 2}",), "sweep.confirm.topp: unknown key; did you mean top?"),
        (("sweep.timeout=5ep",), "sweep.timeout: 5ep is not a time: write it in s, min or h"),
        (("sweep.launcher_options={cpus: 2}",), "sweep.launcher=local has none"),
        (
            ("sweep.stages=[{trials: 2}, {trials: 2, space: {optimizer.lr: 'uniform(-5, 2)'}}]",),
            "sweep.stages.1.space: optimizer.lr: must be a number > 0, got -5.0",
        ),
        (
            ("sweep.stages=[{trials: 2}, {trials: 2, space: {optimizer.lr: 'log(1, 2) when foo=1'}}]",),
            "sweep.stages.1.space: optimizer.lr: when foo=1: the configuration has no foo",
        ),
        (
            (
                "seed=int(1, 3)",
                "sweep.stages=[{trials: 2}, {trials: 2, space: {optimizer.lr: 'choice(1, 2) when seed=1', "
                "seed: 'int(1, 3) when optimizer.lr=1'}}]",
            ),
            "sweep.stages.1.space: the conditions of optimizer.lr, seed depend on each other in a circle",
        ),
        (
            ("sweep.search=grid", "sweep.points=3", "sweep.stages=[{trials: 3}, {trials: 2}]"),
            "the grid has 3 points (3), but sweep.stages.1.trials=2; set sweep.stages.1.trials=3",
        ),
        (
            (
                "sweep.search=grid",
                "sweep.stages=[{trials: 9}, {trials: 9, space: {optimizer.lr: 'choice(1, 2)'}}, {trials: 1}]",
            ),
            "the grid has 2 points (2), but sweep.stages.2.trials=1",
        ),
    ],
)
def test_wrong_settings_are_told_before_the_first_trial(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_sweep(load_search(None, [*TINY, RATE, *words]))
    assert any(message in problem for problem in caught.value.problems), caught.value.problems


def test_a_task_that_the_data_do_not_fit_is_told_before_the_first_trial(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(RATE, "task=multilabel_classification", "sweep.trials=2") == 2
    assert "task 'multilabel_classification' needs num_labels, which data 'synthetic'" in capsys.readouterr().err
    assert not (home / "sweeps").exists()


def test_a_confirmation_is_left_out() -> None:
    assert read_confirm(load_search("two_layer_net", ["sweep.confirm=null", "data.root=."]).settings) is None


def test_the_mode_of_a_recipe_is_that_of_its_own_metric() -> None:
    with pytest.raises(ConfigError, match="say whether large values of val/loss are good"):
        check_sweep(load_search("two_layer_net", ["sweep.metric=val/loss", "data.root=."]))
    check_sweep(load_search("two_layer_net", ["sweep.metric=val/loss", "sweep.mode=min", "data.root=."]))


def test_right_settings_are_not_refused() -> None:
    grid = ("sweep.search=grid", "optimizer.momentum=choice(0, 0.9) when optimizer.lr=1")
    stages = "sweep.stages=[{trials: 6}, {trials: 6, epochs: 2, space: {optimizer.name: 'choice(sgd, lion)'}}]"
    check_sweep(load_search(None, [*TINY, RATE, "sweep.metric=val/accuracy", "sweep.mode=max"]))
    check_sweep(load_search(None, [*TINY, RATE, "sweep.metric=val/accuracy", "sweep.mode=min"]))
    check_sweep(load_search("two_layer_net", ["sweep.metric=val/top5", "data.root=."]))
    check_sweep(load_search(None, [*TINY, RATE, *grid, "sweep.confirm={top: 1, seeds: 2}", "sweep.timeout=5min"]))
    check_sweep(load_search(None, [*TINY, RATE, "optimizer=choice(sgd, adam)", stages]))


def test_a_wide_range_without_log_is_warned_about() -> None:
    search = load_search(None, [*TINY, "optimizer.lr=uniform(1e-4, 1e-1)"])
    (told,) = doubts(search)
    assert "write log(0.0001, 0.1)" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("optimizer=choice(sgd, adam)", "sweep.search=tpe"), "may try a point again and again, and the space has 2"),
        (("loss=choice(cross_entropy, focal)",), "loss: val/loss of different losses cannot be compared"),
        (("loss.label_smoothing=uniform(0, 0.9)",), "such as sweep.metric=val/accuracy sweep.mode=max"),
        (("data.split_seed=int(0, 5)",), "data.split_seed: val/loss is of other samples from trial to trial"),
        ((RATE, "sweep.prune=halving", "sweep.min_epochs=3"), "stops no trial: it first looks after 3 epochs"),
        ((RATE, "sweep.prune=median", "sweep.stages=[{trials: 9, epochs: 1}]"), "none is trained for more than 1"),
        (("trainer.epochs=int(1, 4)", "sweep.prune=median", "sweep.min_epochs=4"), "none is trained for more than 4"),
    ],
)
def test_what_is_most_likely_not_meant(words: tuple[str, ...], message: str) -> None:
    (told,) = doubts(load_search(None, [*TINY, *words]))
    assert message in told


@pytest.mark.parametrize(
    "words",
    [
        (RATE, "seed=int(1, 5)", "data.batch_size=choice(8, 16)"),
        ("loss=choice(cross_entropy, focal)", "sweep.metric=val/accuracy", "sweep.mode=max"),
        ("trainer.epochs=int(1, 4)", "sweep.prune=halving", "sweep.min_epochs=3"),
        (RATE, "sweep.prune=halving", "sweep.stages=[{trials: 9, epochs: 1}, {trials: 3, epochs: 2}]"),
    ],
)
def test_what_may_well_be_meant(words: tuple[str, ...]) -> None:
    assert not list(doubts(load_search(None, [*TINY, *words])))


@pytest.mark.parametrize("search", ["random", "sobol"])
def test_no_point_is_tried_twice(home: Path, capsys: pytest.CaptureFixture[str], search: str) -> None:
    words = ("optimizer=choice(sgd, adam)", "data.batch_size=int(15, 16)", "sweep.trials=9", f"sweep.search={search}")
    assert run(*words, "trainer.epochs=1", "sweep.jobs=0") == 0
    assert "the space has 4 points: each is tried once" in capsys.readouterr().out
    found = [(row["optimizer"], row["data.batch_size"]) for row in rows(the_sweep(home))]
    assert sorted(found) == [("adam", "15"), ("adam", "16"), ("sgd", "15"), ("sgd", "16")]


def test_axes_in_a_file(home: Path) -> None:
    (home / "my.yaml").write_text(
        "optimizer:\n  name: choice(sgd, adam)\n  lr: log(1e-3, 1)\n"
        "sweep:\n  trials: 7\n  space:\n    model:\n      dropout: uniform(0, 0.5)\n"
    )
    search = load_search("my.yaml", list(TINY))
    assert {axis.key: str(axis.distribution) for axis in search.space} == {
        "optimizer": "choice(sgd, adam)",
        "optimizer.lr": "log(0.001, 1)",
        "model.dropout": "uniform(0, 0.5)",
    }
    assert search.origins["optimizer.lr"] == "my.yaml:3"
    assert search.settings.trials == 7
    search = load_search("my.yaml", [*TINY, "optimizer.lr=0.1"])
    assert "optimizer.lr" not in {axis.key for axis in search.space}


AXES_FILE = """\
optimizer: {name: "choice(sgd, adam)", lr: "log(1e-3, 1)"}
callbacks: {early_stopping: {patience: "int(1, 4)"}}
"""


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ((), {"optimizer", "optimizer.lr", "callbacks.early_stopping.patience"}),
        # Group and name are one thing, and what is said later wins.
        (("optimizer=adam",), {"optimizer.lr", "callbacks.early_stopping.patience"}),
        (("optimizer.name=adam",), {"optimizer.lr", "callbacks.early_stopping.patience"}),
        (("optimizer=choice(sgd, lion)",), {"optimizer", "optimizer.lr", "callbacks.early_stopping.patience"}),
        # What is switched off, or replaced as a whole, is not searched any more.
        (("callbacks.early_stopping=null",), {"optimizer", "optimizer.lr"}),
        (("~callbacks.early_stopping",), {"optimizer", "optimizer.lr"}),
        (("callbacks=default",), {"optimizer", "optimizer.lr"}),
        (("callbacks=default", "callbacks.early_stopping.patience=int(2, 3)"), None),
    ],
)
def test_the_command_line_wins_over_the_axes_of_a_file(home: Path, words: Sequence[str], left: set[str] | None) -> None:
    (home / "my.yaml").write_text(AXES_FILE)
    search = load_search("my.yaml", [*TINY, *words])
    assert {axis.key for axis in search.space} == (
        {"optimizer", "optimizer.lr", "callbacks.early_stopping.patience"} if left is None else left
    )
    assert search.trial({axis.key: axis.distribution.at(0.0) for axis in search.space}).optimizer.name in (
        "sgd",
        "adam",
    )


def test_a_component_is_one_axis_by_whatever_name(home: Path) -> None:
    search = load_search(None, [*TINY, "optimizer=choice(sgd, adam)", "optimizer.name=choice(sgd, lion)"])
    assert [str(axis) for axis in search.space] == ["choice(sgd, lion)"]
    when = "optimizer.momentum=logit(0.5, 0.99) when optimizer.name=sgd"
    search = load_search(None, [*TINY, "optimizer=choice(adam, sgd)", when])
    assert search.trial({"optimizer": "adam"}).optimizer.name == "adam"
    assert str(search.space[1]) == "logit(0.5, 0.99) when optimizer=sgd"


@pytest.mark.parametrize("optimizers", ["adam, sgd", "sgd, adam", "adam, sgd, lion"])
def test_an_axis_that_only_some_components_have_is_told_before_the_first_trial(optimizers: str) -> None:
    found = problems(f"optimizer=choice({optimizers})", "optimizer.momentum=logit(0.5, 0.99)")
    assert found[0].startswith("override optimizer.momentum=logit(0.5, 0.99): optimizer.momentum: unknown key")
    assert "optimizer 'adam' has no option 'momentum'" in found[0]
    assert found[0].endswith("(with optimizer=adam); search it only where it fits: logit(0.5, 0.99) when optimizer=sgd")
    assert len(found) == optimizers.count(",")


def test_values_that_are_refused_together_are_a_failed_trial(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dlrun.config.search._check_ends", lambda search: [])
    words = ("optimizer=choice(adam, sgd)", "optimizer.momentum=logit(0.5, 0.99)", "sweep.search=grid")
    assert run(*words, "sweep.points=2", "sweep.jobs=0", "trainer.epochs=1") == 0
    found = rows(the_sweep(home))
    assert {row["status"] for row in found if row["optimizer"] == "adam"} == {"failed"}
    assert {row["status"] for row in found if row["optimizer"] == "sgd"} == {"ok"}
    assert all("has no option 'momentum'" in row["reason"] for row in found if row["status"] == "failed")
    before = (the_sweep(home) / "results.csv").read_text()
    assert main(["sweep", f"resume={the_sweep(home)}"]) == 0
    assert (the_sweep(home) / "results.csv").read_text() == before


def test_a_distribution_in_a_list_is_refused_with_the_way_to_write_it(home: Path) -> None:
    (home / "my.yaml").write_text("model:\n  hidden: [int(8, 64), 8]\n")
    with pytest.raises(ConfigError) as caught:
        load_search("my.yaml", ["data=synthetic", "model=mlp"])
    (in_file,) = caught.value.problems
    (typed,) = problems("model.hidden=[int(8, 64), 8]")
    for problem, where in ((in_file, "my.yaml:2"), (typed, "override model.hidden=[int(8, 64), 8]")):
        assert problem.startswith(f"{where}: model.hidden: a distribution cannot stand inside of a list")
        assert "choice([8, 8], [64, 8])" in problem
    found = problems("callbacks.early_stopping={patience: int(1, 4)}")
    assert any("give it by itself, as callbacks.early_stopping.patience='choice(a, b)'" in line for line in found)


def test_training_refuses_a_space(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *TINY, "optimizer.lr=log(1e-3, 1)"]) == 2
    assert "is a search space; give one value, or search with dlrun sweep" in capsys.readouterr().err


def test_an_unknown_metric_is_told_before_the_first_trial(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("optimizer.lr=log(1e-3, 1)", "sweep.metric=val/acuracy", "sweep.mode=max") == 2
    assert "did you mean val/accuracy" in capsys.readouterr().err
    assert not (home / "sweeps").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("trainer.epochs=1", "schedule.warmup=1ep"), "schedule.warmup=1ep is 6 steps, but the whole training has 6"),
        (
            ("schedule.warmup=1ep", "sweep.stages=[{trials: 1, epochs: 3}, {trials: 1, epochs: 1}]"),
            "raise trainer.epochs (by sweep.stages, trainer.epochs=1)",
        ),
        (("optimizer=lbfgs",), "optimizer=lbfgs needs the same loss at every evaluation"),
        (("callbacks.early_stopping={monitor: val/acc, mode: max}",), "did you mean val/accuracy"),
    ],
)
def test_what_fails_in_every_trial_is_told_once_before_the_first(
    home: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert run("optimizer.lr=log(1e-3, 1)", *words) == 2
    err = capsys.readouterr().err
    assert err.count(message) == 1, err
    assert not (home / "sweeps").exists()


def test_what_fails_in_some_trials_is_told_and_the_others_run(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("optimizer=choice(adam, lbfgs)", "sweep.search=grid", "sweep.jobs=0", "trainer.epochs=1") == 0
    assert "a trial such as optimizer=lbfgs cannot start: optimizer=lbfgs needs" in capsys.readouterr().err
    assert {row["optimizer"]: row["status"] for row in rows(the_sweep(home))} == {"adam": "ok", "lbfgs": "failed"}


def test_a_sweep_without_a_score_has_failed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("optimizer.lr=log(1e20, 1e25)", "sweep.trials=2", "sweep.jobs=0") == 1
    assert "no trial came to its end with a val/loss: there is no best one" in capsys.readouterr().out
    assert not (the_sweep(home) / "best.yaml").exists()


def test_a_grid_larger_than_the_trials_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("optimizer.lr=log(1e-3, 1)", "optimizer.momentum=uniform(0, 0.9)", "sweep.search=grid")
    assert run(*words) == 2
    assert "the grid has 25 points (5 x 5), but sweep.trials=20; set sweep.trials=25" in capsys.readouterr().err
