"""A trial: what it is asked to do, and what became of it. Plain values, for they travel between processes and files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["ok", "failed", "diverged", "pruned", "paused", "oom", "timeout", "interrupted", "moved"]
"""``failed``: an error; ``diverged``: the loss exploded or became NaN; ``pruned``: stopped because it lagged behind;
``paused``: the same, but it may still go on; ``oom``: out of memory; ``timeout``: ended because it took too long;
``interrupted``: the sweep was stopped, and the trial goes on when the sweep does; ``moved``: it goes on in a process of
its own."""
FAILURES: frozenset[str] = frozenset({"failed", "oom"})
"""What counts for ``fail_fast`` and ``max_failures``: faults of the code or the machine, not of the values."""
REPEATABLE: tuple[Status, ...] = ("failed", "oom", "timeout")
"""What may end otherwise when its cause is mended: ``retry=`` runs it again."""

Advice = Literal["go", "stop", "pause"]
"""What a trial is told after an evaluation: ``pause`` keeps it, to go on later if others do worse."""


@dataclass(frozen=True)
class Watch:
    """What ends a trial early.

    Attributes:
        metric: decides, such as ``val/loss``.
        mode: whether small or large values are good.
        explode: a training loss, as a mean between two logs, above so many times what it began with ends it.
        seconds: of training, over all its parts, after which it is ended; None: any.
        patience: seconds after which this part of it is interrupted, to go on elsewhere; None: any.
    """

    metric: str
    mode: Literal["min", "max"]
    explode: float | None
    seconds: float | None = None
    patience: float | None = None


@dataclass(frozen=True)
class Trial:
    """One trial to run.

    Attributes:
        stage: number of the stage, from 1; 0 for the confirmation.
        number: number of the trial in the whole sweep, from 1.
        values: path -> value.
        config: the complete configuration, as :meth:`dlrun.config.schema.Config.to_tree` gives it.
        folder: of the run; if there is a checkpoint in it, the run goes on.
        watch: what ends it early.
        retry_oom: whether it is run once more with half the micro-batch when it raises an out-of-memory error.
        again: whether it goes on though it ended before, in a way that may be another one now.
    """

    stage: int
    number: int
    values: Mapping[str, Any]
    config: Mapping[str, Any]
    folder: str
    watch: Watch
    retry_oom: bool = False
    again: bool = False


@dataclass(frozen=True)
class Record:
    """What became of a trial.

    Attributes:
        number: of the trial.
        stage: of the trial.
        status: see :data:`Status`.
        values: path -> value.
        score: the best value of the metric; None if there is none.
        epochs: epochs trained.
        reason: why it ended, if not by itself.
        folder: of the run, relative to the sweep's.
        seconds: of training, over all interruptions.
        metrics: newest value of every metric at the best evaluation.
        curve: [epoch, value of the metric] of every evaluation.
        place: host:path of the folder that ``folder`` is in, if it may be on another machine; else empty.
        memory_mib: largest resident set of its process while it ran; 0 if it is not known.
        changed: path -> value of settings that were changed so that it could run.
    """

    number: int
    stage: int
    status: Status
    values: Mapping[str, Any]
    score: float | None = None
    epochs: float = 0.0
    reason: str = ""
    folder: str = ""
    seconds: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    curve: tuple[tuple[float, float], ...] = ()
    place: str = ""
    memory_mib: float = 0.0
    changed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """The folder of the run, with the machine if it may be another one."""
        return f"{self.place}/{self.folder}" if self.place else self.folder

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_plain(cls, tree: Mapping[str, Any]) -> Record:
        """The inverse of :meth:`to_plain`; keys of later versions are left out."""
        known = {item.name for item in dataclasses.fields(cls)}
        values = {key: value for key, value in tree.items() if key in known}
        values["curve"] = tuple((float(epoch), float(value)) for epoch, value in values.get("curve", ()))
        return cls(**values)


def best_of(curve: Sequence[tuple[float, float]], mode: Literal["min", "max"]) -> float | None:
    """The best value of a curve; None if it is empty."""
    values = [value for _, value in curve]
    return None if not values else max(values) if mode == "max" else min(values)
