"""Saving the run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dlrun import checkpoint as files
from dlrun.monitor import better
from dlrun.registry import CALLBACKS
from dlrun.train.fit import Callback, Fit, log
from dlrun.types import Mode, NonNegativeInt, PositiveDuration


@CALLBACKS.register
class checkpoint(Callback):  # named as in YAML
    """Save the run: always the newest state and the best by a named metric, further ones on request.

    Files in ``checkpoints/``: ``last.pt`` (after every evaluation, and at a stop), ``previous_last.pt`` (the one
    before, in case the newest gets damaged), ``best.pt``, and ``step<N>.pt`` for the top k and the regular ones.

    Args:
        monitor: metric that decides which is best, such as val/accuracy or val/loss.
        mode: whether the best is the smallest (min) or the largest (max).
        top_k: keep this many of the best, >= 0; 0 or 1 keeps only best.pt.
        every: also keep one each so many epochs, steps or minutes; null: never.
        keep: of the regular ones, keep the newest so many, >= 0; null: all.

    Attributes:
        unsynced_for: seconds of training in which a checkpoint does not wait for the disk. A killed process loses
            nothing by it; a machine that loses its power then costs no more than these seconds.
        failure: what kept the newest checkpoint from being written; None if it was.
    """

    unsynced_for = 0.0

    def __init__(
        self,
        *,
        monitor: str = "val/accuracy",
        mode: Mode = "max",
        top_k: NonNegativeInt = 1,
        every: PositiveDuration | None = None,
        keep: NonNegativeInt | None = None,
    ) -> None:
        self.monitor = monitor
        self.mode = mode
        self.top_k = top_k
        self.every = every
        self.keep = keep
        self.best: float | None = None
        self.best_step = 0
        self._top: list[list[Any]] = []  # [metric, file name], best first
        self._regular: list[str] = []
        self._former: list[str] = []  # the best by another metric, before that was changed: never deleted
        self._regular_due = False
        self._fresh: float | None = None  # the metric of an evaluation that was not saved yet
        self._beat: Callable[[int], bool] = bool
        self._saved_at = time.monotonic()
        self.failure: OSError | None = None
        self._began = time.monotonic()
        self._unsynced = False

    def fit_start(self, fit: Fit) -> None:
        """Clear what a killed process left behind."""
        self._began = time.monotonic()
        if self.every is not None and not self.every.is_time:
            self._beat = fit.timeline.beat(self.every)
        folder = fit.run.checkpoints
        for path in folder.glob(".*.tmp"):
            path.unlink()
        for path in folder.glob("step*.pt"):
            if path.name not in self._kept():
                path.unlink()

    def step_end(self, fit: Fit) -> None:
        """Ask for a regular checkpoint when it is time."""
        if self.every is None:
            return
        if self.every.is_time:
            due = time.monotonic() - self._saved_at >= self.every.seconds
        else:
            due = self._beat(fit.state.step)
        if due:
            self._regular_due = True
            self._saved_at = time.monotonic()
            fit.state.request_checkpoint()

    def eval_end(self, fit: Fit, metrics: Mapping[str, float]) -> None:
        """Remember the metric for the checkpoint that follows."""
        self._fresh = metrics.get(self.monitor)

    def checkpoint(self, fit: Fit) -> None:
        """Write the files; without space the old ones stay and the run goes on."""
        name = f"step{fit.state.step}.pt"
        links: list[Path] = []
        before = self.best, self.best_step, list(self._top), list(self._regular)
        if self._fresh is not None:
            if better(self._fresh, self.best, self.mode):
                self.best, self.best_step = self._fresh, fit.state.step
                links.append(fit.run.checkpoints / "best.pt")
            if self.top_k > 1 and self._fresh == self._fresh:
                self._top.append([self._fresh, name])
                self._top.sort(key=lambda item: item[0], reverse=self.mode == "max")
                del self._top[self.top_k :]
        if self._regular_due:
            self._regular.append(name)
            if self.keep is not None:
                del self._regular[: len(self._regular) - self.keep]
        if name in self._kept():
            links.append(fit.run.checkpoints / name)
        self._fresh, self._regular_due = None, False
        sync = time.monotonic() - self._began >= self.unsynced_for
        try:
            files.save(fit.run.checkpoints / "last.pt", fit.payload(), links=tuple(links), sync=sync)
            if sync and self._unsynced:
                files.sync_files(fit.run.checkpoints)
        except OSError as error:
            self.best, self.best_step, self._top, self._regular = before
            self._complain(fit, error)
            return
        fit.state.saved_step = fit.state.step
        self._unsynced = not sync
        if self.failure is not None:
            log.warning("checkpoints can be written again (step %d)", fit.state.step)
            self.failure = None
        for path in fit.run.checkpoints.glob("step*.pt"):
            if path.name not in self._kept():
                path.unlink()

    def fit_end(self, fit: Fit) -> None:
        """Let the disk have what it has not yet."""
        if self._unsynced:
            try:
                files.sync_files(fit.run.checkpoints)
            except OSError as error:
                self._complain(fit, error)
        self._unsynced = False

    def _kept(self) -> set[str]:
        return {str(name) for _, name in self._top} | set(self._regular) | set(self._former)

    def _complain(self, fit: Fit, error: OSError) -> None:
        if self.failure is None:
            before = "; the one before is intact" if (fit.run.checkpoints / "last.pt").is_file() else ""
            log.warning(
                "no checkpoint was written at step %d: %s (%s)%s. The run goes on; make room before it ends",
                fit.state.step,
                error.strerror,
                fit.run.checkpoints,
                before,
            )
        self.failure = error

    def state_dict(self) -> dict[str, Any]:
        """Best value so far and the list of kept files."""
        return {
            "monitor": [self.monitor, self.mode],
            "best": self.best,
            "best_step": self.best_step,
            "top": self._top,
            "regular": self._regular,
            "former": self._former,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``; what was best by another metric says nothing about this one."""
        self._regular = list(state["regular"])
        self._former = list(state["former"])
        if state["monitor"] == [self.monitor, self.mode]:
            self.best, self.best_step = state["best"], state["best_step"]
            self._top = [list(item) for item in state["top"]]
        else:
            self._former += [name for _, name in state["top"]]
