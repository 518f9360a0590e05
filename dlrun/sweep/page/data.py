"""What the charts of a sweep's page show, as plain values: positions, marks and texts.

All arithmetic is here, so that the script of the page only draws. Positions are in [0, 1] along their axis.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dlrun.config.search import Search
from dlrun.monitor import is_rate
from dlrun.sweep.distributions import Distribution, Numeric
from dlrun.sweep.outcome import Outcome, StageResult
from dlrun.sweep.page.scales import distinct, extent, interval, position, whole
from dlrun.sweep.page.ticks import Ticks, ticks
from dlrun.sweep.record import Record
from dlrun.sweep.response import Response
from dlrun.sweep.scalars import number, plain
from dlrun.sweep.space import Axis
from dlrun.sweep.stages import outcomes

PLACED = ("ok", "pruned", "timeout")
"""Trials with these endings have a score that can be compared; all others are shown beside the scale."""


@dataclass(frozen=True)
class Shown:
    """An axis of the sweep over all its stages.

    Attributes:
        key: path in the configuration.
        name: its last words, as many as tell it from the others.
        distribution: holds everything that any stage searched.
        when: the condition in words; empty if there is none.
    """

    key: str
    name: str
    distribution: Distribution
    when: str


def complete(search: Search, result: StageResult, record: Record) -> dict[str, Any]:
    """The values of a trial: those that were drawn, and those of the axes that its stage no longer searched."""
    return result.searched.complete(record.values, search.fixed)


def in_order(outcome: Outcome) -> Iterator[tuple[StageResult, Record]]:
    """All trials as tables and charts count them."""
    for result in outcome.stages:
        for _, record in sorted(result.records.items()):
            yield result, record


def shown_axes(search: Search, outcome: Outcome) -> list[Shown]:
    """The axes of all stages, in the order in which they first appear."""
    found: dict[str, list[Axis]] = {}
    for result in outcome.stages:
        for axis in result.searched.space:
            found.setdefault(axis.key, []).append(axis)
    known = [complete(search, result, record) for result, record in in_order(outcome)]
    names = short_names(list(found))
    axes = []
    for key, stages in found.items():
        drawn = [values[key] for values in known if key in values]
        when = next((str(axis.when) for axis in stages if axis.when is not None), "")
        axes.append(Shown(key, names[key], whole([axis.distribution for axis in stages], drawn), when))
    return axes


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Key -> its last words, as many as tell it from the other keys: ``lr`` of ``optimizer.lr``."""
    names = {}
    for key in keys:
        words = key.split(".")
        # The number of an element says nothing without the list.
        length = min(2, len(words)) if words[-1].isdecimal() else 1
        while length < len(words) and any(
            other != key and other.split(".")[-length:] == words[-length:] for other in keys
        ):
            length += 1
        names[key] = ".".join(words[-length:])
    return names


def importances(result: StageResult, mode: str, seed: int = 0) -> dict[str, float | None]:
    """Key -> share of the ranks' variance that the axis explains in a stage, in [0, 1]; None: too few trials to tell.

    Args:
        result: of the stage.
        mode: whether small or large scores are good.
        seed: of the fit.
    """
    space = result.searched.space
    records = [result.records[number] for number in sorted(result.records)]
    response = Response(space, outcomes(space, records, mode), seed)
    values = (response.importance(i) for i in range(len(space)))
    return {axis.key: None if math.isnan(value) else round(value, 4) for axis, value in zip(space, values, strict=True)}


def score_text(metric: str, score: float | None) -> str:
    """A score as tables and tooltips show it."""
    if score is None:
        return "none"
    return f"{score:.2%}" if _is_share(metric, score) else f"{score:.4g}"


def chart_data(search: Search, outcome: Outcome) -> dict[str, Any]:
    """What the script of the page draws.

    Args:
        search: what was searched.
        outcome: what it found so far.

    Returns:
        A plain tree without NaN.
    """
    settings = search.settings
    axes = shown_axes(search, outcome)
    records = outcome.records
    best = next(iter(outcome.best(settings.mode)), None)
    scores = [record.score for record in records if record.score is not None and _placed(record)]
    score_scale = extent(scores, settings.mode)
    values = [value for record in records for _, value in record.curve]
    curve_scale = extent([*values, *scores], settings.mode)
    farthest = max((epoch for record in records for epoch, _ in record.curve), default=1.0)
    epochs = Numeric("linear", 0.0, max(farthest, 1e-3))
    weights = [importances(result, settings.mode) for result in outcome.stages]
    return {
        "metric": settings.metric,
        "mode": settings.mode,
        "score": _scale(settings.metric, score_scale) if scores else _marks(Ticks(())),
        "curve": _scale(settings.metric, curve_scale) if values else _marks(Ticks(())),
        "epochs": _scale("", epochs),
        "stages": [{"number": result.stage.number, "name": stage_name(result)} for result in outcome.stages],
        "axes": [_axis(axis, outcome, weights) for axis in axes],
        "trials": [
            {
                **_trial(record, complete(search, result, record), axes, settings.metric),
                "score": position(score_scale, record.score) if _placed(record) else None,
                "curve": _curve(record, epochs, curve_scale),
                "best": best is not None and (record.stage, record.number) == (best.stage, best.number),
            }
            for result, record in in_order(outcome)
        ],
    }


def stage_name(result: StageResult) -> str:
    """A stage in words."""
    return "confirmation" if result.stage.confirms else f"stage {result.stage.number}"


def _axis(shown: Shown, outcome: Outcome, weights: Sequence[dict[str, float | None]]) -> dict[str, Any]:
    spread = shown.distribution
    ranges, avoid, following = [], None, None
    judged = next((result for result in reversed(outcome.stages) if not result.stage.confirms), None)
    for result in outcome.stages:
        for axis in result.searched.space:
            if axis.key == shown.key:
                begin, end = interval(spread, axis.distribution)
                ranges.append({"stage": result.stage.number, "from": begin, "to": end, "text": str(axis.distribution)})
        for verdict in result.verdicts:
            if verdict.axis.key != shown.key:
                continue
            if result is judged and isinstance(verdict.next, Axis):
                begin, end = interval(spread, verdict.next.distribution)
                following = {"from": begin, "to": end, "text": str(verdict.next.distribution)}
            if verdict.infeasible is not None and isinstance(verdict.axis.distribution, Numeric):
                side, where = verdict.infeasible
                at = position(spread, verdict.axis.distribution.at(where))
                text = f"diverges {side} {number(float(f'{verdict.axis.distribution.at(where):.2g}'))}"
                avoid = {"from": at if side == "above" else 0.0, "to": 1.0 if side == "above" else at, "text": text}
    return {
        "key": shown.key,
        "name": shown.name,
        "kind": spread.scale if isinstance(spread, Numeric) else "choice",
        "values": distinct(spread),
        "when": shown.when,
        **_marks(ticks(spread)),
        **_importance(shown.key, outcome, weights),
        "ranges": ranges,
        "avoid": avoid,
        "next": following,
    }


def _importance(key: str, outcome: Outcome, weights: Sequence[dict[str, float | None]]) -> dict[str, Any]:
    """Of the last stage that can tell."""
    for result, found in zip(reversed(outcome.stages), reversed(weights), strict=True):
        share = found.get(key)
        if share is not None:
            where = f" in {stage_name(result)}" if len(outcome.stages) > 1 else ""
            return {"importance": share, "weight": f"importance {share:.0%}{where}"}
    return {"importance": None, "weight": ""}


def _trial(record: Record, values: Mapping[str, Any], axes: Sequence[Shown], metric: str) -> dict[str, Any]:
    keys = {axis.key for axis in axes}
    return {
        "id": record.folder or f"{record.stage}-{record.number:04d}",
        "stage": record.stage,
        "status": record.status,
        "reason": record.reason,
        "exact": record.score if _placed(record) else None,
        "told": score_text(metric, record.score),
        "epochs": f"{record.epochs:g}",
        "seconds": f"{record.seconds:.3g}",
        "at": [position(axis.distribution, values[axis.key]) if axis.key in values else None for axis in axes],
        "values": [value_text(values[axis.key]) if axis.key in values else None for axis in axes],
        "more": [[key, value_text(value)] for key, value in record.values.items() if key not in keys],
    }


def _curve(record: Record, epochs: Numeric, scale: Numeric) -> list[list[float | None]]:
    return [[position(epochs, epoch), position(scale, value)] for epoch, value in record.curve if math.isfinite(value)]


def _placed(record: Record) -> bool:
    return record.status in PLACED and record.score is not None and math.isfinite(record.score)


def value_text(value: object) -> str:
    """A value as tables and tooltips show it."""
    return f"{value:.4g}" if isinstance(value, float) else plain(value)


def _scale(metric: str, spread: Numeric) -> dict[str, Any]:
    marks = ticks(spread)
    if spread.scale == "linear" and metric and _is_share(metric, spread.low) and spread.high <= 1:
        marks = Ticks(tuple((at, f"{100 * float(text):.4g} %") for at, text in marks.labelled))
    return _marks(marks)


def _is_share(metric: str, score: float) -> bool:
    return is_rate(metric.split("/")[-1]) and 0 <= score <= 1


def _marks(marks: Ticks) -> dict[str, Any]:
    return {"ticks": [list(tick) for tick in marks.labelled], "minor": list(marks.minor)}
