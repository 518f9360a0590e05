"""What is most likely not meant, though it can be done."""

from __future__ import annotations

import math
from collections.abc import Iterator

from dlrun.config.search import Search
from dlrun.monitor import is_rate
from dlrun.sweep.distributions import Choice
from dlrun.sweep.space import Axis, wide_without_log
from dlrun.sweep.stages import read_stages

_SAMPLES = ("data", "data.name", "data.val_fraction", "data.split_seed", "fold")
"""Keys that choose the samples of which the score is."""


def doubts(search: Search) -> Iterator[str]:
    """A warning for each, with what to write instead."""
    for axis in search.space:
        for problem in (_uneven(axis), _incomparable(search, axis)):
            if problem is not None:
                yield f"{search.origins[axis.key]}: {axis.key}: {problem}"
    settings = search.settings
    points = math.prod(axis.distribution.count for axis in search.space)
    if settings.search in ("tpe", "gp") and points <= settings.trials:
        yield (
            f"sweep.search={settings.search}: may try a point again and again, and the space has {points:g} of them; "
            "sweep.search=random tries each once"
        )
    if settings.mode == "max" and not is_rate(settings.metric):
        yield f"sweep.mode=max: looks for the largest {settings.metric}; small values are good where it is a loss"
    if search.composed.tree["callbacks"].get("checkpoint", False) in (None, False):
        yield (
            "callbacks.checkpoint: trials keep checkpoints all the same, for the sweep goes on from them; with "
            "sweep.keep=0 they are deleted when a trial is over"
        )
    longest = max(stage.epochs or longest_epochs(search) for stage in read_stages(settings))
    if settings.prune != "none" and longest <= settings.min_epochs:
        yield (
            f"sweep.prune={settings.prune}: stops no trial: it first looks after {settings.min_epochs} epochs "
            f"(sweep.min_epochs), and none is trained for more than {longest}"
        )


def longest_epochs(search: Search) -> int:
    """The most epochs that a trial may have where its stage does not say it."""
    for axis in search.space:
        if axis.key == "trainer.epochs":
            spread = axis.distribution
            return max(spread.values) if isinstance(spread, Choice) else int(spread.high)
    return int(search.composed.tree["trainer"]["epochs"])


def _uneven(axis: Axis) -> str | None:
    better = wide_without_log(axis)
    if better is None:
        return None
    return (
        f"{axis.distribution} draws a range of several powers of ten evenly, so that nearly all values are large; "
        f"write {better}"
    )


def _incomparable(search: Search, axis: Axis) -> str | None:
    """An axis that changes what the score is, and not only the network that it is of."""
    metric = search.settings.metric
    if metric.endswith("/loss") and axis.key.split(".")[0] == "loss":
        other = f"sweep.metric={metric.removesuffix('loss')}accuracy sweep.mode=max"
        return f"{metric} of different losses cannot be compared; score by what does not change, such as {other}"
    if axis.key in _SAMPLES:
        return f"{metric} is of other samples from trial to trial, and cannot be compared"
    return None
