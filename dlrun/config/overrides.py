"""The ``key=value`` words of the command line, in Hydra's syntax, as layers of a configuration."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from dlrun.config.groups import groups
from dlrun.config.sources import Layer
from dlrun.sweep.notation import looks_like_axis, split_arguments

# The shell leaves the tilde of `data.root=~/data` alone, and Hydra's grammar has no tilde in a value.
_HOME = re.compile(r"^([^=]+)=(~[^'\"]*)$")


def parse_overrides(overrides: Sequence[str]) -> tuple[list[Layer], list[str]]:
    """Read the overrides of a command line.

    Args:
        overrides: words such as ``optimizer.lr=0.1``, ``model=vgg``, ``~callbacks.tensorboard``.

    Returns:
        One layer per override, in their order, and what is wrong with those that are none.
    """
    if not overrides:
        return [], []
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    layers: list[Layer] = []
    problems: list[str] = []
    for text in overrides:
        key, _, value = text.partition("=")
        if looks_like_axis(value) or _lists_axes(value):
            # Hydra would call the function.
            written = split_arguments(value.strip()[1:-1]) if _lists_axes(value) else value
            layers.append(Layer(f"override {text}", nested(key, written), typed=True))
            continue
        try:
            override = parser.parse_override(_HOME.sub(r"\1='\2'", text))
        except HydraException as error:
            reason = str(error).splitlines()[0]
            problems.append(
                f"override {text!r}: is not key=value in Hydra's syntax ({reason}); if the value is a text with "
                f"""special characters, write "{key}='{value}'" with both kinds of quotes"""
            )
            continue
        if override.is_sweep_override():
            problems.append(
                f"override {text!r}: is a choice between several values, but one run takes one; for a list write "
                f"{override.key_or_group}=[...], for a text with a comma put it in quotes, to search among them "
                f"dlrun sweep {override.key_or_group}='choice(a, b)'"
            )
            continue
        # Deleting is setting null: callbacks are switched off by it, optional values have none.
        tree: Any = None if override.is_delete() else override.value()
        if isinstance(tree, (int, float)) and override.key_or_group in groups():
            # The name of an option that looks like a number: debug=nan.
            tree = text.partition("=")[2]
        layers.append(Layer(f"override {text}", nested(override.key_or_group, tree), typed=True))
    return layers, problems


def _lists_axes(value: str) -> bool:
    """Whether a value is a list with a distribution in it."""
    text = value.strip()
    return text[:1] == "[" and text[-1:] == "]" and any(map(looks_like_axis, split_arguments(text[1:-1])))


def nested(key: str, value: Any) -> dict[str, Any]:
    """``a.b`` and a value as a tree."""
    for name in reversed(key.replace("/", ".").split(".")):
        value = {name: value}
    tree: dict[str, Any] = value
    return tree
