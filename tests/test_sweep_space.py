"""The search space: notation, positions, grids, conditions."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dlrun.sweep.distributions import Choice, Numeric
from dlrun.sweep.notation import looks_like_axis, parse_axis
from dlrun.sweep.plan import plan
from dlrun.sweep.scalars import literal, written
from dlrun.sweep.space import Axis, Condition, draw, every, grid, in_order, wide_without_log


@pytest.mark.parametrize(
    ("text", "written", "at"),
    [
        ("log(1e-6, 1e-1)", "log(1e-06, 0.1)", {0: 1e-6, 0.2: 1e-5, 1: 0.1}),
        ("10**uniform(-6, -1)", "log(1e-06, 0.1)", {0.5: 0.000316228}),
        ("2**uniform(0, 3)", "log(1, 8)", {1 / 3: 2.0}),
        ("uniform(0, .5)", "uniform(0, 0.5)", {0: 0.0, 0.5: 0.25, 1: 0.5}),
        ("uniform(-1, 1)", "uniform(-1, 1)", {0.25: -0.5}),
        ("int(1, 4)", "int(1, 4)", {0: 1, 0.24: 1, 0.26: 2, 0.99: 4, 1: 4}),
        ("int_log(16, 1024)", "int_log(16, 1024)", {0: 16, 1: 1024}),
        ("logit(0.5, 0.999)", "logit(0.5, 0.999)", {0: 0.5, 0.5: 0.969332, 1: 0.999}),
        ("choice(sgd, adamw)", "choice(sgd, adamw)", {0: "sgd", 0.49: "sgd", 0.5: "adamw", 1: "adamw"}),
        ("choice([64, 32], [8])", "choice([64, 32], [8])", {0: [64, 32], 1: [8]}),
        ("choice(true, null, 'a, b', 1e-3)", "choice(true, null, 'a, b', 0.001)", {0: True, 0.3: None, 0.6: "a, b"}),
    ],
)
def test_notation(text: str, written: str, at: dict[float, Any]) -> None:
    axis = parse_axis("key", text)
    assert str(axis) == written
    assert parse_axis("key", written) == axis
    assert looks_like_axis(text)
    for position, value in at.items():
        found = axis.distribution.at(position)
        assert found == (pytest.approx(value) if isinstance(value, float) else value)
        assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("logg(1, 2)", "there is no logg(); did you mean log"),
        ("log(0, 1)", "a logarithm needs ends > 0, got 0"),
        ("uniform(1)", "uniform() takes two numbers, got 1"),
        ("uniform(2, 1)", "the first end must be less than the second, got 2 and 1"),
        ("uniform(1, 1)", "less than the second"),
        ("uniform(0, .inf)", "the ends must be finite numbers"),
        ("int(1.5, 3)", "the ends must be whole numbers, got 1.5 and 3"),
        ("log(a, b)", "'a' is not a number"),
        ("log(true, 2)", "'true' is not a number"),
        ("choice(a)", "a choice needs two values or more"),
        ("choice(1, 1.0)", "the values must differ"),
        ("logit(0.5, 1)", "the ends must lie between 0 and 1, got 0.5 and 1"),
        ("1**uniform(0, 1)", "the base must be greater than 1, got 1"),
        ("10**uniform(0, 999)", "reaches beyond all numbers"),
        ("log(1, 2) when optimizer", "write `when optimizer=sgd`"),
        ("log(1, 2) when optimizer in []", "the list is empty"),
        ("log 1 2", "is no distribution"),
        ("choice(010, 011)", "'010': a number does not begin with 0; for a text put it in quotes"),
        ("int(1, 4) when seed in [01, 2]", "'01': a number does not begin with 0"),
    ],
)
def test_notation_errors(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_axis("key", text)
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["resnet", "5ep", "~/data", "torchvision/resnet18", "a (b)", "f(x)", "", "log"])
def test_ordinary_values_are_no_axes(text: str) -> None:
    assert not looks_like_axis(text)


@pytest.mark.parametrize("text", ["list(a)", "print(x)", "catalog(1)", "choose(a, b)", "list(a, b)", "integral(x, 1)"])
def test_calls_of_other_functions_are_no_axes(text: str) -> None:
    assert not looks_like_axis(text)


@pytest.mark.parametrize("text", ["lg(1e-5, 1)", "unifrm(0, 1)", "choise(a, b)", "choices(1, 2, 3)", "logitt(.5, .9)"])
def test_a_misspelt_function_is_still_an_axis(text: str) -> None:
    assert looks_like_axis(text)
    with pytest.raises(ValueError, match="did you mean"):
        parse_axis("k", text)


def test_numbers_and_texts_are_what_they_are_at_the_top() -> None:
    assert parse_axis("k", "choice([1e-3, 2E3], [1e-2, -.5e1])").distribution == Choice(([0.001, 2000.0], [0.01, -5.0]))
    when = parse_axis("k", "choice(a, b) when optimizer.lr in [1e-2, 1e-1]").when
    assert when == Condition("optimizer.lr", (0.01, 0.1))
    assert parse_axis("k", "choice('010', a010, 0.10, 0)").distribution == Choice(("010", "a010", 0.1, 0))


NUMERIC = st.one_of(
    st.builds(lambda a, w: Numeric("linear", a, a + w), st.floats(-1e3, 1e3), st.floats(1e-2, 1e3, exclude_min=True)),
    st.builds(lambda a, w: Numeric("log", 10**a, 10 ** (a + w)), st.floats(-8, 3), st.floats(0.1, 6)),
    st.builds(lambda a, w: Numeric("logit", a, a + w), st.floats(0.01, 0.5), st.floats(0.05, 0.49)),
    st.builds(lambda a, w: Numeric("linear", a, a + w, True), st.integers(-50, 50), st.integers(1, 100)),
    st.builds(lambda a, w: Numeric("log", a, a + w, True), st.integers(1, 50), st.integers(1, 1000)),
)


@given(NUMERIC, st.floats(0, 1))
def test_values_lie_inside_and_positions_come_back(spread: Numeric, position: float) -> None:
    value = spread.at(position)
    assert spread.low <= value <= spread.high
    assert isinstance(value, int) == spread.integer
    back = spread.at(spread.position(value))
    assert back == pytest.approx(value, rel=1e-5, abs=1e-4 * (spread.high - spread.low))
    assert spread.at(1.0) == spread.high
    assert spread.at(0.0) == spread.low


@given(NUMERIC, st.integers(1, 7))
def test_grids_reach_both_ends(spread: Numeric, points: int) -> None:
    values = spread.grid(points)
    assert list(values) == sorted(set(values))
    assert len(values) <= points
    if points > 1:
        assert values[0] == spread.low
        assert values[-1] == spread.high


@given(NUMERIC, st.floats(-0.5, 0.8), st.floats(0.1, 0.7))
def test_parts_are_intervals(spread: Numeric, begin: float, width: float) -> None:
    part = spread.between(begin, begin + width)
    assert part.low < part.high
    assert (part.scale, part.integer) == (spread.scale, spread.integer)


@given(NUMERIC, st.floats(0, 0.9), st.floats(0.01, 1))
def test_parts_of_an_interval_lie_in_it_and_are_no_larger_than_needed(
    spread: Numeric, begin: float, width: float
) -> None:
    end = min(begin + width, 1.0)
    part = spread.between(begin, end)
    assert spread.low <= part.low < part.high <= spread.high
    if not spread.integer:
        assert spread.position(part.low) == pytest.approx(begin, abs=0.12 * (end - begin) + 1e-6)
        assert spread.position(part.high) == pytest.approx(end, abs=0.12 * (end - begin) + 1e-6)


@pytest.mark.parametrize(
    ("whole", "begin", "end", "part"),
    [
        ("uniform(1000, 1001)", 0.3, 0.6, "uniform(1000.3, 1000.6)"),
        ("uniform(0.99, 0.9999)", 0.5, 1.0, "uniform(0.9949, 0.9999)"),
        ("log(1e-4, 1.05e-4)", 0.2, 0.7, "log(0.0001009, 0.0001035)"),
        ("int(1, 4)", 0.95, 1.0, "int(3, 4)"),
        # What would leave the scale stays where it is.
        ("logit(0.5, 0.99999999999)", 0.5, 1.5, "logit(0.9999968, 0.99999999999)"),
        ("int_log(1, 4)", -0.5, 0.5, "int_log(1, 2)"),
    ],
)
def test_narrow_intervals_and_the_ends_of_scales(whole: str, begin: float, end: float, part: str) -> None:
    spread = parse_axis("k", whole).distribution
    assert isinstance(spread, Numeric)
    assert str(spread.between(begin, end)) == part


@pytest.mark.parametrize(
    "whole", ["logit(1e-300, 0.5)", "log(1e-300, 1)", "log(1, 1e300)", "int_log(1, 1000000000000)"]
)
@pytest.mark.parametrize("begin", [-0.5, 0.5])
def test_extending_ends_at_the_smallest_and_the_largest_numbers(whole: str, begin: float) -> None:
    spread = parse_axis("k", whole).distribution
    assert isinstance(spread, Numeric)
    part = spread.between(begin, begin + 1)
    assert part.low < part.high
    assert math.isfinite(part.at(0.3))


def test_parts_are_rounded_outwards() -> None:
    assert str(Numeric("log", 1e-6, 1e-1).between(0.4, 0.7)) == "log(0.0001, 0.0032)"
    assert str(Numeric("log", 1e-4, 1e-1).between(0.5, 1.5)) == "log(0.0031, 3.2)"
    assert str(Numeric("linear", 0.0, 0.5).between(0.25, 0.5)) == "uniform(0.12, 0.25)"
    assert str(Numeric("linear", 1, 4, True).between(0.5, 1.5)) == "int(3, 6)"
    assert Numeric("logit", 0.5, 0.999).between(0.5, 1.5).high < 1


def test_whole_numbers_have_equal_parts() -> None:
    drawn = Counter(Numeric("linear", 1, 4, True).at((i + 0.5) / 400) for i in range(400))
    assert drawn == {1: 100, 2: 100, 3: 100, 4: 100}
    octaves = Counter(Numeric("log", 1, 8, True).at((i + 0.5) / 1000) for i in range(1000))
    assert octaves[1] == pytest.approx(1000 * math.log(1.5 / 0.5) / math.log(8.5 / 0.5), abs=1)


@pytest.mark.parametrize(
    ("text", "better"),
    [
        ("uniform(1e-4, 1e-1)", "log(0.0001, 0.1)"),
        ("int(16, 1024)", "int_log(16, 1024)"),
        ("uniform(0.1, 1)", None),
        ("uniform(0, 1)", None),
        ("uniform(-1, 100)", None),
        ("log(1e-4, 1e-1)", None),
        ("choice(1e-4, 1e-1)", None),
    ],
)
def test_wide_ranges_without_log(text: str, better: str | None) -> None:
    assert wide_without_log(parse_axis("lr", text)) == better


SPACE = (
    parse_axis("optimizer.momentum", "logit(0.5, 0.999) when optimizer in [sgd, muon]"),
    parse_axis("optimizer", "choice(sgd, adam)"),
    parse_axis("optimizer.lr", "log(1e-4, 1)"),
)


def test_conditions() -> None:
    positions = {"optimizer.momentum": 0.5, "optimizer": 0.2, "optimizer.lr": 0.5}
    assert draw(SPACE, positions, {}) == {
        "optimizer.momentum": pytest.approx(0.969332),
        "optimizer": "sgd",
        "optimizer.lr": pytest.approx(0.01),
    }
    assert draw(SPACE, {**positions, "optimizer": 0.8}, {}) == {
        "optimizer": "adam",
        "optimizer.lr": pytest.approx(0.01),
    }


def test_conditions_on_what_is_not_searched() -> None:
    space = (parse_axis("optimizer.momentum", "uniform(0, 1) when optimizer=sgd"),)
    assert draw(space, {"optimizer.momentum": 0.5}, {"optimizer": "sgd"}) == {"optimizer.momentum": 0.5}
    assert draw(space, {"optimizer.momentum": 0.5}, {"optimizer": "adam"}) == {}
    assert draw(space, {"optimizer.momentum": 0.5}, {}) == {}


def test_conditions_in_a_circle() -> None:
    with pytest.raises(ValueError, match="a, b depend on each other in a circle"):
        in_order((parse_axis("a", "choice(1, 2) when b=1"), parse_axis("b", "choice(1, 2) when a=1")))


def test_true_is_not_one() -> None:
    condition = Condition("x", (1,))
    assert condition.holds(1)
    assert not condition.holds(True)
    assert Choice((True, 1)).position(1) == 0.75


def test_the_grid_has_each_combination_once() -> None:
    found = list(grid(SPACE, 3, {}))
    assert len(found) == 3 * 3 + 3
    assert all(found.count(values) == 1 for values in found)
    assert [values for values in found if values["optimizer"] == "adam"] == [
        {"optimizer": "adam", "optimizer.lr": lr} for lr in (1e-4, 0.01, 1.0)
    ]


def test_values_outside_have_no_position() -> None:
    for spread, value in ((Numeric("linear", 0, 1), 2), (Numeric("linear", 0, 1), True), (Choice(("a", "b")), "c")):
        with pytest.raises(ValueError, match="is not in"):
            spread.position(value)


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8))


@given(st.one_of(SCALARS, st.lists(SCALARS, max_size=3)))
@example("08")
@example("1e-3")
@example(["1e-3", "010", 0.001])
def test_values_are_written_as_they_are_read(value: Any) -> None:
    assert literal(written(value)) == value
    assert type(literal(written(value))) is type(value)


def test_letters_stay_letters() -> None:
    assert str(parse_axis("k", "choice(ä, 'ü, ß', 漢)")) == "choice(ä, 'ü, ß', 漢)"


def test_an_axis_names_its_condition() -> None:
    axis = Axis("k", Choice((1, 2)), Condition("optimizer", ("sgd", "adam")))
    assert str(axis) == "choice(1, 2) when optimizer in [sgd, adam]"
    assert parse_axis("k", str(axis)) == axis


@given(
    st.sampled_from(["random", "sobol"]),
    st.integers(1, 40),
    st.integers(1, 4),
    st.integers(1, 20),
    st.integers(0, 99),
)
def test_a_small_space_is_planned_without_repetition(search: str, trials: int, sizes: int, top: int, seed: int) -> None:
    space = (
        parse_axis("a", f"choice({', '.join('xyzuvw'[: sizes + 1])})"),
        parse_axis("n", f"int_log(1, {top + 1}) when a in [x, y]"),
    )

    def planned(count: int) -> list[dict[str, Any]]:
        return plan(space, search, trials=count, seed=seed, stage=1, points=3, fixed={})

    points = list(every(space, {}))
    assert len(points) == 2 * (top + 1) + sizes - 1
    found = planned(trials)
    written = {repr(sorted(point.items())) for point in found}
    assert len(written) == len(found) == min(trials, len(points))
    assert written <= {repr(sorted(point.items())) for point in points}
    # A longer plan begins like a shorter one, and a point is only ever replaced when it was there before.
    assert planned(trials + 7)[: len(found)] == found


def test_a_space_with_an_interval_has_points_enough() -> None:
    space = (parse_axis("a", "choice(x, y)"), parse_axis("r", "uniform(0, 1)"))
    assert len(plan(space, "random", trials=50, seed=0, stage=1, points=3, fixed={})) == 50
