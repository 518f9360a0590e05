"""The momentum that goes down while the rate goes up: of every optimizer that has one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from running import config, equal, make_fit

from dlrun import checkpoint
from dlrun.assembly import build_schedule
from dlrun.cli import main
from dlrun.errors import ConfigError, UserError
from dlrun.optim.momentum import MomentumMover
from dlrun.optim.schedules import momentum_of
from dlrun.registry import OPTIMIZERS
from dlrun.timeline import Timeline
from dlrun.train.fit import Callback, Fit
from dlrun.train.loop import train

MOVED = ("schedule=one_cycle", "schedule.momentum=[0.85, 0.95]")
WITHOUT = {"adagrad", "adadelta", "lbfgs"}


class Seen(Callback):
    """The momenta of all groups at each step."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.momenta: list[set[float]] = []
        self._stop_at = stop_at

    def step_end(self, fit: Fit) -> None:
        groups = fit.optimizer.param_groups
        self.momenta.append({group["betas"][0] if "betas" in group else group["momentum"] for group in groups})
        if fit.state.step == self._stop_at:
            fit.state.request_stop("signal", "for the test")


def momenta(*words: str, steps: int = 20) -> list[float | None]:
    moved = momentum_of(build_schedule(config(*words, "trainer.epochs=1"), Timeline((steps,))))
    assert moved is not None
    return [moved(step) for step in range(steps)]


@pytest.mark.parametrize("shape", ["cosine", "linear"])
@pytest.mark.parametrize(("total", "peak"), [(10, 0.3), (36, 0.25), (100, 0.5)])
def test_the_table_is_that_of_torch(shape: str, total: int, peak: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.5)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.0, total_steps=total, pct_start=peak, anneal_strategy="cos" if shape == "cosine" else "linear",
        base_momentum=0.85, max_momentum=0.95,
    )  # fmt: skip
    expected = []
    for _ in range(total):
        expected.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        if len(expected) < total:
            scheduler.step()
    found = momenta(*MOVED, f"schedule.shape={shape}", f"schedule.peak_at={peak}", steps=total)
    assert found == pytest.approx(expected, abs=1e-12)


def test_a_warmup_waits_at_the_first_value_and_a_chain_asks_its_parts() -> None:
    plain = momenta(*MOVED, steps=16)
    assert momenta(*MOVED, "schedule.warmup=4st") == [0.95] * 4 + plain
    parts = "[{name: constant, length: 4st}, {name: one_cycle, momentum: [0.85, 0.95], scale: 0.5}]"
    assert momenta("schedule=chain", f"schedule.parts={parts}") == [None] * 4 + plain
    assert momenta("schedule=chain", f"schedule.parts={parts}", "schedule.warmup=2st")[:6] == [None] * 6


def test_a_schedule_moves_no_momentum_unless_it_is_told_to() -> None:
    for name in ("one_cycle", "cosine", "plateau"):
        schedule = build_schedule(config(f"schedule={name}", "schedule.warmup=1ep"), Timeline.even(5, 2))
        assert momentum_of(schedule) is None


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS.names()) - WITHOUT))
def test_the_momentum_of_every_optimizer_is_moved_and_goes_on_after_a_resume(name: str, tmp_path: Path) -> None:
    words = (*MOVED, f"optimizer={name}", "model.hidden=[16,16]", "trainer.epochs=1")
    seen, cut, rest = Seen(), Seen(stop_at=5), Seen()
    whole = make_fit(tmp_path, *words, callbacks={"seen": seen})
    train(whole)
    table = momenta(*MOVED, steps=whole.total_steps)
    assert seen.momenta == [{momentum} for momentum in table]
    assert min(momentum for momentum in table if momentum is not None) == pytest.approx(0.85, abs=0.02)
    broken = make_fit(tmp_path, *words, callbacks={"seen": cut})
    train(broken)
    checkpoint.save(broken.run.checkpoints / "last.pt", broken.payload())
    resumed = make_fit(tmp_path, *words, callbacks={"seen": rest})
    resumed.run = broken.run
    resumed.resume(checkpoint.load(broken.run.checkpoints / "last.pt"))
    resumed.state.stop = None
    train(resumed)
    assert cut.momenta + rest.momenta == seen.momenta
    assert equal(whole.payload()["model"], resumed.payload()["model"])
    assert equal(whole.payload()["optimizer"], resumed.payload()["optimizer"])


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS.names()) - WITHOUT))
def test_a_momentum_may_begin_at_zero_and_come_back_to_it(name: str, tmp_path: Path) -> None:
    parts = "[{name: one_cycle, momentum: [0.0, 0.9], length: 0.5}, {name: one_cycle, momentum: [0.0, 0.0]}]"
    fit = make_fit(tmp_path, "schedule=chain", f"schedule.parts={parts}", f"optimizer={name}", "model.hidden=[16,16]")
    train(fit)
    assert fit.state.stop is None
    assert fit.momentum is not None
    assert fit.momentum.now == 0


@pytest.mark.parametrize("name", ["sgd", "rmsprop"])
@pytest.mark.parametrize("fused", [False, True])
def test_what_a_momentum_of_zero_leaves(name: str, fused: bool) -> None:
    momenta, rate = [0.0, 0.5, 0.9, 0.0, 0.0, 0.5], 0.1
    weights = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    if name == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD([weights], lr=rate, fused=fused)
    else:
        optimizer = torch.optim.RMSprop([weights], lr=rate, alpha=0.9, eps=1e-8)
    mover = MomentumMover(optimizer, lambda step: momenta[step])
    expected, kept, square = weights.detach().double(), torch.zeros(2), torch.zeros(2)
    for step, momentum in enumerate(momenta):
        gradient = torch.tensor([0.3 + step, -0.1 * step + 0.05])
        weights.grad = gradient
        mover.set(step)
        optimizer.step()
        square = 0.9 * square + 0.1 * gradient**2
        kept = momentum * kept + (gradient if name == "sgd" else gradient / (square.sqrt() + 1e-8))
        expected = expected - rate * kept
        torch.testing.assert_close(weights.detach().double(), expected, rtol=1e-5, atol=1e-6)
        assert mover.now == momentum


def test_an_optimizer_built_without_momentum_gets_one_later(tmp_path: Path) -> None:
    parts = "[{name: constant, length: 0.5}, {name: one_cycle, momentum: [0.5, 0.9]}]"
    fit = make_fit(tmp_path, "optimizer=rmsprop", "schedule=chain", f"schedule.parts={parts}")
    train(fit)
    assert fit.state.stop is None


@pytest.mark.parametrize("name", sorted(WITHOUT - {"lbfgs"}))
def test_an_optimizer_without_momentum_is_told(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"optimizer '{name}' has no momentum"):
        make_fit(tmp_path, *MOVED, f"optimizer={name}", callbacks={})


def test_parts_without_a_momentum_of_their_own_leave_it_to_the_optimizer(tmp_path: Path) -> None:
    parts = "[{name: one_cycle, momentum: [0.85, 0.95], length: 4st}, {name: constant}]"
    seen = Seen()
    fit = make_fit(
        tmp_path, "schedule=chain", f"schedule.parts={parts}", "optimizer.momentum=0.7", callbacks={"s": seen}
    )
    train(fit)
    assert seen.momenta[3] == {0.95}
    assert seen.momenta[4:] == [{0.7}] * (fit.total_steps - 4)


def test_the_momentum_is_logged(tmp_path: Path) -> None:
    fit = make_fit(tmp_path, *MOVED, "callbacks.progress=null", "callbacks.tensorboard=null", "trainer.log_every=1")
    train(fit)
    lines = [json.loads(line) for line in (fit.run.path / "metrics.jsonl").read_text().splitlines()]
    logged = [line["momentum"] for line in lines if line["event"] == "log"]
    assert logged == pytest.approx(momenta(*MOVED, steps=fit.total_steps))


def test_the_curve_tells_the_momentum(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "schedule", "one_cycle", "schedule.momentum=[0.85, 0.95]", "trainer.epochs=1"]) == 0
    assert "momentum: first 0.95, lowest 0.85 at step 29, last 0.95" in capsys.readouterr().out
    assert main(["show", "schedule", "one_cycle"]) == 0
    assert "momentum: first" not in capsys.readouterr().out


@pytest.mark.parametrize("text", ["[0.85]", "[0.85, 1.0]", "0.9", "[-0.1, 0.9]"])
def test_wrong_momenta_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"schedule\.momentum"):
        config("schedule=one_cycle", f"schedule.momentum={text}")
