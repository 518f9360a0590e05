"""Optuna's samplers: what chooses values by those of the trials before, and how our axes look to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler

from dlrun.sweep.distributions import Choice
from dlrun.sweep.scalars import number, plain
from dlrun.sweep.space import Axis, Space, active

# What Optuna warns of (parameters that depend on others are drawn one by one) is meant.
optuna.logging.set_verbosity(optuna.logging.ERROR)


def sampler(search: str, seed: int) -> BaseSampler:
    """The sampler of a search: ``tpe`` or ``gp``."""
    if search == "gp":
        return optuna.samplers.GPSampler(seed=seed)
    if search == "tpe":
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    return optuna.samplers.RandomSampler(seed=seed)


def choose(
    study: optuna.Study, trial_id: int, space: Space, fixed: Mapping[str, Any], by: BaseSampler
) -> dict[str, Any]:
    """Let a sampler choose the values of a trial.

    Args:
        study: with the trials before.
        trial_id: of the trial in the storage.
        space: the axes, those first that others depend on.
        fixed: values that conditions ask for and that are not searched.
        by: what chooses.
    """
    # A study of its own keeps none of the trials that were known before.
    trial = optuna.Trial(optuna.Study(study.study_name, study._storage, sampler=by), trial_id)
    values: dict[str, Any] = {}
    for axis in space:
        if active(axis, values, fixed):
            name, distribution = _named(axis)
            values[axis.key] = _decoded(axis, trial._suggest(name, distribution))
    return values


def placed(space: Space, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    """Values of a trial as a sampler sees them, and the distributions that they are of."""
    params: dict[str, Any] = {}
    distributions: dict[str, BaseDistribution] = {}
    for axis in space:
        if axis.key in values:
            name, distribution = _named(axis)
            try:
                params[name] = _encoded(axis, values[axis.key])
            except ValueError:
                # The space was extended meanwhile: the trial counts, but the sampler cannot place it.
                continue
            distributions[name] = distribution
    return params, distributions


def _named(axis: Axis) -> tuple[str, BaseDistribution]:
    """Name and distribution of an axis for Optuna: a logit scale, which it has not, as the position on the axis.

    A name has one scale for it, or one set of values, for as long as the study is; an extended sweep may have another.
    """
    spread = axis.distribution
    if isinstance(spread, Choice):
        values = [_encoded(axis, value) for value in spread.values]
        # A name of any length fits no column.
        return f"{axis.key} of {sha256(str(spread).encode()).hexdigest()[:8]}", CategoricalDistribution(values)
    if spread.scale == "logit":
        return f"{axis.key} logit {number(spread.low)} {number(spread.high)}", FloatDistribution(0.0, 1.0)
    log = spread.scale == "log"
    if spread.integer:
        return f"{axis.key} int {spread.scale}", IntDistribution(int(spread.low), int(spread.high), log=log)
    return f"{axis.key} {spread.scale}", FloatDistribution(spread.low, spread.high, log=log)


def _encoded(axis: Axis, value: Any) -> Any:
    spread = axis.distribution
    position = spread.position(value)
    if isinstance(spread, Choice):
        return value if value is None or isinstance(value, (bool, int, float, str)) else json.dumps(value)
    return position if spread.scale == "logit" else value


def _decoded(axis: Axis, value: Any) -> Any:
    spread = axis.distribution
    if isinstance(spread, Choice):
        return next(known for known in spread.values if plain(_encoded(axis, known)) == plain(value))
    if spread.scale == "logit":
        return spread.at(value)
    return spread.at(spread.position(value))
