"""``dlrun show schedule``: the curve in the terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import Dlrun

from dlrun.registry import SCHEDULES
from dlrun.terminal_plot import draw_curve, with_axes


@pytest.fixture
def dlrun(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Dlrun:
    monkeypatch.chdir(tmp_path)
    return Dlrun(capsys)


def test_a_curve_of_stars() -> None:
    assert draw_curve([0, 1, 2, 3], width=4, height=4, plain=True) == ["   *", "  *", " *", "*"]
    # A jump is a line, and so is what happens within one column.
    assert draw_curve([3, 3, 0, 0], width=4, height=4, plain=True) == ["**", "  *", "  *", "  **"]
    assert draw_curve([0, 3, 0, 3], width=2, height=4, plain=True) == ["**"] * 4
    assert draw_curve([0, 0], width=2, height=2, plain=True) == ["", "**"]
    assert draw_curve([1], width=3, height=1, plain=True) == ["***"]


def test_a_curve_of_dots() -> None:
    assert draw_curve([0, 1, 2, 3], width=2, height=1, plain=False) == ["\u2860\u280a"]
    (line,) = draw_curve([1, 0], width=1, height=1, plain=False)
    assert line == chr(0x2800 + 0x01 + 0x10 + 0x20 + 0x80)


def test_axes() -> None:
    lines = with_axes(["*", " ***"], top=0.5, width=4, below=[([0, 10], "epochs"), ([0, 100], "steps")], plain=True)
    assert lines == [" 0.5 +*", "0.25 + ***", "   0 +----", "      0 10 epochs", "      0 100 steps"]


def test_the_curve_of_a_configuration(dlrun: Dlrun) -> None:
    words = ("schedule.warmup=5ep", "trainer.epochs=30", "optimizer.lr=0.3", "steps=10")
    done = dlrun("show", "schedule", "linear", *words)
    assert (done.code, done.err) == (0, "")
    assert "  final  0.0  a number >= 0 and <= 1" in done.out
    assert "lr over 30 epochs of 10 steps (steps=10)" in done.out
    axes = [line.split() for line in done.out.splitlines() if line.endswith((" epochs", " steps"))]
    assert axes == [["0", "7.5", "15", "22.5", "30", "epochs"], ["0", "75", "150", "225", "300", "steps"]]
    assert "first step 0.005882, highest 0.3 at step 50, last step 0\n" in done.out


def test_the_curve_of_a_recipe_with_growing_batches_and_a_scaled_rate(dlrun: Dlrun) -> None:
    words = ("data.batch_growth=2", "optimizer.lr_scaling=linear", "data.batch_size=512", "optimizer.lr=0.1")
    done = dlrun("show", "schedule", "constant", "config=cifar10_resnet20", "trainer.epochs=4", *words)
    assert "lr over 4 epochs of 100 steps (assumed; steps=N sets it), growing batches: 275 steps in all" in done.out
    assert "highest 0.2 at step" in done.out


def test_no_curve_without_a_metric(dlrun: Dlrun) -> None:
    done = dlrun("show", "schedule", "plateau", "schedule.monitor=val/accuracy", "schedule.mode=max")
    assert "No curve: it depends on val/accuracy." in done.out


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_every_schedule_is_shown(name: str, dlrun: Dlrun) -> None:
    done = dlrun("show", "schedule", name)
    assert done.code == 0
    assert done.out.startswith(f"schedule {name}: ")
    assert "lr over 20 epochs of 100 steps (assumed; steps=N sets it)" in done.out
    assert name == "plateau" or done.out.count("\u2502") >= 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("schedule", "cosin"), "unknown schedule 'cosin'; did you mean cosine"),
        (("schedule", "cosine", "schedule.finl=1"), "unknown key: schedule 'cosine' has no option 'finl'"),
        (("schedule", "cosine", "steps=0"), "steps=0: must be a whole number >= 1"),
        (("schedule", "cosine", "schedule.warmup=40ep"), "schedule.warmup=40ep is 4000 steps, but the whole"),
        (("model", "mlp", "steps=3"), "'steps=3' means nothing here"),
        (("schedule", "cosine", "draws=3"), "'draws=3' means nothing here"),
        (("optimizer", "sgd", "trainer.epochs=3"), "'trainer.epochs=3' means nothing here"),
    ],
)
def test_what_cannot_be_shown(words: tuple[str, ...], message: str, dlrun: Dlrun) -> None:
    done = dlrun("show", *words)
    assert done.code == 2
    assert message in done.err
    assert done.out == ""


def test_a_terminal_without_such_characters_gets_stars(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dlrun", "show", "schedule", "cosine"],
        cwd=tmp_path, capture_output=True, check=True, env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert b"0.05 +" in done.stdout
    assert b"****" in done.stdout
