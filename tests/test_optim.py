"""Schedules against tables."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import config

from dlrun.assembly import build_schedule
from dlrun.errors import UserError
from dlrun.optim.schedules import with_warmup
from dlrun.registry import SCHEDULES
from dlrun.types import Duration


def table(name: str, total: int = 10, per_epoch: int = 2, **options: Any) -> list[float]:
    runtime = {"total_steps": total, "steps_per_epoch": per_epoch}
    schedule = SCHEDULES.build(name, options, **runtime)
    return [schedule(step) for step in range(total)]


def test_constant() -> None:
    assert table("constant") == [1.0] * 10


def test_step() -> None:
    assert table("step", every=Duration(2, "ep"), gamma=0.5) == [1.0] * 4 + [0.5] * 4 + [0.25] * 2
    assert table("step", every=Duration(3, "st"), gamma=0.5) == [1.0] * 3 + [0.5] * 3 + [0.25] * 3 + [0.125]
    with pytest.raises((ValueError, UserError), match="shorter than one step"):
        table("step", every=Duration(0.1, "ep"))


def test_multistep() -> None:
    assert table("multistep", milestones=(0.5, 0.8), gamma=0.5) == [1.0] * 5 + [0.5] * 3 + [0.25] * 2
    assert table("multistep", milestones=(), gamma=0.5) == [1.0] * 10
    assert table("multistep", milestones=(0.0, 1.0), gamma=0.5) == [0.5] * 10
    with pytest.raises((ValueError, UserError), match="must increase"):
        table("multistep", milestones=(0.5, 0.5))


def test_cosine() -> None:
    expected = [1, 0.75, 0.25, 0]
    assert table("cosine", total=4) == pytest.approx(expected)
    assert table("cosine", total=4, final=0.2) == pytest.approx([0.2 + 0.8 * value for value in expected])
    assert table("cosine", total=1) == [1.0]


def test_linear() -> None:
    assert table("linear", total=5) == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    assert table("linear", total=5, final=0.6) == pytest.approx([1, 0.9, 0.8, 0.7, 0.6])
    assert table("linear", total=1) == [1.0]


def test_warmup() -> None:
    schedule = with_warmup(lambda step: 10.0 - step, 4, 0.0)
    assert [schedule(step) for step in range(7)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 10, 9, 8])
    schedule = with_warmup(lambda step: 1.0, 4, 0.5)
    assert [schedule(step) for step in range(5)] == pytest.approx([0.6, 0.7, 0.8, 0.9, 1.0])
    plain = SCHEDULES.build("constant", {}, total_steps=1, steps_per_epoch=1)
    assert with_warmup(plain, 0, 0.3) is plain


@pytest.mark.parametrize("name", SCHEDULES.names())
@given(total=st.integers(1, 60), per_epoch=st.integers(1, 20), warmup=st.integers(0, 59), start=st.floats(0, 1))
def test_every_schedule_is_a_pure_function_between_zero_and_one(
    name: str, total: int, per_epoch: int, warmup: int, start: float
) -> None:
    warmup = min(warmup, total - 1)
    build = SCHEDULES.build(name, {}, total_steps=total - warmup, steps_per_epoch=per_epoch)
    schedule = with_warmup(build, warmup, start)
    forwards = [schedule(step) for step in range(total)]
    backwards = [schedule(step) for step in reversed(range(total))]
    assert forwards == backwards[::-1]
    assert all(0 <= value <= 1 and math.isfinite(value) for value in forwards)
    assert schedule(warmup) == 1 or name == "multistep"
    assert start > 0.99 or all(a < b for a, b in pairwise(forwards[:warmup]))
    # A schedule asked beyond its end stays where it is.
    assert 0 <= schedule(total) <= 1


@pytest.mark.parametrize("name", [name for name in SCHEDULES.names() if name not in ("constant", "step")])
@pytest.mark.parametrize("warmup", ["0ep", "1ep", "3st"])
def test_the_last_step_of_a_training_reaches_the_end_of_its_schedule(name: str, warmup: str) -> None:
    chosen = config(f"schedule={name}", f"schedule.warmup={warmup}", "trainer.epochs=4")
    schedule = build_schedule(chosen, steps_per_epoch=5)
    assert schedule(19) == pytest.approx(0.01 if name == "multistep" else 0, abs=1e-12)
    length = {"0ep": 0, "1ep": 5, "3st": 3}[warmup]
    assert schedule(length) == 1
    assert length == 0 or schedule(length - 1) < 1


def test_a_warmup_as_long_as_the_training_is_refused() -> None:
    with pytest.raises(UserError, match=r"schedule.warmup=2ep is 10 steps, but the whole training has 10"):
        build_schedule(config("schedule.warmup=2ep", "trainer.epochs=2"), steps_per_epoch=5)
    with pytest.raises(UserError, match=r"schedule.warmup: 30s is a wall-clock time"):
        build_schedule(config("schedule.warmup=30s"), steps_per_epoch=5)
