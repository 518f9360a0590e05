"""Search spaces in a configuration: distributions that stand in the place of values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dlrun.config.sources import KeyPath, Layer
from dlrun.sweep.notation import looks_like_axis

SECTION = "sweep"


@dataclass(frozen=True)
class WrittenAxis:
    """A distribution as it was written.

    Attributes:
        text: such as ``log(1e-5, 1)``.
        where: the file and line, or the override.
        inline: whether it stands in the place of the value, and not in ``sweep.space``.
    """

    text: Any
    where: str
    inline: bool


def take_axes(layers: Sequence[Layer]) -> dict[str, WrittenAxis]:
    """Take the distributions out of the layers, so that the values below them remain.

    A later layer wins: one that sets a plain value ends the search for it, unless that layer only chooses a component.

    Args:
        layers: the user's files and overrides, lowest first; changed.

    Returns:
        Path of the value, with dots -> what was written for it.
    """
    axes: dict[str, WrittenAxis] = {}
    for layer in layers:
        plain = {".".join(path) for path, value in _leaves(layer.tree, ()) if not looks_like_axis(value)}
        for key in plain & set(axes):
            del axes[key]
        for path, value in list(_leaves(layer.tree, ())):
            if path[0] != SECTION and looks_like_axis(value):
                axes[".".join(path)] = WrittenAxis(value, layer.where(path), inline=True)
                _remove(layer.tree, path)
        section = layer.tree.get(SECTION)
        space = section.get("space") if isinstance(section, dict) else None
        if isinstance(section, dict) and isinstance(space, dict):
            for path, text in _leaves(space, ()):
                key = ".".join(path)
                if text is None:
                    axes.pop(key, None)
                else:
                    axes[key] = WrittenAxis(text, layer.where((SECTION, "space", *path)), inline=False)
            # What they say is in the axes now; nested keys would not be one text each.
            section["space"] = {}
    return axes


def _leaves(node: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    """Every value that is no mapping, with its path; a list is one value."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, (*path, str(key)))
    elif path:
        yield path, node


def _remove(tree: dict[str, Any], path: KeyPath) -> None:
    """Take a value out, and the mappings that are empty without it."""
    *above, last = path
    nodes = [tree]
    for key in above:
        nodes.append(nodes[-1][key])
    del nodes[-1][last]
    for node, key in reversed(list(zip(nodes, above, strict=False))):
        if not node[key]:
            del node[key]
