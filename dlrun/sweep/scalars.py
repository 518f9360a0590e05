"""Single values as they stand in a search space: YAML 1.1, but a number is what everybody takes for one.

``1e-6`` is a number wherever it stands, and ``010`` neither 8 nor a text, but refused.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_FLOAT = ("tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"))
_ZEROS = ("!zeros", re.compile(r"^[-+]?0\d+$"))
# The first that matches decides, and that of whole numbers would take zeros as octal.
_RESOLVERS = {
    first: [*([_ZEROS] if first in "-+0" else []), *known, *([_FLOAT] if first in "-+.0123456789" else [])]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _LeadingZero(ValueError):
    """A number with zeros before it."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = _RESOLVERS

    def refuse(self, node: yaml.ScalarNode) -> Any:
        raise _LeadingZero(f"{node.value!r}: a number does not begin with 0; for a text put it in quotes")


_Loader.add_constructor("!zeros", _Loader.refuse)


class _Dumper(yaml.SafeDumper):
    """Puts those texts in quotes that the loader would take for something else."""

    yaml_implicit_resolvers = _RESOLVERS


def literal(text: str) -> Any:
    """A value as YAML reads it.

    Raises:
        ValueError: if it is none, or a number with zeros before it, which is octal to some and a text to others.
    """
    try:
        return yaml.load(text, _Loader)
    except _LeadingZero:
        raise
    except (yaml.YAMLError, ValueError):
        raise ValueError(f"{text!r} is not a value of YAML") from None


def written(value: Any) -> str:
    """A value in one line; the inverse of :func:`literal`."""
    text: str = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=10**9, allow_unicode=True)
    return text.strip().removesuffix("...").strip()


def same(one: Any, other: Any) -> bool:
    """Equality of YAML values: true is not 1, but 1 is 1.0."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def plain(value: Any) -> str:
    """A value in one line of YAML."""
    if isinstance(value, float):
        return number(value)
    if isinstance(value, str) and any(mark in value for mark in ",()[]{}'\""):
        return "'" + value.replace("'", "''") + "'"
    return written(value)


def number(value: float) -> str:
    """The shortest way to write a number: ``1e-06``, ``0.5``, ``64``."""
    return f"{value:.12g}"


def counted(count: int, noun: str) -> str:
    """``1 trial``, ``2 trials``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
