"""Who runs the trials of a sweep: the settings of the launchers, and the runner that each gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.config.sweep_schema import SweepConfig
from dlrun.errors import ConfigError, did_you_mean
from dlrun.units import Duration

if TYPE_CHECKING:
    from dlrun.sweep.runner import Runner

_WHERE = "sweep.launcher_options"


@dataclass(frozen=True)
class SubmititOptions:
    """What a SLURM job of a trial asks for.

    Attributes:
        cluster: ``slurm``, or ``local``: jobs of this machine, to try it out.
        jobs: trials that are submitted at a time, >= 1; of a search that learns, how many values are chosen ahead.
        parallel: jobs of the array that run at the same time, >= 1.
        time: wall-clock time of a job, > 0; a trial that needs more goes on in another job from its checkpoint.
        cpus: cores of a job, >= 1.
        gpus: of a job, >= 0.
        memory_gb: of a job; None: what the partition gives.
        partition: where it runs; None: the default one. So are the next three.
        account: that it counts for.
        qos: quality of service.
        constraint: what the node must have.
        setup: shell commands before the job, such as ``module load cuda``.
    """

    cluster: str = "slurm"
    jobs: int = 64
    parallel: int = 64
    time: str = "4h"
    cpus: int = 4
    gpus: int = 0
    memory_gb: float | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    setup: tuple[str, ...] = ()

    @property
    def minutes(self) -> int:
        """``time`` in minutes, rounded up."""
        return max(1, -int(-Duration.parse(self.time).seconds // 60))


@dataclass(frozen=True)
class RayOptions:
    """What a trial asks of a Ray cluster.

    Attributes:
        address: ``local`` starts one on this machine, ``auto`` joins the one that runs here, else ``host:port`` or
            ``ray://host:port``.
        jobs: trials that are submitted at a time, >= 1.
        cpus: cores of a trial, >= 1.
        gpus: of a trial, >= 0; 0.5 puts two trials on each.
        memory_gb: of a trial; None: any.
        resources: name -> amount, of resources of the cluster's own.
    """

    address: str = "local"
    jobs: int = 64
    cpus: int = 1
    gpus: float = 0.0
    memory_gb: float | None = None
    resources: Mapping[str, float] = field(default_factory=dict)


Options = SubmititOptions | RayOptions
_OPTIONS: dict[str, type[SubmititOptions] | type[RayOptions]] = {"submitit": SubmititOptions, "ray": RayOptions}
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "a word"),
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "tuple[str, ...]": ((list, tuple), "a list of commands"),
    "Mapping[str, float]": ((Mapping,), "a mapping"),
}
_SMALLEST = {"jobs": 1, "parallel": 1, "cpus": 1, "gpus": 0, "memory_gb": 0}


def read_launcher(settings: SweepConfig) -> Options | None:
    """The options of the launcher; None for the local one.

    Raises:
        ConfigError: listing every problem.
    """
    given = settings.launcher_options
    if settings.launcher == "local":
        if given:
            raise ConfigError([f"{_WHERE}: sweep.launcher=local has none; set sweep.launcher to submitit or ray"])
        return None
    cls: Any = _OPTIONS[settings.launcher]
    fields = {item.name: item for item in dataclasses.fields(cls)}
    problems = []
    for key, value in given.items():
        if key not in fields:
            problems.append(f"{_WHERE}.{key}: unknown option of {settings.launcher}; {did_you_mean(key, fields)}")
        else:
            problems += [f"{_WHERE}.{key}: {text}" for text in _wrong(key, str(fields[key].type), value)]
    if problems:
        raise ConfigError(problems)
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    if settings.jobs is not None:
        values["jobs"] = max(1, settings.jobs)
    options: Options = cls(**values)
    return options


def make_runner(options: Options, folder: Path) -> Runner:
    """The runner of a launcher.

    Args:
        options: of the launcher.
        folder: of the sweep.

    Raises:
        UserError: if its package is missing, or the cluster cannot be reached.
    """
    from dlrun.sweep.remote import RemoteRunner

    boxes = folder / "launch"
    if isinstance(options, SubmititOptions):
        from dlrun.sweep.launch_submitit import Submitit

        return RemoteRunner(Submitit(options, boxes / "jobs"), boxes, options.jobs)
    from dlrun.sweep.launch_ray import Ray

    return RemoteRunner(Ray(options), boxes, options.jobs)


def _wrong(key: str, annotation: str, value: Any) -> list[str]:
    optional = annotation.endswith(" | None")
    kinds, words = _KINDS[annotation.removesuffix(" | None")]
    if value is None and optional:
        return []
    if isinstance(value, bool) or not any(isinstance(value, kind) for kind in kinds):
        return [f"must be {words}, got {value!r}"]
    if key in _SMALLEST and value < _SMALLEST[key]:
        return [f"must be >= {_SMALLEST[key]}, got {value!r}"]
    if key == "cluster" and value not in ("slurm", "local"):
        return [f"must be slurm or local, got {value!r}"]
    if key == "time":
        try:
            if not Duration.parse(value).is_time or Duration.parse(value).seconds <= 0:
                return [f"must be a time such as 90min or 4h, got {value!r}"]
        except ValueError as error:
            return [str(error)]
    return []
