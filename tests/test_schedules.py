"""Schedules against tables, and what holds for every one of them."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from helpers import forgetting_plugins
from hypothesis import given
from hypothesis import strategies as st
from running import config, equal, make_fit

from dlrun import checkpoint
from dlrun.assembly import build_optimizer, build_schedule
from dlrun.config.load import load_config
from dlrun.data.padded_feed import refuse_options_of_images
from dlrun.errors import CheckpointError, ConfigError, UserError
from dlrun.optim.averaging import cycle_ends
from dlrun.optim.scaling import scaled_lr, scaling_text
from dlrun.optim.schedules import Schedule, WarmupShape, Watching, with_warmup
from dlrun.optim.schedules.plateau import plateau
from dlrun.registry import SCHEDULES
from dlrun.timeline import Timeline
from dlrun.train.fit import Callback, Fit
from dlrun.train.loop import train
from dlrun.types import Duration


def build(name: str, total: int = 10, per_epoch: int = 2, **options: Any) -> Schedule:
    timeline = Timeline.even(per_epoch, -(-total // per_epoch))
    schedule: Schedule = SCHEDULES.build(name, options, total_steps=total, steps_per_epoch=per_epoch, timeline=timeline)
    return schedule


def table(name: str, total: int = 10, per_epoch: int = 2, **options: Any) -> list[float]:
    schedule = build(name, total, per_epoch, **options)
    return [schedule(step) for step in range(total)]


# Tables

DOWN = {"name": "linear", "length": Duration(2, "ep"), "final": 0.25}
TABLES: list[tuple[str, int, dict[str, Any], list[float]]] = [
    ("constant", 3, {}, [1, 1, 1]),
    ("step", 10, {"every": Duration(2, "ep"), "gamma": 0.5}, [1] * 4 + [0.5] * 4 + [0.25] * 2),
    ("step", 10, {"every": Duration(3, "st"), "gamma": 0.5}, [1] * 3 + [0.5] * 3 + [0.25] * 3 + [0.125]),
    ("step", 1, {}, [1]),
    ("step", 9, {}, [1] * 3 + [0.1] * 3 + [0.01] * 3),
    ("step", 10, {"every": Duration(1.5, "ep"), "gamma": 0.5}, [1] * 3 + [0.5] * 3 + [0.25] * 3 + [0.125]),
    ("multistep", 10, {"milestones": (0.5, 0.8), "gamma": 0.5}, [1] * 5 + [0.5] * 3 + [0.25] * 2),
    ("multistep", 10, {"milestones": (), "gamma": 0.5}, [1] * 10),
    ("exponential", 5, {"final": 1 / 16}, [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16]),
    ("exponential", 5, {"final": None, "k": 2 * math.log(2)}, [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16]),
    ("inverse_time", 5, {"final": 1 / 9}, [1, 1 / 3, 1 / 5, 1 / 7, 1 / 9]),
    ("inverse_time", 5, {"final": None, "k": 2.0}, [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]),
    ("polynomial", 5, {}, [1, 9 / 16, 1 / 4, 1 / 16, 0]),
    ("polynomial", 3, {"power": 0.5, "final": 0.2}, [1, 0.2 + 0.8 * math.sqrt(0.5), 0.2]),
    ("cosine", 4, {}, [1, 0.75, 0.25, 0]),
    ("cosine", 4, {"final": 0.2}, [1, 0.8, 0.4, 0.2]),
    ("cosine", 1, {}, [1]),
    ("linear", 5, {}, [1, 0.75, 0.5, 0.25, 0]),
    ("linear", 5, {"final": 0.6}, [1, 0.9, 0.8, 0.7, 0.6]),
    ("linear", 1, {}, [1]),
    (
        "cosine_restarts", 12, {"cycles": 2},
        [1, 0.75, 0.25, 0, *(0.5 + 0.5 * math.cos(math.pi * i / 7) for i in range(8))],
    ),
    ("cosine_restarts", 6, {"cycles": 2, "growth": 1.0, "final": 0.5}, [1, 0.75, 0.5] * 2),
    ("cosine_restarts", 2, {"cycles": 5}, [1, 0]),
    ("cosine_restarts", 7, {}, [1, 1, 0, 1, 0.75, 0.25, 0]),
    ("cyclic", 9, {"cycles": 2, "low": 0.2}, [0.2, 0.6, 1, 0.6, 0.2, 0.6, 1, 0.6, 0.2]),
    ("cyclic", 9, {"cycles": 2, "low": 0.2, "shape": "triangular2"}, [0.2, 0.6, 1, 0.6, 0.2, 0.4, 0.6, 0.4, 0.2]),
    (
        "one_cycle", 8, {"peak_at": 0.5, "start": 0.1, "final": 0, "shape": "linear"},
        [0.1, 0.4, 0.7, 1, 0.75, 0.5, 0.25, 0],
    ),
    # The top is at a step, and not at the first one.
    ("one_cycle", 5, {"start": 0.1, "final": 0, "shape": "linear"}, [0.1, 1, 2 / 3, 1 / 3, 0]),
    ("one_cycle", 6, {"peak_at": 0.01, "start": 0.2, "final": 0, "shape": "linear"}, [0.2, 1, 0.75, 0.5, 0.25, 0]),
    ("one_cycle", 2, {}, [1, 4e-6]),
    ("trapezoid", 8, {"decay": 0.5}, [1, 1, 1, 1, 0.75, 0.5, 0.25, 0]),
    (
        "trapezoid", 6, {"decay": 0.6667, "shape": "cosine", "final": 0.2},
        [1, 1, 0.6 + 0.2 * math.sqrt(2), 0.6, 0.6 - 0.2 * math.sqrt(2), 0.2],
    ),
    ("trapezoid", 6, {"decay": 0.6667, "shape": "sqrt"}, [1, 1, 0.5, 1 - math.sqrt(0.5), 1 - math.sqrt(0.75), 0]),
    ("trapezoid", 5, {"decay": 1.0}, [1, 0.75, 0.5, 0.25, 0]),
    ("plateau", 3, {}, [1, 1, 1]),
    ("chain", 6, {}, [1, 1, 1, 1, 0.5, 0]),
    ("chain", 7, {"parts": (DOWN, {"name": "constant", "scale": 0.1})}, [1, 0.75, 0.5, 0.25, 0.1, 0.1, 0.1]),
    ("chain", 8, {"parts": ({**DOWN, "length": 0.5}, {"name": "chain"})}, [1, 0.75, 0.5, 0.25, 1, 1, 1, 0]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "total", "options", "expected"), TABLES)
def test_values(name: str, total: int, options: dict[str, Any], expected: list[float]) -> None:
    assert table(name, total, **options) == pytest.approx(expected, abs=1e-12)


def test_every_schedule_has_a_table() -> None:
    assert {name for name, *_ in TABLES} == set(SCHEDULES.names())


@pytest.mark.parametrize("shape", ["cosine", "linear"])
@pytest.mark.parametrize(("total", "peak"), [(10, 0.3), (36, 0.25), (100, 0.5)])
def test_one_cycle_is_that_of_torch(shape: str, total: int, peak: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.0, total_steps=total, pct_start=peak, anneal_strategy="cos" if shape == "cosine" else "linear",
        cycle_momentum=False,
    )  # fmt: skip
    expected = []
    for _ in range(total):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        if len(expected) < total:
            scheduler.step()
    assert table("one_cycle", total, peak_at=peak, shape=shape) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("step", {"every": Duration(0.1, "ep")}, "every=0.1ep is shorter than one step"),
        ("step", {"every": Duration(5, "min")}, "every=5min is a wall-clock time"),
        ("multistep", {"milestones": (0.5, 0.5)}, "must increase"),
        ("one_cycle", {"momentum": (0.95, 0.85)}, r"must not be above the second, .*set momentum=\[0.85, 0.95\]"),
        ("exponential", {"k": 1.0}, "either final or k"),
        ("inverse_time", {"final": None}, "either final or k"),
        ("chain", {"parts": ()}, "parts is empty"),
        ("chain", {"parts": ({"name": "constant"}, {"name": "cosine"})}, r"part 1 \(constant\) needs a length"),
        ("chain", {"parts": ({"name": "cosine", "length": 0.5},)}, r"the last part \(cosine\) takes what is left"),
        ("chain", {"parts": ({**DOWN, "length": Duration(5, "ep")}, {"name": "cosine"})}, r"part 2 .* is left"),
        ("chain", {"parts": ({"name": "linear", "length": 0.01}, {"name": "cosine"})}, r"part 1 .* from 0 to 0"),
        ("chain", {"parts": ({**DOWN, "length": Duration(5, "h")}, {"name": "cosine"})}, "part 1: length: 5h"),
        ("chain", {"parts": ({"name": "plateau", "length": 0.5}, {"name": "cosine"})}, r"\(plateau\) watches a metric"),
    ],
)  # fmt: skip
def test_what_a_schedule_refuses(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(name, **options)


# Warmup


@pytest.mark.parametrize(
    ("shape", "start", "expected"),
    [
        ("linear", 0.0, [0.2, 0.4, 0.6, 0.8]),
        ("linear", 0.5, [0.6, 0.7, 0.8, 0.9]),
        ("cosine", 0.0, [0.5 - 0.5 * math.cos(math.pi * i / 5) for i in range(1, 5)]),
        ("exponential", 1e-5, [1e-4, 1e-3, 1e-2, 1e-1]),
        ("constant", 0.1, [0.1] * 4),
    ],
)
def test_warmup(shape: WarmupShape, start: float, expected: list[float]) -> None:
    for first in (1.0, 0.04):
        schedule = with_warmup(lambda step, first=first: first * (1 - step / 10), 4, start, shape)  # type: ignore[misc]
        found = [schedule(step) / first for step in range(7)]
        assert found == pytest.approx([*expected, 1, 0.9, 0.8])


@pytest.mark.parametrize("shape", get_args(WarmupShape))
@pytest.mark.parametrize("name", SCHEDULES.names())
@given(total=st.integers(4, 60), warmup=st.integers(1, 20), start=st.floats(0.01, 1))
def test_a_warmup_rises_to_where_its_schedule_begins(
    name: str, shape: WarmupShape, total: int, warmup: int, start: float
) -> None:
    plain = build(name, total)
    schedule = with_warmup(plain, warmup, start, shape)
    values = [schedule(step) for step in range(warmup + 1)]
    assert values[-1] == plain(0)
    assert all(a <= b + 1e-12 for a, b in pairwise(values))
    rises = [b - a for a, b in pairwise([start * plain(0), *values])]
    # Over the border, too, it is a notch.
    assert shape not in ("linear", "cosine") or max(rises) <= (plain(0) * (1 - start)) * 1.6 / warmup + 1e-9
    # So a warmup makes no end of a cycle.
    cycles = cycle_ends([plain(step) for step in range(total)])
    assert cycle_ends([schedule(step) for step in range(warmup + total)]) == tuple(end + warmup for end in cycles)


@pytest.mark.parametrize("words", [("schedule=one_cycle", "schedule.start=0"), ("schedule=cyclic", "schedule.low=0")])
def test_a_warmup_in_front_of_a_schedule_that_begins_at_zero_is_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"begins at a rate of 0.*set schedule.warmup=0ep"):
        build_schedule(config(*words, "schedule.warmup=3st"), Timeline.even(5, 2))


def test_what_would_never_happen_in_a_short_training_is_told(caplog: pytest.LogCaptureFixture) -> None:
    build_schedule(config("schedule=step", "schedule.every=30ep", "trainer.epochs=2"), Timeline.even(5, 2))
    assert "schedule.every=30ep is longer than the training (10 steps): the rate never drops" in caplog.text
    caplog.clear()
    build_schedule(config("data.batch_growth=2", "trainer.epochs=1"), Timeline.even(5, 1))
    assert "data.batch_growth=2: no batch grows in 1 epochs" in caplog.text
    caplog.clear()
    build_schedule(config("schedule=step", "data.batch_growth=2", "trainer.epochs=4"), Timeline.even(5, 4))
    assert caplog.text == ""


@pytest.mark.parametrize("milestone", [0.0, 1.0])
def test_a_drop_at_an_end_of_the_training_is_refused(milestone: float) -> None:
    with pytest.raises(ConfigError, match=r"schedule\.milestones"):
        config("schedule=multistep", f"schedule.milestones=[{milestone}]")


def test_without_steps_a_warmup_is_nothing() -> None:
    plain = build("constant", 1)
    assert with_warmup(plain, 0, 0.3) is plain


@pytest.mark.parametrize("shape", ["exponential", "constant"])
def test_a_warmup_that_would_stay_at_zero_is_refused(shape: str) -> None:
    chosen = config(f"schedule.warmup_shape={shape}", "schedule.warmup=3st")
    with pytest.raises(UserError, match=f"warmup_start=0 has no {shape} warmup: set schedule.warmup_start above 0"):
        build_schedule(chosen, Timeline.even(5, 2))


def test_a_warmup_as_long_as_the_training_is_refused() -> None:
    with pytest.raises(UserError, match=r"schedule.warmup=2ep is 10 steps, but the whole training has 10"):
        build_schedule(config("schedule.warmup=2ep", "trainer.epochs=2"), Timeline.even(5, 2))
    with pytest.raises(UserError, match=r"schedule.warmup: 30s is a wall-clock time"):
        build_schedule(config("schedule.warmup=30s"), Timeline.even(5, 2))


# What holds for every schedule

ENDS = {
    "constant": 1.0,
    "step": 0.01,
    "multistep": 0.01,
    "exponential": 0.01,
    "inverse_time": 0.01,
    "polynomial": 0.0,
    "cosine": 0.0,
    "linear": 0.0,
    "trapezoid": 0.0,
    "cosine_restarts": 0.0,
    "cyclic": 0.1,
    "one_cycle": 4e-6,
    "plateau": 1.0,
    "chain": 0.0,
}
"""Factor at the last step with the default options."""


def test_every_schedule_says_where_it_ends() -> None:
    assert set(ENDS) == set(SCHEDULES.names())


@pytest.mark.parametrize("shape", ["linear", "cosine"])
@pytest.mark.parametrize("name", SCHEDULES.names())
@given(total=st.integers(1, 60), per_epoch=st.integers(1, 20), warmup=st.integers(0, 59), start=st.floats(0, 1))
def test_every_schedule_is_a_pure_function_between_zero_and_one(
    shape: WarmupShape, name: str, total: int, per_epoch: int, warmup: int, start: float
) -> None:
    if name == "chain":
        total = max(total, 2)
    warmup = min(warmup, total - (2 if name == "chain" else 1))
    plain = build(name, total - warmup, per_epoch)
    schedule = with_warmup(plain, warmup, start, shape)
    forwards = [schedule(step) for step in range(total)]
    backwards = [schedule(step) for step in reversed(range(total))]
    assert forwards == backwards[::-1]
    assert all(0 <= value <= 1 and math.isfinite(value) for value in forwards)
    assert start > 0.99 or all(a < b for a, b in pairwise(forwards[:warmup]))
    assert forwards[warmup:] == [plain(step) for step in range(total - warmup)]
    # A schedule asked beyond its end stays where it is.
    assert 0 <= schedule(total) <= 1
    # The end is exactly at the last step, and not before.
    end = ENDS[name]
    if end is not None and total - warmup >= 8:
        assert forwards[-1] == pytest.approx(end, abs=1e-12)


def test_periods_end_low_and_begin_high() -> None:
    restarts = with_warmup(build("cosine_restarts", 70), 10, 0.0)
    assert [restarts(end) for end in (19, 39, 79)] == pytest.approx([0, 0, 0], abs=1e-12)
    assert [restarts(step) for step in (10, 20, 40)] == [1, 1, 1]


@pytest.mark.parametrize("name", [name for name in SCHEDULES.names() if ENDS[name] not in (None, 1.0)])
@pytest.mark.parametrize("warmup", ["0ep", "1ep", "3st"])
def test_the_last_step_of_a_training_reaches_the_end_of_its_schedule(name: str, warmup: str) -> None:
    chosen = config(f"schedule={name}", f"schedule.warmup={warmup}", "trainer.epochs=4")
    schedule = build_schedule(chosen, Timeline.even(5, 4))
    assert schedule(19) == pytest.approx(ENDS[name], abs=1e-12)
    length = {"0ep": 0, "1ep": 5, "3st": 3}[warmup]
    assert schedule(length) == (0.1 if name == "cyclic" else 0.04 if name == "one_cycle" else 1)


# Epochs of several lengths


def test_a_timeline_counts_in_true_epochs() -> None:
    timeline = Timeline((10, 10, 4, 4))
    assert (timeline.total, timeline.steps(1), timeline.steps(3), timeline.steps(9)) == (28, 10, 4, 4)
    assert [timeline.start(epoch) for epoch in range(6)] == [0, 10, 20, 24, 28, 32]
    for text, step in [("1ep", 10), ("2.5ep", 22), ("4ep", 28), ("5ep", 32), ("7st", 7), ("0ep", 0)]:
        assert timeline.at(Duration.parse(text)) == step
    assert [float(timeline.epoch(step)) for step in (0, 5, 20, 22, 28, 30)] == [0, 0.5, 2, 2.5, 4, 4.5]
    later = timeline.after(15)
    assert (later.total, later.at(Duration(1, "ep")), later.start(2)) == (13, 7, 5)
    assert timeline.multiples(Duration(1, "ep")) == [10, 20, 24, 28]
    assert timeline.multiples(Duration(9, "st")) == [9, 18, 27]
    beat = timeline.beat(Duration(2, "ep"))
    assert [step for step in range(1, 29) if beat(step)] == [20, 28]
    with pytest.raises(ValueError, match="every epoch needs a step"):
        Timeline((3, 0))


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    origin=st.integers(0, 5),
    value=st.floats(0.01, 4).map(lambda x: round(x, 2)),
)
def test_a_timeline_is_monotone_and_inverse(lengths: list[int], origin: int, value: float) -> None:
    timeline = Timeline(tuple(lengths)).after(min(origin, sum(lengths) - 1))
    assert [timeline.start(epoch) for epoch in range(len(lengths))] == [
        sum(lengths[:epoch]) - timeline.origin for epoch in range(len(lengths))
    ]
    positions = [timeline.epoch(step) for step in range(timeline.total + 4)]
    assert all(a < b for a, b in pairwise(positions))
    step = timeline.at(Duration(value, "ep"))
    assert abs(timeline.epoch(step) - timeline.epoch(0) - round(value * 100) / 100) <= 0.5 / min(lengths) + 1e-9
    beat = timeline.beat(Duration(value, "ep"))
    assert timeline.total >= sum(map(beat, range(1, timeline.total + 1)))
    if value * min(lengths) >= 1:
        assert [s for s in range(1, timeline.total + 1) if beat(s)] == timeline.multiples(Duration(value, "ep"))


def test_a_plugin_that_counts_in_equal_epochs_is_refused_where_they_differ() -> None:
    with forgetting_plugins():

        @SCHEDULES.register
        def halved(steps_per_epoch: int) -> Schedule:
            """Half in the second epoch."""
            return lambda step: 1.0 if step < steps_per_epoch else 0.5

        chosen = config("schedule=halved")
        assert build_schedule(chosen, Timeline.even(3, 2))(3) == 0.5
        with pytest.raises(UserError, match=r"'halved' counts in epochs of equal length, but .* have 4 to 2 steps"):
            build_schedule(chosen, Timeline((4, 2)))


# Chains in a configuration


def test_the_parts_of_a_chain_are_checked_like_any_component() -> None:
    with pytest.raises(ConfigError) as error:
        config(
            "schedule=chain",
            "schedule.parts=[{name: cosin}, {name: linear, length: 2, fnal: 0}, {length: 3}, {name: step, every: 2}]",
        )
    text = str(error.value)
    assert "schedule.parts.0.name: unknown schedule 'cosin'; did you mean cosine" in text
    assert "schedule.parts.1.length: must be a duration such as 5ep, 500st or 30min or a number >= 0 and <= 1" in text
    assert "schedule.parts.1.fnal: unknown key: schedule 'linear' has no option 'fnal'; did you mean final?" in text
    assert "schedule.parts.2: must be {name: ..., option: ...} with the name of a schedule" in text
    assert "schedule.parts.3.every: must be" in text
    with pytest.raises(ConfigError, match=r"schedule.parts: must be a list of schedules, each \{name: ...,"):
        config("schedule=chain", "schedule.parts=cosine")


def test_a_chain_is_saved_with_all_its_options_and_read_again() -> None:
    chosen = config(
        "schedule=chain",
        "schedule.parts=[{name: step, length: 5ep, every: 2ep}, {name: cosine, scale: 0.5}]",
    )
    assert chosen.to_tree()["schedule"]["parts"] == [
        {"name": "step", "length": "5ep", "scale": 1.0, "every": "2ep", "gamma": 0.1},
        {"name": "cosine", "length": None, "scale": 0.5, "final": 0.0},
    ]


# Plateau


def observed(schedule: Watching, values: list[float]) -> list[float]:
    factors = []
    for step, value in enumerate(values, 1):
        schedule.observe(step, value)
        factors.append(schedule(step))
    return factors


NAN = math.nan


@pytest.mark.parametrize(
    ("options", "values", "expected"),
    [
        ({"patience": 2}, [3, 2, 2, 2, 1, 1, 1, 1, 1], [1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001]),
        ({"patience": 1, "factor": 0.5}, [NAN, 1, NAN, 0.5, NAN], [0.5, 0.5, 0.25, 0.25, 0.125]),
        ({"patience": 1, "mode": "max"}, [1, 2, 1, 3], [1, 1, 0.1, 0.1]),
        ({"patience": 1, "min_delta": 0.5}, [2, 1.6, 1.4, 1.0], [1, 0.1, 0.1, 0.01]),
        ({"patience": 1, "cooldown": 2}, [1] * 8, [1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.001]),
        ({"patience": 1, "low": 0.05}, [1] * 4, [1, 0.1, 0.05, 0.05]),
        ({"patience": 2}, [-1, -2, -2, -2], [1, 1, 1, 0.1]),
    ],
)
def test_plateau(options: dict[str, Any], values: list[float], expected: list[float]) -> None:
    assert observed(plateau(**options), values) == pytest.approx(expected)


@given(st.lists(st.sampled_from([1.0, 2.0, 3.0, NAN]), max_size=30), st.integers(0, 30))
def test_plateau_goes_on_from_its_state(values: list[float], cut: int) -> None:
    whole = plateau(patience=2, cooldown=1, factor=0.5)
    before, after = plateau(patience=2, cooldown=1, factor=0.5), plateau(patience=2, cooldown=1, factor=0.5)
    expected = observed(whole, values)
    observed(before, values[:cut])
    after.load_state_dict(before.state_dict())
    assert observed(after, values[cut:]) == expected[cut:]


def test_what_is_measured_during_the_warmup_does_not_count() -> None:
    schedule = with_warmup(plateau(patience=1), 3, 0.0)
    assert isinstance(schedule, Watching)
    assert schedule.monitor == "val/loss"
    assert observed(schedule, [1, 1, 1]) == [0.5, 0.75, 1]
    assert observed(with_warmup(plateau(patience=1), 3, 0.0), [1] * 5) == pytest.approx([0.5, 0.75, 1, 1, 0.1])  # type: ignore[arg-type]


def test_plateau_checks_its_monitor(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"schedule.monitor=val/acuracy: this run has no such metric; did you mean"):
        make_fit(tmp_path, "schedule=plateau", "schedule.monitor=val/acuracy", "schedule.mode=max")
    with pytest.raises(UserError, match=r"schedule.monitor=val/loss: .*data.val_fraction is 0"):
        make_fit(tmp_path, "schedule=plateau", "data.val_fraction=0", callbacks={})
    with pytest.raises(ConfigError, match=r"schedule.monitor: is now val/accuracy, but mode is still the min of"):
        config("schedule=plateau", "schedule.monitor=val/accuracy")


def test_early_stopping_needs_more_patience_than_plateau() -> None:
    words = "schedule=plateau", "schedule.patience=3"
    with pytest.raises(UserError, match=r"early_stopping.patience=3 stops the run before schedule.patience=3 lowers"):
        build_schedule(config(*words, "callbacks.early_stopping={patience: 3}"), Timeline.even(5, 2))
    for fine in ("{patience: 4}", "{patience: 3, monitor: val/accuracy, mode: max}"):
        build_schedule(config(*words, f"callbacks.early_stopping={fine}"), Timeline.even(5, 2))


class _Rates(Callback):
    def __init__(self, stop_at: int | None = None) -> None:
        self.rates: list[float] = []
        self.stop_at = stop_at

    def step_end(self, fit: Fit) -> None:
        self.rates.append(fit.lr)
        if fit.state.step == self.stop_at:
            fit.state.request_stop("signal", "test")

    def checkpoint(self, fit: Fit) -> None:
        checkpoint.save(fit.run.checkpoints / "last.pt", fit.payload())
        fit.state.saved_step = fit.state.step


WORDS = (
    *("data.samples=100", "trainer.epochs=4", "trainer.eval_every=2st", "optimizer=adam", "model.dropout=0.2"),
    *("schedule.warmup=3st", "data.val_fraction=0.2"),
)
OPTIONS = {
    "plateau": ("schedule.patience=1", "schedule.factor=0.5", "schedule.cooldown=1", "schedule.min_delta=0.1"),
    "step": ("schedule.every=1ep",),
}


GROWING = ("data.batch_growth=2", "data.batch_size=8")


@pytest.mark.parametrize(
    ("name", "growth"),
    [
        *((name, ()) for name in SCHEDULES.names()),
        *((name, GROWING) for name in ("constant", "step", "chain", "plateau")),
    ],
)
def test_resuming_in_the_middle_is_exact(tmp_path: Path, name: str, growth: tuple[str, ...]) -> None:
    words = (*WORDS, *growth, f"schedule={name}", *OPTIONS.get(name, ()))
    whole = _Rates()
    fit = make_fit(tmp_path / "whole", *words, callbacks={"rates": whole})
    train(fit)
    assert len(whole.rates) == fit.total_steps == fit.state.step
    if name == "plateau":
        assert min(whole.rates[3:]) < max(whole.rates[3:])
    stop = len(whole.rates) * 2 // 3 - 1
    first, second = _Rates(stop), _Rates()
    train(make_fit(tmp_path / "cut", *words, callbacks={"rates": first}))
    (saved,) = (tmp_path / "cut").glob("*/checkpoints/last.pt")
    again = make_fit(tmp_path / "again", *words, callbacks={"rates": second})
    again.resume(checkpoint.load(saved))
    assert 0 < again.state.batch < again.steps_per_epoch
    train(again)
    assert first.rates + second.rates == whole.rates
    assert equal(again.model.state_dict(), fit.model.state_dict())
    assert equal(again.optimizer.state_dict(), fit.optimizer.state_dict())


# A growing batch


def test_the_batch_grows_at_borders_of_epochs(tmp_path: Path) -> None:
    words = ("data.samples=100", "data.batch_size=8", "data.batch_growth=2", "trainer.epochs=4", "trainer.log_every=3")
    sizes: list[tuple[int, int]] = []

    class Watch(Callback):
        def fit_start(self, fit: Fit) -> None:
            self.seen = 0

        def step_end(self, fit: Fit) -> None:
            sizes.append((fit.state.epoch, fit.state.samples - self.seen))
            self.seen = fit.state.samples

    fit = make_fit(tmp_path, *words, callbacks={"watch": Watch()})
    assert fit.timeline.epochs == (9, 9, 5, 3)  # 72 samples
    assert fit.total_steps == 26
    train(fit)
    assert sizes == [*[(0, 8)] * 9, *[(1, 8)] * 9, *[(2, 16)] * 4, (2, 8), *[(3, 32)] * 2, (3, 8)]
    assert fit.state.samples == 4 * 72


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("data.batch_growth_max=12",), (9, 9, 6, 6)),
        (("data.drop_last=true",), (9, 9, 4, 2)),
        (("data.batch_growth_at=[0.2,0.3]",), (9, 3, 3, 3)),  # both at the border that is nearest
        (("data.batch_growth_at=[0.99]",), (9, 9, 9, 9)),  # at the end
        (("data.batch_growth=1.5",), (9, 9, 6, 4)),
        (("trainer.limit_batches=2",), (2, 2, 2, 2)),
        (("data.resident=false", "data.workers=0"), (9, 9, 5, 3)),
    ],
)
def test_steps_of_each_epoch(tmp_path: Path, words: tuple[str, ...], expected: tuple[int, ...]) -> None:
    fit = make_fit(
        tmp_path,
        "data.samples=100",
        "data.batch_size=8",
        "data.batch_growth=2",
        "trainer.epochs=4",
        *words,
        callbacks={},
    )
    assert fit.timeline.epochs == expected
    for epoch, steps in enumerate(expected):
        assert len(list(fit.train.epoch(epoch))) == steps
        # Entered in the middle, it is the rest of the same epoch.
        for a, b in zip(list(fit.train.epoch(epoch))[1:], fit.train.epoch(epoch, 1), strict=True):
            assert equal(a, b)


def test_overfitting_on_purpose_keeps_its_samples(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("data: {name: synthetic, batch_growth: 2}\n")
    assert load_config(str(tmp_path / "my.yaml"), [])[0].data.batch_growth == 2
    assert load_config(str(tmp_path / "my.yaml"), ["debug=overfit"])[0].data.batch_growth is None


def test_workers_read_the_same_growing_batches(tmp_path: Path) -> None:
    words = ("data.samples=100", "data.batch_size=8", "data.batch_growth=2", "trainer.epochs=4")
    one = make_fit(tmp_path / "1", *words, callbacks={}).train
    two = make_fit(tmp_path / "2", *words, "data.resident=false", "data.workers=1", callbacks={}).train
    try:
        for epoch in range(4):
            assert equal(list(one.epoch(epoch)), list(two.epoch(epoch)))
    finally:
        two.close()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("data.batch_growth=10",),
            "data.batch_growth=10 reaches a batch of 1600, .*set data.batch_growth_max=144 or less",
        ),
        (("data.batch_growth=2", "data.batch_growth_at=[0.5,0.5]"), "data.batch_growth_at must increase"),
        (("data.batch_growth=2", "data.batch_growth_max=8"), "data.batch_growth_max=8 is less than data.batch_size=16"),
    ],
)
def test_a_batch_that_cannot_grow_so(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_fit(tmp_path, "trainer.epochs=4", *words, callbacks={})


def test_a_batch_of_text_does_not_grow() -> None:
    chosen = config("data=pairs", "task=seq2seq", "model=seq2seq", "data.normalize=none", "data.batch_growth=2")
    with pytest.raises(UserError, match=r"data.batch_growth=2 is for images: a batch of text is a number of streams"):
        refuse_options_of_images(chosen)


def test_a_growing_training_cannot_become_longer_afterwards(tmp_path: Path) -> None:
    words = ("data.samples=100", "data.batch_size=8", "data.batch_growth=2")
    recorder = _Rates(stop_at=20)
    train(make_fit(tmp_path, *words, "trainer.epochs=4", callbacks={"rates": recorder}))
    (saved,) = tmp_path.glob("*/checkpoints/last.pt")
    longer = make_fit(tmp_path / "longer", *words, "trainer.epochs=8", callbacks={"rates": _Rates()})
    with pytest.raises(CheckpointError, match=r"trainer.epochs was 4, now 8: with data.batch_growth"):
        longer.resume(checkpoint.load(saved))


# Scaling with the batch


@pytest.mark.parametrize(
    ("words", "expected", "text"),
    [
        ((), 0.1, ""),
        (("optimizer.lr_scaling=linear",), 0.2, "0.1 x 512/256 = 0.2"),
        (("optimizer.lr_scaling=sqrt", "optimizer.lr_reference_batch=128"), 0.2, "0.1 x sqrt(512/128) = 0.2"),
        (("optimizer.lr_scaling=linear", "trainer.accumulate=4", "data.batch_growth=2"), 0.2, "0.1 x 512/256 = 0.2"),
    ],
)
def test_the_rate_scales_with_the_batch(words: tuple[str, ...], expected: float, text: str) -> None:
    chosen = config("data.batch_size=512", "optimizer.lr=0.1", *words)
    assert scaled_lr(chosen) == pytest.approx(expected)
    assert scaling_text(chosen) == text
    model = torch.nn.Linear(3, 2)
    groups = build_optimizer(chosen, model).param_groups
    assert [group["lr"] for group in groups] == pytest.approx([expected] * 2)


def test_both_rates_of_muon_scale() -> None:
    words = ("optimizer=muon", "optimizer.lr=0.02", "optimizer.adamw_lr=1e-3", "optimizer.lr_reference_batch=128")
    chosen = config("data.batch_size=512", *words, "optimizer.lr_scaling=sqrt")
    assert scaling_text(chosen) == "0.02 x sqrt(512/128) = 0.04, adamw_lr 0.001 x sqrt(512/128) = 0.002"
    net = torch.nn.Sequential(*(torch.nn.Linear(3, 3) for _ in range(3)))
    groups = build_optimizer(chosen, net).param_groups
    assert {round(group["lr"], 9) for group in groups} == {0.04, 0.002}


def test_factors_multiply_the_scaled_rate(tmp_path: Path) -> None:
    words = ("optimizer.lr=0.1", "optimizer.lr_scaling=linear", "optimizer.lr_reference_batch=8", "schedule=constant")
    fit = make_fit(tmp_path, *words, "optimizer.lr_factors={head: 3, body: 0.5}", callbacks={})
    assert {round(rate, 6) for rate in fit.base_lrs} == {0.6, 0.1}
    train(fit)
    assert fit.lr == pytest.approx(0.2)


def test_recipes_take_a_batch_and_a_scaling() -> None:
    chosen, _ = load_config("digits", ["optimizer.lr_scaling=sqrt", "data.batch_growth=2"])
    assert chosen.optimizer.lr_reference_batch == 256
    assert chosen.data.batch_growth_at == (0.5, 0.75)
