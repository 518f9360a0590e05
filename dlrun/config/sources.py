"""Where each value of a configuration came from: YAML files with line numbers, and command-line overrides."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_yaml_loader

from dlrun.errors import ConfigError

KeyPath = tuple[str, ...]
"""Keys from the root of the tree; list elements by their index as text."""


@dataclass
class Layer:
    """One source of values; later layers win over earlier ones.

    Attributes:
        label: how messages name it: a file, or an override as it was typed.
        tree: its values as a plain tree.
        base: folder that its relative paths are resolved against; None for the current folder.
        lines: line (from 1) of every key, for files.
        choices: options of config groups that it chooses, group -> option.
        typed: whether it is an override of the command line.
        soft: whether its options that the chosen component does not have are left out, instead of being a problem.
        saved: whether dlrun itself wrote it, into a run folder or a checkpoint that may come from somebody else.
        file: the user's file that it is.
    """

    label: str
    tree: dict[str, Any]
    base: Path | None = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    choices: dict[str, str] = field(default_factory=dict)
    typed: bool = False
    soft: bool = False
    saved: bool = False
    file: Path | None = None

    def where(self, path: KeyPath) -> str:
        """``file:line`` of the key (or of its nearest parent), or the override as typed."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return f"{self.label}:{self.lines[path[:length]]}"
        return self.label

    def has(self, path: KeyPath) -> bool:
        """Whether this layer sets the value at ``path``, or a whole subtree that ends above it."""
        node: Any = self.tree
        for key in path:
            if isinstance(node, list):
                # An element's keys belong to the layer that wrote the list.
                return key.isdigit() and int(key) < len(node)
            if not isinstance(node, dict):
                return node is not None
            if key not in node:
                return False
            node = node[key]
        return True


@dataclass(frozen=True)
class Origin:
    """Where files and words were that are read again, maybe in another folder, and maybe from copies.

    Attributes:
        config: what stands for the ``config=`` of that time.
        folder: the current folder of that time.
        folders: the same of each override; those behind them are typed now.
        copies: folder of copies, each below the absolute path of its file; None if the files themselves are read.
    """

    config: str | None
    folder: Path
    folders: tuple[Path, ...] = ()
    copies: Path | None = None

    def settle(self, layers: Sequence[Layer]) -> None:
        """Let relative paths and messages mean the files and the folder of that time."""
        for layer in layers:
            if layer.base is None:
                layer.base = self.folder
            elif self.copies is not None and layer.base.is_relative_to(self.copies):
                shown = Path(layer.label)
                layer.base = self.original(layer.base)
                layer.label = display_path(layer.base / shown.name) if shown.suffix else layer.label

    def settle_words(self, layers: Sequence[Layer]) -> None:
        """The same for the overrides, in their order."""
        for layer, folder in zip(layers, self.folders, strict=False):
            layer.base = folder

    def original(self, path: Path) -> Path:
        """The file or folder that a copy stands for."""
        assert self.copies is not None
        return Path("/") / path.relative_to(self.copies)


@dataclass(frozen=True)
class Provenance:
    """The layers of a composed configuration, lowest first."""

    layers: tuple[Layer, ...]

    def layer(self, path: KeyPath) -> Layer | None:
        """The layer that had the last word on ``path``; None if no layer sets it (a default of the component)."""
        for layer in reversed(self.layers):
            if layer.has(path):
                return layer
        return None

    def where(self, path: KeyPath) -> str:
        """Origin of the value at ``path``: ``file:line``, an override, or ``default``."""
        layer = self.layer(path)
        return "default" if layer is None else layer.where(path)

    def base(self, path: KeyPath) -> Path:
        """Folder that a relative path at ``path`` is resolved against."""
        layer = self.layer(path)
        return Path.cwd() if layer is None or layer.base is None else layer.base


def read_yaml(path: Path, label: str) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """Read a YAML mapping with the line of every key.

    Args:
        path: the file.
        label: how messages name it.

    Returns:
        The plain tree (interpolations unresolved), and the line of every key.

    Raises:
        ConfigError: if the file cannot be read, is not YAML, repeats a key, or is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError([f"{label}: no such file"]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([f"{label}: is not a text file in UTF-8 (byte {error.start})"]) from None
    except OSError as error:
        raise ConfigError([f"{label}: cannot be read: {error.strerror}"]) from None
    tree, lines = _parsed(text, label)
    return copy.deepcopy(tree), dict(lines)


@lru_cache(maxsize=256)
def _parsed(text: str, label: str) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """Kept, because a sweep composes the same files again and again; a file that was changed has another text."""
    loader = None
    try:
        loader = get_yaml_loader()(text)
        node = loader.get_single_node()
        tree = {} if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{label}:{mark.line + 1}" if mark else label
        raise ConfigError([f"{place}: is not valid YAML: {error.problem or error.context}"]) from None
    except yaml.YAMLError as error:
        raise ConfigError([f"{label}: is not valid YAML: {' '.join(str(error).split())}"]) from None
    finally:
        if loader is not None:
            loader.dispose()
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError([f"{label}: must hold `key: value` lines, but holds a {type(tree).__name__}"])
    return _with_text_keys(tree), dict(_lines(node, ()))


def _with_text_keys(node: Any) -> Any:
    if isinstance(node, dict):
        return {str(key): _with_text_keys(value) for key, value in node.items()}
    return [_with_text_keys(item) for item in node] if isinstance(node, list) else node


def _lines(node: Any, path: KeyPath) -> Iterator[tuple[KeyPath, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, str(key.value))
            yield here, key.start_mark.line + 1
            yield from _lines(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            here = (*path, str(i))
            yield here, value.start_mark.line + 1
            yield from _lines(value, here)


def display_path(path: Path) -> str:
    """The path as the user would type it: relative to the current folder where that is shorter."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
