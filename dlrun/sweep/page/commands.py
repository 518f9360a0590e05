"""The commands to go on with after a sweep."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from dlrun.addresses import masked
from dlrun.config.search import Search
from dlrun.sweep.outcome import Outcome
from dlrun.sweep.record import REPEATABLE
from dlrun.sweep.scalars import plain
from dlrun.sweep.stages import Searched, following


def commands(search: Search, path: str, outcome: Outcome, *, running: bool) -> Iterator[tuple[str, str]]:
    """What they are for, and the commands.

    Args:
        search: what was searched.
        path: of the sweep's folder, as the user would type it.
        outcome: what it found.
        running: whether it goes on: then there are no results to go on with yet.
    """
    if running:
        yield "If it is stopped, go on with", f"dlrun sweep resume={shlex.quote(path)}"
        return
    if outcome.stopped:
        yield "Go on with the trials that are missing", f"dlrun sweep resume={shlex.quote(path)}"
    ended = {record.status for record in outcome.records}
    again = ",".join(status for status in REPEATABLE if status in ended)
    if again:
        yield "Run what failed again, when its cause is mended", f"dlrun sweep resume={shlex.quote(path)} retry={again}"
    for best in outcome.best(search.settings.mode):
        yield "Train the best again", f"dlrun train config={shlex.quote(f'{path}/best.yaml')}"
        host, _, place = best.place.partition(":")
        where = f"{place or f'{path}/trials'}/{best.folder}"
        yield f"Evaluate the best{f' on {host}' if host else ''}", f"dlrun eval checkpoint={shlex.quote(where)}"
    after = next_sweep(search, outcome)
    if after is not None:
        yield "Search where the verdicts point", after
    if not search.settings.stages and not outcome.stopped:
        more = 2 * search.settings.trials
        yield "More trials in the same space", f"dlrun sweep resume={shlex.quote(path)} sweep.trials={more}"
    if outcome.records:
        yield "Compare the trials in TensorBoard", f"tensorboard --logdir {shlex.quote(f'{path}/tensorboard')}"


def next_sweep(search: Search, outcome: Outcome) -> str | None:
    """The command that searches what the verdicts on the last stage suggest; None if that is nothing or nothing new."""
    judged = [result for result in outcome.stages if result.verdicts]
    if not judged:
        return None
    last = judged[-1]
    searched = following(last.searched, last.verdicts, replace(last.stage, space=None))
    if not searched.space or searched.space == last.searched.space:
        return None
    left_out = {axis.key for axis in search.space}
    stages = []
    if any(isinstance(stage.get("space"), Mapping) for stage in search.settings.stages):
        # Ranges that were given to stages are those of the sweep before.
        left_out.add("sweep.stages")
        stages = [{key: value for key, value in stage.items() if key != "space"} for stage in search.settings.stages]
    named = []
    if search.settings.storage is not None:
        # The database knows another search by the name.
        left_out.add("sweep.name")
        named = [f"sweep.name={search.settings.name or search.composed.name}-next"]
    kept = [word for word in search.overrides if word.split("=")[0].lstrip("+") not in left_out]
    words = [] if search.config is None else [f"config={search.config}"]
    words += [*kept, *named, *([f"sweep.stages={plain(stages)}"] if stages else []), *_words(search, searched)]
    origin = search.origin
    # Its words name files as they were typed: from the folder in which the sweep began.
    there = "" if origin is None or origin.folder == Path.cwd() else f"cd {shlex.quote(str(origin.folder))} && "
    return masked(there + " ".join(["dlrun", "sweep", *(shlex.quote(word) for word in words)]))


def _words(search: Search, searched: Searched) -> Iterator[str]:
    known = {**search.fixed, **searched.settings}
    open_keys = {axis.key for axis in searched.space}
    for key, item in searched.fixed.items():
        if item.when is not None and item.when.key in open_keys:
            # A command has no word for "this value, but only if": it stays an axis.
            yield f"{key}={next(axis for axis in search.space if axis.key == key)}"
        elif item.when is None or item.when.holds(known.get(item.when.key)):
            yield f"{key}={plain(item.value)}"
    yield from (f"{axis.key}={axis}" for axis in searched.space)
