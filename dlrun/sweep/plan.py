"""The values of all trials of a stage, drawn before the first one starts.

A pure function of the seed, the stage, the number of the trial and the key of the axis: what a trial gets depends
neither on the number of jobs nor on the order in which they end, nor on axes that are added or removed beside it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np

from dlrun.errors import UserError
from dlrun.sweep.scalars import plain
from dlrun.sweep.space import Space, draw, every, grid

MOST_POINTS = 100_000
"""Points of a grid up to which they are counted."""


def plan(
    space: Space,
    search: str,
    *,
    trials: int,
    seed: int,
    stage: int,
    points: int,
    fixed: Mapping[str, Any],
    first: Sequence[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Values of the trials of a stage.

    Args:
        space: the axes.
        search: how they are drawn: random, sobol or grid.
        trials: how many, >= 1; a longer plan begins like a shorter one (but for a grid). Fewer, if the space has fewer
            points: the same values again would give the same result.
        seed: of the draws.
        stage: number of the stage.
        points: of a grid, the values of each interval.
        fixed: values that conditions ask for and that are not searched.
        first: values of the first trials.

    Raises:
        UserError: if a grid has more points than ``trials``.

    Source: Bergstra and Bengio 2012, "Random search for hyper-parameter optimization"; Sobol 1967 with Owen's
        scrambling, Joe and Kuo 2008 (``scipy.stats.qmc.Sobol``).
    """
    given = [dict(values) for values in first]
    if search == "grid":
        return _once([*given, *_grid(space, trials, seed, stage, points, fixed)])
    positions = _sobol(space, trials, seed, stage) if search == "sobol" else _random(space, trials, seed, stage)
    drawn = [*given, *(draw(space, at, fixed) for at in positions)][:trials]
    if not is_finite(space, search):
        return drawn
    points_in_all = list(every(space, fixed))
    order = stream(seed, stage, "others").permutation(len(points_in_all))
    return _once(drawn, [points_in_all[i] for i in order])


def _once(drawn: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
    """The draws, with one of the others in the place of each that was there before, as long as there are some."""
    left = iter(others)
    found: dict[str, dict[str, Any]] = {}
    for first in drawn:
        fresh = next((point for point in chain([first], left) if _written(point) not in found), None)
        if fresh is not None:
            found[_written(fresh)] = fresh
    return list(found.values())


def is_finite(space: Space, search: str) -> bool:
    """Whether a search has so few points that each is tried once."""
    return search == "grid" or math.prod(axis.distribution.count for axis in space) <= MOST_POINTS


def continued(
    planned: Sequence[dict[str, Any]], known: Mapping[int, Mapping[str, Any]], search: str
) -> list[dict[str, Any]]:
    """A plan of points of which each is tried once, after some trials were begun, maybe by another plan.

    Args:
        planned: values of the trials.
        known: number -> values of those that there are.
        search: how they are drawn: a grid has all of its points, whatever was tried beside them.
    """
    done = {_written(values) for values in known.values()}
    left = [point for point in planned if _written(point) not in done]
    count = len(left) + len(known) if search == "grid" else len(planned)
    rest = iter(left)
    found: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        values = known.get(number) or next(rest, None)
        if values is None:
            break
        found.append(dict(values))
    return found


def stream(*key: object) -> np.random.Generator:
    """Random numbers of their own for each key."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def _random(space: Space, trials: int, seed: int, stage: int) -> list[dict[str, float]]:
    columns = {axis.key: stream(seed, stage, axis.key).random(trials).tolist() for axis in space}
    return [{key: column[i] for key, column in columns.items()} for i in range(trials)]


def _sobol(space: Space, trials: int, seed: int, stage: int) -> list[dict[str, float]]:
    from scipy.stats import qmc

    sampler = qmc.Sobol(len(space), rng=stream(seed, stage, "sobol"))
    # Asked for by powers of two: only then the sequence is balanced.
    table = sampler.random_base2(max(0, math.ceil(math.log2(trials))))[:trials]
    return [{axis.key: float(at) for axis, at in zip(space, row, strict=True)} for row in table]


def _grid(
    space: Space, trials: int, seed: int, stage: int, points: int, fixed: Mapping[str, Any]
) -> list[dict[str, Any]]:
    found = grid_points(space, points, fixed)
    if len(found) > trials:
        raise UserError(size_problem(space, points, len(found), trials, f"trials of stage {stage}"))
    # In an order by chance: a sweep that is stopped early has then seen all of the space.
    return [found[i] for i in stream(seed, stage, "grid").permutation(len(found))]


def grid_points(space: Space, points: int, fixed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The points of a grid, at most :data:`MOST_POINTS` of them; arguments as for :func:`plan`."""
    return list(islice(grid(space, points, fixed), MOST_POINTS))


def size_problem(space: Space, points: int, count: int, trials: int, key: str) -> str:
    """What to say when a grid of ``count`` points is larger than the ``trials`` that the setting ``key`` allows."""
    sizes = " x ".join(str(len(axis.distribution.grid(points))) for axis in space)
    more = "more than " if count == MOST_POINTS else ""
    return (
        f"sweep.search=grid: the grid has {more}{count:,} points ({sizes}), but {key}={trials}; set {key}={count}, or "
        f"fewer sweep.points (now {points}), or sweep.search=random"
    )


def digest(values: Mapping[str, Any]) -> str:
    """Six letters that tell the values of trials apart."""
    return hashlib.sha256(_written(values).encode()).hexdigest()[:6]


def _written(values: Mapping[str, Any]) -> str:
    return "\n".join(f"{key}={plain(value)}" for key, value in sorted(values.items()))
