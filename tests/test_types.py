"""Values of YAML against the types of options, and durations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrun.types import (
    Duration,
    Fraction,
    NonNegativeInt,
    PositiveDuration,
    PositiveFloat,
    PositiveInt,
    Range,
    convert,
    describe,
    is_path,
    is_supported,
)

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
ANNOTATIONS = [
    bool,
    int,
    float,
    str,
    Path,
    Duration,
    PositiveInt,
    PositiveFloat,
    Fraction,
    Literal["a", 1, True],
    int | None,
    list[int],
    tuple[float, ...],
    tuple[int, str],
    dict[str, float],
    list[dict[str, int | None]],
    Duration | Literal["never"],
    tuple[PositiveInt, ...] | None,
]


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (3, int, 3),
        (3, float, 3.0),
        (True, bool, True),
        ("x", str, "x"),
        ("a/b", Path, Path("a/b")),
        ("5ep", Duration, Duration(5, "ep")),
        (Duration(5, "ep"), Duration, Duration(5, "ep")),
        (None, int | None, None),
        (0, NonNegativeInt, 0),
        (1, Fraction, 1.0),
        ([1, 2], tuple[float, ...], (1.0, 2.0)),
        ([1, 2], tuple[float, float], (1.0, 2.0)),
        ((1, 2), list[int], [1, 2]),
        ([], tuple[int, ...], ()),
        ({"a": 1}, dict[str, float], {"a": 1.0}),
        ("min", Literal["min", "max"], "min"),
        (1, Literal[1, 3], 1),
        (3, int | float, 3),
        (3, float | int, 3.0),
        ("never", Duration | Literal["never"], "never"),
        ("1st", PositiveDuration, Duration(1, "st")),
        (2**63 - 1, Annotated[int, Range(lt=2**63)], 2**63 - 1),
        ([1, "x", None], Any, [1, "x", None]),
    ],
)
def test_lossless_conversions(value: Any, annotation: Any, expected: Any) -> None:
    result = convert(value, annotation)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("value", "annotation", "message"),
    [
        (True, int, "must be a whole number, got True"),
        (True, float, "must be a number, got True"),
        (1, bool, "must be true or false, got 1"),
        ("true", bool, "must be true or false, got 'true'"),
        (3.0, int, "must be a whole number, got 3.0"),
        ("3", int, "must be a whole number, got '3'"),
        ("1e-3", float, "must be a number, got '1e-3'"),
        (3, str, "must be a text, got 3"),
        (None, int, "must be a whole number, got None"),
        ("", Path, "must be a path, got ''"),
        (True, Literal[1, 3], "must be one of 1, 3, got True"),
        (1, Literal[True], "must be one of True, got 1"),
        ("mni", Literal["min", "max"], "must be one of min, max, got 'mni'"),
        (0, PositiveInt, "must be a whole number >= 1, got 0"),
        (True, PositiveInt, "must be a whole number >= 1, got True"),
        (0.0, PositiveFloat, "must be a number > 0, got 0.0"),
        (math.nan, PositiveFloat, "must be a number > 0, got nan"),
        (math.inf, PositiveFloat, "must be a number > 0, got inf"),
        (1.5, Fraction, "must be a number >= 0 and <= 1, got 1.5"),
        (1, Annotated[float, Range(ge=0, lt=1)], "must be a number >= 0 and < 1, got 1"),
        (0, PositiveInt | None, "must be a whole number >= 1, got 0"),
        ("x", bool | int, "must be true or false or a whole number, got 'x'"),
        (5, Duration, "must be a duration such as 5ep, 500st or 30min, got 5"),
        (5, tuple[int, ...], "must be a list, each a whole number, got 5"),
        ("ab", list[str], "must be a list, each a text, got 'ab'"),
        ([1, "x"], list[int], "must be a whole number, got 'x'"),
        ([1], tuple[int, int], "must be a list of a whole number, a whole number (2 values), got [1]"),
        ([1], dict[str, int], "must be a mapping from names to a whole number, got [1]"),
        ({"a": "b"}, dict[str, int], "must be a whole number, got 'b'"),
        ("0ep", PositiveDuration, "must be a duration such as 5ep, 500st or 30min > 0, got '0ep'"),
        (2**63, Annotated[int, Range(ge=0, lt=2**63)], f"must be a whole number >= 0 and < 9.22337e+18, got {2**63}"),
    ],
)
def test_refusals_say_what_was_wanted_and_given(value: Any, annotation: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        convert(value, annotation)
    assert str(caught.value) == message


@given(value=plain, annotation=st.sampled_from(ANNOTATIONS))
def test_convert_gives_a_value_of_the_type_or_a_value_error(value: Any, annotation: Any) -> None:
    try:
        result = convert(value, annotation)
    except ValueError:
        return
    # Converting is settled after one time, so a saved configuration reads back as itself.
    assert convert(result, annotation) == result or result != result


@given(value=st.floats(), bounds=st.tuples(*[st.none() | st.floats(-5, 5)] * 4))
def test_range_holds_as_the_comparisons_do(value: float, bounds: tuple[float | None, ...]) -> None:
    ge, gt, le, lt = bounds
    wanted = math.isfinite(value) and (
        (ge is None or value >= ge)
        and (gt is None or value > gt)
        and (le is None or value <= le)
        and (lt is None or value < lt)
    )
    assert Range(ge, gt, le, lt).holds(value) is wanted


@pytest.mark.parametrize(
    ("bounds", "text"),
    [
        (Range(), ""),
        (Range(ge=0), ">= 0"),
        (Range(gt=0, lt=1), "> 0 and < 1"),
        (Range(le=0.5), "<= 0.5"),
    ],
)
def test_range_in_words(bounds: Range, text: str) -> None:
    assert str(bounds) == text


@pytest.mark.parametrize("annotation", ANNOTATIONS)
def test_every_type_has_words_and_is_supported(annotation: Any) -> None:
    assert "typing" not in describe(annotation)
    assert "<" not in describe(annotation).replace("< ", "").replace("<= ", "")
    assert is_supported(annotation)


@pytest.mark.parametrize("annotation", [object, complex, list, dict, list[object], dict[str, set[int]], type(None)])
def test_types_that_yaml_cannot_hold(annotation: Any) -> None:
    assert not is_supported(annotation)


def test_is_path_looks_inside() -> None:
    assert is_path(Path)
    assert is_path(Path | None)
    assert is_path(list[Path])
    assert not is_path(str | None)


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [("5ep", 5, "ep"), (" 2.5 ep ", 2.5, "ep"), ("1e3st", 1000, "st"), ("90s", 90, "s"), ("2h", 2, "h")],
)
def test_duration_is_read(text: str, value: float, unit: str) -> None:
    assert Duration.parse(text) == Duration(value, unit)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "5", "ep", "-1ep", "5 days", "1e400st", "5ep3st", "infs", "nanep"])
def test_what_is_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration: write a number and a unit"):
        Duration.parse(text)


@given(value=st.floats(0, 1e300), unit=st.sampled_from(["ep", "st", "s", "min", "h"]))
def test_duration_reads_back_what_it_writes(value: float, unit: Any) -> None:
    duration = Duration(value, unit)
    assert Duration.parse(str(duration)) == duration


def test_durations_are_written_short() -> None:
    assert [str(Duration.parse(text)) for text in ("5ep", "0.5h", "1234567st")] == ["5ep", "0.5h", "1234567st"]


@given(value=st.integers(0, 10_000), per_epoch=st.integers(1, 1000))
def test_steps_of_a_duration(value: int, per_epoch: int) -> None:
    assert Duration(value, "st").steps(per_epoch) == value
    assert Duration(value, "ep").steps(per_epoch) == value * per_epoch


def test_seconds_and_steps_do_not_mix() -> None:
    assert Duration.parse("1.5min").seconds == 90
    assert Duration.parse("1.5min").is_time
    with pytest.raises(ValueError, match="5ep is not a time"):
        _ = Duration.parse("5ep").seconds
    with pytest.raises(ValueError, match="30min is a wall-clock time"):
        Duration.parse("30min").steps(10)
