"""Search spaces in a configuration: distributions that stand in the place of values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dlrun.config.groups import groups
from dlrun.config.schema import component_groups
from dlrun.config.sources import KeyPath, Layer
from dlrun.sweep.notation import looks_like_axis, parse_axis, split_arguments
from dlrun.sweep.space import Axis

SECTION = "sweep"


@dataclass(frozen=True)
class WrittenAxis:
    """A distribution as it was written.

    Attributes:
        text: such as ``log(1e-5, 1)``.
        where: the file and line, or the override.
        inline: whether it stands in the place of the value, and not in ``sweep.space``.
        typed: whether it stands on the command line.
    """

    text: Any
    where: str
    inline: bool
    typed: bool = False


def canonical(key: str) -> str:
    """The path by which an axis is known: choosing a component by its group and by ``.name`` are the same thing."""
    group, _, rest = key.partition(".")
    return group if rest == "name" and group in component_groups() else key


def read_axis(key: str, text: str) -> Axis:
    """:func:`~dlrun.sweep.notation.parse_axis`, with the canonical paths of the axis and of its condition.

    Raises:
        ValueError: with what is wrong and how it is written.
    """
    axis = parse_axis(canonical(key), text)
    when = axis.when
    return axis if when is None else replace(axis, when=replace(when, key=canonical(when.key)))


def take_axes(layers: Sequence[Layer]) -> dict[str, WrittenAxis]:
    """Take the distributions out of the layers, so that the values below them remain.

    A later layer wins: one that sets a plain value ends the search for it, and for all that is below it, unless it only
    chooses a component.

    Args:
        layers: the user's files and overrides, lowest first; changed.

    Returns:
        Path of the value, with dots -> what was written for it.
    """
    axes: dict[str, WrittenAxis] = {}
    for layer in layers:
        plain = {canonical(".".join(path)): value for path, value in _leaves(layer.tree, ()) if not _is_axis(value)}
        for key in [key for key, axis in axes.items() if _ended(key, axis, plain, layer)]:
            del axes[key]
        for path, value in list(_leaves(layer.tree, ())):
            if path[0] != SECTION and _is_axis(value):
                written = WrittenAxis(value, layer.where(path), inline=True, typed=layer.typed)
                axes[canonical(".".join(path))] = written
                _remove(layer.tree, path)
        section = layer.tree.get(SECTION)
        space = section.get("space") if isinstance(section, dict) else None
        if isinstance(section, dict) and isinstance(space, dict):
            for path, text in _leaves(space, ()):
                key = canonical(".".join(path))
                if text is None:
                    axes.pop(key, None)
                else:
                    where = layer.where((SECTION, "space", *path))
                    axes[key] = WrittenAxis(text, where, inline=False, typed=layer.typed)
            # What they say is in the axes now; nested keys would not be one text each.
            section["space"] = {}
    return axes


def _ended(key: str, axis: WrittenAxis, plain: Mapping[str, Any], layer: Layer) -> bool:
    """Whether a layer, with its plain values, ends the search that an earlier one has begun."""
    if key in plain or key in layer.choices:
        return True
    parts = key.split(".")
    for above in (".".join(parts[:length]) for length in range(1, len(parts))):
        chosen = layer.choices.get(above, plain.get(above))
        if above in component_groups() and isinstance(chosen, str):
            continue
        if above in groups() and isinstance(chosen, str):
            # As with values: another option of a group replaces what files say of it, not what was typed.
            if not axis.typed:
                return True
        elif above in plain:
            return True
    return False


def _is_axis(value: Any) -> bool:
    """Whether a leaf is a distribution; or a list with one in it, which is refused with a word on how to write it."""
    if isinstance(value, list):
        # YAML has cut the arguments apart: [int(8, 64), 8] is a list of three.
        return any(map(looks_like_axis, split_arguments(", ".join(map(str, value)))))
    return looks_like_axis(value)


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
