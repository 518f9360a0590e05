"""Trials as tasks of a Ray cluster."""

from __future__ import annotations

import importlib
import logging
import os
import signal
from collections.abc import Sequence
from typing import Any

from dlrun.errors import UserError
from dlrun.sweep.box import run_box
from dlrun.sweep.launcher import RayOptions
from dlrun.sweep.remote import Ending

_GB = 1 << 30
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Ray:
    """Starts tasks; see :class:`dlrun.sweep.remote.Backend`.

    Args:
        options: what a trial asks for.

    Raises:
        UserError: if ray is missing, or the cluster cannot be reached or has no such resources.
    """

    def __init__(self, options: RayOptions) -> None:
        # Nothing is reported to anybody unless the user says so; and nvidia-smi's order of GPUs is kept.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            ray: Any = importlib.import_module("ray")
        except ImportError:
            raise UserError("sweep.launcher=ray: ray is not installed; install dlrun[ray]") from None
        self._ray = ray
        handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        try:
            ray.init(
                address=options.address,
                include_dashboard=False if options.address == "local" else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            said = " ".join(str(error).split())[:300]
            raise UserError(f"sweep.launcher_options.address={options.address}: {said}") from None
        finally:
            # Ray would end this process at a signal; the sweep saves its trials first.
            for number, handler in handlers.items():
                signal.signal(number, handler)
        self._check(options, ray.cluster_resources())
        self._run = ray.remote(
            num_cpus=options.cpus,
            num_gpus=options.gpus,
            memory=None if options.memory_gb is None else int(options.memory_gb * _GB),
            resources=dict(options.resources) or None,
            # What is left of a trial is in its folder, and the sweep begins it again.
            max_retries=0,
            # A process of its own for each trial: memory does not grow, and a signal reaches no other one.
            max_calls=1,
        )(run_box)

    def submit(self, boxes: Sequence[str]) -> list[Any]:
        """One task for each."""
        return [self._run.remote(box) for box in boxes]

    def ended(self, job: Any) -> Ending | None:
        """By what the task gave back."""
        ready, _ = self._ray.wait([job], timeout=0)
        if not ready:
            return None
        try:
            self._ray.get(job)
        except self._ray.exceptions.OutOfMemoryError as error:
            return Ending(_line(error), memory=True)
        except Exception as error:
            return Ending(_line(error))
        return Ending("it returned nothing")

    def cancel(self, job: Any) -> None:
        """With its process."""
        self._ray.cancel(job, force=True)

    def close(self) -> None:
        """Leave the cluster; one that was started for this sweep ends."""
        self._ray.shutdown()

    def _check(self, options: RayOptions, known: dict[str, float]) -> None:
        wanted = {"CPU": float(options.cpus), "GPU": options.gpus, **options.resources}
        for name, amount in wanted.items():
            if amount > known.get(name, 0.0):
                has = known.get(name, 0.0)
                self.close()
                raise UserError(
                    f"sweep.launcher_options: a trial asks for {amount:g} {name}, but the whole cluster has {has:g}"
                )


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
