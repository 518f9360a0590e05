"""Runs for the tests: in this process from overrides, or as children that may be killed.

As a script this file is a fork server: it imports torch and dlrun once and forks one child per run, so that a test can
afford many processes. A request is one line of JSON on stdin; ``start`` answers with the child's pid, ``wait`` with its
exit code (negative: the signal that ended it).
"""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dlrun import assembly
from dlrun.cli import main
from dlrun.config.load import load_config
from dlrun.config.schema import Config
from dlrun.runfolder import create_run_folder
from dlrun.train.fit import Callback, Fit

QUIET = tuple(f"callbacks.{name}=null" for name in ("progress", "tensorboard", "metrics_jsonl", "checkpoint"))
SMALL = (
    "device=cpu",
    "trainer.threads=1",
    "model=mlp",
    "model.hidden=[16]",
    "data=synthetic",
    "data.samples=200",
    "data.batch_size=16",
    "augment=none",
    "schedule=constant",
    "schedule.warmup=0ep",
    "trainer.epochs=2",
)
WARM_UP = ("train", *SMALL, "augment=crop_flip", "callbacks.tensorboard=null", "trainer.epochs=1")


@functools.cache
def config(*overrides: str) -> Config:
    """A checked configuration: a tiny network on synthetic data, with overrides."""
    chosen = {word.partition("=")[0] for word in overrides}
    kept = [word for word in SMALL if re.split(r"[.=]", word)[0] not in chosen]
    if "debug" in chosen:
        # A debug mode sets what must not be set again.
        kept = [word for word in kept if word not in ("trainer.epochs=2", "data.batch_size=16")]
    return load_config(None, [*kept, *overrides])[0]


def make_fit(root: Path, *overrides: str, callbacks: Mapping[str, Callback] | None = None) -> Fit:
    """Everything of a run, in a new run folder below ``root``.

    Args:
        callbacks: if given, the only callbacks.
    """
    chosen = config(*overrides) if callbacks is None else config(*QUIET, *overrides)
    chosen = replace(chosen, run=replace(chosen.run, root=root))
    fit = assembly.build_fit(
        chosen, assembly.prepare(chosen), lambda: create_run_folder(chosen.run.root, "test", chosen.to_tree())
    )
    if callbacks is not None:
        fit.callbacks = dict(callbacks)
    return fit


def run_folder(place: Path) -> Path:
    """The only run folder in ``place/runs``."""
    (path,) = (place / "runs").iterdir()
    return path


def equal(a: Any, b: Any) -> bool:
    """Whether two nested values are the same bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a.nan_to_num(1e9), b.nan_to_num(1e9))
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and a == b


class ForkServer:
    """Starts runs as forked children. Use :func:`fork_server`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def _ask(self, **request: Any) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(self, place: Path, *words: str, **harm: Any) -> int:
        """Start ``dlrun words...`` in the folder ``place``; its output goes to ``place/output.txt``.

        Args:
            harm: what happens to the child, see :func:`_harm`.
        """
        place.mkdir(parents=True, exist_ok=True)
        return self._ask(do="start", place=str(place), words=words, harm=harm)

    def wait(self, pid: int) -> int:
        """The exit code; negative: the signal that ended the child."""
        return self._ask(do="wait", pid=pid)

    def run(self, place: Path, *words: str, **harm: Any) -> int:
        """Start and wait."""
        return self.wait(self.start(place, *words, **harm))

    def run_killed_after(self, seconds: float, place: Path, *words: str, **harm: Any) -> int:
        """Start, kill -9 after some time, wait."""
        pid = self.start(place, *words, **harm)
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
        return self.wait(pid)


@contextmanager
def fork_server() -> Iterator[ForkServer]:
    """A fork server for the block."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    with subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield ForkServer(process)
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)


def _serve() -> None:
    import tempfile

    from torch.utils.tensorboard import SummaryWriter  # noqa: F401

    torch.set_num_threads(1)
    # What is imported on first use, and many caches, are shared by all children.
    with tempfile.TemporaryDirectory() as folder:
        made = os.dup(1)
        os.dup2(2, 1)
        assert main([*WARM_UP, f"run.root={folder}"]) == 0
        os.dup2(made, 1)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "start":
            answer = _fork(Path(request["place"]), request["words"], request["harm"])
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["pid"], 0)[1])
        print(answer, flush=True)


def _fork(place: Path, words: Sequence[str], harm: Mapping[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.chdir(place)
        output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdin.close()
        _harm(**harm)
        code = main([*words, "--debug"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _harm(
    chunk: int | None = None,
    step: int | None = None,
    signal_name: str = "SIGKILL",
    before_call: tuple[int, int] | None = None,
    half_write: int | None = None,
) -> None:
    """Prepare what shall happen to this process.

    Args:
        chunk: numbers in a chunk of the data, so that an epoch of a small set has several.
        step: receive the signal in this step of the process, counted from 1.
        signal_name: the signal.
        before_call: which checkpoint, and which call of the file system while it is written, both counted from 1:
            receive it before that call.
        half_write: receive it when half of this checkpoint is in its temporary file, counted from 1.
    """
    number = signal.Signals[signal_name]
    if chunk is not None:
        from dlrun.data import plan

        plan.CHUNK_NUMBERS = chunk
    if step is not None:
        from dlrun.train.step import TrainStep

        _before_call(TrainStep, "__call__", step, number)
    if before_call is not None:
        _before_file_call(*before_call, number)
    if half_write is not None:
        _write_half(half_write, number)


def _before_call(owner: Any, name: str, call: int, number: int) -> None:
    real, count = getattr(owner, name), 0

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == call:
            os.kill(os.getpid(), number)
        return real(*args, **kwargs)

    setattr(owner, name, wrapper)


def _before_file_call(which: int, call: int, number: int) -> None:
    from dlrun import checkpoint

    real, save, calls = checkpoint.save, 0, 0

    def counted_save(*args: Any, **kwargs: Any) -> None:
        nonlocal save, calls
        save, calls = save + 1, 0
        real(*args, **kwargs)

    class Os:
        def __getattr__(self, name: str) -> Any:
            nonlocal calls
            if name in ("fsync", "link", "replace", "open", "close"):
                calls += 1
                if (save, calls) == (which, call):
                    os.kill(os.getpid(), number)
            return getattr(os, name)

    checkpoint.save = counted_save
    checkpoint.os = Os()  # type: ignore[assignment]


def _write_half(which: int, number: int) -> None:
    from dlrun import checkpoint

    real, count = checkpoint._with_digest, 0

    def wrapper(data: memoryview) -> list[bytes]:
        nonlocal count
        count += 1
        result = b"".join(real(data))
        if count == which:
            path = Path.open

            def half_open(self: Path, *args: Any, **kwargs: Any) -> Any:
                file = path(self, *args, **kwargs)
                if self.suffix == ".tmp":
                    file.write(result[: len(result) // 2])
                    file.flush()
                    os.kill(os.getpid(), number)
                return file

            Path.open = half_open  # type: ignore[method-assign]
        return [result]

    checkpoint._with_digest = wrapper


if __name__ == "__main__":
    _serve()
