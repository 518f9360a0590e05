"""The parts of a sweep's page that are text: what was found, the verdicts, the commands to go on, all trials."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from html import escape
from urllib.parse import quote

from dlrun.config.search import Search
from dlrun.sweep.conduct import Outcome, StageResult
from dlrun.sweep.page.data import Shown, importances, score_text, shown_axes, stage_name, value_text
from dlrun.sweep.record import Record
from dlrun.sweep.screen import told
from dlrun.sweep.space import Axis, plain
from dlrun.sweep.stages import following, read_stages

LABELS: Mapping[str, str] = {"oom": "out of memory", "timeout": "timed out"}
"""Endings whose name is not what a reader calls them."""


def label(status: str) -> str:
    """An ending in words."""
    return LABELS.get(status, status)


def head(search: Search, name: str, outcome: Outcome, *, running: bool) -> str:
    """Heading, where the sweep stands, and the best trial."""
    settings = search.settings
    wanted = "small" if settings.mode == "min" else "large"
    parts = [
        f"<h1>{escape(name)}</h1>",
        f"<p>{escape(_state(search, outcome, running=running))}</p>",
    ]
    best = next(iter(outcome.best(settings.mode)), None)
    if best is None:
        parts.append(f"<p>No trial has a score yet ({escape(settings.metric)}, {wanted} is good).</p>")
    else:
        parts.append(
            f"<p class='best'>Best <b>{escape(settings.metric)} {escape(score_text(settings.metric, best.score))}</b> "
            f"({wanted} is good) after {best.epochs:g} epochs, trial {_folder(best)}:<br>"
            f"<code>{escape(told(best))}</code></p>"
        )
    return "".join(parts)


def _state(search: Search, outcome: Outcome, *, running: bool) -> str:
    listed = _ended(outcome.records)
    planned = sum(stage.trials for stage in read_stages(search.settings))
    if running:
        return (
            f"Running: {len(outcome.records)} of {planned} trials are over ({listed}). The sweep writes this file "
            "every few seconds; the page does not load itself, so load it again to see more."
        )
    if outcome.stopped:
        return f"Stopped: {outcome.stopped}. {len(outcome.records)} of {planned} trials are over ({listed})."
    return f"Done: {_trials(len(outcome.records))} ({listed})."


def _ended(records: Sequence[Record]) -> str:
    """How many trials ended in which way."""
    counts = Counter(label(record.status) for record in sorted(records, key=lambda record: record.number))
    return ", ".join(f"{count} {status}" for status, count in counts.most_common()) or "none is over"


def _trials(count: int) -> str:
    return f"{count} trial" if count == 1 else f"{count} trials"


def commands(search: Search, path: str, outcome: Outcome, *, running: bool) -> str:
    """The commands to go on with.

    Args:
        search: what was searched.
        path: of the sweep's folder, as the user would type it.
        outcome: what it found.
        running: whether it goes on: then there are no results to go on with yet.
    """
    lines = list(_running_commands(path) if running else _commands(search, path, outcome))
    items = "".join(
        f"<dt>{escape(what)}</dt><dd><code>{escape(line)}</code> <button type='button' class='copy'>copy</button></dd>"
        for what, line in lines
    )
    return f"<dl class='commands'>{items}</dl>"


def _running_commands(path: str) -> Iterator[tuple[str, str]]:
    yield "If it is stopped, go on with", f"dlrun sweep resume={shlex.quote(path)}"


def _commands(search: Search, path: str, outcome: Outcome) -> Iterator[tuple[str, str]]:
    if _missing(search, outcome):
        yield "Go on with the trials that are missing", f"dlrun sweep resume={shlex.quote(path)}"
    for best in outcome.best(search.settings.mode):
        yield "Train the best again", f"dlrun train config={shlex.quote(f'{path}/best.yaml')}"
        yield "Evaluate the best", f"dlrun eval checkpoint={shlex.quote(f'{path}/trials/{best.folder}')}"
    after = next_sweep(search, outcome)
    if after is not None:
        yield "Search where the verdicts point", after
    if not search.settings.stages:
        more = 2 * search.settings.trials
        yield "More trials in the same space", f"dlrun sweep resume={shlex.quote(path)} sweep.trials={more}"
    if outcome.records:
        yield "Compare the trials in TensorBoard", f"tensorboard --logdir {shlex.quote(f'{path}/tensorboard')}"


def _missing(search: Search, outcome: Outcome) -> bool:
    """Whether a resume has trials to run."""
    verdicts = outcome.stages[-1].verdicts if outcome.stages else ()
    ended_by_verdicts = bool(verdicts) and all(verdict.fixed for verdict in verdicts)
    planned = sum(stage.trials for stage in read_stages(search.settings))
    return len(outcome.records) < planned and not ended_by_verdicts


def next_sweep(search: Search, outcome: Outcome) -> str | None:
    """The command that searches what the verdicts on the last stage suggest; None if that is nothing or nothing new."""
    if not outcome.stages or not outcome.stages[-1].verdicts:
        return None
    last = outcome.stages[-1]
    searched = following(search, last.searched, last.verdicts, replace(last.stage, space=None))
    changed = {key: plain(value) for key, value in searched.fixed.items()}
    changed |= {axis.key: str(axis) for axis in searched.space}
    for axis in search.space:
        if axis.when is None or axis.when.key not in changed:
            continue
        value = searched.fixed.get(axis.when.key)
        if axis.when.key in searched.fixed and not axis.when.holds(value):
            # Nothing may be said of an option that what was chosen does not have.
            changed.pop(axis.key, None)
        elif axis.key in searched.fixed and axis.when.key not in searched.fixed:
            # A command has no word for "this value, but only if": it stays an axis.
            changed[axis.key] = str(axis)
    if not any(axis.key in changed for axis in searched.space) or searched.space == last.searched.space:
        return None
    kept = [
        word for word in search.overrides if word.split("=")[0].lstrip("+") not in {axis.key for axis in search.space}
    ]
    words = [] if search.config is None else [f"config={search.config}"]
    words += [*kept, *(f"{key}={value}" for key, value in changed.items())]
    return " ".join(["dlrun", "sweep", *(shlex.quote(word) for word in words)])


def stages(outcome: Outcome, mode: str) -> str:
    """A table for each stage: what was searched, what matters, and the verdicts in words."""
    return "".join(_stage(result, mode) for result in outcome.stages)


def _stage(result: StageResult, mode: str) -> str:
    stage = result.stage
    epochs = "" if stage.epochs is None else f", epochs of each: {stage.epochs}"
    importance = importances(result, mode)
    rows = "".join(_axis_row(result, axis, importance[axis.key]) for axis in result.searched.space)
    fixed = ", ".join(f"{key}={plain(value)}" for key, value in result.searched.fixed.items())
    return (
        f"<h3>{escape(stage_name(result).capitalize())}</h3>"
        f"<p>{_trials(stage.trials)}{epochs} ({escape(_ended(list(result.records.values())))})."
        + (f" Fixed before: <code>{escape(fixed)}</code>." if fixed else "")
        + "</p><div class='scroll'><table class='verdicts'><thead><tr><th>axis</th><th>searched</th><th>importance</th>"
        f"<th>verdict</th><th>next</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _axis_row(result: StageResult, axis: Axis, importance: float | None) -> str:
    verdict = next((verdict for verdict in result.verdicts if verdict.axis.key == axis.key), None)
    following = ""
    if verdict is not None:
        value = str(verdict.next) if isinstance(verdict.next, Axis) else plain(verdict.next)
        following = f"<code>{escape(value)}</code>"
    share = "too few trials"
    if importance is not None:
        share = f"<span class='bar' style='width:{100 * min(importance, 1):.1f}px'></span>{importance:.0%}"
    text = "the stage is not over" if verdict is None else verdict.text
    return (
        f"<tr><th scope='row'>{escape(axis.key)}</th><td><code>{escape(str(axis))}</code></td>"
        f"<td class='share'>{share}</td><td>{escape(text)}</td><td>{following}</td></tr>"
    )


def trials(search: Search, outcome: Outcome) -> str:
    """The table of all trials; without a script it is in their order, with it each column sorts."""
    axes = shown_axes(outcome)
    columns = ["trial", "stage", "ended", search.settings.metric, *(axis.name for axis in axes), "epochs", "seconds"]
    titles = ["", "", "", "", *(axis.key for axis in axes), "", ""]
    cells = "".join(
        f"<th scope='col' title='{escape(title)}'><button type='button'>{escape(name)}</button></th>"
        for name, title in zip(columns, titles, strict=True)
    )
    rows = "".join(
        "".join(_trial_row(i, record, result, axes, search.settings.metric))
        for i, (result, record) in enumerate(in_order(outcome))
    )
    return (
        f"<div class='scroll'><table id='trials'><thead><tr>{cells}<th scope='col'>reason</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def in_order(outcome: Outcome) -> Iterator[tuple[StageResult, Record]]:
    """All trials as tables and charts count them."""
    for result in outcome.stages:
        for _, record in sorted(result.records.items()):
            yield result, record


def _trial_row(i: int, record: Record, result: StageResult, axes: Sequence[Shown], metric: str) -> Iterator[str]:
    values = {**result.searched.fixed, **record.values}
    yield f"<tr tabindex='0' data-trial='{i}'>{_cell(_folder(record), record.number + 1e6 * record.stage)}"
    yield _cell(str(record.stage), record.stage)
    yield _cell(f"<span class='{escape(record.status)}'>{escape(label(record.status))}</span>", record.status)
    score = score_text(metric, record.score) if record.score is not None else ""
    yield _cell(escape(score), record.score if record.score is not None else "")
    for axis in axes:
        value = values.get(axis.key)
        text = value_text(value) if axis.key in values else ""
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        yield _cell(escape(text), value if is_number and value is not None else text)
    yield _cell(f"{record.epochs:g}", record.epochs)
    yield _cell(f"{record.seconds:.3g}", record.seconds)
    yield f"<td class='reason'>{escape(record.reason)}</td></tr>"


def _cell(shown: str, value: float | str) -> str:
    """A cell that sorts by ``value``; ``shown`` is HTML."""
    kind = " class='n'" if isinstance(value, (int, float)) else ""
    return f"<td{kind} data-v='{escape(str(value))}'>{shown}</td>"


def _folder(record: Record) -> str:
    if not record.folder:
        return f"{record.stage}-{record.number:04d}"
    return f"<a href='trials/{quote(record.folder)}/'>{escape(record.folder)}</a>"
