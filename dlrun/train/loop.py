"""The training loop. Its events are drawn in :class:`dlrun.train.fit.Callback`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch

from dlrun.data.loaders import StreamingLoader
from dlrun.optim.regularization import REG_LOSS
from dlrun.optim.schedules import Watching
from dlrun.tasks.base import complete
from dlrun.train.evaluate import evaluate
from dlrun.train.fit import EVENTS, Callback, Fit, log
from dlrun.train.nan_hunt import naming_nan
from dlrun.train.state import RESUMABLE
from dlrun.train.step import TrainStep, autocast

_LOADER_BOUND = 0.3
"""Share of the step time spent waiting for data above which the user is told."""


def train(fit: Fit) -> None:
    """Train until the last epoch or a requested stop; ``fit.state`` tells which.

    Raises:
        Exception: whatever a step or a callback raised, after the ``exception`` event.
    """
    _Loop(fit).run()


class _Loop:
    """The loop over epochs and batches of one :class:`Fit`."""

    def __init__(self, fit: Fit) -> None:
        self.fit = fit
        self.config = fit.config.trainer
        self.hooks = {event: _overridden(fit, event) for event in EVENTS}
        self.step = TrainStep(
            fit.forward,
            [parameter for parameter in fit.model.parameters() if parameter.requires_grad],
            fit.task,
            fit.optimizer,
            fit.scaler,
            self.config,
            fit.device,
            fit.regularizer,
        )
        self.evaluates = fit.timeline.beat(self.config.eval_every)
        self.waited = 0.0
        self.flushed_at = time.perf_counter()
        self.flushed_samples = fit.state.samples
        self.told_about_waiting = False

    def run(self) -> None:
        fit, state = self.fit, self.fit.state
        fit.train_mode()
        try:
            self._emit("fit_start")
            if self._evaluation_is_owed():
                self._evaluate()
            # A run that was killed between its last checkpoint and the end of that epoch still owes the epoch_end.
            while state.epoch < self.config.epochs and (state.stop is None or self._epoch_is_over()):
                self._epoch()
            if state.stop is not None and state.saved_step != state.step and self._sound():
                self._emit("checkpoint")
        except BaseException as error:
            for hook in self.hooks["exception"]:
                hook(fit, error)
            raise
        self._emit("fit_end")

    def _epoch(self) -> None:
        fit, state = self.fit, self.fit.state
        self._emit("epoch_start")
        batches = iter(fit.train.epoch(state.epoch, state.batch))
        try:
            with naming_nan(fit) if self.config.detect_nan else nullcontext():
                self._batches(batches)
        finally:
            close = getattr(batches, "close", None)
            if close is not None:
                close()
        if self._epoch_is_over():
            self._emit("epoch_end")
            state.epoch += 1
            state.batch = 0
            fit.carried = None
            fit.epoch_reading = type(fit.epoch_reading)({}, 0, [])

    def _epoch_is_over(self) -> bool:
        stop = self.fit.state.stop
        interrupted = stop is not None and (stop.reason in RESUMABLE or stop.reason == "diverged")
        return self.fit.state.batch == self.fit.steps_per_epoch and not interrupted

    def _batches(self, batches: Iterator[Any]) -> None:
        """The hot path: between two flushes nothing here reads the device."""
        fit, state, step, task = self.fit, self.fit.state, self.step, self.fit.task
        schedule, groups, base_lrs = fit.schedule, fit.optimizer.param_groups, fit.base_lrs
        steps_per_epoch, log_every, evaluates = fit.steps_per_epoch, self.config.log_every, self.evaluates
        step_hooks, meters, average, momentum = self.hooks["step_end"], fit.meters, fit.average, fit.momentum
        clock = time.perf_counter
        while state.batch < steps_per_epoch and state.stop is None:
            begin = clock()
            batch = next(batches)
            self.waited += clock() - begin
            factor = schedule(state.step)
            for group, lr in zip(groups, base_lrs, strict=True):
                group["lr"] = lr * factor
            if momentum is not None:
                momentum.set(state.step)
            number = state.step + 1
            flush = state.batch + 1 == steps_per_epoch or number % log_every == 0 or evaluates(number)
            output, norm = step(batch, fit.carried, want_norm=flush, number=state.step)
            fit.carried = output.carried
            size = task.size(batch)
            meters.add(output.loss, size, output.outputs, output.targets)
            state.step += 1
            if average is not None:
                average.look(state.step)
            state.batch += 1
            state.samples += size
            for hook in step_hooks:
                hook(fit)
            if flush:
                self._flush(norm)
            if self._evaluation_is_owed():
                self._evaluate()
            elif state.checkpoint_due and state.stop is None and self._sound():
                self._emit("checkpoint")

    def _flush(self, norm: torch.Tensor | None) -> None:
        """Read the meters, once, and tell the callbacks."""
        fit, state = self.fit, self.fit.state
        steps = len(fit.meters)
        measured = {"grad_norm": norm, "reg_loss": self.step.reg_loss}
        reading = fit.meters.read({name: value for name, value in measured.items() if value is not None})
        bad = reading.first_non_finite()
        if bad is not None:
            self._diverged("loss", state.step - steps + bad + 1)
            return
        fit.epoch_reading += reading
        means = {f"train/{name}": value for name, value in complete(fit.task, reading.means()).items()}
        riding = {f"train/{name}": value for name, value in reading.extra.items()}
        state.metrics.update(means)
        state.metrics.update({name: value for name, value in riding.items() if name == REG_LOSS})
        now = time.perf_counter()
        elapsed, waited = now - self.flushed_at, self.waited
        rate = (state.samples - self.flushed_samples) / max(elapsed, 1e-9)
        self.flushed_at, self.flushed_samples, self.waited = now, state.samples, 0.0
        metrics = {
            **means,
            **riding,
            "lr": fit.lr,
            **({} if fit.momentum is None else {"momentum": fit.momentum.now}),
            f"time/{fit.feed.unit}_per_second": rate,
            "time/data_wait": waited / max(elapsed, 1e-9),
        }
        for hook in self.hooks["log"]:
            hook(fit, metrics)
        # The first interval of a process has the start of the workers in it.
        settled = elapsed > 1.0 and state.step - steps > state.first_step
        starved = settled and waited > _LOADER_BOUND * elapsed and isinstance(fit.train, StreamingLoader)
        if starved and not self.told_about_waiting:
            self.told_about_waiting = True
            log.warning(
                "data wait is %.0f %% of the step time: the loader is the bottleneck; raise data.workers or set "
                "data.resident=true",
                100 * waited / elapsed,
            )

    def _evaluation_is_owed(self) -> bool:
        """Whether an evaluation is due after this step, or was when a signal cut it short."""
        state = self.fit.state
        due = self.evaluates(state.step) or state.step == self.fit.total_steps
        return due and state.evaluated_step != state.step and (state.stop is None or state.stop.reason in RESUMABLE)

    def _evaluate(self) -> None:
        """Evaluate on the validation split, then let the run be saved.

        A signal leaves it at once: saving comes first, and the resumed run makes up for it.
        """
        fit, state = self.fit, self.fit.state
        if not self._sound():
            return

        def interrupted() -> bool:
            return state.stop is not None and state.stop.reason in RESUMABLE

        metrics = {f"train/{name}": value for name, value in complete(fit.task, fit.epoch_reading.means()).items()}
        metrics.update({name: value for name, value in state.metrics.items() if name == REG_LOSS})
        judged, average = fit.judged, fit.average
        # Also where it is not evaluated: what the checkpoints hold of it is for evaluations later on.
        if average is not None and average.looks:
            precision = autocast(self.config.precision, fit.device)
            if not average.settle(fit.training_batches, fit.task, precision, interrupted):
                return
        if fit.val is not None:
            module = fit.evaluated if judged is None else judged.evaluated
            values = evaluate(module, fit.val, fit.task, self.config.precision, fit.device, interrupted)
            if values is None:
                return
            metrics.update({f"val/{name}": value for name, value in values.items()})
        state.metrics.update(metrics)
        state.evaluated_step = state.step
        if isinstance(fit.schedule, Watching):
            fit.schedule.observe(state.step, metrics[fit.schedule.monitor])
        for hook in self.hooks["eval_end"]:
            hook(fit, metrics)
        # Evaluation is not training time: the rate of the next flush starts here.
        self.flushed_at, self.flushed_samples, self.waited = time.perf_counter(), state.samples, 0.0
        self._emit("checkpoint")

    def _sound(self) -> bool:
        """Whether all losses and all weights are finite: a poisoned model is never evaluated or saved."""
        fit, state = self.fit, self.fit.state
        state.checkpoint_due = False
        if state.stop is not None and state.stop.reason == "diverged":
            return False
        bad = fit.meters.first_non_finite()
        if bad is not None:
            self._diverged("loss", state.step - len(fit.meters) + bad + 1)
            return False
        # The loss of a step is that before its update: weights that the newest update ruined have shown nowhere yet.
        if not torch.stack([weights.detach().isfinite().all() for weights in fit.model.parameters()]).all():
            self._diverged("weights", state.step)
            return False
        return True

    def _diverged(self, what: str, step: int) -> None:
        # That of the reading may be another one, at the end of many schedules 0.
        trainer, lr = self.config, self.fit.lr_of(step)
        clip = "" if trainer.clip_norm is not None else ", clip the gradient (trainer.clip_norm=1)"
        self.fit.state.request_stop(
            "diverged",
            f"the {what} became NaN or infinite at step {step} (epoch {self.fit.state.epoch + 1}, lr {lr:.3g}); lower "
            f"the rate (optimizer.lr){clip}, or find the operation with debug=nan",
        )

    def _emit(self, event: str) -> None:
        for hook in self.hooks[event]:
            hook(self.fit)


def _overridden(fit: Fit, event: str) -> list[Callable[..., None]]:
    """The hooks of ``event`` that do something, in the order of the callbacks."""
    return [
        getattr(callback, event)
        for callback in fit.callbacks.values()
        if getattr(type(callback), event) is not getattr(Callback, event)
    ]
