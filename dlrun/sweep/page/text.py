"""The parts of a sweep's page that are text: what was found, the verdicts, all trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from dlrun.config.search import Search
from dlrun.sweep.confirm import SEED, lead, read_confirm
from dlrun.sweep.outcome import Outcome, StageResult
from dlrun.sweep.page.data import complete, importances, in_order, score_text, shown_axes, stage_name, value_text
from dlrun.sweep.record import Record
from dlrun.sweep.scalars import counted, plain
from dlrun.sweep.screen import told
from dlrun.sweep.space import Axis
from dlrun.sweep.stages import read_stages

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
            f"({wanted} is good) after {best.epochs:g} epochs, trial {_folder(best)}{_mean(outcome)}:<br>"
            f"<code>{escape(_all_values(search, outcome, best))}</code></p>"
        )
    return "".join(parts)


def _all_values(search: Search, outcome: Outcome, record: Record) -> str:
    """The values of a trial in one line, those that were fixed before it among them; of one that was confirmed with
    other seeds, without its own."""
    return told(outcome.complete(record, search.fixed), but=SEED if outcome.confirmed else "")


def _mean(outcome: Outcome) -> str:
    if not outcome.confirmed or not outcome.confirmed[0].scores:
        return ""
    first = outcome.confirmed[0]
    return f" (with {len(first.scores)} other seeds {first.mean:.4g} &plusmn; {first.deviation:.2g})"


def _state(search: Search, outcome: Outcome, *, running: bool) -> str:
    listed = _ended(outcome.records)
    again = read_confirm(search.settings)
    # A grid may have fewer points than there may be trials, and fewer trials may be worth to be confirmed.
    begun = {result.stage.number: result.stage.trials for result in outcome.stages}
    planned = sum(begun.pop(stage.number, stage.trials) for stage in read_stages(search.settings))
    planned += sum(begun.values()) or (0 if again is None else again[0] * again[1])
    if running:
        return (
            f"Running: {len(outcome.records)} of {planned} trials are over ({listed}). The sweep writes this file "
            "every few seconds; the page does not load itself, so load it again to see more."
        )
    if outcome.stopped:
        return f"Stopped: {outcome.stopped}. {len(outcome.records)} of {planned} trials are over ({listed})."
    return f"Done: {counted(len(outcome.records), 'trial')} ({listed})."


def _ended(records: Sequence[Record]) -> str:
    """How many trials ended in which way."""
    counts = Counter(label(record.status) for record in sorted(records, key=lambda record: record.number))
    return ", ".join(f"{count} {status}" for status, count in counts.most_common()) or "none is over"


def commands(lines: Iterable[tuple[str, str]]) -> str:
    """A list of what commands are for, and the commands."""
    items = "".join(
        f"<dt>{escape(what)}</dt><dd><code>{escape(line)}</code> <button type='button' class='copy'>copy</button></dd>"
        for what, line in lines
    )
    return f"<dl class='commands'>{items}</dl>"


def confirmed(search: Search, outcome: Outcome) -> str:
    """A table of the best trials with other seeds, and what the lead of the first is worth; empty without them."""
    if not outcome.confirmed:
        return ""
    rows = ""
    for item in outcome.confirmed:
        values = escape(_all_values(search, outcome, item.record))
        rows += (
            f"<tr><th scope='row'>{_folder(item.record)}</th><td>{item.mean:.4g} &plusmn; {item.deviation:.2g}</td>"
            f"<td>{len(item.scores)}</td><td>{item.failed}</td><td><code>{values}</code></td></tr>"
        )
    told = ""
    found = (
        lead(outcome.confirmed[0], outcome.confirmed[1], search.settings.mode) if len(outcome.confirmed) > 1 else None
    )
    if found is not None:
        verdict = "within the noise of the seeds" if found.noise else "more than the noise of the seeds"
        told = (
            f"<p>The first leads the second by {found.gain:.2g} &plusmn; {found.half:.2g} (95&nbsp;%), with a standard "
            f"deviation of {found.deviation:.2g} between seeds: {verdict} (p = {found.p_value:.2g}).</p>"
        )
    return (
        "<h2>The best with other seeds</h2><div class='scroll'><table><thead><tr><th>trial</th>"
        f"<th>{escape(search.settings.metric)}, mean and standard deviation</th><th>seeds</th><th>failed</th>"
        f"<th>values</th></tr></thead><tbody>{rows}</tbody></table></div>{told}"
    )


def stages(outcome: Outcome, mode: str) -> str:
    """A table for each stage: what was searched, what matters, and the verdicts in words."""
    return "".join(_stage(result, mode) for result in outcome.stages if not result.stage.confirms)


def _stage(result: StageResult, mode: str) -> str:
    stage = result.stage
    epochs = "" if stage.epochs is None else f", epochs of each: {stage.epochs}"
    importance = importances(result, mode)
    rows = "".join(_axis_row(result, axis, importance[axis.key]) for axis in result.searched.space)
    fixed = ", ".join(
        f"{key}={plain(item.value)}" + (f" when {item.when}" if item.when is not None else "")
        for key, item in result.searched.fixed.items()
    )
    return (
        f"<h3>{escape(stage_name(result).capitalize())}</h3>"
        f"<p>{counted(stage.trials, 'trial')}{epochs} ({escape(_ended(list(result.records.values())))})."
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
    axes = shown_axes(search, outcome)
    seeded = any(SEED in record.values for record in outcome.records) and all(axis.key != SEED for axis in axes)
    keys = [axis.key for axis in axes] + [SEED] * seeded
    names = [axis.name for axis in axes] + [SEED] * seeded
    columns = ["trial", "stage", "ended", search.settings.metric, *names, "epochs", "seconds"]
    titles = ["", "", "", "", *keys, "", ""]
    cells = "".join(
        f"<th scope='col' title='{escape(title)}'><button type='button'>{escape(name)}</button></th>"
        for name, title in zip(columns, titles, strict=True)
    )
    rows = "".join(
        "".join(_trial_row(i, record, complete(search, result, record), keys, search.settings.metric))
        for i, (result, record) in enumerate(in_order(outcome))
    )
    return (
        f"<div class='scroll'><table id='trials'><thead><tr>{cells}<th scope='col'>reason</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _trial_row(i: int, record: Record, values: Mapping[str, Any], keys: Sequence[str], metric: str) -> Iterator[str]:
    yield f"<tr data-trial='{i}'>{_cell(_folder(record), record.number + 1e6 * record.stage)}"
    yield _cell(str(record.stage), record.stage)
    yield _cell(f"<span class='{escape(record.status)}'>{escape(label(record.status))}</span>", record.status)
    score = score_text(metric, record.score) if record.score is not None else ""
    yield _cell(escape(score), record.score if record.score is not None else "")
    for key in keys:
        value = values.get(key)
        text = value_text(value) if key in values else ""
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
    if record.place:
        # On one of several machines; a page knows nothing of the one on which it is read.
        return f"<span title='{escape(record.where)}'>{escape(record.folder)}</span>"
    return f"<a href='trials/{quote(record.folder)}/'>{escape(record.folder)}</a>"
