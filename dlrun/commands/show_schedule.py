"""The curve of a schedule in the terminal: ``dlrun show schedule``. Imports no torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dlrun.commands.request import Request
from dlrun.config.load import load_config
from dlrun.config.schema import Config
from dlrun.data.batch_sizes import batch_sizes
from dlrun.optim.scaling import scaled_lr
from dlrun.optim.schedules import Watching, momentum_of
from dlrun.optim.schedules.filling import fill
from dlrun.terminal_plot import draw_curve, with_axes
from dlrun.timeline import Timeline

STEPS = 100
"""Steps of an epoch that are assumed: how many there are, only reading the data would tell."""
_WIDTH, _HEIGHT = 72, 10


def schedule_config(name: str, request: Request) -> Config:
    """The configuration whose schedule is drawn: that of config=, or else the defaults, with ``name`` as schedule.

    Raises:
        ConfigError: listing every problem found.
    """
    given = request.reserved.get("config")
    chosen = any(word.partition("=")[0] == "data" for word in request.overrides)
    # The defaults alone: with their data nothing is taken from a recipe.
    base = [] if given is not None or chosen else ["data=synthetic"]
    return load_config(given, [*base, f"schedule={name}", *request.overrides], places_needed=False)[0]


def show_curve(config: Config, steps: int | None) -> list[str]:
    """The learning rate over the steps of a training, as lines of text.

    Args:
        config: the checked configuration.
        steps: of the first epoch; None: :data:`STEPS`.

    Raises:
        UserError: if the schedule does not fit the training.
    """
    sizes, per_epoch = batch_sizes(config), STEPS if steps is None else steps
    timeline = Timeline(tuple(-(-per_epoch * sizes.of(0) // sizes.of(epoch)) for epoch in range(config.trainer.epochs)))
    schedule = fill(config, timeline)
    lr = scaled_lr(config)
    unit, base = ("factor on the rates", 1.0) if lr is None else ("lr", lr)
    assumed = f" (steps={per_epoch})" if steps is not None else " (assumed; steps=N sets it)"
    title = f"{unit} over {config.trainer.epochs} epochs of {per_epoch} steps{assumed}"
    if config.data.batch_growth is not None:
        title += f", growing batches: {timeline.total} steps in all"
    if isinstance(schedule, Watching):
        return [title, "", f"  No curve: it depends on {schedule.monitor}."]
    values = [base * schedule(step) for step in range(timeline.total)]
    plain = not _can_print("⠿│┤└─")
    lines = draw_curve(values, width=_WIDTH, height=_HEIGHT, plain=plain)
    marks = [round(i * timeline.total / 4) for i in range(5)]
    epochs = [round(float(timeline.epoch(mark)), 2) for mark in marks]
    top = max(values)
    drawn = with_axes(lines, top=top or 1.0, width=_WIDTH, below=[(epochs, "epochs"), (marks, "steps")], plain=plain)
    told = [_told(values, top)]
    moved = momentum_of(schedule)
    if moved is not None:
        momenta = [(momentum, step) for step in range(timeline.total) if (momentum := moved(step)) is not None]
        low, step = min(momenta)
        told.append(f"momentum: first {momenta[0][0]:.4g}, lowest {low:.4g} at step {step}, last {momenta[-1][0]:.4g}")
    return [title, "", *(f"  {line}" for line in drawn), "", *(f"  {line}" for line in told)]


def _told(values: Sequence[float], top: float) -> str:
    return f"first step {values[0]:.4g}, highest {top:.4g} at step {values.index(top)}, last step {values[-1]:.4g}"


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
