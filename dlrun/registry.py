"""Registries: every component that YAML can choose by name, with its options.

A component is a function (or class) decorated with ``@REGISTRY.register`` in a file of the registry's package; its name
in YAML is the function's name, its options are the function's keyword parameters with their annotations and defaults.
Adding a component is adding one file.

The names and options of built-in components are read from the source files, so that ``dlrun list`` and the checking of
a configuration import neither torch nor any component; a component's module is imported when the component is built.
Plug-ins are registered by importing them.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from dlrun.errors import UserError, did_you_mean
from dlrun.signatures import REQUIRED, Entry, Factory, read_factory, read_sources
from dlrun.types import convert

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Registry(Generic[T]):
    """The components of one kind.

    Args:
        kind: singular name of the kind, as in error messages and ``dlrun list``.
        location: dotted package or module whose files define the built-in components.
        runtime: names of the arguments that dlrun itself passes to a factory; refused in YAML.
    """

    def __init__(self, kind: str, location: str, *, runtime: tuple[str, ...] = ()) -> None:
        self.kind = kind
        self.location = location
        self.runtime = runtime
        self._index: dict[str, Entry] | None = None
        self._live: dict[str, Factory] = {}

    def register(self, factory: F) -> F:
        """Register a factory under its own name (decorator).

        Raises:
            UserError: if the name is taken by another module, the factory takes ``**kwargs``, or an option has a type
                that YAML cannot hold or a default that is not of its type.
        """
        name, module = factory.__name__, factory.__module__
        known = self._entries().get(name)
        if known is not None and (known.module != module or name in self._live):
            raise UserError(
                f"the {self.kind} {name!r} of module {module} is already registered by module {known.module}; "
                "give one of them another name"
            )
        kinds = {parameter.kind for parameter in inspect.signature(factory).parameters.values()}
        if kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
            raise UserError(
                f"the {self.kind} {name!r} of module {module} takes *args or **kwargs: name its options one by one, "
                "so that a misspelt option is an error"
            )
        if known is None:
            self._entries()[name] = read_factory(self.kind, factory, self.runtime)
        self._live[name] = factory
        return factory

    def names(self) -> list[str]:
        """The registered names in alphabetical order."""
        return sorted(self._entries())

    def __contains__(self, name: object) -> bool:
        return name in self._entries()

    def entry(self, name: str) -> Entry:
        """What is known of the component ``name``.

        Raises:
            UserError: if there is no such component, with the nearest names.
        """
        try:
            return self._entries()[name]
        except KeyError:
            raise UserError(f"unknown {self.kind} {name!r}; {did_you_mean(name, self.names())}") from None

    def get(self, name: str) -> Callable[..., T]:
        """The factory ``name``; its module is imported now.

        Raises:
            UserError: if there is no such component, with the nearest names.
        """
        entry = self.entry(name)
        if name not in self._live:
            importlib.import_module(entry.module)
        return self._live[name]

    def check(self, name: str, params: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        """Check options against a component's signature.

        Args:
            name: a registered name.
            params: option -> plain value.

        Returns:
            The values of all options, defaults filled in and converted to their final types; and the problems as
            pairs (option, what is wrong and what to do), empty if there are none.
        """
        entry = self.entry(name)
        options = {option.name: option for option in entry.options}
        values: dict[str, Any] = {}
        problems: list[tuple[str, str]] = []
        for key, value in params.items():
            if key in self.runtime:
                problems.append((key, f"is set by dlrun itself for every {self.kind}; remove it"))
            elif key not in options:
                hint = did_you_mean(key, options)
                problems.append((key, f"{self.kind} {name!r} has no option {key!r}; {hint or 'it has no options'}"))
            else:
                try:
                    values[key] = convert(value, options[key].annotation)
                except ValueError as error:
                    problems.append((key, str(error)))
        for option in entry.options:
            if option.name in params:
                continue
            if option.default is REQUIRED:
                problems.append((option.name, f"missing required value: {option.wanted}"))
            else:
                values[option.name] = option.default
        ordered = {key: values[key] for key in options if key in values}
        return ordered, problems

    def build(self, name: str, params: Mapping[str, Any], /, **runtime: Any) -> T:
        """Call the factory ``name`` with checked options and the runtime arguments it asks for.

        Args:
            name: a registered name.
            params: options as returned by :meth:`check`.
            runtime: values of the registry's runtime arguments; those that the factory does not name are left out.

        Raises:
            UserError: if there is no such component, or the factory refuses a value (``ValueError``).
        """
        factory = self.get(name)
        wanted = inspect.signature(factory).parameters
        try:
            return factory(**{key: value for key, value in runtime.items() if key in wanted}, **params)
        except ValueError as error:
            raise UserError(f"{self.kind} {name!r}: {error}") from error

    def _entries(self) -> dict[str, Entry]:
        if self._index is None:
            self._index = {entry.name: entry for entry in read_sources(self.location, self.runtime)}
        return self._index


MODELS: Registry[Any] = Registry(
    "model",
    "dlrun.models",
    runtime=(
        "input_shape",
        "num_classes",
        "vocabulary_size",
        "source_size",
        "target_size",
        "token_count",
        "class_count",
        "tag_count",
    ),
)
DATASETS: Registry[Any] = Registry("data", "dlrun.data", runtime=("split_seed", "val_fraction"))
AUGMENTATIONS: Registry[Any] = Registry("augment", "dlrun.augment", runtime=("input_shape", "colours"))
OPTIMIZERS: Registry[Any] = Registry("optimizer", "dlrun.optim.optimizers", runtime=("params", "fused", "hidden"))
SCHEDULES: Registry[Any] = Registry(
    "schedule", "dlrun.optim.schedules", runtime=("total_steps", "steps_per_epoch", "timeline")
)
LOSSES: Registry[Any] = Registry("loss", "dlrun.losses", runtime=("num_outputs", "label_counts", "label_total"))
TASKS: Registry[Any] = Registry(
    "task",
    "dlrun.tasks",
    runtime=(
        "loss",
        "num_classes",
        "vocabulary_size",
        "token",
        "target_size",
        "class_count",
        "tag_count",
        "num_labels",
    ),
)
AVERAGERS: Registry[Any] = Registry("averaging", "dlrun.optim.averaging", runtime=("timeline",))
CALLBACKS: Registry[Any] = Registry("callbacks", "dlrun.train.callbacks")

REGISTRIES: dict[str, Registry[Any]] = {
    registry.kind: registry
    for registry in (MODELS, DATASETS, AUGMENTATIONS, OPTIMIZERS, SCHEDULES, LOSSES, TASKS, AVERAGERS, CALLBACKS)
}
"""Every registry by the name of its kind, which is also the name of its group in ``configs/``."""
