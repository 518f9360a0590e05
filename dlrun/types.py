"""The value types of configuration options: what a YAML value must be, checked and converted in one place.

An option's type is the annotation of a dataclass field or of a registered factory's parameter. Understood are
``bool``, ``int``, ``float``, ``str``, ``Path``, ``Duration``, ``Literal[...]``, ``X | None``, ``list[X]``,
``tuple[X, ...]``, ``tuple[X, Y]``, ``dict[str, X]``, ``Mapping[str, X]`` and ``Annotated[X, Range(...)]``; the names
below are the common ranges.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from dlrun.units import Duration

__all__ = [
    "Annotated",
    "Components",
    "Duration",
    "Fill",
    "Fraction",
    "Interpolation",
    "Level",
    "Mode",
    "NameOrPath",
    "NonNegativeFloat",
    "NonNegativeInt",
    "Path",
    "PositiveDuration",
    "PositiveFloat",
    "PositiveInt",
    "Range",
    "ScheduleParts",
    "components_in",
    "convert",
    "describe",
    "is_path",
    "is_supported",
]


@dataclass(frozen=True)
class Range:
    """Bounds of a number: ``ge <= x``, ``gt < x``, ``x <= le``, ``x < lt``; ``None`` means unbounded."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def holds(self, value: float) -> bool:
        """Whether ``value`` lies inside; infinity and NaN never do."""
        if isinstance(value, float) and not math.isfinite(value):
            return False
        return (
            (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )

    def __str__(self) -> str:
        low = f">= {self.ge:g}" if self.ge is not None else f"> {self.gt:g}" if self.gt is not None else ""
        high = f"<= {self.le:g}" if self.le is not None else f"< {self.lt:g}" if self.lt is not None else ""
        return " and ".join(part for part in (low, high) if part)


PositiveInt = Annotated[int, Range(ge=1)]
NonNegativeInt = Annotated[int, Range(ge=0)]
PositiveFloat = Annotated[float, Range(gt=0)]
NonNegativeFloat = Annotated[float, Range(ge=0)]
Fraction = Annotated[float, Range(ge=0, le=1)]
Rate = Annotated[float, Range(ge=0, lt=1)]
PositiveDuration = Annotated[Duration, Range(gt=0)]
Seed = Annotated[int, Range(ge=0, lt=2**63)]
"""What torch's generators take."""
NameOrPath = Annotated[str, "name or path"]
"""A text with a slash or a dot is a path, every other one a name (write ./x for the path of a plain x)."""


@dataclass(frozen=True)
class Components:
    """Marks an option that holds a list of components, each ``{name: ..., option: ...}``.

    Attributes:
        kind: name of their registry.
        extras: keys of each item that are not options of the component -> type and default.
    """

    kind: str
    extras: tuple[tuple[str, Any, Any], ...] = ()


ScheduleParts = Annotated[
    tuple[dict[str, Any], ...],
    Components("schedule", (("length", Duration | Fraction | None, None), ("scale", PositiveFloat, 1.0))),
]
"""Schedules one after the other, each with its ``length`` (a share, or a duration) and ``scale``."""
Mode = Literal["min", "max"]
"""Whether small or large values of a metric are good."""
Level = Annotated[float, Range(ge=0, le=255)]
"""A brightness, in the units of uint8 images."""
Fill = Level | Literal["edge"]
"""What lies outside of an image: one value for all channels, or the nearest pixel of the image."""
Interpolation = Literal["nearest", "bilinear"]
"""How an image is read between its pixels."""

_PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}


def describe(annotation: Any) -> str:
    """Name a type in the words of an error message, such as ``a number > 0``."""
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation == NameOrPath:
        return "a name or a path"
    if origin is Annotated and isinstance(args[1], Components):
        return f"a list of {args[1].kind}s, each {{name: ..., option: ...}}"
    if origin is Annotated:
        return f"{describe(args[0])} {args[1]}"
    if origin is Literal:
        return "one of " + ", ".join(str(arg) for arg in args)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if arg is types.NoneType else describe(arg) for arg in args)
    if origin is list or (origin is tuple and args[-1] is Ellipsis):
        return f"a list, each {describe(args[0])}"
    if origin is tuple:
        return "a list of " + ", ".join(describe(arg) for arg in args)
    if origin in (dict, Mapping):
        return f"a mapping from names to {describe(args[1])}"
    if annotation is Duration:
        return "a duration such as 5ep, 500st or 30min"
    return _PLAIN.get(annotation, getattr(annotation, "__name__", str(annotation)))


def is_path(annotation: Any) -> bool:
    """Whether the value is a file path (so a relative one is resolved against the file that contains it)."""
    return annotation is Path or annotation == NameOrPath or any(is_path(arg) for arg in get_args(annotation))


def components_in(annotation: Any) -> Components | None:
    """What an option says of the components that it holds; None if it holds none."""
    marks = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    return next((mark for mark in marks if isinstance(mark, Components)), None)


def looks_like_path(text: str) -> bool:
    """Whether a :data:`NameOrPath` is a path."""
    return any(mark in text for mark in "/.\\~")


def is_supported(annotation: Any) -> bool:
    """Whether :func:`convert` understands an annotation."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return is_supported(args[0])
    if origin is Literal:
        return True
    if origin in (Union, types.UnionType, list, tuple, dict, Mapping):
        return all(is_supported(arg) for arg in args if arg not in (types.NoneType, Ellipsis))
    return annotation in (Any, bool, int, float, str, Path, Duration)


def convert(value: Any, annotation: Any) -> Any:
    """Check a YAML value against an option's type and give it in its final form.

    Conversions are the lossless ones only: a whole number where a float is wanted, a list where a tuple is wanted, a
    text where a path or a duration is wanted. A text is never read as a number, nor a number as true or false.

    Args:
        value: plain value from YAML or the command line.
        annotation: the option's type.

    Raises:
        ValueError: with what was wanted and what was given.
    """
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return value
    if origin is Annotated:
        try:
            result = convert(value, args[0])
        except ValueError:
            raise ValueError(f"must be {describe(annotation)}, got {value!r}") from None
        number = result.value if isinstance(result, Duration) else result
        for bound in args[1:]:
            if isinstance(bound, Range) and not bound.holds(number):
                raise ValueError(f"must be {describe(annotation)}, got {value!r}")
        return result
    if origin is Literal:
        # bool is an int in Python: `true` must not pass as Literal[1].
        if any(value == arg and type(value) is type(arg) for arg in args):
            return value
        raise ValueError(f"must be {describe(annotation)}, got {value!r}")
    if origin in (Union, types.UnionType):
        return _convert_union(value, annotation, args)
    if origin in (list, tuple):
        return _convert_sequence(value, annotation, origin, args)
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            raise ValueError(f"must be {describe(annotation)}, got {value!r}")
        return {str(key): convert(item, args[1]) for key, item in value.items()}
    return _convert_plain(value, annotation)


def _convert_union(value: Any, annotation: Any, args: tuple[Any, ...]) -> Any:
    reasons = []
    for arg in args:
        if arg is types.NoneType:
            if value is None:
                return None
            continue
        try:
            return convert(value, arg)
        except ValueError as error:
            reasons.append(str(error))
    if len(reasons) == 1:
        # One real alternative beside null: its reason says more than "a or b".
        raise ValueError(reasons[0])
    raise ValueError(f"must be {describe(annotation)}, got {value!r}")


def _convert_sequence(value: Any, annotation: Any, origin: Any, args: tuple[Any, ...]) -> Any:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"must be {describe(annotation)}, got {value!r}")
    fixed = origin is tuple and args[-1] is not Ellipsis
    if fixed and len(value) != len(args):
        raise ValueError(f"must be {describe(annotation)} ({len(args)} values), got {value!r}")
    items = [convert(item, args[i] if fixed else args[0]) for i, item in enumerate(value)]
    return items if origin is list else tuple(items)


def _convert_plain(value: Any, annotation: Any) -> Any:
    wrong = ValueError(f"must be {describe(annotation)}, got {value!r}")
    if annotation is Duration:
        if isinstance(value, Duration):
            return value
        if not isinstance(value, str):
            raise wrong
        return Duration.parse(value)
    if annotation is Path:
        if not isinstance(value, (str, Path)) or str(value) == "":
            raise wrong
        return Path(value)
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise wrong from None
    if annotation in (bool, int, float, str) and type(value) is annotation:
        return value
    raise wrong
