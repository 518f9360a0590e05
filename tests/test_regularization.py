"""Penalties against autograd, limits and noise, and how they are logged."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from running import config, make_fit
from torch import Tensor, nn

from dlrun.config.schema import RegularizationConfig
from dlrun.errors import ConfigError, UserError
from dlrun.optim.regularization import (
    Regularizer,
    add_gradient_noise,
    add_penalty_gradients,
    limit_norms,
    noise_scale,
    penalty,
)
from dlrun.tasks.classification import classification
from dlrun.train.loop import train
from dlrun.train.step import TrainStep

factors = st.sampled_from([0.0, 1e-3, 0.7, 1e3])
shapes = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), min_size=1, max_size=4)


def tensors(shapes: list[list[int]], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found: list[Tensor] = [
        nn.Parameter(torch.randn(shape, dtype=torch.float64, generator=generator)) for shape in shapes
    ]
    found[0].data.flatten()[0] = 0.0
    return found


# Penalties


@given(shapes=shapes, l2=factors, l1=factors, seed=st.integers(0, 100))
def test_the_penalty_and_its_gradient_are_those_of_the_loss_written_out(
    shapes: list[list[int]], l2: float, l1: float, seed: int
) -> None:
    weights = tensors(shapes, seed)
    total = torch.zeros((), dtype=torch.float64)
    for weight in weights:
        total = total + l2 * (weight**2).sum() + l1 * weight.abs().sum()
    wanted = torch.autograd.grad(total, weights)
    torch.testing.assert_close(penalty(weights, l2, l1), total.detach())
    data = [torch.randn_like(weight) for weight in weights]
    for weight, grad in zip(weights, data, strict=True):
        weight.grad = grad.clone()
    # A weight that the data do not reach has a penalty all the same.
    weights[-1].grad = None
    data[-1] = torch.zeros_like(weights[-1])
    add_penalty_gradients(weights, l2, l1)
    for weight, grad, more in zip(weights, data, wanted, strict=True):
        assert weight.grad is not None
        torch.testing.assert_close(weight.grad, grad + more)
        assert not weight.grad.requires_grad


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 3)).double()


BATCH = torch.randn(9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3)), torch.arange(9) % 3


def make_step(model: nn.Module, *words: str, lr: float = 0.1, seed: int = 0, **optimizer: Any) -> TrainStep:
    chosen = config(*words)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return TrainStep(
        model,
        parameters,
        classification(nn.functional.cross_entropy, 3),
        torch.optim.SGD(parameters, lr=lr, **optimizer),
        None,
        chosen.trainer,
        torch.device("cpu"),
        Regularizer(model, chosen.regularization, seed),
    )


def moved(model: nn.Module, *words: str, number: int = 0, **options: Any) -> dict[str, Tensor]:
    """What a step subtracted, divided by the rate."""
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    make_step(model, *words, **options)(BATCH, want_norm=False, number=number)
    return {name: (before[name] - value.detach()) / 0.1 for name, value in model.named_parameters()}


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("parts", [1, 4])
def test_a_step_follows_the_total_loss(everything: bool, parts: int) -> None:
    model = net()
    words = ("regularization.l2=0.1", "regularization.l1=0.01", f"trainer.accumulate={parts}")
    words += (f"regularization.norms_and_biases={everything}".lower(),)
    model.eval()  # so that micro-batches are normalised as the batch is
    total = nn.functional.cross_entropy(model(BATCH[0]), BATCH[1])
    for parameter in model.parameters():
        if everything or parameter.ndim >= 2:
            total = total + 0.1 * (parameter**2).sum() + 0.01 * parameter.abs().sum()
    wanted = torch.autograd.grad(total, list(model.parameters()))
    for got, grad in zip(moved(model, *words).values(), wanted, strict=True):
        torch.testing.assert_close(got, grad, rtol=1e-9, atol=1e-12)


def test_l2_is_twice_the_weight_decay_of_sgd() -> None:
    one, other = net(), net()
    for model, l2, decay in ((one, 0.05, 0.0), (other, 0.0, 0.1)):
        words = (f"regularization.l2={l2}", "regularization.norms_and_biases=true") if l2 else ()
        step = make_step(model, *words, weight_decay=decay, momentum=0.9)
        for _ in range(3):
            step(BATCH, want_norm=False)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_frozen_weights_have_no_penalty() -> None:
    model = net()
    model[0].requires_grad_(False)
    regularizer = Regularizer(model, RegularizationConfig(l2=1.0), 0)
    torch.testing.assert_close(regularizer.loss(), model[3].weight.detach().square().sum())
    regularizer.add_gradients()
    assert model[0].weight.grad is None


def test_the_gradient_is_clipped_with_the_penalty_and_measured_before() -> None:
    model = net().eval()
    free = moved(net().eval(), "regularization.l2=1")
    norm = math.sqrt(sum(float(grad.square().sum()) for grad in free.values()))
    step = make_step(model, "regularization.l2=1", "trainer.clip_norm=0.1")
    before = [value.detach().clone() for value in model.parameters()]
    _, measured = step(BATCH, want_norm=False)
    assert measured is not None
    assert float(measured) == pytest.approx(norm)
    change = math.sqrt(
        sum(float((a - b).detach().square().sum()) for a, b in zip(before, model.parameters(), strict=True))
    )
    assert change == pytest.approx(0.1 * 0.1, rel=1e-3)


# Max-norm


@given(
    shape=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    longest=st.sampled_from([0.1, 1.0, 3.0, 100.0]),
    scale=st.sampled_from([0.0, 0.01, 1.0, 100.0]),
    axis=st.integers(0, 1),
)
def test_no_unit_is_longer_than_the_limit_and_shorter_ones_stay(
    shape: list[int], longest: float, scale: float, axis: int
) -> None:
    weight = scale * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    before = weight.clone()
    limit_norms([(weight, axis)], longest)
    for old, new in zip(before.unbind(axis), weight.unbind(axis), strict=True):
        length = float(old.norm())
        if length <= longest:
            assert torch.equal(new, old)
        else:
            torch.testing.assert_close(new, old * (longest / length), rtol=1e-6, atol=0)
            assert float(new.norm()) <= longest


class Units(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(4, 3)
        self.conv = nn.Conv2d(3, 5, 3)
        self.up = nn.ConvTranspose2d(5, 2, 3)
        self.grouped = nn.ConvTranspose2d(4, 6, 3, groups=2)
        self.frozen = nn.Linear(2, 2)
        self.frozen.requires_grad_(False)
        for parameter in self.parameters():
            nn.init.constant_(parameter, 2.0)


def test_a_unit_is_the_axis_that_the_layer_puts_out() -> None:
    model = Units()
    Regularizer(model, RegularizationConfig(max_norm=1.0), 0).limit_norms()
    torch.testing.assert_close(model.conv.weight.flatten(1).norm(dim=1), torch.ones(5))
    torch.testing.assert_close(model.up.weight.transpose(0, 1).flatten(1).norm(dim=1), torch.ones(2))
    # Of each group, its own three.
    for group in model.grouped.weight.detach().chunk(2):
        torch.testing.assert_close(group.transpose(0, 1).flatten(1).norm(dim=1), torch.ones(3))
    # Rows of an embedding are no units, biases have no inputs, and what is frozen stays.
    for parameter in (model.words.weight, model.conv.bias, model.frozen.weight):
        assert bool((parameter == 2).all())


def test_the_limit_holds_after_every_step() -> None:
    model = net()
    step = make_step(model, "regularization.max_norm=0.3")
    for _ in range(3):
        step(BATCH, want_norm=False)
        for layer in (model[0], model[3]):
            assert float(layer.weight.detach().norm(dim=1).max()) <= 0.3
    assert float(net()[0].weight.detach().norm(dim=1).max()) > 0.3


# Gradient noise


def noise(seed: int, step: int, scale: float = 1.0, n: int = 10_000) -> Tensor:
    parameters: list[Tensor] = [
        nn.Parameter(torch.zeros(n)),
        nn.Parameter(torch.zeros(3, 2)),
        nn.Parameter(torch.zeros(2)),
    ]
    for parameter in parameters[:2]:
        parameter.grad = torch.zeros_like(parameter)
    add_gradient_noise(parameters, scale, seed, step)
    assert parameters[2].grad is None
    return torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])


def test_noise_is_gaussian_and_a_function_of_seed_and_step() -> None:
    drawn = noise(1, 5, scale=0.5)
    assert abs(float(drawn.mean())) < 0.02
    assert float(drawn.std()) == pytest.approx(0.5, rel=0.03)
    assert float((drawn.abs() < 0.5).double().mean()) == pytest.approx(0.683, abs=0.02)
    before = torch.get_rng_state()
    assert torch.equal(drawn, noise(1, 5, scale=0.5))
    assert torch.equal(before, torch.get_rng_state())
    for other in (noise(2, 5, 0.5), noise(1, 6, 0.5)):
        assert abs(float(torch.corrcoef(torch.stack([drawn, other]))[0, 1])) < 0.05


def test_noise_goes_as_in_the_paper() -> None:
    assert [noise_scale(0.3, step) ** 2 for step in (0, 1, 9)] == pytest.approx([0.3, 0.3 / 2**0.55, 0.3 / 10**0.55])
    assert noise_scale(0.3, 100, decay=0.0) == pytest.approx(math.sqrt(0.3))


def test_noise_is_added_after_clipping() -> None:
    words = ("trainer.clip_norm=1e-6", "regularization.gradient_noise=0.25")
    changes = moved(net(), *words, number=3)
    assert torch.cat([value.flatten() for value in changes.values()]).std() == pytest.approx(
        noise_scale(0.25, 3), rel=0.3
    )
    again, later = moved(net(), *words, number=3), moved(net(), *words, number=4)
    assert torch.equal(again["0.weight"], changes["0.weight"])
    assert not torch.equal(later["0.weight"], changes["0.weight"])


# Runs

RUN = ("model={name: mlp, hidden: [16]}", "trainer.log_every=2", "trainer.epochs=1")


def test_the_loss_of_the_data_and_the_penalty_are_logged_apart(tmp_path: Path) -> None:
    quiet = ("callbacks.tensorboard=null", "callbacks.progress=null")
    first = make_fit(tmp_path, *RUN, *quiet)
    weights = [p.detach().clone() for p in first.model.parameters() if p.ndim >= 2]
    rows = {}
    for l2 in (0.0, 1e-6, 1e-2):
        fit = make_fit(tmp_path, *RUN, *quiet, "trainer.log_every=1", f"regularization.l2={l2}", "optimizer.lr=0.1")
        train(fit)
        rows[l2] = [json.loads(line) for line in (fit.run.path / "metrics.jsonl").read_text().splitlines()]
        assert ("train/reg_loss" in fit.state.metrics) == (l2 > 0)
    assert "train/reg_loss" not in rows[0.0][0]
    # At the first step: the same loss of the data, and the penalty of the first weights.
    assert rows[1e-2][0]["train/loss"] == rows[0.0][0]["train/loss"]
    assert rows[1e-2][0]["train/reg_loss"] == pytest.approx(1e-2 * sum(float(w.square().sum()) for w in weights))
    assert all("train/reg_loss" in row for row in rows[1e-2] if row["event"] == "log")


def test_a_stronger_penalty_raises_the_loss_at_the_start(tmp_path: Path) -> None:
    """REFERENCE.md, section 1, point 2 of babysitting: with regularisation turned up to 1e3 the loss must rise."""
    totals = []
    for l2 in (1e-6, 1.0, 1e3):
        fit = make_fit(
            tmp_path, *RUN, "trainer.log_every=1", f"regularization.l2={l2}", "optimizer.lr=1e-9", callbacks={}
        )
        train(fit)
        loss = fit.state.metrics["train/loss"]
        assert loss == pytest.approx(math.log(10), abs=0.2)
        totals.append(loss + fit.state.metrics["train/reg_loss"])
    assert totals[0] == pytest.approx(math.log(10), abs=0.2)
    assert totals[0] < totals[1] < totals[2]
    assert totals[2] > 1e3


def test_the_penalty_can_be_monitored_where_there_is_one(tmp_path: Path) -> None:
    words = (*RUN, "callbacks.tensorboard=null", "callbacks.checkpoint={monitor: train/reg_loss, mode: min}")
    fit = make_fit(tmp_path, *words, "regularization.l2=1e-3")
    train(fit)
    assert fit.callbacks["checkpoint"].best == pytest.approx(fit.state.metrics["train/reg_loss"], rel=0.5)  # type: ignore[attr-defined]
    for nothing in ("regularization.l2=0", "regularization.max_norm=3"):
        with pytest.raises(UserError, match=r"no such metric \(there is no penalty: regularization.l2 and l1 are 0\)"):
            make_fit(tmp_path, *words, nothing)


def test_the_screen_shows_both(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = (*RUN, "callbacks.tensorboard=null", "callbacks.checkpoint=null", "regularization.l1=0.01")
    with caplog.at_level("INFO", logger="dlrun"):
        train(make_fit(tmp_path, *words))
    (line,) = [record.getMessage() for record in caplog.records if "val/loss" in record.getMessage()]
    assert line.index("train/loss") < line.index("train/reg_loss") < line.index("val/loss")


def test_without_regularisation_there_is_nothing_in_the_step(tmp_path: Path) -> None:
    assert make_fit(tmp_path, *RUN, callbacks={}).regularizer is None
    assert make_fit(tmp_path, *RUN, "regularization.max_norm=2", callbacks={}).regularizer is not None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("regularization.l2=-1",), r"regularization.l2: must be a number >= 0"),
        (("regularization.max_norm=0",), r"regularization.max_norm: must be a number > 0"),
        (("regularization.l3=1",), r"regularization.l3: unknown key"),
    ],
)
def test_nonsense_is_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(*words)


def test_an_option_without_effect_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"norms_and_biases=true has no effect without regularization.l2 or l1"):
        make_fit(tmp_path, *RUN, "regularization.norms_and_biases=true", callbacks={})
