"""Keeping a checkpoint at the end of each cycle of the learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlrun import checkpoint as files
from dlrun.errors import UserError
from dlrun.optim.averaging import cycle_ends
from dlrun.registry import CALLBACKS
from dlrun.train.fit import Callback, Fit, log
from dlrun.types import PositiveDuration, PositiveInt


@CALLBACKS.register
class snapshots(Callback):  # named as in YAML
    """Keep a checkpoint at the end of each cycle of the learning rate; ``dlrun eval ensemble=snapshots`` joins them.

    Files in ``checkpoints/``: ``snapshot_1.pt``, ``snapshot_2.pt``, ... A cycle ends where the rate is lowest before it
    rises again, and with the training; which schedule makes it does not matter. A run that goes on for more epochs
    keeps the snapshots that it has, and counts on from there.

    Args:
        every: instead, one each so many epochs or steps; null: at the ends of the cycles.
        count: instead, so many in equal distances, the last at the end of the training.

    Raises:
        ValueError: if ``every`` is a wall-clock time, or both are given.

    Source: Huang et al. 2017, "Snapshot ensembles: train 1, get M for free"
    """

    def __init__(self, *, every: PositiveDuration | None = None, count: PositiveInt | None = None) -> None:
        if every is not None and count is not None:
            raise ValueError(f"every={every} and count={count} exclude each other")
        if every is not None and every.is_time:
            raise ValueError(f"every={every}: must be in epochs (ep) or steps (st)")
        self.every = every
        self.count = count
        self._ends: tuple[int, ...] = ()
        self._steps: list[int] | None = None  # of the snapshots so far, also of a shorter plan that was trained before
        self._failed = False

    def check(self, fit: Fit) -> None:
        """Refuse what leaves less than two snapshots.

        Raises:
            UserError: if the learning rate has no cycles, or the training is too short.
        """
        if len(self._find(fit)) < 2:
            found = "is too short for two of them" if self.every or self.count else "has no cycles"
            raise UserError(
                f"callbacks.snapshots: the training ({fit.total_steps} steps, schedule {fit.config.schedule.name!r}) "
                f"{found}; take a cyclic schedule, or say when with callbacks.snapshots.count=5 or "
                "callbacks.snapshots.every=10ep"
            )

    def fit_start(self, fit: Fit) -> None:
        """Find the steps, and clear what a killed process left behind."""
        self._ends = self._find(fit)
        if self._steps is None:
            # A new run, or a checkpoint from before the steps were saved.
            self._steps = [step for step in self._ends if step <= fit.state.step]
        for path in fit.run.checkpoints.glob("previous_snapshot_*.pt"):
            path.unlink()

    def _find(self, fit: Fit) -> tuple[int, ...]:
        """Steps done at which a snapshot is due."""
        total = fit.total_steps
        if self.every is not None:
            due = fit.timeline.beat(self.every)
            return tuple(step for step in range(1, total + 1) if due(step))
        if self.count is not None:
            return tuple(sorted({round(total * (i + 1) / self.count) for i in range(self.count)} - {0}))
        return cycle_ends([fit.schedule(step) for step in range(total)])

    def step_end(self, fit: Fit) -> None:
        """Ask for a checkpoint at the end of a cycle."""
        if fit.state.step not in self._ends:
            return
        assert self._steps is not None
        if fit.state.step not in self._steps:
            self._steps.append(fit.state.step)
        fit.state.request_checkpoint()

    def checkpoint(self, fit: Fit) -> None:
        """Write the snapshot; without space there is none and the run goes on."""
        if self._steps is None or fit.state.step not in self._steps:
            return
        path = fit.run.checkpoints / f"snapshot_{self._steps.index(fit.state.step) + 1}.pt"
        try:
            files.save(path, fit.payload())
        except OSError as error:
            if not self._failed:
                log.warning("%s cannot be written: %s. The run goes on without it", path.name, error.strerror)
            self._failed = True
            return
        # A resumed run writes the same snapshot again.
        files.previous_of(path).unlink(missing_ok=True)

    def state_dict(self) -> dict[str, Any]:
        """Steps of the snapshots so far."""
        return {"steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``."""
        self._steps = None if state.get("steps") is None else list(state["steps"])
