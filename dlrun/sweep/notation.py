"""How a search space is written: what may stand in the place of a value in YAML or on the command line.

optimizer.lr: log(1e-6, 1e-1)                 uniform in the logarithm; also 10**uniform(-6, -1)
model.dropout: uniform(0, 0.5)
model.layers: int(1, 4)                       whole numbers, both ends included
model.hidden_size: int_log(16, 1024)
optimizer.momentum: logit(0.5, 0.999)         uniform in log(x / (1 - x)): fine near 0 and near 1
optimizer: choice(sgd, adamw)                 any values, components too
optimizer.nesterov: choice(true, false) when optimizer in [sgd, momentum]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from dlrun.errors import did_you_mean
from dlrun.sweep.distributions import SHAPES, Choice, Numeric
from dlrun.sweep.scalars import literal
from dlrun.sweep.space import Axis, Condition

T = TypeVar("T")
FUNCTIONS = (*SHAPES, "choice")
"""Names of what may stand in a search space."""
_CALL = re.compile(r"^\s*([A-Za-z_]\w*)\s*\((.*)\)\s*$", re.DOTALL)
_POWER = re.compile(r"^\s*([-+.\deE]+)\s*\*\*\s*uniform\s*\((.*)\)\s*$", re.DOTALL)
_WHEN = re.compile(r"^(.*\))\s+when\s+(.+)$", re.DOTALL)
_IN = re.compile(r"^\s*([\w./]+)\s+in\s+(\[.*\])\s*$", re.DOTALL)
_IS = re.compile(r"^\s*([\w./]+)\s*==?\s*(.+?)\s*$", re.DOTALL)


def looks_like_axis(value: Any) -> bool:
    """Whether a YAML value is meant as a distribution: a call of one of the functions, or a power of a uniform one.

    A misspelt name counts where the arguments are those of the function that it is near to.
    """
    if not isinstance(value, str):
        return False
    when = _WHEN.match(value)
    text = when.group(1) if when else value
    call = _CALL.match(text)
    if call is None:
        return _POWER.match(text) is not None
    name, arguments = call.group(1), split_arguments(call.group(2))
    if name in FUNCTIONS:
        return True
    if len(arguments) == 2 and all(map(_is_number, arguments)):
        return bool(get_close_matches(name, FUNCTIONS))
    # Texts may be anything: only a slip of the finger is one.
    return len(arguments) > 1 and bool(get_close_matches(name, ["choice"], cutoff=0.8))


def parse_axis(key: str, text: str) -> Axis:
    """Read what stands in the place of a value.

    Args:
        key: path in the configuration.
        text: such as ``log(1e-6, 1e-1)`` or ``logit(0.5, 0.999) when optimizer=sgd``.

    Raises:
        ValueError: with what is wrong and how it is written.
    """
    when = _WHEN.match(text)
    condition = None if when is None else _parse_condition(when.group(2))
    body = text if when is None else when.group(1)
    power = _POWER.match(body)
    if power is not None:
        return Axis(key, _parse_power(*power.groups()), condition)
    call = _CALL.match(body)
    if call is None:
        raise ValueError(f"{text!r} is no distribution; write log(1e-5, 1e-1), choice(a, b), ... ({_known()})")
    name, arguments = call.group(1), split_arguments(call.group(2))
    if name == "choice":
        return Axis(
            key, _explained(body, lambda: Choice(tuple(literal(argument) for argument in arguments))), condition
        )
    if name not in SHAPES:
        raise ValueError(f"{text!r}: there is no {name}(); {did_you_mean(name, FUNCTIONS)}")
    scale, integer = SHAPES[name]
    low, high = _two_numbers(body, name, arguments)
    return Axis(key, _explained(body, lambda: Numeric(scale, low, high, integer)), condition)


def split_arguments(text: str) -> list[str]:
    """Cut at the commas that are in no bracket and no quotes."""
    parts, depth, quote, begin = [], 0, "", 0
    for i, mark in enumerate(text):
        if quote:
            quote = "" if mark == quote else quote
        elif mark in "'\"":
            quote = mark
        elif mark in "([{":
            depth += 1
        elif mark in ")]}":
            depth -= 1
        elif mark == "," and depth == 0:
            parts.append(text[begin:i].strip())
            begin = i + 1
    return [part for part in [*parts, text[begin:].strip()] if part]


def _parse_power(base: str, inside: str) -> Numeric:
    text = f"{base}**uniform({inside})"
    try:
        root = float(base)
    except ValueError:
        raise ValueError(f"{text!r}: {base!r} is not a number") from None
    if root <= 1:
        raise ValueError(f"{text!r}: the base must be greater than 1, got {root:g}")
    low, high = _two_numbers(text, "uniform", split_arguments(inside))
    try:
        return _explained(text, lambda: Numeric("log", root**low, root**high))
    except OverflowError:
        raise ValueError(f"{text!r} reaches beyond all numbers") from None


def _parse_condition(text: str) -> Condition:
    several = _IN.match(text)
    if several is not None:
        values = literal(several.group(2))
        if not values:
            raise ValueError(f"when {text}: the list is empty")
        return Condition(several.group(1), tuple(values))
    one = _IS.match(text)
    if one is None:
        raise ValueError(f"'when {text}': write `when optimizer=sgd` or `when optimizer in [sgd, adamw]`")
    return Condition(one.group(1), (literal(one.group(2)),))


def _two_numbers(text: str, name: str, arguments: Sequence[str]) -> tuple[float, float]:
    values = []
    for argument in arguments:
        value = literal(argument)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{text!r}: {argument!r} is not a number")
        values.append(value)
    if len(values) != 2:
        raise ValueError(f"{text!r}: {name}() takes two numbers, got {len(values)}")
    return values[0], values[1]


def _explained(text: str, make: Callable[[], T]) -> T:
    try:
        return make()
    except ValueError as error:
        raise ValueError(f"{text.strip()!r}: {error}") from None


def _is_number(text: str) -> bool:
    try:
        value = literal(text)
    except ValueError:
        return False
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _known() -> str:
    return "known: " + ", ".join(FUNCTIONS)
