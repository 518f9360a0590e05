"""From ``config=`` and overrides to a checked search: settings, space, and the configuration of any trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dlrun.config.axes import SECTION, WrittenAxis, read_axis
from dlrun.config.compose import Composed, compose, value_layer, with_values
from dlrun.config.groups import groups
from dlrun.config.load import finish, load_plugins
from dlrun.config.schema import Config
from dlrun.config.sources import Origin
from dlrun.config.sweep_schema import SweepConfig
from dlrun.config.validate import validate_sweep
from dlrun.errors import ConfigError
from dlrun.sweep.distributions import Choice, Distribution
from dlrun.sweep.scalars import plain
from dlrun.sweep.space import Axis, Condition, Space, active, draw, in_order


@dataclass
class Search:
    """What ``dlrun sweep`` searches.

    Attributes:
        settings: the section ``sweep``.
        space: the axes, those first that others depend on.
        composed: the configuration without the axes.
        origins: key of an axis -> where it was written.
        origin: where files and words were, of a search that goes on.
        plugins: absolute paths of the user's modules, and names of installed ones.
    """

    config: str | None
    overrides: tuple[str, ...]
    settings: SweepConfig
    space: Space
    composed: Composed
    origins: Mapping[str, str]
    origin: Origin | None = None
    plugins: tuple[str, ...] = ()
    _bases: dict[tuple[tuple[str, str], ...], Composed] = field(default_factory=dict, repr=False)

    @property
    def fixed(self) -> dict[str, Any]:
        """Values of the keys that conditions ask for and that are no axes."""
        keys = {axis.when.key for axis in self.space if axis.when is not None}
        return {key: value for key in keys if (value := _lookup(self.composed.tree, key)) is not _ABSENT}

    def trial(self, values: Mapping[str, Any]) -> Config:
        """The checked configuration of a trial.

        Args:
            values: path -> plain value, of the axes or of any other option.

        Raises:
            ConfigError: listing every problem.
        """
        chosen = {key: value for key, value in values.items() if _chooses(key)}
        base = self._base(chosen)
        rest = [
            value_layer(key, value, self.origins.get(key, "")) for key, value in values.items() if key not in chosen
        ]
        return finish(replace(with_values(base, rest), name=self.composed.name))

    def _base(self, chosen: Mapping[str, Any]) -> Composed:
        if not chosen:
            return self.composed
        key = tuple((name, str(value)) for name, value in chosen.items())
        if key not in self._bases:
            layers = [value_layer(name, value, self.origins.get(name, "")) for name, value in chosen.items()]
            self._bases[key] = compose(self.config, self.overrides, layers, self.origin)
        return self._bases[key]


def load_search(config: str | None, overrides: Sequence[str], origin: Origin | None = None) -> Search:
    """Compose, read the axes, and check both ends of each (every value of a choice) against the schema.

    Args:
        config: name of a recipe, path of a YAML file, or None for the defaults.
        overrides: ``key=value`` in Hydra's syntax; the values may be distributions.
        origin: where both were, of a search that goes on; None for here and now.

    Raises:
        ConfigError: listing every problem found, before any trial is started.
    """
    composed = compose(config, overrides, origin=origin)
    plugins = load_plugins(composed) or ()
    axes, problems = _parse(composed.axes)
    try:
        settings = validate_sweep(composed)
    except ConfigError as error:
        raise ConfigError(list(dict.fromkeys([*error.problems, *problems]))) from None
    if problems:
        raise ConfigError([*composed.problems, *problems])
    if not axes:
        raise ConfigError(
            [
                "there is nothing to search: put a distribution in the place of a value, such as "
                "optimizer.lr='log(1e-5, 1)', or fill sweep.space"
            ]
        )
    try:
        space = in_order(tuple(axes))
    except ValueError as error:
        raise ConfigError([f"sweep.space: {error}"]) from None
    origins = {key: axis.where for key, axis in composed.axes.items()}
    told, composed = composed.problems, replace(composed, problems=())
    search = Search(config, tuple(overrides), settings, space, composed, origins, origin=origin, plugins=plugins)
    found = [*told, *_check_single(search), *check_space(search)]
    if found:
        raise ConfigError(list(dict.fromkeys(found)))
    return search


def _parse(written: Mapping[str, WrittenAxis]) -> tuple[list[Axis], list[str]]:
    axes, problems = [], []
    for key, axis in written.items():
        if isinstance(axis.text, list):
            problems.append(
                f"{axis.where}: {key}: a distribution cannot stand inside of a list; search among whole lists, such as "
                f"{key}='choice([8, 8], [64, 8])', or for one element, such as {key}.0='int(4, 64)'"
            )
            continue
        if not isinstance(axis.text, str):
            problems.append(f"{axis.where}: {key}: must be a distribution such as log(1e-5, 1), got {axis.text!r}")
            continue
        try:
            axes.append(read_axis(key, axis.text))
        except ValueError as error:
            problems.append(f"{axis.where}: {key}: {error}")
    return axes, problems


def check_space(search: Search) -> list[str]:
    """What is wrong with the axes of a search: their conditions, and the configurations at their ends."""
    return list(dict.fromkeys([*_check_conditions(search), *_check_ends(search)]))


def _check_single(search: Search) -> Iterator[str]:
    """A trial is one run, and not a sweep."""
    for key in ("folds", "seeds"):
        if search.composed.tree.get(key) is not None or key in search.origins:
            where = search.origins.get(key) or search.composed.provenance.where((key,))
            yield (
                f"{where}: {key}: a trial is one run; to train the best ones with several seeds set "
                "sweep.confirm='{top: 3, seeds: 5}'"
            )
    for axis in search.space:
        if axis.key.split(".")[0] in (SECTION, "run"):
            yield f"{search.origins[axis.key]}: {axis.key}: says nothing of a trial's training, and cannot be searched"
        for other in search.space:
            if other.key.startswith(f"{axis.key}.") and not _chooses(axis.key):
                yield f"{search.origins[other.key]}: {other.key}: is a part of {axis.key}, which is searched as a whole"


def _check_conditions(search: Search) -> Iterator[str]:
    axes = {axis.key: axis for axis in search.space}
    for axis in search.space:
        if axis.when is None:
            continue
        on = axes.get(axis.when.key)
        where = f"{search.origins[axis.key]}: {axis.key}: when {axis.when}"
        if on is None:
            value = _lookup(search.composed.tree, axis.when.key)
            if value is _ABSENT:
                yield f"{where}: the configuration has no {axis.when.key}"
            elif not axis.when.holds(value):
                yield f"{where}: never holds, for {axis.when.key} is {value!r} and is not searched"
        elif not _fitting(on.distribution, axis.when, search.settings):
            often = "never" if isinstance(on.distribution, Choice) or on.distribution.integer else "hardly ever"
            yield f"{where}: {often} holds, for {axis.when.key} is {on.distribution}"


def _fitting(distribution: Distribution, when: Condition, settings: SweepConfig) -> list[Any]:
    """Those values of a condition that an axis may have; of an interval of any numbers, only a grid has some again."""
    if isinstance(distribution, Choice):
        return [value for value in distribution.values if when.holds(value)]
    if settings.search == "grid":
        return [value for value in distribution.grid(settings.points) if when.holds(value)]
    whole = [value for value in when.values if isinstance(value, int) and not isinstance(value, bool)]
    return [value for value in whole if distribution.integer and distribution.low <= value <= distribution.high]


def _check_ends(search: Search) -> Iterator[str]:
    """Compose with each end of each axis, also beside every value of the choice of its component; all other axes are in
    the middle (or where their conditions want them)."""
    own: dict[str, list[str]] = {}
    foreign: dict[str, list[str]] = {}
    for axis in search.space:
        alone: list[str] = []
        for value in axis.distribution.grid(2):
            for named, problem in _refusals(search, axis, {axis.key: value}):
                if named == axis.key:
                    alone.append(problem)
                else:
                    # Said at the ends of that axis itself, if they are wrong too.
                    foreign.setdefault(named, []).append(f"{problem} (with {axis.key}={plain(value)})")
        own[axis.key] = list(_beside_components(search, axis)) or alone
    for key in dict.fromkeys([*own, *foreign]):
        yield from own.get(key) or foreign.get(key, [])


def _beside_components(search: Search, axis: Axis) -> Iterator[str]:
    """What is wrong with the ends of an axis beside other values of the choice of its component."""
    on = next((other for other in search.space if other.key == axis.key.split(".")[0] != axis.key), None)
    if on is None or not isinstance(on.distribution, Choice):
        return
    refused: dict[str, str] = {}
    for name in on.distribution.values:
        for value in axis.distribution.grid(2):
            for named, problem in _refusals(search, axis, {axis.key: value, on.key: name}):
                if named == axis.key:
                    refused.setdefault(plain(name), problem)
    names = [plain(name) for name in on.distribution.values]
    fitting = [name for name in names if name not in refused]
    if refused and fitting:
        when = f"{on.key}={fitting[0]}" if len(fitting) == 1 else f"{on.key} in [{', '.join(fitting)}]"
        remedy = f"; search it only where it fits: {axis.distribution} when {when}" if axis.when is None else ""
        for name, problem in refused.items():
            yield f"{problem} (with {on.key}={name}){remedy}"
    else:
        yield from refused.values()


def _refusals(search: Search, axis: Axis, wanted: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(axis, problem) of a combination; the axis is that which the problem names, else the one that is checked."""
    values = _example(search, wanted)
    if values is None or axis.key not in values:
        return
    try:
        search.trial(values)
    except ConfigError as error:
        for problem in error.problems:
            yield next((key for key in values if f": {key}: " in problem), axis.key), problem


def _example(search: Search, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """Values of all axes with some of them given; None if these cannot be active together."""
    wanted = dict(wanted)
    axes = {axis.key: axis for axis in search.space}
    # It grows while it is looked at: a condition may be on an axis with a condition.
    queue = list(wanted)
    for key in queue:
        when = axes[key].when
        if when is None or when.key not in axes:
            continue
        if when.key not in wanted:
            fitting = _fitting(axes[when.key].distribution, when, search.settings)
            if not fitting:
                return None
            wanted[when.key] = fitting[0]
            queue.append(when.key)
        elif not when.holds(wanted[when.key]):
            return None
    middle = draw(search.space, {axis.key: 0.5 for axis in search.space}, search.fixed)
    values: dict[str, Any] = {}
    for axis in search.space:
        if axis.key in wanted:
            values[axis.key] = wanted[axis.key]
        elif active(axis, values, search.fixed):
            values[axis.key] = middle.get(axis.key, axis.distribution.at(0.5))
    return values


_ABSENT = object()


def _lookup(tree: Any, key: str) -> Any:
    """The value at a path; of a section that chooses a component, its name."""
    for part in key.split("."):
        if not isinstance(tree, dict) or part not in tree:
            return _ABSENT
        tree = tree[part]
    return tree.get("name", _ABSENT) if isinstance(tree, dict) else tree


def _chooses(key: str) -> bool:
    """Whether a value of this key chooses a component or an option of a group, so that the defaults change with it."""
    group, _, rest = key.partition(".")
    return group in groups() and rest in ("", "name")
