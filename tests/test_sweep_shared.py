"""``dlrun sweep`` on several machines: working folders of their own, one database."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sweeping import rows, start_sweep, the_sweep

from dlrun.addresses import masked
from dlrun.cli import main
from dlrun.errors import UserError
from dlrun.sweep import storage

PLUGIN = '''
import time
from dlrun.registry import CALLBACKS
from dlrun.sweep import ledger, pulse, work
from dlrun.train.fit import Callback

pulse.BEAT_SECONDS, pulse.DEAD_AFTER, work.POLL_SECONDS = 0.2, 3.0, 0.1

@CALLBACKS.register
class slow(Callback):
    """Takes its time."""
    def __init__(self, *, seconds: float = 0.02) -> None:
        self.seconds = seconds
    def step_end(self, fit):
        time.sleep(self.seconds)
'''
WORDS = (
    "plugins=[./quick.py]",
    "callbacks.slow.seconds=0.02",
    "data=synthetic",
    "data.samples=120",
    "data.batch_size=16",
    "model=mlp",
    "model.hidden=[8]",
    "trainer.epochs=2",
    "trainer.threads=1",
    "optimizer.lr=log(1e-4, 1e-2)",
    "sweep.jobs=0",
    "sweep.name=shared",
)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("Debian's package postgresql is not installed")
    pytest.importorskip("psycopg2")
    # PostgreSQL refuses to run as root.
    as_user: list[str] = []
    owner = os.getuid()
    if owner == 0:
        try:
            owner = pwd.getpwnam("postgres").pw_uid
        except KeyError:
            pytest.skip("there is no user postgres to run the server")
        as_user = ["setpriv", f"--reuid={owner}", f"--regid={pwd.getpwuid(owner).pw_gid}", "--clear-groups"]
    folder = Path(tempfile.mkdtemp(prefix="dlrun-postgres-"))
    os.chown(folder, owner, -1)
    port, data = _free_port(), folder / "data"
    control = [*as_user, str(found[-1] / "pg_ctl"), "-D", str(data), "-w"]

    def call(*words: str) -> None:
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stdout + done.stderr

    (folder / "password").write_text("s3cret\n")
    os.chown(folder / "password", owner, -1)
    login = ("-U", "ann", "-A", "scram-sha-256", f"--pwfile={folder / 'password'}")
    call(*as_user, str(found[-1] / "initdb"), "-D", str(data), "--no-sync", *login)
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    # Its output goes to a file: a server that holds the pipe would keep the caller waiting.
    call(*control, "-l", str(folder / "log"), "-o", options, "start")
    try:
        yield f"postgresql://ann:s3cret@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], cwd=folder, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def redis() -> Iterator[str]:
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("Debian's package redis-server is not installed")
    pytest.importorskip("redis")
    port = _free_port()
    words = [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--requirepass", "s3cret"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while not _answers(port):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield f"redis://:s3cret@127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


class Machine:
    """A working folder and a process in it."""

    def __init__(self, home: Path) -> None:
        home.mkdir()
        (home / "quick.py").write_text(PLUGIN)
        self.home = home

    def start(self, *words: str) -> None:
        self.process = start_sweep(self.home, *words)

    def end(self, code: int = 0) -> str:
        out, _ = self.process.communicate(timeout=240)
        assert self.process.returncode == code, out
        assert "s3cret" not in out
        return out

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    @property
    def folder(self) -> Path:
        return the_sweep(self.home)

    def rows(self) -> list[dict[str, str]]:
        return rows(self.folder)

    def begun(self) -> set[str]:
        return {path.parent.name for path in self.home.glob("sweeps/*/trials/*/config.yaml")}

    def finished(self) -> set[str]:
        return {path.parent.name for path in self.home.glob("sweeps/*/trials/*/trial.json")}

    def wait_for_trials(self, finished: int, running: int = 0) -> None:
        deadline = time.monotonic() + 120
        while len(self.finished()) < finished or len(self.begun() - self.finished()) < running:
            assert time.monotonic() < deadline
            assert self.process.poll() is None, self.process.communicate()[0]
            time.sleep(0.01)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    both = Machine(tmp_path / "one"), Machine(tmp_path / "two")
    yield both
    for machine in both:
        if hasattr(machine, "process") and machine.process.poll() is None:
            machine.kill()


def _share(address: str, machines: tuple[Machine, Machine], *words: str) -> list[dict[str, str]]:
    """Both at once; the table, which is the same on both, after a look at who ran what."""
    for machine in machines:
        machine.start(*WORDS, f"sweep.storage={address}", *words)
    outs = [machine.end() for machine in machines]
    name = words[-1].partition("=")[2] if words[-1].startswith("sweep.name=") else "shared"
    assert sorted(f"{word} '{name}' in the database" in out for out in outs for word in ("begins", "joins")) == [
        False,
        False,
        True,
        True,
    ]
    one, two = machines
    assert one.rows() == two.rows()
    assert one.begun()
    assert two.begun()
    assert not one.begun() & two.begun()
    rows = one.rows()
    assert sorted(row["folder"].rpartition("/")[2] for row in rows) == sorted(one.begun() | two.begun())
    host = socket.gethostname()
    for row in rows:
        place, _, name = row["folder"].rpartition("/")
        owner = one if name in one.begun() else two
        assert place == f"{host}:{owner.folder / 'trials'}"
    return rows


STAGES = (
    "sweep.stages=[{trials: 10, epochs: 1}, {trials: 6, epochs: 2}]",
    "sweep.confirm={top: 2, seeds: 2}",
)


@pytest.mark.slow
def test_together_is_as_alone(postgres: str, machines: tuple[Machine, Machine]) -> None:
    rows = _share(postgres, machines, *STAGES, "sweep.name=compared")
    alone = Machine(machines[0].home.parent / "alone")
    alone.start(*WORDS, *STAGES, "callbacks.slow.seconds=0")
    alone.end()
    keys = ("stage", "trial", "status", "score", "optimizer.lr", "seed")
    assert [[row[key] for key in keys] for row in rows] == [[row[key] for key in keys] for row in alone.rows()]


@pytest.mark.slow
def test_two_machines_share_stages_and_confirmation(postgres: str, machines: tuple[Machine, Machine]) -> None:
    rows = _share(postgres, machines, *STAGES)
    assert [row["stage"] for row in rows] == ["1"] * 10 + ["2"] * 6 + ["3"] * 4
    assert {row["status"] for row in rows} == {"ok"}
    # The password is in no file that others can read.
    for path in machines[0].home.rglob("*"):
        if path.is_file() and b"s3cret" in path.read_bytes():
            assert path.name == "sweep.yaml"
            assert path.stat().st_mode & 0o077 == 0


@pytest.mark.slow
def test_a_trial_of_a_killed_machine_is_taken_over(postgres: str, machines: tuple[Machine, Machine]) -> None:
    one, two = machines
    words = (*WORDS, f"sweep.storage={postgres}", "sweep.name=killed", "sweep.trials=8")
    one.start(*words, "callbacks.slow.seconds=0.1")
    one.wait_for_trials(finished=1, running=1)
    one.kill()
    ended, cut = one.finished(), one.begun() - one.finished()
    assert len(cut) == 1
    two.start(*words, "callbacks.slow.seconds=0.1")
    out = two.end()
    rows = two.rows()
    assert [int(row["trial"]) for row in rows] == list(range(1, 9))
    assert {row["status"] for row in rows} == {"ok"}
    assert cut <= two.finished()
    # What was written down before the kill was not trained again; the last record may not have reached the database.
    assert len(ended & two.finished()) <= 1
    assert "best of 8 trials" in out
    # The first machine comes back: nothing is left to do, and it sees all.
    one.start(f"resume={one.folder}")
    one.end()
    assert one.rows() == rows


@pytest.mark.slow
def test_a_killed_machine_goes_on_with_its_own_trial_at_once(postgres: str, machines: tuple[Machine, Machine]) -> None:
    one, _ = machines
    (one.home / "quick.py").write_text(PLUGIN.replace("3.0", "600.0"))
    words = (*WORDS, f"sweep.storage={postgres}", "sweep.name=back", "sweep.trials=3", "callbacks.slow.seconds=0.1")
    one.start(*words)
    one.wait_for_trials(finished=0, running=1)
    one.kill()
    one.start(f"resume={one.folder}")
    out = one.end()
    assert "0 done before, 1 to be continued" in out
    assert [row["status"] for row in one.rows()] == ["ok"] * 3


@pytest.mark.slow
def test_pruning_with_others_comes_to_an_end(postgres: str, machines: tuple[Machine, Machine]) -> None:
    rows = _share(postgres, machines, "sweep.prune=halving", "sweep.trials=12", "trainer.epochs=4", "sweep.name=pruned")
    assert {row["status"] for row in rows} == {"ok", "pruned"}
    assert len(rows) == 12


@pytest.mark.slow
def test_another_space_is_refused(postgres: str, machines: tuple[Machine, Machine]) -> None:
    one, two = machines
    words = (*WORDS, f"sweep.storage={postgres}", "sweep.name=other", "sweep.trials=2")
    one.start(*words)
    one.end()
    two.start(*words, "optimizer.lr=log(1e-2, 1)", "trainer.threads=2", "sweep.explode=4")
    out = two.end(code=2)
    assert "the sweep 'other' there is another search" in out
    assert "search space of optimizer.lr: was 'log(0.0001, 0.01)', is now 'log(0.01, 1)'" in out
    assert "sweep.explode: was 3.0, is now 4" in out
    assert "threads" not in out
    assert "postgresql://ann:***@127.0.0.1" in out
    assert not two.begun()


@pytest.mark.slow
def test_redis_shares_trials(redis: str, machines: tuple[Machine, Machine]) -> None:
    rows = _share(redis, machines, "sweep.trials=12")
    assert [int(row["trial"]) for row in rows] == list(range(1, 13))
    assert {row["status"] for row in rows} == {"ok"}


def test_a_database_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg2")
    address = f"postgresql://ann:s3cret@127.0.0.1:{_free_port()}/sweeps"
    with pytest.raises(UserError) as caught:
        storage.open_storage(address, tmp_path)
    assert str(caught.value).startswith("sweep.storage=postgresql://ann:***@127.0.0.1")
    assert "Connection refused" in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "package"),
    [
        ("postgresql://ann:s3cret@host/sweeps", "psycopg2"),
        ("mysql://ann:s3cret@host/sweeps", "pymysql"),
        ("redis://:s3cret@host", "redis"),
    ],
)
def test_a_missing_driver_names_the_extra(address: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        storage.with_driver(address)
    assert re.search(rf"the Python package {package} .* is not installed; install dlrun\[storage\]", str(caught.value))
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("address", ["postgres//host", "sqlite:///x.db", "postgresq://host/x"])
def test_an_address_of_no_known_kind(address: str) -> None:
    with pytest.raises(UserError, match="must be an address such as postgresql://"):
        storage.with_driver(address)


def test_addresses_are_shown_without_their_password() -> None:
    assert (
        masked("x=mysql+pymysql://ann:p:w@host:1/db redis://:pw@h")
        == "x=mysql+pymysql://ann:***@host:1/db redis://:***@h"
    )
    assert masked("postgresql://ann@host/db") == "postgresql://ann@host/db"


def test_an_unreachable_database_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("psycopg2")
    monkeypatch.chdir(tmp_path)
    words = [word for word in WORDS if not word.startswith(("plugins", "callbacks"))]
    assert main(["sweep", *words, f"sweep.storage=postgresql://ann:s3cret@127.0.0.1:{_free_port()}/x"]) == 2
    assert "cannot be opened" in capsys.readouterr().err
