"""From a composed tree to the frozen :class:`~dlrun.config.schema.Config`, or one error that lists every problem."""

from __future__ import annotations

import dataclasses
import os
import re
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dlrun.config.compose import Composed
from dlrun.config.groups import DEBUG, options
from dlrun.config.merge import merge_into
from dlrun.config.schema import SECTIONS, ComponentConfig, Config, component_groups, series_problems
from dlrun.config.sources import KeyPath
from dlrun.config.sweep_schema import SweepConfig
from dlrun.errors import ConfigError, did_you_mean
from dlrun.registry import AUGMENTATIONS, CALLBACKS, REGISTRIES, Registry
from dlrun.signatures import REQUIRED, Entry
from dlrun.types import Components, components_in, convert, describe, is_path, looks_like_path

SWEEP = "sweep"
"""Section that other commands than ``dlrun sweep`` leave alone."""
# torch takes more digits and leading zeros for other devices, or fails.
_DEVICE = re.compile(r"auto|cpu|cuda(:([0-9]|[1-9][0-9]))?")


def validate(composed: Composed) -> Config:
    """Check a composed tree against the schema and the registries.

    The plug-ins must have been imported, so that the components they register are known.

    Raises:
        ConfigError: listing every problem: unknown keys, wrong types, values out of range, missing values,
            unresolved interpolations, unknown components, and options that the chosen component does not have.
    """
    return _Validator(composed).config(composed.tree)


def validate_sweep(composed: Composed) -> SweepConfig:
    """Check the section ``sweep`` of a composed tree.

    Raises:
        ConfigError: listing every problem of the section.
    """
    return _Validator(composed).sweep(composed.tree.get(SWEEP))


class _Validator:
    """Collects problems while it converts the tree."""

    def __init__(self, composed: Composed) -> None:
        self.provenance = composed.provenance
        self.broken = composed.broken
        self.problems = [*composed.problems, *composed.broken.values()]

    def config(self, tree: Mapping[str, Any]) -> Config:
        hints = typing.get_type_hints(Config, include_extras=True)
        known = [*hints, DEBUG, SWEEP]
        defaults = {f.name: default for f in dataclasses.fields(Config) if (default := _default(f)) is not REQUIRED}
        values: dict[str, Any] = {}
        for key in tree:
            if key == DEBUG:
                self._add((key,), f"must be the name of a debug mode: {', '.join(options(DEBUG))}, got {tree[key]!r}")
            elif key not in known:
                self._unknown((key,), known, self._nested_hint(key))
        for key, annotation in hints.items():
            path = (key,)
            if key not in tree and key in defaults:
                # A tree that was saved before the section existed.
                values[key] = defaults[key]
            elif key not in tree:
                self._add(path, f"missing required section {key!r}")
            elif key == "augment":
                values[key] = self._augment(tree[key])
            elif key == "callbacks":
                values[key] = self._callbacks(tree[key])
            elif key in SECTIONS:
                values[key] = self._section(key, tree[key])
            else:
                values[key] = self._value(path, tree[key], annotation)
        device = values.get("device")
        if isinstance(device, str) and not _DEVICE.fullmatch(device):
            self._add(("device",), f"must be auto, cpu, cuda or cuda:N, got {device!r}")
        for key, message in series_problems(values):
            self._add((key,), message)
        self._refuse_validation_beside_folds(values)
        if self.problems:
            raise ConfigError(self.problems)
        values["plugins"] = tuple(values["plugins"])
        return Config(**values)

    def _refuse_validation_beside_folds(self, values: Mapping[str, Any]) -> None:
        path = ("data", "val_fraction")
        layer = self.provenance.layer(path)
        if values.get("folds") is not None and layer is not None and layer.typed:
            self._add(path, "has no effect with folds: the validation split of each run is its fold; leave it out")

    def sweep(self, tree: Any) -> SweepConfig:
        section = self._section(SWEEP, tree)
        if self.problems:
            raise ConfigError(self.problems)
        assert isinstance(section, SweepConfig)
        return section

    def _section(self, key: str, tree: Any) -> Any:
        cls = SECTIONS[key]
        if not isinstance(tree, dict):
            self._add((key,), f"must be a section with `name: value` lines below it, got {tree!r}")
            return None
        hints = typing.get_type_hints(cls, include_extras=True)
        component = issubclass(cls, ComponentConfig)
        fields = {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.name != "params"}
        defaults = {f.name: default for f in dataclasses.fields(cls) if (default := _default(f)) is not REQUIRED}
        values = {}
        for name, annotation in fields.items():
            if name in defaults and name not in tree:
                # A tree that was saved before the option existed.
                values[name] = defaults[name]
            elif name not in tree:
                self._missing((key, name), describe(annotation))
            else:
                values[name] = self._value((key, name), tree[name], annotation)
        rest = {name: value for name, value in tree.items() if name not in fields}
        if not component:
            for name in rest:
                self._unknown((key, name), fields)
        elif isinstance(values.get("name"), str):
            values["params"] = self._params(REGISTRIES[key], values["name"], rest, (key,), common=fields)
            if values["name"] in REGISTRIES[key]:
                self._check_mode((key,), REGISTRIES[key].entry(values["name"]), values["params"])
        return cls(**values) if len(values) == len(fields) + component else None

    def _params(
        self,
        registry: Registry[Any],
        name: str,
        given: Mapping[str, Any],
        path: KeyPath,
        common: Iterable[str] = (),
    ) -> dict[str, Any]:
        """The component's own options, checked; paths resolved against the file that contains them."""
        if name not in registry:
            at = (*path, "name")
            self._add(at, f"unknown {registry.kind} {name!r}; {did_you_mean(name, registry.names())}")
            return {}
        options = {option.name: option for option in registry.entry(name).options}
        missing = [key for key, value in given.items() if value == "???"]
        for key in missing:
            if key in options:
                self._missing((*path, key), options[key].wanted)
        present = {key: value for key, value in given.items() if key not in missing}
        values, problems = registry.check(name, present)
        for key, message in problems:
            if key in missing:
                continue
            if key not in options and key not in registry.runtime:
                nearest = did_you_mean(key, [*options, *common]) or "it has no options"
                self._report((*path, key), f"unknown key: {registry.kind} {name!r} has no option {key!r}; {nearest}")
            else:
                self._add((*path, key), message)
        for key in values:
            held = components_in(options[key].annotation)
            if held is not None:
                values[key] = self._parts(held, values[key], (*path, key))
            elif is_path(options[key].annotation):
                values[key] = self._absolute((*path, key), values[key])
        return values

    def _parts(self, held: Components, items: Iterable[Mapping[str, Any]], path: KeyPath) -> tuple[dict[str, Any], ...]:
        """The components that an option holds, each checked like one that a section chooses."""
        registry, extras = REGISTRIES[held.kind], {name: (wanted, default) for name, wanted, default in held.extras}
        parts = []
        for number, item in enumerate(items):
            here = (*path, str(number))
            name = item.get("name")
            if not isinstance(name, str):
                self._add(here, f"must be {{name: ..., option: ...}} with the name of a {held.kind}, got {item!r}")
                continue
            found = {
                key: self._value((*here, key), item[key], wanted) if key in item else default
                for key, (wanted, default) in extras.items()
            }
            given = {key: value for key, value in item.items() if key != "name" and key not in extras}
            parts.append({"name": name, **found, **self._params(registry, name, given, here, common=extras)})
        return tuple(parts)

    def _augment(self, tree: Any) -> tuple[ComponentConfig, ...]:
        if not isinstance(tree, list):
            self._add(("augment",), f"must be a list of augmentations, each {{name: ..., option: ...}}, got {tree!r}")
            return ()
        pipeline = []
        for i, item in enumerate(tree):
            path = ("augment", str(i))
            if isinstance(item, str):
                item = {"name": item}
            if not isinstance(item, dict) or not isinstance(item.get("name"), str):
                self._add(path, f"must be the name of an augmentation or {{name: ..., option: ...}}, got {item!r}")
                continue
            given = {key: value for key, value in item.items() if key != "name"}
            pipeline.append(
                ComponentConfig(item["name"], params=self._params(AUGMENTATIONS, item["name"], given, path))
            )
        return tuple(pipeline)

    def _callbacks(self, tree: Any) -> dict[str, ComponentConfig]:
        if not isinstance(tree, dict):
            self._add(("callbacks",), f"must map names of callbacks to their options, got {tree!r}")
            return {}
        chosen = {}
        for name, given in tree.items():
            path = ("callbacks", name)
            if name not in CALLBACKS:
                self._unknown(path, CALLBACKS.names())
            elif given is None or given is False:
                continue
            elif given is True or isinstance(given, dict):
                params = self._params(CALLBACKS, name, {} if given is True else given, path)
                chosen[name] = ComponentConfig(name, params=params)
                self._check_mode(("callbacks", name), CALLBACKS.entry(name), params)
            else:
                self._add(path, f"must be options, true, or null (off), got {given!r}")
        return chosen

    def _check_mode(self, path: KeyPath, entry: Entry, params: Mapping[str, Any]) -> None:
        """A component's ``mode`` was said of one metric: refuse it when a later layer watches another one.

        Otherwise ``callbacks.checkpoint.monitor=val/loss`` alone would keep the model with the greatest loss.
        """
        if "monitor" not in params or "mode" not in params:
            return
        default = next(option.default for option in entry.options if option.name == "monitor")
        monitor = said_of = default
        for tree in self._layers_with_one_command_line():
            given: Any = tree
            for key in path:
                given = given.get(key, {}) if isinstance(given, dict) else None
            if not isinstance(given, dict):
                # Switched off, or on with its defaults: what was said before is gone.
                monitor = said_of = default
                continue
            monitor = given.get("monitor", monitor)
            if "mode" in given:
                said_of = monitor
        # A mode without any metric, in a plug-in that has no default for it, holds for whatever metric is named.
        if monitor != said_of and said_of is not REQUIRED:
            where = ".".join(path)
            self._add(
                (*path, "monitor"),
                f"is now {params['monitor']}, but mode is still the {params['mode']} of {said_of}; say "
                f"{where}.mode=min or max too",
            )

    def _layers_with_one_command_line(self) -> list[dict[str, Any]]:
        """The trees of the layers, lowest first; the overrides of the command line count as one layer."""
        trees = [layer.tree for layer in self.provenance.layers if not layer.typed]
        line: dict[str, Any] = {}
        for layer in self.provenance.layers:
            if layer.typed:
                merge_into(line, layer.tree)
        return [*trees, line]

    def _value(self, path: KeyPath, value: Any, annotation: Any) -> Any:
        if value == "???":
            self._missing(path, describe(annotation))
            return None
        try:
            result = convert(value, annotation)
        except ValueError as error:
            self._add(path, str(error))
            return None
        return self._absolute(path, result) if is_path(annotation) else result

    def _absolute(self, path: KeyPath, value: Any) -> Any:
        if isinstance(value, Path):
            return Path(os.path.normpath(self.provenance.base(path) / value.expanduser()))
        if isinstance(value, str) and looks_like_path(value):
            return str(self._absolute(path, Path(value)))
        if isinstance(value, (list, tuple)):
            return type(value)(self._absolute(path, item) for item in value)
        return value

    def _unknown(self, path: KeyPath, known: Iterable[str], hint: str = "") -> None:
        self._report(path, f"unknown key; {hint or did_you_mean(path[-1], known)}")

    def _missing(self, path: KeyPath, wanted: str) -> None:
        key = ".".join(path)
        self._add(path, f"missing required value: {wanted}; set it in your file, or with {key}=...")

    def _nested_hint(self, key: str) -> str:
        if "." in key:
            first, rest = key.split(".", 1)
            return f"in a file, write it nested: `{first}:` and below it, indented, `{rest}:`"
        owners = [section for section, cls in SECTIONS.items() if key in cls.__dataclass_fields__]
        owners += [
            f"{group}"
            for group in component_groups()
            if any(key == o.name for n in REGISTRIES[group].names() for o in REGISTRIES[group].entry(n).options)
        ]
        places = sorted({f"{owner}.{key}" for owner in owners if key not in ("name", "params")})
        return f"did you mean {' or '.join(places)}?" if places else ""

    def _add(self, path: KeyPath, message: str) -> None:
        """Report what is wrong with a value, unless the value is there only because another could not be resolved."""
        if not any(path == other[: len(path)] for other in self.broken):
            self._report(path, message)

    def _report(self, path: KeyPath, message: str) -> None:
        where = self.provenance.where(path)
        self.problems.append(f"{where}: {'.'.join(path)}: {message}")


def _default(field: dataclasses.Field[Any]) -> Any:
    """Its default, or :data:`REQUIRED`."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return REQUIRED if field.default is dataclasses.MISSING else field.default
