"""A schedule from its section of the configuration, filling a training exactly. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlrun.config.schema import Config
from dlrun.errors import UserError
from dlrun.optim.schedules.base import Schedule, with_warmup
from dlrun.registry import SCHEDULES
from dlrun.timeline import Timeline


def build_part(name: str, options: Mapping[str, Any], steps: int, timeline: Timeline) -> Schedule:
    """One schedule, filling ``steps`` steps from the origin of the timeline on.

    Raises:
        UserError: if the schedule refuses its options, or counts in epochs of equal length where they differ.
    """
    if "steps_per_epoch" in SCHEDULES.entry(name).needs and len(set(timeline.epochs)) > 1:
        raise UserError(
            f"schedule {name!r} counts in epochs of equal length, but with data.batch_growth they have "
            f"{timeline.epochs[0]} to {timeline.epochs[-1]} steps; set data.batch_growth=null, or take another schedule"
        )
    schedule: Schedule = SCHEDULES.build(
        name, options, total_steps=steps, steps_per_epoch=timeline.epochs[0], timeline=timeline
    )
    return schedule


def fill(config: Config, timeline: Timeline) -> Schedule:
    """The schedule with its warmup, from the first step of a training to its last.

    Args:
        config: the checked configuration.
        timeline: the epochs of the training.

    Raises:
        UserError: if the warmup is longer than the training, or parts of the schedule do not fit it.
    """
    chosen = config.schedule
    try:
        warmup = timeline.at(chosen.warmup)
    except ValueError as error:
        raise UserError(f"schedule.warmup: {error}") from None
    if warmup >= timeline.total:
        raise UserError(
            f"schedule.warmup={chosen.warmup} is {warmup} steps, but the whole training has {timeline.total}; shorten "
            "the warmup or raise trainer.epochs"
        )
    schedule = build_part(chosen.name, chosen.params, timeline.total - warmup, timeline.after(warmup))
    try:
        return with_warmup(schedule, warmup, chosen.warmup_start, chosen.warmup_shape)
    except ValueError as error:
        raise UserError(str(error)) from None
