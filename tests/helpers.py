"""Running dlrun in this process, on experiments that take a fraction of a second."""

from __future__ import annotations

import copy
import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dlrun.cli import main
from dlrun.config import groups, plugins
from dlrun.config.files import RECIPES, recipes
from dlrun.config.groups import _composed_by_hydra
from dlrun.registry import MODELS, REGISTRIES

TINY = (
    "data=synthetic",
    "data.samples=60",
    "data.classes=3",
    "data.batch_size=16",
    "model=mlp",
    "model.hidden=[8]",
    "augment=none",
    "schedule.warmup=0ep",
    "device=cpu",
    "trainer.threads=1",
    "trainer.epochs=1",
    "callbacks.tensorboard=null",
)
"""Overrides that make any experiment a tiny one."""


@dataclass(frozen=True)
class Done:
    """What a command gave."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Both streams."""
        return self.out + self.err


class Dlrun:
    """Runs ``dlrun words...`` in this process: ``dlrun("train", "seed=1")``."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: str) -> Done:
        self._capsys.readouterr()
        code = main(list(words))
        captured = self._capsys.readouterr()
        return Done(code, captured.out, captured.err)


def dlrun_process(*words: str, cwd: Path) -> Done:
    """Runs ``python -m dlrun words...`` in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "dlrun", *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@contextmanager
def forgetting_plugins() -> Iterator[None]:
    """Components and modules that are registered inside are unknown again outside, and their folders not importable."""
    modules, path, folders = set(sys.modules), list(sys.path), set(plugins._FOLDERS)
    tables = {kind: (dict(registry._entries()), dict(registry._live)) for kind, registry in REGISTRIES.items()}
    try:
        yield
    finally:
        sys.path[:] = path
        plugins._FOLDERS.intersection_update(folders)
        for kind, (entries, live) in tables.items():
            added = REGISTRIES[kind]._entries().keys() - entries.keys()
            # A built-in component that was imported inside stays imported: its module would not register again.
            REGISTRIES[kind]._index = entries
            REGISTRIES[kind]._live = {name: f for name, f in REGISTRIES[kind]._live.items() if name not in added}
            for name in live.keys() - REGISTRIES[kind]._live.keys():
                REGISTRIES[kind]._live[name] = live[name]
        for name in set(sys.modules) - modules:
            file = getattr(sys.modules[name], "__file__", None)
            if file is not None and "site-packages" not in file and "pytest-of" in file:
                del sys.modules[name]


@functools.cache
def _hydra_once(overrides: tuple[str, ...]) -> dict[str, Any]:
    return _composed_by_hydra(overrides)


def compose_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Hydra compose the groups of dlrun once for each choice of options: it takes 0.08 s."""

    def compose(overrides: tuple[str, ...]) -> dict[str, Any]:
        if any(word.startswith("hydra.") for word in overrides):
            return _composed_by_hydra(overrides)
        return copy.deepcopy(_hydra_once(overrides))

    monkeypatch.setattr(groups, "_composed_by_hydra", compose)


def write(folder: Path, **files: str) -> None:
    """Write text files: ``write(tmp_path, my_yaml="seed: 1")`` makes ``my.yaml``."""
    for name, text in files.items():
        stem, _, ending = name.rpartition("_")
        (folder / f"{stem}.{ending}").write_text(text, encoding="utf-8")


IMAGE_MODELS = [name for name in MODELS.names() if {"input_shape", "num_classes"}.issuperset(MODELS.entry(name).needs)]
"""The models that can be built for images."""

EXAMPLES: dict[str, dict[str, Any]] = {
    "torchvision": {"architecture": "shufflenet_v2_x0_5"},
    "timm": {"architecture": "test_efficientnet"},
}
"""The options without a default of the models that need some."""


def experiments() -> list[str]:
    """The recipes for ``dlrun train``; those with distributions are for ``dlrun sweep``."""
    return [name for name in recipes() if "\nsweep:\n" not in (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")]
