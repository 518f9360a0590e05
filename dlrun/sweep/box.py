"""What a trial on another machine does, and how it talks with the sweep.

They talk through files of a *box*, a folder of each attempt on the file system that they share: ``trial.json`` says
what to do, ``started`` that it has begun, ``ask-N.json`` and ``answer-N.json`` are the advice after an evaluation,
``stop`` asks it to save itself, ``record.json`` says what became of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from dlrun.errors import UserError
from dlrun.runfolder import RunFolder
from dlrun.sweep.record import Advice, Record, Trial, Watch
from dlrun.sweep.trial import run_trial
from dlrun.sweep.watcher import Advise

POLL_SECONDS = 0.5
"""Time between two looks into a box."""
ORPHAN_SECONDS = 900.0
"""Time without a sign of life of the sweep after which a trial saves itself and ends."""
ALIVE = "alive"
"""File beside the boxes, in which the sweep gives signs of life."""
_LOCK_SECONDS = 300.0


def run_box(box: str) -> None:
    """What a job does: the trial of a box.

    Args:
        box: path of the box.
    """
    path = Path(box)
    order = read(path / "trial.json")
    if order is None or (path / "stop").exists():
        return
    trial = Trial(**{**order["trial"], "watch": Watch(**order["trial"]["watch"])})
    os.chdir(order["cwd"])
    (path / "started").touch()
    with _stoppable(path):
        try:
            _wait_for_others(path, trial)
            record = run_trial(trial, _asking(path))
        except UserError as error:
            record = Record(trial.number, trial.stage, "failed", dict(trial.values), reason=str(error))
    write(path / "record.json", record.to_plain())


def _asking(box: Path) -> Advise:
    count = 0

    def ask(number: int, epochs: float, points: Sequence[tuple[float, float]]) -> Advice:
        nonlocal count
        write(box / f"ask-{count}.json", [epochs, list(points)])
        answer = None
        while answer is None and not (box / "stop").exists():
            time.sleep(POLL_SECONDS / 5)
            answer = read(box / f"answer-{count}.json")
        count += 1
        known: Advice = answer if answer is not None else "go"
        return known

    return ask


@contextmanager
def _stoppable(box: Path) -> Iterator[None]:
    """While inside, the file ``stop``, the end of the sweep and signals make the trial save itself.

    A signal that comes before the training listens is kept for it.
    """
    wanted, over = threading.Event(), threading.Event()

    def keep(number: int, frame: FrameType | None) -> None:
        wanted.set()

    numbers = (signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, keep) for number in numbers}

    def watch() -> None:
        alive, since = None, time.monotonic()
        while not over.wait(POLL_SECONDS):
            sign = read(box.parent / ALIVE)
            if sign != alive:
                alive, since = sign, time.monotonic()
            if (box / "stop").exists() or time.monotonic() - since > ORPHAN_SECONDS:
                wanted.set()
            if wanted.is_set() and signal.getsignal(signal.SIGTERM) is not keep:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    thread = threading.Thread(target=watch, name="dlrun-stop", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait_for_others(box: Path, trial: Trial) -> None:
    """Let an earlier job of the trial, of which the sweep does not know any more, save itself first."""
    others = [other for other in box.parent.glob(f"{Path(trial.folder).name}.*") if other != box]
    for other in others:
        with contextlib.suppress(OSError):
            (other / "stop").touch()
    folder = RunFolder(Path(trial.folder))
    folder.path.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            folder.lock()
        except UserError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)
        else:
            folder.unlock()
            return


def write(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    os.replace(temporary, path)


def read(path: Path) -> Any:
    """What :func:`write` wrote; None if it is not there, or not whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
