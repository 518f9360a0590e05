"""Averages of the weights: their formulas, what is evaluated and saved, and resuming."""

from __future__ import annotations

import copy
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from running import equal, make_fit
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from dlrun import checkpoint
from dlrun.cli import main
from dlrun.errors import CheckpointError, UserError
from dlrun.optim import averaging
from dlrun.optim.averaging import cycle_ends, move
from dlrun.reproducibility import seed_all
from dlrun.timeline import Timeline
from dlrun.train.average import WeightAverage
from dlrun.train.callbacks.snapshots import snapshots
from dlrun.train.evaluate import evaluate
from dlrun.train.fit import Callback, Fit
from dlrun.train.loop import train
from dlrun.types import Duration
from dlrun.weights import load_weights, saved_weights

RESNET = ("model={name: resnet, depth: 8, width: 0.25}", "data.samples=100", "data.size=8")
SAMPLES = "data.samples=200"
BN = ("model={name: mlp, hidden: [16], norm: batch, dropout: 0.3}",)
STEPS = 9
"""In an epoch of the small set: 144 of 200 samples are for training."""


# The formulas


def test_the_shares_of_a_warm_start() -> None:
    plan = averaging.ema(Timeline.even(10, 4), decay=0.995)
    kept = [1 - plan.share(n) for n in (0, 1, 2, 8, 89, 1789, 1790, 10**6)]
    assert kept == pytest.approx([0, 2 / 11, 3 / 12, 9 / 18, 90 / 99, 1790 / 1799, 0.995, 0.995], abs=1e-12)
    cold = averaging.ema(Timeline.even(10, 4), decay=0.9, warm_start=False)
    assert [cold.share(n) for n in (0, 1, 50)] == pytest.approx([1, 0.1, 0.1])
    assert [averaging.swa(Timeline.even(10, 10)).share(n) for n in range(4)] == [1, 1 / 2, 1 / 3, 1 / 4]


def test_when_the_weights_are_looked_at() -> None:
    def looks(plan: averaging.Averaging) -> list[int]:
        return [step for step in range(1, 41) if plan.due(step)]

    assert looks(averaging.ema(Timeline.even(10, 4))) == list(range(1, 41))
    assert looks(averaging.ema(Timeline.even(10, 4), start=Duration(2, "ep"), every=Duration(5, "st"))) == [
        25,
        30,
        35,
        40,
    ]
    # Those of swa are counted back from the end: ends of epochs, whatever the share before them.
    assert looks(averaging.swa(Timeline.even(10, 4), start=0.5)) == [30, 40]
    assert looks(averaging.swa(Timeline.even(8, 5))) == [32, 40]
    assert looks(averaging.swa(Timeline.even(4, 10), start=0.72)) == [32, 36, 40]
    assert looks(averaging.swa(Timeline.even(4, 10), start=0.5, every=Duration(2, "ep"))) == [24, 32, 40]
    # A growing batch makes shorter epochs.
    assert looks(averaging.swa(Timeline((20, 10, 5, 5)), start=0.5)) == [30, 35, 40]
    assert looks(averaging.ema(Timeline((20, 10, 5, 5)), every=Duration(1, "ep"))) == [20, 30, 35, 40]
    assert looks(averaging.swa(Timeline.even(10, 4), start=0.0, every=Duration(15, "st"))) == [10, 25, 40]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            lambda: averaging.ema(Timeline.even(10, 4), every=Duration(0.01, "ep")),
            "every: 0.01ep is shorter than one step",
        ),
        (lambda: averaging.ema(Timeline.even(10, 4), start=Duration(1, "min")), "start: 1min is a wall-clock time"),
        (
            lambda: averaging.swa(Timeline.even(10, 4)),
            "start=0.75, every=1ep: the last step of the training would be the only one whose weights count (of 40",
        ),
        (lambda: averaging.swa(Timeline.even(10, 4), every=Duration(0.01, "ep")), "every: 0.01ep is shorter than"),
        (
            lambda: averaging.ema(Timeline.even(10, 2), start=Duration(50, "ep")),
            "start=50ep, every=1st: the first look would be after the last of the 20 steps of the training",
        ),
        (
            lambda: averaging.ema(Timeline.even(10, 2), every=Duration(5, "ep")),
            "every=5ep: the first look would be after",
        ),
    ],
)
def test_what_has_no_meaning_is_refused(wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        wrong()


walks = st.lists(st.lists(st.floats(-100, 100), min_size=3, max_size=3), min_size=1, max_size=30)


def moved(walk: list[list[float]], plan: averaging.Averaging) -> Tensor:
    """The average of weights that go through ``walk``; it begins as something else."""
    average = [torch.full((2,), 99.0, dtype=torch.float64), torch.full((1,), 99.0, dtype=torch.float64)]
    for n, point in enumerate(torch.tensor(walk, dtype=torch.float64)):
        move(average, [point[:2], point[2:]], plan.share(n))
    return torch.cat(average)


@given(walks)
def test_swa_is_the_mean(walk: list[list[float]]) -> None:
    expected = torch.tensor(walk, dtype=torch.float64).mean(0)
    torch.testing.assert_close(moved(walk, averaging.swa(Timeline.even(1, 100))), expected, rtol=0, atol=1e-11)


@given(walks, st.floats(0, 0.999))
def test_ema_is_the_weighted_sum_of_polyak(walk: list[list[float]], decay: float) -> None:
    points = torch.tensor(walk, dtype=torch.float64)
    last = len(walk) - 1
    powers = [decay**last, *((1 - decay) * decay ** (last - i) for i in range(1, last + 1))]
    expected = (torch.tensor(powers, dtype=torch.float64)[:, None] * points).sum(0)
    found = moved(walk, averaging.ema(Timeline.even(1, 100), decay=decay, warm_start=False))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@given(walks, st.floats(0, 0.999))
def test_an_average_stays_among_the_weights_and_of_constant_weights_is_these(
    walk: list[list[float]], decay: float
) -> None:
    points = torch.tensor(walk, dtype=torch.float64)
    found = moved(walk, averaging.ema(Timeline.even(1, 100), decay=decay))
    assert (found >= points.min(0).values - 1e-9).all()
    assert (found <= points.max(0).values + 1e-9).all()
    constant = moved([walk[0]] * len(walk), averaging.ema(Timeline.even(1, 100), decay=decay))
    assert torch.equal(constant, points[0])


# In training


class StopAt(Callback):
    """Stops as a signal does, after a step."""

    def __init__(self, step: int) -> None:
        self._step = step

    def step_end(self, fit: Fit) -> None:
        if fit.state.step == self._step:
            fit.state.request_stop("signal", "received SIGTERM")


class Record(Callback):
    """Keeps the state dict after every step, in float64."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []

    def step_end(self, fit: Fit) -> None:
        self.states.append({name: value.detach().double().clone() for name, value in fit.model.state_dict().items()})


@pytest.mark.parametrize(
    "words",
    [
        ("averaging={name: ema, decay: 0.9}",),
        ("averaging={name: ema, decay: 0.8, warm_start: false, start: 4st, every: 3st}", "trainer.precision=bf16"),
        ("averaging={name: swa, start: 0.3, every: 2st, batch_norm: average}", "trainer.accumulate=2"),
    ],
)
def test_the_averaged_net_is_the_average_of_what_was_trained(tmp_path: Path, words: tuple[str, ...]) -> None:
    record = Record()
    fit = make_fit(tmp_path, *BN, *words, callbacks={"record": record})
    train(fit)
    params = fit.config.averaging.params
    if fit.config.averaging.name == "swa":
        first, last = round(params["start"] * 2 * STEPS), 2 * STEPS
        chosen = [state for i, state in enumerate(record.states, 1) if i > first and (last - i) % 2 == 0]
    else:
        first, every = params["start"].steps(STEPS), params["every"].steps(STEPS)
        chosen = [state for i, state in enumerate(record.states, 1) if i > first and (i - first) % every == 0]
    expected = dict(chosen[0])
    for n, state in enumerate(chosen[1:], 1):
        if fit.config.averaging.name == "swa":
            kept = n / (n + 1)
        else:
            kept = min(params["decay"], (1 + n) / (10 + n)) if params["warm_start"] else params["decay"]
        expected = {name: kept * expected[name] + (1 - kept) * state[name] for name in expected}
    assert fit.average is not None
    assert fit.average.looks == len(chosen) > 1
    for name, value in fit.average.model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert value == chosen[-1][name]
        else:
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6, msg=name)
    assert not equal(fit.average.model.state_dict(), fit.model.state_dict())


def test_averaging_does_not_change_what_is_learned(tmp_path: Path) -> None:
    states = []
    for words in ((), ("averaging=ema",), ("averaging={name: swa, start: 0.2, every: 3st}", "trainer.eval_every=4st")):
        seed_all(0)
        fit = make_fit(tmp_path, *BN, *words, "callbacks.tensorboard=null", "augment=crop_flip")
        train(fit)
        states.append(fit.model.state_dict())
    assert equal(states[0], states[1])
    assert equal(states[0], states[2])


def test_what_is_frozen_is_shared_and_stays(tmp_path: Path) -> None:
    fit = make_fit(tmp_path, *RESNET, "model.freeze=all_but_head", "averaging=ema", callbacks={})
    average = fit.average
    assert average is not None
    pairs = dict(fit.model.state_dict(keep_vars=True)), dict(average.model.state_dict(keep_vars=True))
    copied = [name for name in pairs[0] if pairs[0][name] is not pairs[1][name]]
    assert copied == ["head.weight", "head.bias"]
    before = copy.deepcopy(fit.model.state_dict())
    train(fit)
    for name, value in average.model.state_dict().items():
        assert torch.equal(value, before[name]) == (name not in copied), name


def test_tied_weights_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(2, 2, bias=False)
            self.other = nn.Linear(2, 2, bias=False)
            self.other.weight = self.one.weight

    model = Tied()
    average = WeightAverage(model, averaging.ema(Timeline.even(1, 100), decay=0.5, warm_start=False))
    first = model.one.weight.detach().clone()
    average.look(1)
    with torch.no_grad():
        model.one.weight += 1
    average.look(2)
    assert average.model.one.weight is average.model.other.weight
    torch.testing.assert_close(average.model.get_parameter("one.weight"), first + 0.5)


@pytest.mark.parametrize("batches", [3, None])
def test_recomputed_statistics_are_those_of_torch(tmp_path: Path, batches: int | None) -> None:
    words = (f"averaging={{name: swa, start: 0.0, every: 4st, batches: {'null' if batches is None else batches}}}",)
    fit = make_fit(tmp_path, *RESNET, *words, "augment=crop_flip", callbacks={})
    train(fit)
    assert fit.average is not None
    expected = copy.deepcopy(fit.average.model)
    loader = fit.feed.train_loader()
    update_bn([images for images, _ in list(loader.epoch(0))[:batches]], expected)
    own = fit.average.model.state_dict()
    means = [name for name in own if "running" in name]
    assert len(means) >= 12
    for name in means:
        torch.testing.assert_close(own[name], expected.state_dict()[name], msg=name)
        assert not torch.equal(own[name], fit.model.state_dict()[name])
    assert all(not module.training for module in fit.average.model.modules())
    assert all(module.momentum == 0.1 for module in fit.average.model.modules() if isinstance(module, nn.BatchNorm2d))


def test_auxiliary_heads_keep_their_statistics(tmp_path: Path) -> None:
    class Aided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.aid = nn.BatchNorm1d(3), nn.BatchNorm1d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.main(x) + (self.aid(x) if self.training else 0)  # type: ignore[no-any-return]

    fit = make_fit(tmp_path, *BN, callbacks={})
    model = Aided()
    model(torch.randn(5, 3))
    plan = averaging.ema(Timeline.even(1, 100), batch_norm="recompute", batches=1)
    average = WeightAverage(model, plan)
    average.look(1)

    class Loader:
        def epoch(self, epoch: int) -> Any:
            yield torch.full((4, 3), 2.0), torch.tensor([0, 1, 2, 0])

    feed: Any = Loader()
    assert average.settle(lambda: nullcontext(feed), fit.task, torch.no_grad())
    assert average.model.get_buffer("main.running_mean").tolist() == [2, 2, 2]
    assert torch.equal(average.model.get_buffer("aid.running_mean"), model.aid.running_mean)


def test_a_recomputation_that_is_interrupted_leaves_all_as_it_was(tmp_path: Path) -> None:
    fit = make_fit(tmp_path, *RESNET, "averaging={name: swa, start: 0.0, every: 4st}", callbacks={})
    train(fit)
    average = fit.average
    assert average is not None
    average.look(10)
    before = copy.deepcopy(average.model.state_dict())
    calls = iter([False, False, True])
    assert not average.settle(fit.training_batches, fit.task, torch.no_grad(), lambda: next(calls))
    assert equal(average.model.state_dict(), before)
    assert average.settle(fit.training_batches, fit.task, torch.no_grad())
    assert not equal(average.model.state_dict(), before)


@pytest.mark.parametrize("evaluated", [True, False])
def test_a_finished_run_holds_recomputed_statistics_whether_they_were_evaluated_or_not(
    tmp_path: Path, evaluated: bool
) -> None:
    swa = f"averaging={{name: swa, start: 0.2, every: 4st, evaluate: {str(evaluated).lower()}}}"
    fit = make_fit(tmp_path, *RESNET, swa, "callbacks.tensorboard=null")
    train(fit)
    payload = checkpoint.load(fit.run.checkpoints / "last.pt")
    assert payload["averaging"] == {"looks": fit.average.looks if fit.average else 0, "settled": True}
    expected = make_fit(tmp_path, *RESNET, swa, callbacks={})
    load_weights(expected.model, payload["averaged"])
    update_bn([images for images, _ in fit.feed.train_loader().epoch(0)], expected.model)
    for name, value in expected.model.state_dict().items():
        torch.testing.assert_close(payload["averaged"][name], value, msg=name)


def test_what_is_written_between_two_evaluations_says_so_and_eval_recomputes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*RESNET, "averaging={name: ema, decay: 0.5, batch_norm: recompute}", "trainer.eval_every=2ep")
    fit = make_fit(tmp_path, *words, "callbacks.snapshots.every=5st", "callbacks.tensorboard=null")
    train(fit)
    path = fit.run.checkpoints / "snapshot_1.pt"
    payload = checkpoint.load(path)
    assert payload["state"]["step"] == 5
    assert payload["averaging"] == {"looks": 5, "settled": False}
    expected = make_fit(tmp_path, *words, callbacks={})
    load_weights(expected.model, payload["averaged"])
    left = judged(expected, expected.model)
    update_bn([images for images, _ in fit.feed.train_loader().epoch(0)], expected.model)
    recomputed = judged(expected, expected.model)
    assert left is not None
    assert recomputed is not None
    assert main(["eval", f"checkpoint={path}", "split=val"]) == 0
    assert "statistics of batch norm from training batches" in capsys.readouterr().out
    report = json.loads((path.parent / "eval_val_snapshot_1.json").read_text())
    assert report["loss"] == pytest.approx(recomputed["loss"], rel=1e-5)
    assert report["loss"] != pytest.approx(left["loss"], rel=1e-3)
    # Where no data are read, it is told.
    assert main(["export", f"checkpoint={path}", "format=safetensors"]) == 0
    assert "have averaged statistics of batch norm in place of recomputed ones" in capsys.readouterr().err


# What is evaluated


def judged(fit: Fit, model: nn.Module) -> dict[str, float] | None:
    assert fit.val is not None
    return evaluate(model, fit.val, fit.task, "fp32", fit.device)


@pytest.mark.parametrize("asked", [True, False])
def test_validation_is_about_the_averaged_weights_when_asked(tmp_path: Path, asked: bool) -> None:
    fit = make_fit(
        tmp_path, *BN, "averaging={name: ema, decay: 0.99}", f"averaging.evaluate={str(asked).lower()}", callbacks={}
    )
    train(fit)
    assert fit.average is not None
    raw, averaged = judged(fit, fit.model), judged(fit, fit.average.model)
    assert raw != averaged
    found = {name.removeprefix("val/"): v for name, v in fit.state.metrics.items() if name.startswith("val/")}
    assert found == (averaged if asked else raw)


def test_before_the_first_look_the_newest_weights_are_evaluated_and_saved_alone(tmp_path: Path) -> None:
    fit = make_fit(tmp_path, *BN, "averaging={name: ema, start: 1ep}", "callbacks.tensorboard=null")
    fit.callbacks = {**fit.callbacks, "stop": StopAt(STEPS)}
    train(fit)
    assert fit.judged is None
    payload = checkpoint.load(fit.run.checkpoints / "last.pt")
    assert "averaged" not in payload
    assert saved_weights(payload) == (payload["model"], "")
    with pytest.raises(CheckpointError, match="it was saved before the average began"):
        saved_weights(payload, "averaged")


def test_a_checkpoint_holds_both_and_which_one_is_meant(tmp_path: Path) -> None:
    fit = make_fit(tmp_path, *BN, "averaging=ema", "callbacks.tensorboard=null")
    train(fit)
    assert fit.average is not None
    payload = checkpoint.load(fit.run.checkpoints / "last.pt")
    assert equal(dict(payload["averaged"]), dict(fit.average.model.state_dict()))
    assert equal(dict(payload["model"]), dict(fit.model.state_dict()))
    assert saved_weights(payload)[1] == saved_weights(payload, "averaged")[1] == "averaged"
    assert saved_weights(payload, "raw") == (payload["model"], "raw")
    payload["config"]["averaging"]["evaluate"] = False
    assert saved_weights(payload)[1] == "raw"
    del payload["config"]["averaging"], payload["averaged"], payload["averaging"]
    assert saved_weights(payload)[1] == ""
    with pytest.raises(CheckpointError, match="the run was trained without averaging"):
        saved_weights(payload, "averaged")


def test_the_commands_take_the_averaged_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = (*BN, "averaging={name: ema, decay: 0.99}", "callbacks.tensorboard=null", "callbacks.progress=null")
    small = ("data=synthetic", "data.samples=200", "data.batch_size=16", "device=cpu", "schedule=constant")
    rest = ("augment=none", "trainer.epochs=2", "trainer.threads=1")
    assert main(["train", *words, *small, *rest]) == 0
    out = capsys.readouterr().out
    assert "best checkpoint, averaged weights" in out
    assert "averaging   ema of the weights, evaluated" in out
    (run,) = (tmp_path / "runs").iterdir()
    tested = json.loads((run / "results.json").read_text())["test"]
    for weights in ("auto", "averaged", "raw"):
        assert main(["eval", f"checkpoint={run}", f"weights={weights}"]) == 0
        out = capsys.readouterr().out
        assert f"weights     {'raw' if weights == 'raw' else 'averaged'}" in out
    auto, averaged, raw = (
        json.loads((run / f"eval_test_best{name}.json").read_text()) for name in ("", "_averaged", "_raw")
    )
    assert auto == averaged
    assert auto["loss"] == pytest.approx(tested["loss"], rel=1e-6)
    assert raw["loss"] != auto["loss"]
    assert main(["export", f"checkpoint={run}", "format=safetensors"]) == 0
    assert "averaged weights)" in capsys.readouterr().out
    from safetensors.torch import load_file

    payload = checkpoint.load(run / "checkpoints/best.pt")
    exported = load_file(run / "export/best.safetensors")
    assert all(torch.equal(exported[name], value) for name, value in payload["averaged"].items())
    assert main(["train", *words, *small, *rest, f"model.weights={run}", "trainer.limit_batches=1"]) == 0
    assert "best.pt, averaged weights (" in capsys.readouterr().out
    assert main(["eval", f"checkpoint={run}", "weights=newest"]) == 2
    assert "weights=newest: must be auto, averaged or raw" in capsys.readouterr().err


# Resuming

LANGUAGE = (
    *("data={name: text, val_fraction: 0.1, sequence_length: 16, batch_size: 8}", "model={name: rnn, hidden_size: 8}"),
    *("task=language_modeling", "trainer.limit_batches=9", "loss=cross_entropy"),
)


@pytest.mark.parametrize(
    "words",
    [
        (*BN, "averaging={name: ema, batch_norm: recompute, batches: 2}", "trainer.eval_every=4st"),
        (*BN, "averaging={name: swa, start: 0.4, every: 2st}", "augment=[mixup]", "trainer.eval_every=7st"),
        (*BN, "averaging={name: ema, start: 12st, every: 2st}", "trainer.precision=fp16"),
        (*RESNET, "averaging=ema", "trainer.channels_last=true", "model.freeze=stem", SAMPLES),
        (*RESNET, "averaging=ema", "model.freeze=all_but_head", "model.cache_features=true", "augment=none", SAMPLES),
        (*BN, "averaging={name: ema, evaluate: false}", "callbacks.snapshots.every=5st"),
        (*BN, "callbacks.early_stopping={monitor: val/loss, patience: 1}", "averaging=ema", "trainer.epochs=9"),
    ],
)
def test_a_resumed_run_goes_on_exactly(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert_exact_resume(tmp_path, "augment=crop_flip", *words)


def assert_exact_resume(tmp_path: Path, *words: str) -> None:
    """A run that is stopped after step 11 and resumed ends as one that is left alone."""

    chosen = (*words, "callbacks.tensorboard=null")
    whole, broken, resumed = (make_fit(tmp_path, *chosen) for _ in range(3))
    broken.callbacks = {**broken.callbacks, "stop": StopAt(11)}
    resumed.run = broken.run
    seed_all(0)
    train(whole)
    seed_all(0)
    train(broken)
    assert broken.state.step == 11
    resumed.resume(checkpoint.load(broken.run.checkpoints / "last.pt"))
    train(resumed)
    one, other = whole.payload(), resumed.payload()
    assert "averaged" in one
    for payload in (one, other):
        del payload["callbacks"]["metrics_jsonl"]
    assert equal(one, other)
    assert (whole.run.path / "metrics.jsonl").read_bytes() == (resumed.run.path / "metrics.jsonl").read_bytes()
    names = [sorted(path.name for path in fit.run.checkpoints.glob("*.pt")) for fit in (whole, resumed)]
    assert names[0] == names[1]
    for name in names[0]:
        if name != "previous_last.pt":
            payloads = [checkpoint.load(fit.run.checkpoints / name) for fit in (whole, resumed)]
            assert equal(*({key: payload.get(key) for key in ("model", "averaged", "state")} for payload in payloads))


def test_a_checkpoint_from_before_averaging_existed_is_read(tmp_path: Path) -> None:
    fit = make_fit(tmp_path, *BN, "callbacks.tensorboard=null")
    train(fit)
    path = fit.run.checkpoints / "best.pt"
    payload = checkpoint.load(path)
    del payload["config"]["averaging"]
    payload["config"]["callbacks"].pop("snapshots")
    checkpoint.save(path, payload)
    assert main(["eval", f"checkpoint={path}"]) == 0
    again = make_fit(tmp_path, *BN, "callbacks.tensorboard=null")
    again.resume(payload)
    assert equal(dict(again.model.state_dict()), dict(payload["model"]))


def test_an_averaged_language_model_writes_and_carries_on(tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text("".join(f"{i} green bottles hanging on the wall, take {i % 3} down.\n" for i in range(60)))
    words = (*LANGUAGE, f"data.path={book}", "averaging=ema", "callbacks.tensorboard=null")
    fit = make_fit(tmp_path, *words, "callbacks.sample_text.every=9st", "trainer.epochs=1")
    train(fit)
    assert fit.average is not None
    assert judged(fit, fit.average.model) == {
        name.removeprefix("val/"): v for name, v in fit.state.metrics.items() if name.startswith("val/")
    }
    assert main(["sample", f"checkpoint={fit.run.path}", "length=5", "seed=1", "weights=averaged"]) == 0
    assert_exact_resume(tmp_path, *words)


# Snapshots


def test_where_cycles_end() -> None:
    saw = [1.0, 0.6, 0.2, 1.0, 0.6, 0.2, 1.0, 0.6, 0.2]
    triangle = [0.1, 0.5, 1.0, 0.5, 0.1, 0.5, 1.0, 0.5]
    assert cycle_ends(saw) == (3, 6, 9)
    assert cycle_ends([0.2, 0.6, *saw]) == (5, 8, 11)  # a warmup in front is no cycle
    assert cycle_ends(triangle) == (5, 8)
    assert cycle_ends([1.0, 0.1, 0.1, 0.1, 1.0, 0.1]) == (4, 6)  # the floor belongs to the cycle
    for none in ([1.0] * 6, [1.0, 1.0, 0.1, 0.1, 0.01, 0.01], [0.5, 1.0, 1.0, 0.5, 0.0, 0.0]):
        assert cycle_ends(none) == (6,)


@pytest.mark.parametrize(
    ("options", "steps"),
    [({"count": 3}, (6, 12, 18)), ({"every": Duration(4, "st")}, (4, 8, 12, 16)), ({}, (6, 12, 18))],
)
def test_a_snapshot_is_the_state_of_its_step(tmp_path: Path, options: dict[str, Any], steps: tuple[int, ...]) -> None:
    record = Record()
    callbacks = {"record": record, "snapshots": snapshots(**options)}
    fit = make_fit(tmp_path, *BN, callbacks=callbacks)
    fit.schedule = lambda step: 1 - step % 6 / 6  # type: ignore[assignment, unused-ignore]
    train(fit)
    names = sorted(path.name for path in fit.run.checkpoints.iterdir())
    assert names == [f"snapshot_{i}.pt" for i in range(1, len(steps) + 1)]
    for name, step in zip(names, steps, strict=True):
        payload = checkpoint.load(fit.run.checkpoints / name)
        assert payload["state"]["step"] == step
        saved = {key: value.double() for key, value in payload["model"].items()}
        assert equal(saved, record.states[step - 1])
    load_weights(fit.model, payload["model"])


@pytest.mark.parametrize(
    ("schedule", "steps"),
    [
        # Three periods of 1 : 2 : 4 in 18 steps; the lowest rate is the last before the rise.
        ("{name: cosine_restarts, cycles: 3, growth: 2}", (3, 8, 18)),
        ("{name: cosine_restarts, cycles: 3, growth: 1}", (6, 12, 18)),
        # The valleys are at 17/3 and 34/3 of the steps 0..17: the nearest steps are taken.
        ("{name: cyclic, cycles: 3}", (7, 12, 18)),
        # The valley is at 8.5, and the triangle behind it half as high.
        ("{name: cyclic, cycles: 2, shape: triangular2}", (10, 18)),
        ("{name: cosine_restarts, cycles: 2, growth: 1, warmup: 4st}", (11, 18)),
    ],
)
def test_snapshots_of_the_cyclic_schedules(tmp_path: Path, schedule: str, steps: tuple[int, ...]) -> None:
    fit = make_fit(tmp_path, f"schedule={schedule}", callbacks={"snapshots": snapshots()})
    train(fit)
    found = sorted(fit.run.checkpoints.iterdir())
    assert [checkpoint.load(path)["state"]["step"] for path in found] == list(steps)


def resumed_longer(tmp_path: Path, *words: str) -> Fit:
    """A run that was trained to its end and goes on for twice as many epochs."""
    first = make_fit(tmp_path, *words, "callbacks.tensorboard=null")
    train(first)
    longer = make_fit(
        tmp_path, *words, "callbacks.tensorboard=null", f"trainer.epochs={2 * first.config.trainer.epochs}"
    )
    longer.run = first.run
    longer.resume(checkpoint.load(first.run.checkpoints / "last.pt"))
    train(longer)
    return longer


def test_a_run_that_goes_on_for_longer_keeps_its_snapshots(tmp_path: Path) -> None:
    words = ("schedule={name: cosine_restarts, cycles: 3, growth: 2}", "callbacks.snapshots=true")
    fit = resumed_longer(tmp_path, *words)
    found = {path.name: checkpoint.load(path) for path in fit.run.checkpoints.glob("snapshot_*.pt")}
    steps = {name: payload["state"]["step"] for name, payload in found.items()}
    # Of 18 steps the ends are 3, 8 and 18, of 36 they are 5, 15 and 36.
    assert steps == {"snapshot_1.pt": 3, "snapshot_2.pt": 8, "snapshot_3.pt": 18, "snapshot_4.pt": 36}


def test_a_mean_over_the_end_of_the_training_does_not_move_with_the_end(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"trainer.epochs was 2, now 4: averaging=swa takes the mean over the last"
    ):
        resumed_longer(tmp_path, "averaging={name: swa, start: 0.2, every: 4st}")
    assert resumed_longer(tmp_path / "ema", "averaging=ema").average is not None


def test_snapshots_that_cannot_be_are_refused_before_the_run(tmp_path: Path) -> None:
    for words, message in (
        (("callbacks.snapshots=true",), "schedule 'constant'.* has no cycles; take a cyclic schedule"),
        (("callbacks.snapshots.every=2ep",), "is too short for two of them"),
        (("callbacks.snapshots={every: 2ep, count: 2}",), "every=2ep and count=2 exclude each other"),
        (("callbacks.snapshots.every=2min",), r"must be in epochs \(ep\) or steps \(st\)"),
    ):
        with pytest.raises(UserError, match=message):
            make_fit(tmp_path / "runs", *words)
        assert not (tmp_path / "runs").exists()
