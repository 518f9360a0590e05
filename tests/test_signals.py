"""SIGTERM, SIGINT and SIGUSR1 end a run so that it can go on; a second signal ends it at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import equal, fork_server, make_fit, run_folder
from test_resume import CHUNK, DIGITS, FEEDING, assert_same, output, resume

from dlrun import checkpoint
from dlrun.train.loop import train
from dlrun.train.signals import stop_on_signal
from dlrun.train.state import State


@pytest.fixture(scope="module")
def server():
    with fork_server() as server:
        yield server


@pytest.fixture(scope="module")
def whole(server, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("whole")
    assert server.run(place, *DIGITS, chunk=CHUNK) == 0
    return place


@pytest.mark.parametrize(
    ("name", "feeding", "step"),
    [
        ("SIGTERM", "resident", 17),
        ("SIGINT", "streaming-2", 30),
        ("SIGUSR1", "streaming-0", 11),
        ("SIGTERM", "resident", 20),  # the step of a regular checkpoint
        ("SIGTERM", "resident", 21),  # the last step of an epoch
        ("SIGTERM", "resident", 63),  # the last step of all
    ],
)
def test_a_signal_interrupts_and_the_resumed_run_ends_like_one_left_alone(
    server, whole: Path, tmp_path: Path, name: str, feeding: str, step: int
) -> None:
    code = server.run(tmp_path, *DIGITS, *FEEDING[feeding], step=step, signal_name=name, chunk=CHUNK)
    text = output(tmp_path)
    folder = run_folder(tmp_path)
    assert code == 75, text
    assert f"stopped     received {name} at step {step} of 63; the checkpoint of step {step} is saved" in text
    assert f"go on with  dlrun train resume=runs/{folder.name}" in text
    assert (folder / "report.html").is_file()
    assert not (folder / "results.json").exists()
    assert checkpoint.load(folder / "checkpoints/last.pt")["state"]["step"] == step
    assert server.run(tmp_path, *resume(tmp_path), chunk=CHUNK) == 0
    assert_same(tmp_path, whole)


def test_a_second_signal_ends_at_once(server, tmp_path: Path) -> None:
    pid = server.start(tmp_path, *DIGITS, "trainer.epochs=1000", step=100, signal_name="SIGSTOP")
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "T":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    # Both are pending when the process goes on, so no step lies between them.
    os.kill(pid, signal.SIGUSR1)
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGCONT)
    assert server.wait(pid) == -signal.SIGTERM


def test_the_real_command(tmp_path: Path) -> None:
    """Ctrl-C reaches the whole group of processes, data workers too."""
    words = [*DIGITS, *FEEDING["streaming-2"], "trainer.epochs=10000"]
    with (tmp_path / "output.txt").open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "dlrun", *words],
            cwd=tmp_path,
            stdout=file,
            stderr=file,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("runs/*/checkpoints/last.pt")):
        assert process.poll() is None, output(tmp_path)
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 75
    text = output(tmp_path)
    assert "Traceback" not in text
    assert text.count("warning: SIGINT") == 1
    assert "warning: SIGINT: finishing the step and saving a checkpoint; a second signal ends at once" in text
    assert "go on with  dlrun train resume=runs/" in text


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    with stop_on_signal(State()):
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == before


def test_a_signal_is_a_request_on_the_state() -> None:
    state = State()
    with stop_on_signal(state):
        os.kill(os.getpid(), signal.SIGUSR1)
        assert state.stop is not None
        assert (state.stop.reason, state.stop.message) == ("signal", "received SIGUSR1")


def test_a_signal_while_the_checkpoint_is_read_is_not_forgotten() -> None:
    state = State()
    state.request_stop("signal", "received SIGTERM")
    state.load_state_dict(State(step=7).state_dict())
    assert state.step == 7
    assert state.stop is not None
    assert state.stop.reason == "signal"


def test_a_stop_for_good_replaces_an_interruption_and_is_saved() -> None:
    state = State()
    state.request_stop("signal", "received SIGTERM")
    assert state.state_dict()["stop"] is None
    state.request_stop("early_stopping", "enough")
    state.request_stop("signal", "received SIGTERM")
    assert state.state_dict()["stop"] == ["early_stopping", "enough"]


def test_a_signal_before_the_first_step(tmp_path: Path) -> None:
    fit = make_fit(tmp_path)
    fit.state.request_stop("signal", "received SIGTERM")
    train(fit)
    assert checkpoint.load(fit.run.checkpoints / "last.pt")["state"]["step"] == 0
    whole, resumed = make_fit(tmp_path), make_fit(tmp_path)
    train(whole)
    resumed.resume(checkpoint.load(fit.run.checkpoints / "last.pt"))
    train(resumed)
    assert equal(whole.model.state_dict(), resumed.model.state_dict())
