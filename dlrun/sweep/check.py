"""What can be found wrong with a sweep before its first trial, and before torch is imported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from dlrun.config.axes import read_axis
from dlrun.config.search import Search, check_space
from dlrun.errors import ConfigError, did_you_mean
from dlrun.monitor import is_rate
from dlrun.sweep.confirm import read_confirm
from dlrun.sweep.first import read_first
from dlrun.sweep.launcher import read_launcher
from dlrun.sweep.plan import grid_points, size_problem
from dlrun.sweep.space import Axis, in_order
from dlrun.sweep.stages import Stage, read_stages


def check_sweep(search: Search) -> None:
    """Read all settings, the spaces of all stages with the ends of their axes, and the sizes of grids.

    Raises:
        ConfigError: listing every problem.
    """
    problems: list[str] = []
    for read in (
        lambda: read_confirm(search.settings),
        lambda: read_launcher(search.settings),
        lambda: read_first(search),
    ):
        try:
            read()
        except ConfigError as error:
            problems += error.problems
    problems += _check_mode(search)
    problems += _check_times(search)
    stages: Sequence[Stage] = ()
    try:
        stages = read_stages(search.settings)
    except ConfigError as error:
        problems += error.problems
    problems += _check_stages(search, stages)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


def _check_mode(search: Search) -> Iterator[str]:
    """The default is that of a loss, and that of a recipe is of its own metric: another one would search for the worst.

    What was begun goes on as it was.
    """
    metric, mode = search.settings.metric, search.settings.mode
    fits = (mode == "max") == is_rate(metric)
    if not fits and search.origin is None and not _said_beside(search, "mode", "metric"):
        where = search.composed.provenance.where(("sweep", "metric"))
        yield (
            f"{where}: sweep.metric: say whether large values of {metric} are good (sweep.mode=max) or small ones "
            "(sweep.mode=min)"
        )


def _check_times(search: Search) -> Iterator[str]:
    for name, time in (("timeout", search.settings.timeout), ("max_time", search.settings.max_time)):
        if time is not None and not time.is_time:
            where = search.composed.provenance.where(("sweep", name))
            yield f"{where}: sweep.{name}: {time} is not a time: write it in s, min or h"


def _check_stages(search: Search, stages: Sequence[Stage]) -> Iterator[str]:
    if search.settings.stages and _said_beside(search, "trials", "stages"):
        yield (
            f"{search.composed.provenance.where(('sweep', 'trials'))}: sweep.trials: sweep.stages say how many trials "
            "each has; leave it out"
        )
    searched = any(axis.key == "trainer.epochs" for axis in search.space)
    for stage in stages:
        if stage.epochs is not None and (searched or "trainer.epochs" in (stage.space or {})):
            yield (f"sweep.stages.{stage.number - 1}.epochs: trainer.epochs is searched: leave out one of the two")
        if stage.space:
            problems, search = _with_space(search, stage.number - 1, stage.space)
            yield from problems
        if search.settings.search == "grid":
            yield from _check_grid(search, stage)


def _with_space(search: Search, number: int, given: Mapping[str, str]) -> tuple[list[str], Search]:
    """What is wrong with the space that a stage gives, and the search with its axes in the place of those before."""
    where = f"sweep.stages.{number}.space"
    axes: dict[str, Axis] = {axis.key: axis for axis in search.space}
    problems, read = [], {}
    for key, text in given.items():
        if key not in axes:
            problems.append(f"{where}.{key}: is no axis of the sweep; {did_you_mean(key, axes)}")
        try:
            read[key] = read_axis(key, text)
        except ValueError as error:
            problems.append(f"{where}.{key}: {error}")
    if problems:
        return problems, search
    try:
        space = in_order(tuple({**axes, **read}.values()))
    except ValueError as error:
        return [f"{where}: {error}"], search
    changed = replace(search, space=space, origins={**search.origins, **dict.fromkeys(read, where)}, _bases={})
    return check_space(changed), changed


def _check_grid(search: Search, stage: Stage) -> Iterator[str]:
    """A stage whose space follows from verdicts has at most as many points as the one before: an axis may be fixed."""
    points = search.settings.points
    count = len(grid_points(search.space, points, search.fixed))
    key = f"sweep.stages.{stage.number - 1}.trials" if search.settings.stages else "sweep.trials"
    if count > stage.trials:
        yield size_problem(search.space, points, count, stage.trials, key)


def _said_beside(search: Search, key: str, other: str) -> bool:
    """Whether a setting was typed, or written where another one is or above; not in the defaults or a recipe below."""
    provenance = search.composed.provenance
    layer, beside = provenance.layer(("sweep", key)), provenance.layer(("sweep", other))
    if layer is None or beside is None:
        return False
    return layer.typed or provenance.layers.index(layer) >= provenance.layers.index(beside)
