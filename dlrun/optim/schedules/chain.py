"""Schedules one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlrun.optim.schedules.base import Moving, Schedule, Watching, later, momentum_of
from dlrun.optim.schedules.filling import build_part
from dlrun.registry import SCHEDULES
from dlrun.timeline import Timeline
from dlrun.types import Duration, ScheduleParts


@SCHEDULES.register
def chain(
    total_steps: int,
    timeline: Timeline,
    *,
    parts: ScheduleParts = ({"name": "constant", "length": 0.5}, {"name": "cosine"}),
) -> Schedule:
    """Schedules one after the other, which fill the training together.

    A part is a schedule with its options and, beside them, ``length``, its share of the chain (0.3) or its length in
    epochs or steps (5ep), and ``scale``, a factor on all of it (default 1). The last part has no length: it takes what
    is left, and ends with the training. Each part ends at its own last step, and the next begins at its own first.

    Args:
        total_steps: steps to fill.
        timeline: of the training.
        parts: list of {name: SCHEDULE, length: ..., scale: ..., option: ...}, in their order; a chain may be a part.

    Raises:
        ValueError: if there is no part, a length is missing, or one too many, or the parts do not fit into the
            training, or one watches a metric (plateau).
    """
    if not parts:
        raise ValueError("parts is empty: give at least one {name: SCHEDULE}")
    borders = [0]
    shares = 0.0
    steps = 0
    for number, part in enumerate(parts[:-1], 1):
        length = part.get("length")
        if length is None:
            raise ValueError(
                f"part {number} ({part['name']}) needs a length, such as 0.3 or 5ep; the last one has none"
            )
        if isinstance(length, Duration):
            steps += _steps(length, number, timeline.after(borders[-1]))
        else:
            shares += length
        # From the sum of the shares: the rounding of many parts does not add up.
        borders.append(steps + round(shares * total_steps))
    if parts[-1].get("length") is not None:
        raise ValueError(f"the last part ({parts[-1]['name']}) takes what is left: leave out its length")
    borders.append(total_steps)
    schedule: Schedule | None = None
    for number in range(len(parts), 0, -1):
        begin, end = borders[number - 1], borders[number]
        if end <= begin:
            raise ValueError(
                f"part {number} ({parts[number - 1]['name']}) is left without a step: of the {total_steps} steps of "
                f"the chain it would have those from {begin} to {end}"
            )
        one = _scaled(parts[number - 1], number, end - begin, timeline.after(begin))
        schedule = one if schedule is None else later(schedule, end - begin, one)
    assert schedule is not None
    return schedule


def _steps(length: Duration, number: int, timeline: Timeline) -> int:
    try:
        return timeline.at(length)
    except ValueError as error:
        raise ValueError(f"part {number}: length: {error}") from None


class _Scaled:
    def __init__(self, schedule: Schedule, scale: float) -> None:
        self._schedule, self._scale = schedule, scale

    def __call__(self, step: int) -> float:
        return self._scale * self._schedule(step)


def _scaled(part: Mapping[str, Any], number: int, steps: int, timeline: Timeline) -> Schedule:
    options = {key: value for key, value in part.items() if key not in ("name", "length", "scale")}
    schedule = build_part(part["name"], options, steps, timeline)
    if isinstance(schedule, Watching):
        raise ValueError(f"part {number} ({part['name']}) watches a metric, so it has no end that another could follow")
    scale = part.get("scale", 1.0)
    if scale == 1:
        return schedule
    moved, scaled = momentum_of(schedule), _Scaled(schedule, scale)
    return scaled if moved is None else Moving(scaled, moved)
