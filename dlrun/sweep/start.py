"""What would fail in every trial is told once, before the first."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Mapping
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dlrun.assembly import build_fit, build_task, check_fit, prepare
from dlrun.commands.explaining import explaining
from dlrun.config.compose import resolved
from dlrun.config.load import finish
from dlrun.config.schema import Config
from dlrun.config.search import Search
from dlrun.errors import UserError, did_you_mean
from dlrun.reproducibility import resolve_device, warn_of_slow_precision
from dlrun.runfolder import RunFolder
from dlrun.sweep.common import common
from dlrun.sweep.distributions import Choice
from dlrun.sweep.scalars import plain
from dlrun.sweep.space import draw
from dlrun.sweep.stages import read_stages
from dlrun.sweep.warming import warm_up

log = logging.getLogger("dlrun")

_TRIED = 12
"""Trials that are built at most until one can start."""


class _Refusal(NamedTuple):
    """Why a trial cannot start; ``user`` whether its configuration is to blame."""

    text: str
    user: bool


def check_start(search: Search) -> None:
    """Build what a trial of each stage builds, without a folder.

    The trial in the middle of all axes is tried first; if it cannot start, those at the ends of single axes. Where the
    trials run in a pool one of its warm processes does it: in this one torch takes seconds for its first optimizer.

    Raises:
        UserError: as ``dlrun train`` would, if none of them can start; and if the run has no such metric.
    """
    for epochs in dict.fromkeys(stage.epochs for stage in read_stages(search.settings)):
        settings = {} if epochs is None else {"trainer.epochs": epochs}
        refused: list[tuple[dict[str, Any], _Refusal]] = []
        for values in islice(_examples(search), _TRIED):
            refusal = _refusal(search, {**common(search), **settings, **values})
            if refusal is None:
                break
            refused.append((values, refusal))
        else:
            first = refused[0][1]
            if all(refusal.user for _, refusal in refused):
                raise UserError(first.text + ("" if epochs is None else f" (by sweep.stages, trainer.epochs={epochs})"))
        for values, refusal in refused:
            told = " ".join(f"{key}={plain(value)}" for key, value in values.items())
            log.warning("a trial such as %s cannot start: %s", told, " ".join(refusal.text.split()))
    tree = search.composed.tree
    if "trainer.precision" not in search.origins:
        warn_of_slow_precision(tree["trainer"]["precision"], resolve_device(tree["device"]))


def _examples(search: Search) -> Iterator[dict[str, Any]]:
    """The middle of all axes, then each axis at its ends, or at each value of a choice."""
    middle = {axis.key: 0.5 for axis in search.space}
    yield draw(search.space, middle, search.fixed)
    for axis in search.space:
        spread = axis.distribution
        places = [spread.position(value) for value in spread.values] if isinstance(spread, Choice) else [0.0, 1.0]
        for place in places:
            yield draw(search.space, {**middle, axis.key: place}, search.fixed)


def _refusal(search: Search, values: Mapping[str, Any]) -> _Refusal | None:
    """Why the trial of these values cannot start; None if it can."""
    settings = search.settings
    try:
        config = search.trial(values)
    except UserError as error:
        return _Refusal(str(error), user=True)
    if not settings.jobs or settings.launcher != "local":
        return _tried(config, settings.metric)
    context = warm_up()
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_try_apart, args=(theirs, config.to_tree(), settings.metric), daemon=True)
    process.start()
    theirs.close()
    try:
        answer: _Refusal | None = ours.recv()
    except EOFError:
        answer = _Refusal("the process that built it died", user=False)
    finally:
        process.join()
        ours.close()
    return answer


def _try_apart(line: Connection, tree: Mapping[str, Any], metric: str) -> None:
    log.addHandler(logging.NullHandler())
    line.send(_tried(finish(resolved(tree, "trial", Path.cwd())), metric))


def _tried(config: Config, metric: str) -> _Refusal | None:
    try:
        _build(config, metric)
    except UserError as error:
        return _Refusal(str(error), user=True)
    except Exception as error:
        # Of a component of the user's own, most likely: the trials say it with their tracebacks.
        return _Refusal(f"{type(error).__name__}: {error}", user=False)
    return None


def _build(config: Config, metric: str) -> None:
    with explaining(config):
        prepared = prepare(config)
        check_fit(config, prepared.feed)
        task = build_task(config, prepared.feed.arguments)
        splits = ("train", "val") if "val" in prepared.feed.sizes() else ("train",)
        known = [f"{split}/{name}" for split in splits for name in ("loss", *task.metrics)]
        if metric not in known:
            raise UserError(f"sweep.metric={metric}: the runs have no such metric; {did_you_mean(metric, known)}")
        if config.model.cache_features:
            # The features of all images would be computed for it.
            return
        fit = build_fit(config, prepared, lambda: RunFolder(config.run.root))
        fit.train.close()
        if fit.val is not None:
            fit.val.close()
    del fit, prepared
    if config.device != "cpu" and torch.cuda.is_available():
        # The trials may need all of it, and in other processes.
        gc.collect()
        torch.cuda.empty_cache()
