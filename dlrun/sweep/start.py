"""What would fail in every trial is told once, before the first."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch

from dlrun.assembly import build_fit, build_task, prepare
from dlrun.commands.explaining import explaining
from dlrun.config.schema import Config
from dlrun.config.search import Search
from dlrun.errors import UserError, did_you_mean
from dlrun.runfolder import RunFolder
from dlrun.sweep.space import Choice, draw, plain
from dlrun.sweep.stages import read_stages

log = logging.getLogger("dlrun")

_TRIED = 12
"""Trials that are built at most until one can start."""


def check_start(search: Search) -> None:
    """Build what a trial of each stage builds, without a folder.

    The trial in the middle of all axes is tried first; if it cannot start, those at the ends of single axes.

    Raises:
        UserError: as ``dlrun train`` would, if none of them can start; and if the run has no such metric.
    """
    for epochs in dict.fromkeys(stage.epochs for stage in read_stages(search.settings)):
        settings = {} if epochs is None else {"trainer.epochs": epochs}
        refused: list[tuple[dict[str, Any], UserError]] = []
        for values in islice(_examples(search), _TRIED):
            try:
                _build(search, search.trial({**_of_trials(search), **settings, **values}))
                break
            except UserError as error:
                refused.append((values, error))
        else:
            first = refused[0][1]
            raise first if epochs is None else UserError(f"{first} (by sweep.stages, trainer.epochs={epochs})")
        for values, reason in refused:
            told = " ".join(f"{key}={plain(value)}" for key, value in values.items())
            log.warning("a trial such as %s cannot start: %s", told, " ".join(str(reason).split()))


def _examples(search: Search) -> Iterator[dict[str, Any]]:
    """The middle of all axes, then each axis at its ends, or at each value of a choice."""
    middle = {axis.key: 0.5 for axis in search.space}
    yield draw(search.space, middle, search.fixed)
    for axis in search.space:
        spread = axis.distribution
        places = [spread.position(value) for value in spread.values] if isinstance(spread, Choice) else [0.0, 1.0]
        for place in places:
            yield draw(search.space, {**middle, axis.key: place}, search.fixed)


def _of_trials(search: Search) -> dict[str, Any]:
    """What all trials have of the sweep."""
    return {
        "callbacks.progress": None,
        "callbacks.tensorboard": None,
        "callbacks.checkpoint.monitor": search.settings.metric,
        "callbacks.checkpoint.mode": search.settings.mode,
    }


def _build(search: Search, config: Config) -> None:
    with explaining(config):
        prepared = prepare(config)
        task = build_task(config, prepared.feed.arguments)
        splits = ("train", "val") if "val" in prepared.feed.sizes() else ("train",)
        known = [f"{split}/{name}" for split in splits for name in ("loss", *task.metrics)]
        metric = search.settings.metric
        if metric not in known:
            raise UserError(f"sweep.metric={metric}: the runs have no such metric; {did_you_mean(metric, known)}")
        if config.model.cache_features:
            # The features of all images would be computed for it.
            return
        fit = build_fit(config, prepared, lambda: RunFolder(search.settings.root))
        fit.train.close()
        if fit.val is not None:
            fit.val.close()
    del fit, prepared
    if config.device != "cpu" and torch.cuda.is_available():
        # The trials may need all of it, and in other processes.
        gc.collect()
        torch.cuda.empty_cache()
