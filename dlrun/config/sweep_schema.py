"""The section ``sweep``: how to search. It is no part of an experiment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from dlrun.types import Mode, NonNegativeInt, PositiveDuration, PositiveInt, Range, Seed


@dataclass(frozen=True)
class SweepConfig:
    """How ``dlrun sweep`` searches. It is no part of an experiment: trials are runs like any other."""

    space: Mapping[str, str]
    """Path of a value -> its distribution, see :mod:`dlrun.sweep.notation`."""
    search: Literal["random", "sobol", "grid", "tpe", "gp"]
    """How the values of the next trial are chosen."""
    trials: PositiveInt
    """Trials in all, those of earlier starts included."""
    try_first: tuple[Mapping[str, Any], ...]
    """Values of the first trials: settings that are known to be good."""
    points: Annotated[int, Range(ge=2)]
    """Values of each interval in a grid."""
    seed: Seed | None
    """Seed of the draws; null takes that of the experiment."""
    metric: str
    """The best value of this metric is a trial's score."""
    mode: Mode
    """Whether small or large values of the metric are good."""
    jobs: NonNegativeInt | None
    """Trials at a time, each in its process; 0: in this one; null: by what a trial takes."""
    threads: PositiveInt | None
    """CPU threads of each trial; null divides the cores among the jobs."""
    timeout: PositiveDuration | None
    """Wall-clock time after which a trial is ended."""
    max_time: PositiveDuration | None
    """Wall-clock time of one start of the sweep after which it stops, to be resumed."""
    explode: Annotated[float, Range(gt=1)] | None
    """End a trial whose training loss, as a mean between two logs, is above so many times what it began with: the loss
    of its first step, or that of equal scores if that is greater."""
    prune: Literal["none", "median", "halving"]
    """How trials that lag behind are stopped."""
    eta: Annotated[int, Range(ge=2)]
    """Of halving: one in so many trials goes on."""
    min_epochs: PositiveInt
    """Epochs before a trial may be stopped."""
    keep: NonNegativeInt | None
    """Keep the checkpoints of so many of the best trials of each stage; null keeps all."""
    retry_oom: bool
    """Run a trial that raised an out-of-memory error once more with half the micro-batch."""
    fail_fast: bool
    """End the sweep at the first failed trial."""
    max_failures: NonNegativeInt | None
    """End the sweep when more trials than this failed."""
    stages: tuple[Mapping[str, Any], ...]
    """Stages from coarse to fine, each with trials, epochs and space."""
    confirm: Mapping[str, PositiveInt] | None
    """Train the ``top`` trials again with ``seeds`` seeds; null or empty: none."""
    storage: str | None
    """Address of a database that several machines share; null: a journal in the sweep's folder."""
    launcher: Literal["local", "submitit", "ray"]
    """Who runs the trials."""
    launcher_options: Mapping[str, Any]
    """What a trial asks of the cluster, see :mod:`dlrun.sweep.launcher`."""
    root: Path
    """Folder that holds the sweeps."""
    name: str
    """Middle part of the folder's name; empty takes the name of the config."""
