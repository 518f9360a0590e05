"""Progress on the screen."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from dlrun.monitor import is_rate
from dlrun.registry import CALLBACKS
from dlrun.train.fit import Callback, Fit
from dlrun.train.fit import log as logger
from dlrun.types import Duration


@CALLBACKS.register
class progress(Callback):  # named as in YAML
    """Show loss, accuracy, learning rate, speed and remaining time: a bar on a terminal, else plain lines.

    Args:
        interval: at most one plain line in this time, in s, min or h; the last evaluation is always shown.

    Raises:
        ValueError: if the interval is in epochs or steps.
    """

    def __init__(self, *, interval: Duration = Duration(5, "s")) -> None:
        self._interval = interval.seconds
        self._bar: tqdm[Any] | None = None
        self._printed_at = float("-inf")
        self._started_at = 0.0
        self._rate = "-"

    def fit_start(self, fit: Fit) -> None:
        """Open the bar on a terminal."""
        self._started_at = time.monotonic()
        if sys.stderr.isatty():
            # In epochs, not steps: an epoch takes about as long whatever its batches are, so the time that is left is
            # right where the batch grows.
            self._bar = tqdm(
                total=fit.config.trainer.epochs,
                initial=float(fit.timeline.epoch(fit.state.step)),
                bar_format="{desc}{percentage:3.0f}%|{bar}| [{elapsed}<{remaining}{postfix}]",
                dynamic_ncols=True,
                leave=False,
            )

    def step_end(self, fit: Fit) -> None:
        """Move the bar; tqdm itself redraws it ten times a second at most."""
        if self._bar is not None:
            # By what is missing: a sum of shares would end beside the whole.
            self._bar.update(float(fit.timeline.epoch(fit.state.step)) - self._bar.n)

    def log(self, fit: Fit, metrics: Mapping[str, float]) -> None:
        """Move the bar, or print a line if the last one is old enough."""
        unit = fit.feed.unit
        per = "/s" if unit == "samples" else f" {unit}/s"
        self._rate = f"{metrics[f'time/{unit}_per_second']:,.0f}{per}"
        if self._bar is not None:
            where = f"epoch {fit.state.epoch + 1}/{fit.config.trainer.epochs}, step {fit.state.step}/{fit.total_steps}"
            self._bar.set_description(where, refresh=False)
            self._bar.set_postfix_str(self._numbers(metrics), refresh=False)
        elif fit.state.batch < fit.steps_per_epoch:
            # The end of an epoch has its own line, after the evaluation.
            self._line(fit, metrics)

    def eval_end(self, fit: Fit, metrics: Mapping[str, float]) -> None:
        """A line with the validation metrics."""
        self._line(fit, metrics, always=fit.state.step == fit.total_steps or fit.state.stop is not None)

    def fit_end(self, fit: Fit) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()

    def exception(self, fit: Fit, error: BaseException) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()

    def _numbers(self, metrics: Mapping[str, float]) -> str:
        parts = [
            f"{name} {value:.2%}" if is_rate(name) else f"{name} {value:.4g}"
            for name, value in metrics.items()
            if name.split("/")[0] in ("train", "val") and name.split("/")[1] != "grad_norm"
        ]
        return ", ".join([*parts, *([f"lr {metrics['lr']:.3g}"] if "lr" in metrics else []), self._rate])

    def _line(self, fit: Fit, metrics: Mapping[str, float], *, always: bool = False) -> None:
        now = time.monotonic()
        if not always and now - self._printed_at < self._interval:
            return
        self._printed_at = now
        state = fit.state
        # By epochs, not steps: an epoch takes about as long whatever its batches are.
        done = float(fit.timeline.epoch(state.step) - fit.timeline.epoch(state.first_step))
        ahead = float(fit.timeline.epoch(fit.total_steps) - fit.timeline.epoch(state.step))
        left = (now - self._started_at) / done * ahead if done else 0.0
        shown = {name: value for name, value in metrics.items() if not name.endswith(("top5", "perplexity"))}
        logger.info(
            "epoch %*d/%d  step %d/%d  %s, ETA %s",
            len(str(fit.config.trainer.epochs)),
            state.epoch + 1,
            fit.config.trainer.epochs,
            state.step,
            fit.total_steps,
            self._numbers(shown),
            tqdm.format_interval(left),
        )
