"""The training loop: its events, its steps, and what it waits for."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import experiments
from running import SMALL, config, make_fit
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dlrun import checkpoint
from dlrun.assembly import build_schedule
from dlrun.cli import main
from dlrun.config.load import load_config
from dlrun.errors import NonFiniteError
from dlrun.tasks.classification import classification
from dlrun.timeline import Timeline
from dlrun.train.fit import EVENTS, Callback, Fit
from dlrun.train.loop import train
from dlrun.train.step import TrainStep

# Events


class Recorder(Callback):
    """Writes down what it hears, with the step; can stop or save at a step."""

    def __init__(self, stop_at: int | None = None, save_at: int | None = None) -> None:
        self.heard: list[str] = []
        self.stop_at, self.save_at = stop_at, save_at

    def fit_start(self, fit: Fit) -> None:
        self.heard.append(f"fit_start {fit.state.step}")

    def epoch_start(self, fit: Fit) -> None:
        self.heard.append(f"epoch_start {fit.state.epoch}")

    def step_end(self, fit: Fit) -> None:
        self.heard.append(f"step_end {fit.state.step}")
        if fit.state.step == self.stop_at:
            fit.state.request_stop("signal", "received SIGTERM")
        if fit.state.step == self.save_at:
            fit.state.request_checkpoint()

    def log(self, fit: Fit, metrics: Mapping[str, float]) -> None:
        assert {"train/loss", "train/accuracy", "train/grad_norm", "lr"} <= set(metrics)
        self.heard.append(f"log {fit.state.step}")

    def eval_end(self, fit: Fit, metrics: Mapping[str, float]) -> None:
        assert {"train/loss", "val/loss", "val/accuracy"} <= set(metrics)
        self.heard.append(f"eval_end {fit.state.step}")

    def checkpoint(self, fit: Fit) -> None:
        self.heard.append(f"checkpoint {fit.state.step}")
        checkpoint.save(fit.run.checkpoints / "last.pt", fit.payload())
        fit.state.saved_step = fit.state.step

    def epoch_end(self, fit: Fit) -> None:
        self.heard.append(f"epoch_end {fit.state.epoch}")

    def fit_end(self, fit: Fit) -> None:
        self.heard.append(f"fit_end {fit.state.step}")

    def exception(self, fit: Fit, error: BaseException) -> None:
        self.heard.append(f"exception {type(error).__name__}")


FIVE_STEPS = ("data.samples=100", "trainer.log_every=2")  # 72 training samples in batches of 16


def recorded(root: Path, *overrides: str, resume: Path | None = None, **options: Any) -> list[str]:
    recorder = Recorder(**options)
    fit = make_fit(root, *FIVE_STEPS, *overrides, callbacks={"recorder": recorder})
    assert fit.steps_per_epoch == 5
    if resume is not None:
        fit.resume(checkpoint.load(resume))
    train(fit)
    return recorder.heard


def test_events_in_the_order_that_is_drawn(tmp_path: Path) -> None:
    assert recorded(tmp_path, save_at=3) == [
        "fit_start 0",
        *("epoch_start 0", "step_end 1", "step_end 2", "log 2", "step_end 3", "checkpoint 3", "step_end 4", "log 4"),
        *("step_end 5", "log 5", "eval_end 5", "checkpoint 5", "epoch_end 0"),
        *("epoch_start 1", "step_end 6", "log 6", "step_end 7", "step_end 8", "log 8", "step_end 9"),
        *("step_end 10", "log 10", "eval_end 10", "checkpoint 10", "epoch_end 1"),
        "fit_end 10",
    ]


def test_events_of_an_interrupted_and_resumed_run(tmp_path: Path) -> None:
    assert recorded(tmp_path, stop_at=8) == [
        "fit_start 0",
        *("epoch_start 0", "step_end 1", "step_end 2", "log 2", "step_end 3", "step_end 4", "log 4"),
        *("step_end 5", "log 5", "eval_end 5", "checkpoint 5", "epoch_end 0"),
        *("epoch_start 1", "step_end 6", "log 6", "step_end 7", "step_end 8", "log 8", "checkpoint 8", "fit_end 8"),
    ]
    (saved,) = tmp_path.glob("*/checkpoints/last.pt")
    assert recorded(tmp_path, resume=saved) == [
        "fit_start 8",
        *("epoch_start 1", "step_end 9", "step_end 10", "log 10", "eval_end 10", "checkpoint 10", "epoch_end 1"),
        "fit_end 10",
    ]


def test_events_of_a_run_interrupted_at_the_end_of_an_epoch(tmp_path: Path) -> None:
    assert recorded(tmp_path, stop_at=5)[-4:] == ["step_end 5", "log 5", "checkpoint 5", "fit_end 5"]
    (saved,) = tmp_path.glob("*/checkpoints/last.pt")
    heard = recorded(tmp_path, resume=saved)
    assert heard[:3] == ["fit_start 5", "eval_end 5", "checkpoint 5"]
    assert heard[3:6] == ["epoch_start 0", "epoch_end 0", "epoch_start 1"]


def test_evaluation_by_steps_reads_the_metrics_before(tmp_path: Path) -> None:
    heard = recorded(tmp_path, "trainer.eval_every=3st", "trainer.log_every=100", "trainer.epochs=1")
    assert [event for event in heard if not event.startswith("step_end")] == [
        *("fit_start 0", "epoch_start 0", "log 3", "eval_end 3", "checkpoint 3"),
        *("log 5", "eval_end 5", "checkpoint 5", "epoch_end 0", "fit_end 5"),
    ]


def test_an_exception_is_told_instead_of_the_end(tmp_path: Path) -> None:
    class Broken(Callback):
        def step_end(self, fit: Fit) -> None:
            raise ZeroDivisionError

    recorder = Recorder()
    with pytest.raises(ZeroDivisionError):
        train(make_fit(tmp_path, callbacks={"recorder": recorder, "broken": Broken()}))
    assert recorder.heard[-2:] == ["step_end 1", "exception ZeroDivisionError"]


def test_an_exception_at_the_start_is_told_to_those_that_have_started(tmp_path: Path) -> None:
    class Broken(Callback):
        def fit_start(self, fit: Fit) -> None:
            raise ZeroDivisionError

    recorder = Recorder()
    with pytest.raises(ZeroDivisionError):
        train(make_fit(tmp_path, callbacks={"recorder": recorder, "broken": Broken()}))
    assert recorder.heard == ["fit_start 0", "exception ZeroDivisionError"]


def test_only_overridden_hooks_are_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Quiet(Callback):
        pass

    for event in EVENTS:
        monkeypatch.setattr(Callback, event, lambda *a, event=event: pytest.fail(event))
    train(make_fit(tmp_path, callbacks={"quiet": Quiet()}))


def test_a_callback_that_stops_in_mid_epoch_leaves_a_checkpoint_of_that_step(tmp_path: Path) -> None:
    class Stop(Callback):
        def step_end(self, fit: Fit) -> None:
            if fit.state.step == 3:
                fit.state.request_stop("callback", "enough")

    recorder = Recorder()
    fit = make_fit(tmp_path, *FIVE_STEPS, callbacks={"stop": Stop(), "recorder": recorder})
    train(fit)
    assert recorder.heard[-3:] == ["step_end 3", "checkpoint 3", "fit_end 3"]
    # Resuming it is no reason to train on.
    again = make_fit(tmp_path, *FIVE_STEPS, callbacks={"recorder": recorder})
    again.resume(checkpoint.load(fit.run.checkpoints / "last.pt"))
    train(again)
    assert again.state.step == 3


# Waiting for the device


class Transfers(TorchDispatchMode):
    """Counts the operations that read a value from the device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.is_nonzero)
        return func(*args, **(kwargs or {}))


class CountTransfers(Callback):
    """Transfers between the ends of two steps, for steps without and with a reading."""

    def __init__(self, counter: Transfers, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counter, self.before, self.silent, self.reading = counter, 0, [], []
        self.flushed = False
        for name in ("tolist", "item", "cpu", "numpy", "__bool__", "__float__", "__int__"):
            monkeypatch.setattr(Tensor, name, self._counted(getattr(Tensor, name)))

    def _counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def method(*args: Any, **kwargs: Any) -> Any:
            before = self.counter.count
            result = real(*args, **kwargs)
            self.counter.count = before + 1
            return result

        return method

    def epoch_start(self, fit: Fit) -> None:
        self.before = self.counter.count

    def step_end(self, fit: Fit) -> None:
        self.silent.append(self.counter.count - self.before)
        self.before = self.counter.count

    def log(self, fit: Fit, metrics: Mapping[str, float]) -> None:
        self.reading.append(self.counter.count - self.before)
        self.before = self.counter.count


STEPS = {
    "sgd": ("optimizer=sgd",),
    "sgd, clip_norm": ("optimizer=sgd", "trainer.clip_norm=1"),
    "sgd, clip_value": ("optimizer=sgd", "trainer.clip_value=0.1"),
    "adamw": ("optimizer=adamw",),
    "accumulate": ("trainer.accumulate=4",),
    "bf16": ("trainer.precision=bf16",),
    "regularised": ("regularization={l2: 1e-3, l1: 1e-4, max_norm: 1, gradient_noise: 0.1}",),
    "sam": ("optimizer=sam", "model.dropout=0.5"),
    "lion": ("optimizer=lion",),
    "lamb": ("optimizer=lamb",),
    "muon": ("optimizer=muon", "model.hidden=[16,16]"),
    "ema": ("averaging=ema",),
}


@pytest.mark.parametrize("words", STEPS.values(), ids=STEPS)
def test_no_step_waits_for_the_device_and_a_reading_waits_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    counter = Transfers()
    counting = CountTransfers(counter, monkeypatch)
    fit = make_fit(tmp_path, "trainer.log_every=4", *words, callbacks={"counting": counting})
    batches = [list(fit.train.epoch(epoch)) for epoch in range(2)]
    # The loader is made for a device that has its own generator; here only the step counts.
    monkeypatch.setattr(fit.train, "epoch", lambda epoch, start: iter(batches[epoch]))
    with counter:
        train(fit)
    assert len(counting.silent) == 18
    assert not any(counting.silent)
    assert counting.reading == [1] * 6


def test_the_counter_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = Transfers()
    CountTransfers(counter, monkeypatch)
    value = torch.ones(())
    reads: list[Callable[[], object]] = [value.item, value.tolist, value.cpu, lambda: float(value), lambda: bool(value)]
    reads += [lambda: value.nonzero() if value > 0 else None, lambda: torch.ones(3)[value.long() :], lambda: value + 1]
    counts = []
    with counter:
        for read in reads:
            before = counter.count
            read()
            counts.append(counter.count - before)
    assert counts == [1, 1, 1, 1, 1, 1, 1, 0]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("resident", ["true", "false"])
@pytest.mark.parametrize("words", STEPS.values(), ids=STEPS)
def test_no_step_waits_for_a_cuda_device(tmp_path: Path, words: tuple[str, ...], resident: str) -> None:
    class Watch(Callback):
        def epoch_start(self, fit: Fit) -> None:
            self.was = 0

        def step_end(self, fit: Fit) -> None:
            # The first steps load kernels and ask the device how much memory it has.
            number = fit.state.batch + 1
            silent = number % 4 and number < fit.steps_per_epoch and fit.state.epoch
            torch.cuda.set_sync_debug_mode("error" if silent else "default")

    augment = "augment=[{name: random_crop, padding: 1}, horizontal_flip]"
    words = (*words, "device=cuda", "trainer.log_every=4", augment, f"data.resident={resident}", "data.workers=0")
    try:
        train(make_fit(tmp_path, *words, callbacks={"watch": Watch()}))
    finally:
        torch.cuda.set_sync_debug_mode("default")


# The step


def make_step(model: nn.Module, lr: float = 0.1, scaler: Any = None, **trainer: Any) -> TrainStep:
    words = [f"trainer.{name}={value}" for name, value in trainer.items()]
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=lr)
    task = classification(nn.functional.cross_entropy, 3)
    return TrainStep(model, parameters, task, optimizer, scaler, config(*words).trainer, torch.device("cpu"))


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()


@pytest.mark.parametrize("size", [16, 13, 7, 3, 1])
@pytest.mark.parametrize("parts", [2, 4, 5])
def test_accumulated_micro_batches_are_the_big_batch(size: int, parts: int) -> None:
    batch = torch.randn(size, 5, dtype=torch.float64), torch.arange(size) % 3
    big, small = small_net(), small_net()
    one, one_norm = make_step(big)(batch, want_norm=True)
    other, other_norm = make_step(small, accumulate=parts)(batch, want_norm=True)
    torch.testing.assert_close(one.loss, other.loss, rtol=1e-14, atol=0)
    torch.testing.assert_close(one_norm, other_norm, rtol=1e-13, atol=0)
    assert torch.equal(one.targets, other.targets)
    torch.testing.assert_close(one.outputs, other.outputs)
    for a, b in zip(big.parameters(), small.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)


def test_an_accumulated_run_is_the_run(tmp_path: Path) -> None:
    # 72 samples: the last batch of an epoch has 8, in micro-batches of 3, 3 and 2.
    results = []
    for parts in (1, 3):
        fit = make_fit(tmp_path, "data.samples=100", f"trainer.accumulate={parts}", callbacks={})
        train(fit)
        results.append((fit.model.state_dict(), fit.state.metrics))
    for name, value in results[0][0].items():
        torch.testing.assert_close(results[1][0][name], value, rtol=1e-4, atol=1e-6)
    assert results[1][1] == pytest.approx(results[0][1], rel=1e-4)


def gradient(step: TrainStep, model: nn.Module, batch: Any, lr: float) -> tuple[list[Tensor], Tensor | None]:
    """What the step really subtracted, divided by the rate."""
    before = [parameter.detach().clone() for parameter in model.parameters()]
    _, norm = step(batch, want_norm=False)
    return [(old - new.detach()) / lr for old, new in zip(before, model.parameters(), strict=True)], norm


def test_clipping_by_norm_and_by_value() -> None:
    batch = 10 * torch.randn(9, 5, dtype=torch.float64), torch.arange(9) % 3
    model = small_net()
    free, none = gradient(make_step(model), model, batch, 0.1)
    norm = math.sqrt(sum(float(g.square().sum()) for g in free))
    assert none is None
    assert norm > 0.5

    model = small_net()
    clipped, measured = gradient(make_step(model, clip_norm=0.5), model, batch, 0.1)
    assert measured is not None
    # The norm before clipping is what is reported.
    assert float(measured) == pytest.approx(norm)
    for a, b in zip(free, clipped, strict=True):
        torch.testing.assert_close(b, a * (0.5 / norm), rtol=1e-5, atol=1e-12)

    model = small_net()
    long, _ = gradient(make_step(model, clip_norm=1000), model, batch, 0.1)
    torch.testing.assert_close(long, free)

    model = small_net()
    clamped, _ = gradient(make_step(model, clip_value=0.05), model, batch, 0.1)
    torch.testing.assert_close(clamped, [g.clamp(-0.05, 0.05) for g in free], rtol=1e-12, atol=1e-14)
    assert any(float(g.abs().max()) > 0.05 for g in free)


def test_the_scaler_of_fp16_does_not_change_the_step() -> None:
    batch = torch.randn(9, 5), torch.arange(9) % 3
    plain, scaled = small_net().float(), small_net().float()
    make_step(plain, precision="fp16")(batch, want_norm=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    out, norm = make_step(scaled, precision="fp16", scaler=scaler, clip_norm=100)(batch, want_norm=True)
    assert out.loss < 5
    assert norm is not None
    assert norm < 20
    for a, b in zip(plain.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)


# Schedules in the loop


class Rates(Callback):
    def __init__(self) -> None:
        self.rates: list[float] = []

    def step_end(self, fit: Fit) -> None:
        self.rates.append(fit.optimizer.param_groups[-1]["lr"])


@pytest.mark.parametrize(
    ("schedule", "last"), [("cosine", 0.0), ("linear", 0.0), ("constant", 1.0), ("multistep", 0.01)]
)
def test_the_rate_follows_the_schedule_to_its_end(tmp_path: Path, schedule: str, last: float) -> None:
    rates = Rates()
    fit = make_fit(
        tmp_path, f"schedule={schedule}", "schedule.warmup=4st", "optimizer.lr=0.2", callbacks={"rates": rates}
    )
    train(fit)
    assert rates.rates == [0.2 * fit.schedule(step) for step in range(fit.total_steps)]
    assert len(rates.rates) == 18
    assert rates.rates[:5] == pytest.approx([0.04, 0.08, 0.12, 0.16, 0.2])
    assert rates.rates[-1] == pytest.approx(0.2 * last, abs=1e-12)


# Precision and memory format


def losses_of(root: Path, *overrides: str) -> list[float]:
    losses: list[float] = []

    class Losses(Callback):
        def log(self, fit: Fit, metrics: Mapping[str, float]) -> None:
            losses.append(metrics["train/loss"])

    train(make_fit(root, "trainer.log_every=1", *overrides, callbacks={"losses": Losses()}))
    return losses


@pytest.mark.parametrize("words", [("model=mlp", "model.hidden=[16]"), ("model=lenet5",)], ids=["mlp", "lenet5"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_is_near_the_full_one(tmp_path: Path, words: tuple[str, ...], precision: str) -> None:
    words = (*words, "optimizer.lr=0.02")
    full = losses_of(tmp_path, *words)
    mixed = losses_of(tmp_path, *words, f"trainer.precision={precision}")
    assert mixed != full
    assert mixed == pytest.approx(full, rel=0.02)


def test_channels_last_changes_the_memory_format_only(tmp_path: Path) -> None:
    words = ("model=resnet", "model.depth=8", "model.width=0.25", "trainer.epochs=1")
    assert losses_of(tmp_path, *words, "trainer.channels_last=true") == pytest.approx(
        losses_of(tmp_path, *words), rel=1e-4
    )
    fit = make_fit(tmp_path, *words, "trainer.channels_last=true")
    inputs, _ = next(iter(fit.train.epoch(0)))
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    weights = [weights for weights in fit.model.parameters() if weights.ndim == 4]
    assert all(weights.is_contiguous(memory_format=torch.channels_last) for weights in weights)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_run_is_the_run_and_saves_plain_names(tmp_path: Path) -> None:
    words = ("trainer.log_every=1", "trainer.epochs=1", "optimizer.lr=0.05")
    fit = make_fit(tmp_path, *words, "trainer.compile=true")
    train(fit)
    plain = make_fit(tmp_path, *words)
    train(plain)
    assert fit.state.metrics == pytest.approx(plain.state.metrics, rel=1e-4)
    assert list(checkpoint.load(fit.run.checkpoints / "last.pt")["model"]) == list(plain.model.state_dict())


# Golden


GOLDEN = {
    "sgd": [2.29969, 2.336248, 2.313063, 2.352021, 2.333446, 2.24798, 2.297303, 2.34881, 2.292597],
    "adamw": [2.29969, 2.321505, 2.309892, 2.328868, 2.292353, 2.285749, 2.2849, 2.307788, 2.290836],
}
"""Loss of every second step, recorded with torch 2.15 on x86-64."""


@pytest.mark.parametrize("optimizer", GOLDEN)
def test_golden_losses(tmp_path: Path, optimizer: str) -> None:
    losses = losses_of(
        tmp_path,
        f"optimizer={optimizer}",
        f"optimizer.lr={0.1 if optimizer == 'sgd' else 0.01}",
        "schedule=cosine",
        "schedule.warmup=2st",
        "model={name: mlp, hidden: [16], dropout: 0.1, norm: batch}",
        "augment=[{name: random_crop, padding: 1}, horizontal_flip]",
    )
    # A refactoring must not change them at all; another version of torch may round differently.
    tolerance = 1e-5 if torch.__version__.startswith("2.15") else 1e-3
    assert losses[::2] == pytest.approx(GOLDEN[optimizer], abs=tolerance)


# NaN


def poison(fit: Fit, at: int, how: str = "loss", name: str = "") -> None:
    """Make the forward pass (loss) or the gradient (weights) of a part NaN in the ``at``-th training step."""
    calls = 0

    def hook(module: nn.Module, inputs: Any, outputs: Tensor) -> Tensor | None:
        nonlocal calls
        if not module.training:
            return None
        calls += 1
        if calls != at:
            return None
        if how == "loss":
            return outputs * (0 * outputs - 1).log()
        # The square root of zero: the value is fine, its gradient is not.
        return outputs + (outputs - outputs).abs().sqrt()

    fit.model.get_submodule(name).register_forward_hook(hook)


def assert_finite(tree: Any) -> None:
    if isinstance(tree, Tensor):
        assert tree.isfinite().all()
    elif isinstance(tree, Mapping):
        for value in tree.values():
            assert_finite(value)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            assert_finite(value)
    elif isinstance(tree, float):
        assert math.isfinite(tree)


POISONED = ("data.samples=100", "trainer.epochs=3", "callbacks.checkpoint.every=2st")  # five steps in an epoch


@pytest.mark.parametrize("log_every", [1, 3, 50])
@pytest.mark.parametrize("at", [1, 4, 5, 6, 8, 13, 15])
def test_a_nan_loss_stops_the_run_names_its_step_and_is_not_saved(tmp_path: Path, at: int, log_every: int) -> None:
    fit = make_fit(tmp_path, *POISONED, f"trainer.log_every={log_every}")
    poison(fit, at)
    train(fit)
    assert fit.state.stop is not None
    assert fit.state.stop.reason == "diverged"
    # The rate of that step, and not of the reading that found it out.
    rate = fit.base_lrs[0] * fit.schedule(at - 1)
    where = f"at step {at} (epoch {(at - 1) // 5 + 1}, lr {rate:.3g})"
    assert f"the loss became NaN or infinite {where}; lower the rate" in fit.state.stop.message
    saved = list(fit.run.checkpoints.glob("*.pt"))
    assert bool(saved) == (at > 2)
    for path in saved:
        payload = checkpoint.load(path)
        assert payload["state"]["step"] < at
        assert_finite(payload["model"])
        assert_finite(payload["optimizer"]["state"])
    rows = [json.loads(line) for line in (fit.run.path / "metrics.jsonl").read_text().splitlines()]
    assert all(value is not None for row in rows for value in row.values())
    assert [row["step"] for row in rows if row["event"] == "epoch"] == [step for step in (5, 10) if step < at]


@pytest.mark.parametrize("at", [1, 4, 5, 6, 15])
def test_weights_that_the_last_update_ruined_are_not_saved(tmp_path: Path, at: int) -> None:
    fit = make_fit(tmp_path, *POISONED)
    poison(fit, at, "weights")
    train(fit)
    assert fit.state.stop is not None
    assert fit.state.stop.reason == "diverged"
    # Noticed where the weights are about to be saved, or else in the loss of the next step.
    seen = f"the weights became NaN or infinite at step {at}"
    assert (seen if at % 2 == 0 or at % 5 == 0 else f"the loss became NaN or infinite at step {at + 1}") in (
        fit.state.stop.message
    )
    for path in fit.run.checkpoints.glob("*.pt"):
        assert checkpoint.load(path)["state"]["step"] < at


def test_early_stopping_does_not_hide_a_nan(tmp_path: Path) -> None:
    fit = make_fit(tmp_path, *POISONED, "callbacks.early_stopping={patience: 1}")
    poison(fit, 5, "weights")
    train(fit)
    assert fit.state.stop is not None
    assert fit.state.stop.reason == "diverged"


def test_a_diverging_run_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *SMALL, "optimizer.lr=1e30", "callbacks.tensorboard=null"]) == 2
    (run,) = (tmp_path / "runs").iterdir()
    errors = capsys.readouterr().err
    assert "error: the loss became NaN or infinite at step " in errors
    assert "lower the rate (optimizer.lr), clip the gradient (trainer.clip_norm=1), or find" in errors
    assert f"Run folder runs/{run.name} (nothing was saved)" in errors
    assert "NonFiniteError" in (run / "log.txt").read_text()
    assert not (run / "results.json").exists()


@pytest.mark.parametrize(
    ("how", "name", "message"),
    [
        ("loss", "features.1", "the forward pass of step 4 by features.1 (Linear)"),
        ("loss", "head", "the forward pass of step 4 by head (Linear)"),
        ("loss", "", "the forward pass of step 4 by the model"),
        ("weights", "features.1", "the backward pass of step 4: Function 'SqrtBackward0' returned nan values"),
    ],
)
def test_debug_nan_names_the_operation(tmp_path: Path, how: str, name: str, message: str) -> None:
    recorder = Recorder()
    fit = make_fit(tmp_path, "debug=nan", callbacks={"recorder": recorder})
    poison(fit, 4, how, name)
    with pytest.raises(NonFiniteError) as caught:
        train(fit)
    assert message in str(caught.value)
    assert caught.value.first == 4
    assert recorder.heard[-1] == "exception NonFiniteError"


# Learning


def test_a_few_samples_are_learned_by_heart(tmp_path: Path) -> None:
    fit = make_fit(tmp_path, "debug=overfit", "data=digits", callbacks={})
    assert fit.feed.sizes()["train"] == 20
    assert fit.total_steps == 200
    train(fit)
    assert fit.state.metrics["train/loss"] < 0.05
    assert fit.state.metrics["train/accuracy"] == 1


def test_limit_batches(tmp_path: Path) -> None:
    fit = make_fit(tmp_path, "debug=fast", "data.eval_batch_size=4", "data.batch_size=48", callbacks={})
    train(fit)
    assert (fit.state.step, fit.state.samples, fit.state.epoch) == (3, 144, 1)
    assert fit.val is not None
    assert fit.val.num_samples == 12


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("recipe", [None, *experiments()])
def test_debug_fast_runs_with_every_recipe_that_needs_no_files(recipe: str | None) -> None:
    chosen, _ = load_config(recipe, ["debug=fast", "device=cpu", "data=digits", "model.weights=null"])
    build_schedule(chosen, Timeline.even(3, chosen.trainer.epochs))


# Waiting for data


@pytest.mark.parametrize(
    ("resident", "waits", "told"),
    [
        (False, dict.fromkeys(range(1, 19), 1.0), [(9, 50)]),
        (False, dict.fromkeys(range(13, 16), 1.0), [(15, 38)]),
        (False, {1: 100.0}, []),  # the start of the workers
        (False, dict.fromkeys(range(1, 19), 0.3), []),
        (True, dict.fromkeys(range(1, 19), 1.0), []),  # there is nothing to do about it
    ],
)
def test_slow_data_are_told_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    resident: bool,
    waits: Mapping[int, float],
    told: list[tuple[int, int]],
) -> None:
    clock, heard = [0.0], []

    class Work(Callback):
        def step_end(self, fit: Fit) -> None:
            clock[0] += 1.0

    def warning(text: str, *values: float) -> None:
        assert "raise data.workers or set data.resident=true" in text
        heard.append((fit.state.step, round(values[0])))

    words = ("trainer.log_every=5", f"data.resident={resident}", "data.workers=0")
    fit = make_fit(tmp_path, *words, callbacks={"work": Work()})
    real = fit.train.epoch

    def slow(epoch: int, start: int = 0) -> Iterator[Any]:
        for step, batch in enumerate(real(epoch, start), 9 * epoch + 1):
            clock[0] += waits.get(step, 0.0)
            yield batch

    monkeypatch.setattr(logging.getLogger("dlrun"), "warning", warning)
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(fit.train, "epoch", slow)
    train(fit)
    assert heard == told
