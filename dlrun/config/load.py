"""The whole way from ``config=`` and overrides to a checked configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dlrun.config.compose import Composed, compose, without_foreign_options
from dlrun.config.plugins import import_plugins, import_saved_plugins
from dlrun.config.schema import Config
from dlrun.config.validate import validate
from dlrun.errors import ConfigError
from dlrun.registry import DATASETS
from dlrun.signatures import REQUIRED
from dlrun.types import is_path

NO_PLACE = "(no place given)"
"""Stands for the place of the data where none is needed; there is no such folder."""


def load_config(config: str | None, overrides: Sequence[str], *, places_needed: bool = True) -> tuple[Config, Composed]:
    """Compose, import the plug-ins, check.

    Args:
        config: name of a recipe, path of a YAML file or run folder, or None for the defaults.
        overrides: ``key=value`` in Hydra's syntax.
        places_needed: whether the data will be read: or else required paths among their options may be missing, and
            :data:`NO_PLACE` stands in their place.

    Raises:
        ConfigError: listing every problem found.
    """
    composed = _without_axes(compose(config, overrides))
    if not places_needed:
        load_plugins(composed)
        _fill_places(composed.tree.get("data"))
    return _finish(composed)


def _without_axes(composed: Composed) -> Composed:
    """Refuse distributions in the place of values: one run has one value."""
    refused = [
        f"{axis.where}: {key}: {axis.text} is a search space; give one value, or search with dlrun sweep"
        for key, axis in composed.axes.items()
        if axis.inline
    ]
    return replace(composed, problems=(*composed.problems, *refused))


def _fill_places(data: Any) -> None:
    if not isinstance(data, dict) or data.get("name") not in DATASETS:
        return
    for option in DATASETS.entry(data["name"]).options:
        if is_path(option.annotation) and option.default is REQUIRED and data.get(option.name, "???") == "???":
            data[option.name] = NO_PLACE


def finish(composed: Composed) -> Config:
    """Import the plug-ins of a composed tree and check it.

    Raises:
        ConfigError: listing every problem found.
    """
    return _finish(composed)[0]


def _finish(composed: Composed) -> tuple[Config, Composed]:
    plugins = load_plugins(composed)
    composed = without_foreign_options(composed)
    config = validate(composed)
    return config if plugins is None else replace(config, plugins=plugins), composed


def load_plugins(composed: Composed) -> tuple[str, ...] | None:
    """Import the plug-ins of a composed tree; with more care those that a saved tree names.

    Returns:
        What to record of them; None if ``plugins:`` is not a list of names, which :func:`validate` reports.

    Raises:
        ConfigError: if one does not exist or fails, together with what went wrong in composing. The rest cannot be
            checked without the components that the plug-in would have registered.
    """
    plugins = composed.tree.get("plugins")
    path = ("plugins",)
    if not isinstance(plugins, list) or not all(isinstance(plugin, str) for plugin in plugins):
        return None
    try:
        layer = composed.provenance.layer(path)
        if layer is not None and layer.saved:
            return import_saved_plugins(plugins, layer.where(path))
        return import_plugins(plugins, composed.provenance.base(path), composed.provenance.where(path))
    except ConfigError as error:
        raise ConfigError([*composed.problems, *composed.broken.values(), *error.problems]) from error
