"""The settings that are tried first, because they are known to be good."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dlrun.config.axes import canonical
from dlrun.config.search import Search
from dlrun.errors import ConfigError, did_you_mean
from dlrun.sweep.space import active, in_order


def read_first(search: Search) -> tuple[dict[str, Any], ...]:
    """Values of the axes for each of the first trials.

    Raises:
        ConfigError: if one has no value for an axis, or one that the axis has not; listing every problem.
    """
    found, problems = [], []
    for i, given in enumerate(search.settings.try_first):
        values = {canonical(key): value for key, value in given.items()}
        problems += [f"sweep.try_first.{i}{problem}" for problem in _problems(search, values)]
        found.append({axis.key: values[axis.key] for axis in search.space if axis.key in values})
    trials = search.settings.stages[0].get("trials") if search.settings.stages else search.settings.trials
    if isinstance(trials, int) and len(found) > trials:
        problems.append(f"sweep.try_first: has {len(found)} trials, but there are only {trials}")
    if problems:
        raise ConfigError(problems)
    return tuple(found)


def _problems(search: Search, values: Mapping[str, Any]) -> Iterator[str]:
    axes = {axis.key: axis for axis in search.space}
    for key in values:
        if key not in axes:
            yield f".{key}: is no axis of the sweep; {did_you_mean(key, axes)}"
    known = {key: value for key, value in values.items() if key in axes}
    for axis in in_order(search.space):
        searched = active(axis, known, search.fixed)
        if searched and axis.key not in values:
            yield f": has no value for {axis.key}"
        elif not searched and axis.key in values:
            yield f".{axis.key}: is searched only when {axis.when}"
        elif searched:
            try:
                axis.distribution.position(values[axis.key])
            except ValueError as error:
                yield f".{axis.key}: {error}"
