"""Trials as jobs of SLURM, one array for all that are submitted together."""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlrun.errors import UserError
from dlrun.sweep.box import run_box
from dlrun.sweep.launcher import SubmititOptions
from dlrun.sweep.remote import Ending

_SIGNAL = "USR1"
_SIGNAL_DELAY_SECONDS = 120
_ENDED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "FINISHED", "INTERRUPTED", "NODE_FAIL")
_ENDED_TOO = ("OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT")


class Submitit:
    """Starts jobs through submitit; see :class:`dlrun.sweep.remote.Backend`.

    Args:
        options: what a job asks for.
        folder: for the job files and what they print, on a file system that all machines share.

    Raises:
        UserError: if submitit is missing, or there is no SLURM.
    """

    def __init__(self, options: SubmititOptions, folder: Path) -> None:
        # The signal before a time limit or a preemption is one that a trial saves itself at. Jobs read the name too.
        os.environ["SUBMITIT_PREEMPT_SIGNAL"] = _SIGNAL
        try:
            submitit: Any = importlib.import_module("submitit")
        except ImportError:
            raise UserError("sweep.launcher=submitit: submitit is not installed; install dlrun[slurm]") from None
        submitit.core.job_environment.JobEnvironment.USR_SIG = _SIGNAL
        self._refused: type[Exception] = submitit.core.utils.FailedJobError
        try:
            self._executor = submitit.AutoExecutor(folder=str(folder), cluster=options.cluster)
        except RuntimeError as error:
            raise UserError(
                f"sweep.launcher=submitit: {error}; start the sweep on a login node of the cluster, or try it with "
                "sweep.launcher_options.cluster=local"
            ) from None
        self._executor.update_parameters(
            name="dlrun-sweep",
            timeout_min=options.minutes,
            cpus_per_task=options.cpus,
            gpus_per_node=options.gpus,
            mem_gb=options.memory_gb,
            slurm_partition=options.partition,
            slurm_account=options.account,
            slurm_qos=options.qos,
            slurm_constraint=options.constraint,
            slurm_setup=list(options.setup) or None,
            slurm_array_parallelism=options.parallel,
            slurm_signal_delay_s=_SIGNAL_DELAY_SECONDS,
        )

    def submit(self, boxes: Sequence[str]) -> list[Any]:
        """One array.

        Raises:
            UserError: if SLURM refuses it.
        """
        try:
            return list(self._executor.map_array(run_box, list(boxes)))
        except (self._refused, subprocess.CalledProcessError) as error:
            said = " ".join(str(error).split())[:500]
            raise UserError(f"sweep.launcher=submitit: the jobs cannot be submitted: {said}") from None

    def ended(self, job: Any) -> Ending | None:
        """By the state that SLURM reports."""
        # Asks for news as seldom as submitit thinks that SLURM's accounting bears.
        if not job.done():
            return None
        state = str(job.state).split()[0].rstrip("+").upper()
        if state not in (*_ENDED, *_ENDED_TOO):
            # The accounting may lag behind the file by which submitit knows that it ended.
            state = "FINISHED"
        return Ending(f"state {state}, see {job.paths.stderr}", memory=state == "OUT_OF_MEMORY")

    def cancel(self, job: Any) -> None:
        """With scancel; of a job of this machine, with its processes."""
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            job.cancel(check=False)

    def close(self) -> None:
        """Nothing: jobs that still run save themselves."""
