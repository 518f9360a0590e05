"""From a recipe or YAML file and overrides to one tree: Hydra composes the groups, then the layers are merged.

Layers, each winning over those before it: ``configs/`` (Hydra's groups, each with the chosen option); the recipe or
the user's file, after the files that its ``defaults:`` list names; the ``debug`` mode; the overrides of the command
line.

Choosing a component by its group (``optimizer=adamw``) and by its name (``optimizer.name=adamw``, or ``name:`` in a
file) are the same thing: what a file said of the component that was chosen before does not leak into the new one. What
was typed on the command line always counts, before or after the choice.

Without ``config=`` the file is the recipe :data:`DEFAULT_RECIPE`; but what it says was chosen for its data, so when the
command line chooses other data (``data=cifar10``) there is no file, and the experiment starts from the bare defaults.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dlrun.config import files as config_files
from dlrun.config.axes import WrittenAxis, take_axes
from dlrun.config.files import find_file, read_chain
from dlrun.config.groups import (
    DEBUG,
    component_of,
    compose_groups,
    default_options,
    expand_variants,
    groups,
    option_file,
    option_layer,
    options,
    shadowed,
)
from dlrun.config.merge import merge, merge_into
from dlrun.config.overrides import nested, parse_overrides
from dlrun.config.schema import component_groups
from dlrun.config.sources import KeyPath, Layer, Origin, Provenance, display_path
from dlrun.errors import did_you_mean
from dlrun.registry import REGISTRIES
from dlrun.sweep.scalars import plain

DEFAULT_RECIPE = "digits"
"""What is trained when no config is named, and no other data."""


@dataclass(frozen=True)
class Composed:
    """A composed configuration, not yet checked.

    Attributes:
        name: short name of the experiment: the recipe's or the file's; without one, that of the data.
        tree: plain values, interpolations resolved; missing required values are ``???``.
        provenance: where each value came from.
        problems: what went wrong on the way: overrides that do not parse, options that do not exist.
        broken: values that cannot be resolved, with what is wrong; they are null in the tree.
        axes: path of a value -> the distribution that stood in its place; the tree has what it is without it.
        file: the user's file; None for a recipe or the defaults.
    """

    name: str
    tree: dict[str, Any]
    provenance: Provenance
    problems: tuple[str, ...] = ()
    broken: Mapping[KeyPath, str] = field(default_factory=dict)
    axes: Mapping[str, WrittenAxis] = field(default_factory=dict)
    file: Path | None = None


def compose(
    config: str | None, overrides: Sequence[str], values: Sequence[Layer] = (), origin: Origin | None = None
) -> Composed:
    """Compose an experiment.

    Args:
        config: name of a recipe, path of a YAML file or of a run folder; None for the default recipe, or for the bare
            defaults if an override chooses other data than the recipe's.
        overrides: ``key=value`` in Hydra's syntax.
        values: layers on top of all: the values of a trial.
        origin: where that was which is composed again; None for here and now.

    Raises:
        ConfigError: for files that cannot be read. Problems with single values are collected in the result instead.
    """
    recipe = config_files.RECIPES / f"{DEFAULT_RECIPE}.yaml"
    config = config if origin is None else origin.config
    path = recipe if config is None else find_file(config, Path.cwd(), f"config={config}")
    # runs/<name>/config.yaml: the folder says more than the file.
    name = path.parent.name if path.stem == "config" else path.stem
    files, problems = read_chain(path)
    # That of the last file first; a dict, because several files may lie in one folder.
    folders = list(dict.fromkeys(layer.base for layer in reversed(files) if layer.base is not None))
    typed, wrong = parse_overrides(overrides)
    problems += wrong
    if origin is not None:
        origin.settle(files)
        origin.settle_words(typed)
    axes = take_axes([*files, *typed])
    typed += values
    for layer in [*files, *typed]:
        expand_variants(layer, folders)
        problems += _take_choices(layer, folders)
    data = _choices(typed).get("data")
    if config is None and data is not None and data != _choices(files).get("data"):
        # The recipe's batch size, rate, augmentation and threads were chosen for its own data.
        files, name = [], data
    choices = _choices([*files, *typed])
    debug = choices.pop(DEBUG, "")
    modes = [replace(option_layer(DEBUG, debug, folders), soft=True)] if debug else []
    _drop_replaced(files, [*modes, *typed])
    chosen = compose_groups(choices, folders)
    if origin is not None:
        origin.settle([*chosen, *modes, *values])
    provenance = Provenance((*chosen, *files, *modes, *typed))
    tree, broken = merge(provenance)
    return Composed(
        name,
        tree,
        provenance,
        tuple(problems),
        broken,
        axes,
        None if path.parent.samefile(config_files.RECIPES) else path,
    )


def user_files(composed: Composed) -> list[Path]:
    """The user's own files that a composition reads, or would read if other components were chosen."""
    files = [layer.file for layer in composed.provenance.layers if layer.file is not None]
    folders = dict.fromkeys(file.parent for file in files)
    own = [path for folder in folders for group in groups() for path in sorted((folder / group).glob("*.yaml"))]
    return list(dict.fromkeys([*files, *own]))


def value_layer(key: str, value: Any, label: str = "") -> Layer:
    """One value of a trial; ``label`` is what messages call its origin."""
    return Layer(label or f"trial {key}={plain(value)}", nested(key, value), typed=True)


def with_values(composed: Composed, values: Sequence[Layer]) -> Composed:
    """The same components with other values: far faster than composing anew.

    Args:
        composed: a composition of the same choices of components.
        values: layers on top of all; none of them chooses a component.
    """
    provenance = Provenance((*composed.provenance.layers, *values))
    if any(_refers(layer.tree) for layer in provenance.layers):
        tree, broken = merge(provenance)
        return replace(composed, tree=tree, provenance=provenance, broken=broken)
    # No value depends on another one: what was merged and resolved before still holds.
    tree = copy.deepcopy(composed.tree)
    for layer in values:
        merge_into(tree, copy.deepcopy(layer.tree))
    return replace(composed, tree=tree, provenance=provenance)


def _refers(node: Any) -> bool:
    """Whether a value below is an interpolation."""
    if isinstance(node, dict):
        return any(_refers(value) for value in node.values())
    if isinstance(node, list):
        return any(_refers(value) for value in node)
    return isinstance(node, str) and "${" in node


def resolved(tree: Mapping[str, Any], label: str, folder: Path) -> Composed:
    """A complete tree that this process, or the one that began it, has composed and resolved a moment ago."""
    layer = Layer(label, copy.deepcopy(dict(tree)), folder, saved=True)
    return Composed(folder.name, layer.tree, Provenance((layer,)))


def without_foreign_options(composed: Composed) -> Composed:
    """Leave out what a soft layer (a debug mode) says of options that the chosen components do not have.

    The plug-ins must have been imported: only they know the options of their components.
    """
    layers = tuple(_fitting(layer, composed.tree) if layer.soft else layer for layer in composed.provenance.layers)
    if layers == composed.provenance.layers:
        return composed
    provenance = Provenance(layers)
    tree, broken = merge(provenance)
    return replace(composed, tree=tree, provenance=provenance, broken=broken)


def _fitting(layer: Layer, tree: Mapping[str, Any]) -> Layer:
    fitting = dict(layer.tree)
    for group, common in component_groups().items():
        section, chosen = fitting.get(group), tree.get(group)
        name = chosen.get("name") if isinstance(chosen, dict) else None
        if isinstance(section, dict) and isinstance(name, str) and name in REGISTRIES[group]:
            known = {"name", *common, *(option.name for option in REGISTRIES[group].entry(name).options)}
            fitting[group] = {key: value for key, value in section.items() if key in known}
    return replace(layer, tree=fitting)


def compose_saved(tree: Mapping[str, Any], label: str, folder: Path, overrides: Sequence[str]) -> Composed:
    """A complete tree that dlrun saved (in a run folder or a checkpoint), with overrides on top.

    Args:
        tree: what :meth:`dlrun.config.schema.Config.to_tree` gave; nothing of ``configs/`` is added.
        label: where it was saved, for messages.
        folder: folder against which its relative paths are resolved; saved paths are absolute. Its plug-ins are not
            looked for there, see :func:`dlrun.config.plugins.import_saved_plugins`.
        overrides: ``key=value`` in Hydra's syntax; single values only, since nothing is known here of the options of
            a component that was not chosen when the tree was saved.
    """
    typed, problems = parse_overrides(overrides)
    problems += _refuse_choices(tree, typed)
    provenance = Provenance((Layer(label, copy.deepcopy(dict(tree)), folder, saved=True), *typed))
    merged, broken = merge(provenance)
    return Composed(folder.name, merged, provenance, tuple(problems), broken)


def _refuse_choices(saved: Mapping[str, Any], typed: Sequence[Layer]) -> list[str]:
    """Take choices of components and options of groups out of the overrides of a saved tree; returns what is wrong."""
    components = component_groups()
    problems: list[str] = []
    refused: set[str] = set()
    for layer in typed:
        expand_variants(layer)
        for group, value in list(layer.tree.items()):
            if group == DEBUG and not value:
                # No debug mode is what a saved tree has anyway.
                del layer.tree[group]
            chosen = value.get("name") if isinstance(value, dict) and group in components else value
            if group not in groups() or not isinstance(chosen, str):
                continue
            section = saved.get(group)
            if group in components and isinstance(section, dict) and chosen == section.get("name"):
                if chosen is value:
                    del layer.tree[group]
                continue
            refused.add(group)
            problems.append(f"{layer.where((group,))}: {group}: {_why_refused(group, section)}")
    # The values that go with a refused choice would only be wrong again.
    for layer in typed:
        for group in refused:
            layer.tree.pop(group, None)
    return problems


def _why_refused(group: str, section: Any) -> str:
    if group == DEBUG:
        return "a debug mode is for new runs, not for a saved configuration"
    if group in component_groups() and isinstance(section, dict):
        why = f"the saved configuration has {section.get('name')!r}, which cannot be exchanged"
    else:
        why = "the saved configuration has values here, and a whole option cannot replace them"
    example = {
        "data": f"data.{'root' if isinstance(section, dict) and 'root' in section else 'workers'}=...",
        "callbacks": "callbacks.progress=null",
        "trainer": "trainer.threads=...",
    }.get(group)
    return f"{why}; start a new run to change it" if example is None else f"{why}; set single values, such as {example}"


def _choices(layers: Sequence[Layer]) -> dict[str, str]:
    return {group: option for layer in layers for group, option in layer.choices.items()}


def _take_choices(layer: Layer, folders: Sequence[Path]) -> list[str]:
    """Turn ``group: option`` and ``group: {name: option}`` of a layer into choices; returns what is wrong with them."""
    components = component_groups()
    for group in groups():
        value = layer.tree.get(group)
        if isinstance(value, str):
            layer.choices[group] = value
            if group in components:
                layer.tree[group] = {"name": value}
            else:
                del layer.tree[group]
        elif group in components and isinstance(value, dict) and isinstance(value.get("name"), str):
            layer.choices.setdefault(group, value["name"])
        elif group == DEBUG and group in layer.tree and not value:
            # debug=null switches off the mode that a file asks for.
            layer.choices[group] = ""
            del layer.tree[group]
    problems = []
    for group, option in list(layer.choices.items()):
        where = layer.where((group,))
        own = shadowed(group, option, folders)
        if own is not None:
            problems.append(f"{where}: {display_path(own)} has the name of an option of dlrun; give it another name")
        if group in components:
            # An option of a group may configure a component of another name (model/tiny.yaml with `name: resnet`).
            section = layer.tree.get(group)
            if isinstance(section, dict) and section.get("name") == option:
                section["name"] = component_of(group, option, folders)
        elif option and option_file(group, option, folders) is None:
            known = did_you_mean(option, options(group, folders))
            problems.append(f"{where}: config group {group!r} has no option {option!r}; {known}")
            del layer.choices[group]
    return problems


def _drop_replaced(files: Sequence[Layer], above: Sequence[Layer]) -> None:
    """Forget what a file said of a section whose component, or whole option, a later layer replaced.

    Args:
        files: the recipe or the user's file, after those of its ``defaults:`` list.
        above: the debug mode and the overrides; single values of theirs stay, whatever is chosen before or after them.
    """
    components = component_groups()
    current = default_options()
    layers = [*files, *above]
    for i, layer in enumerate(layers):
        for group, option in layer.choices.items():
            if group == DEBUG or (group in components and current.get(group) == option):
                continue
            for j, earlier in enumerate(layers[:i]):
                section = earlier.tree.get(group)
                if j >= len(files) and group not in earlier.choices and isinstance(section, dict):
                    continue
                if isinstance(section, dict) and group in components:
                    earlier.tree[group] = {k: v for k, v in section.items() if k in components[group]}
                else:
                    earlier.tree.pop(group, None)
            current[group] = option
