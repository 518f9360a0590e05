"""A configuration as YAML, with the place that each value came from."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dlrun.config.sources import KeyPath


def explain(tree: Mapping[str, Any], where: Callable[[KeyPath], str]) -> str:
    """A configuration as YAML, each value with the place it came from.

    Args:
        tree: of the checked configuration.
        where: path of a value -> its origin.
    """
    lines = list(_explained(tree, (), where))
    width = min(max(len(text) for text, _ in lines), 60)
    return "\n".join(f"{text:<{width}}  # {origin}" if origin else text for text, origin in lines)


def _explained(node: Any, path: KeyPath, where: Callable[[KeyPath], str]) -> Iterator[tuple[str, str]]:
    """Lines of YAML, each with the origin of its value; a line without a value has none."""
    pad = "  " * len(path)
    for key, value in node.items():
        here = (*path, str(key))
        if isinstance(value, dict) and value:
            yield f"{pad}{key}:", ""
            yield from _explained(value, here, where)
        else:
            text = value if isinstance(value, str) and re.fullmatch(r"[\w./+-]+", value) else json.dumps(value)
            yield f"{pad}{key}: {text}", where(here)
