"""Optimizers against their formulas, schedules against tables."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from running import config
from torch import Tensor, nn

from dlrun.assembly import build_optimizer, build_schedule
from dlrun.errors import UserError
from dlrun.optim.groups import can_fuse, parameter_groups
from dlrun.optim.schedules import with_warmup
from dlrun.registry import OPTIMIZERS, SCHEDULES
from dlrun.timeline import Timeline
from dlrun.types import Duration

# Which parameters are decayed


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.layer_norm = nn.LayerNorm(2)
        self.head = nn.Linear(2, 3)
        self.frozen = nn.Linear(2, 2)
        self.frozen.requires_grad_(False)


def test_weights_are_decayed_norms_and_biases_are_not() -> None:
    net = Net()
    decayed, others = parameter_groups(net, decay_norms_and_biases=False)
    assert [id(p) for p in decayed["params"]] == [id(net.conv.weight), id(net.head.weight)]
    assert "weight_decay" not in decayed
    assert others["weight_decay"] == 0
    assert {id(p) for p in others["params"]} == {
        *(id(p) for p in (net.conv.bias, net.head.bias)),
        *(id(p) for part in (net.norm, net.layer_norm) for p in part.parameters()),
    }


def test_on_request_all_are_decayed() -> None:
    net = Net()
    (group,) = parameter_groups(net, decay_norms_and_biases=True)
    assert {id(p) for p in group["params"]} == {id(p) for p in net.parameters() if p.requires_grad}


def test_groups_without_parameters_are_left_out() -> None:
    assert len(parameter_groups(nn.Linear(2, 2, bias=False), decay_norms_and_biases=False)) == 1
    assert parameter_groups(nn.Flatten(), decay_norms_and_biases=False) == []
    with pytest.raises(UserError, match="no trainable parameters"):
        build_optimizer(config(), nn.Flatten())


def test_fusing_needs_floating_point_parameters_on_a_device_that_can() -> None:
    assert can_fuse(nn.Linear(2, 2))
    assert not can_fuse(nn.Linear(2, 2, device="meta"))


# Optimizers


def run(name: str, fused: bool, options: dict[str, Any], grads: list[Tensor]) -> list[Tensor]:
    """The parameter after each step."""
    parameter = nn.Parameter(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))
    optimizer = OPTIMIZERS.build(name, options, params=[{"params": [parameter]}], fused=fused)
    after = []
    for grad in grads:
        parameter.grad = grad.clone()
        optimizer.step()
        after.append(parameter.detach().clone())
    return after


def sgd(lr: float, momentum: float, nesterov: bool, weight_decay: float) -> Any:
    velocity: list[Tensor] = []

    def update(t: int, x: Tensor, g: Tensor) -> Tensor:
        g = g + weight_decay * x
        if momentum == 0:
            return x - lr * g
        velocity[:] = [momentum * velocity[0] + g] if velocity else [g]
        return x - lr * (g + momentum * velocity[0] if nesterov else velocity[0])

    return update


def adam(lr: float, betas: tuple[float, float], eps: float, weight_decay: float, decoupled: bool) -> Any:
    m = v = torch.zeros(3, dtype=torch.float64)

    def update(t: int, x: Tensor, g: Tensor) -> Tensor:
        nonlocal m, v
        if decoupled:
            x = x - lr * weight_decay * x
        else:
            g = g + weight_decay * x
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        return x - lr * (m / (1 - betas[0] ** t)) / ((v / (1 - betas[1] ** t)).sqrt() + eps)

    return update


FORMULAS: list[tuple[str, dict[str, Any], Any]] = [
    ("sgd", {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0}, sgd),
    ("sgd", {"momentum": 0.9, "nesterov": False, "weight_decay": 0.1}, sgd),
    ("sgd", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, sgd),
    ("adam", {"betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.0}, adam),
    ("adam", {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}, adam),
    ("adamw", {"betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.1}, adam),
]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("name", "options", "formula"), FORMULAS)
def test_three_steps_are_the_formula(name: str, options: dict[str, Any], formula: Any, fused: bool) -> None:
    grads = [torch.tensor(g, dtype=torch.float64) for g in ([0.5, -1.0, 2.0], [1.0, 1.0, -3.0], [0.0, 0.25, 1.0])]
    extra = {} if name == "sgd" else {"decoupled": name == "adamw"}
    update = formula(lr=0.1, **options, **extra)
    x = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    expected = []
    for t, grad in enumerate(grads, 1):
        x = update(t, x, grad)
        expected.append(x)
    for got, wanted in zip(run(name, fused, {"lr": 0.1, **options}, grads), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-14)


def test_nesterov_without_momentum_is_refused() -> None:
    with pytest.raises((ValueError, UserError), match="nesterov=true needs momentum > 0"):
        run("sgd", False, {"momentum": 0.0, "nesterov": True}, [])


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_every_optimizer_lowers_a_loss_and_saves_plain_state(name: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    groups = parameter_groups(net, decay_norms_and_biases=False)
    optimizer = OPTIMIZERS.build(name, {"lr": 0.02}, params=groups, fused=can_fuse(net))
    x = torch.randn(32, 3)
    losses = []
    for _ in range(30):
        loss = (net(x) - x.sum(1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert [group["weight_decay"] == 0 for group in optimizer.param_groups] == [
        OPTIMIZERS.get(name).__kwdefaults__["weight_decay"] == 0,
        True,
    ]


# Schedules


def table(name: str, total: int = 10, per_epoch: int = 2, **options: Any) -> list[float]:
    runtime = {"total_steps": total, "timeline": Timeline.even(per_epoch, -(-total // per_epoch))}
    schedule = SCHEDULES.build(name, options, **runtime)
    return [schedule(step) for step in range(total)]


def test_constant() -> None:
    assert table("constant") == [1.0] * 10


def test_step() -> None:
    assert table("step", every=Duration(2, "ep"), gamma=0.5) == [1.0] * 4 + [0.5] * 4 + [0.25] * 2
    assert table("step", every=Duration(3, "st"), gamma=0.5) == [1.0] * 3 + [0.5] * 3 + [0.25] * 3 + [0.125]
    with pytest.raises((ValueError, UserError), match="shorter than one step"):
        table("step", every=Duration(0.1, "ep"))


def test_multistep() -> None:
    assert table("multistep", milestones=(0.5, 0.8), gamma=0.5) == [1.0] * 5 + [0.5] * 3 + [0.25] * 2
    assert table("multistep", milestones=(), gamma=0.5) == [1.0] * 10
    assert table("multistep", milestones=(0.0, 1.0), gamma=0.5) == [0.5] * 10
    with pytest.raises((ValueError, UserError), match="must increase"):
        table("multistep", milestones=(0.5, 0.5))


def test_cosine() -> None:
    expected = [1, 0.75, 0.25, 0]
    assert table("cosine", total=4) == pytest.approx(expected)
    assert table("cosine", total=4, final=0.2) == pytest.approx([0.2 + 0.8 * value for value in expected])
    assert table("cosine", total=1) == [1.0]


def test_linear() -> None:
    assert table("linear", total=5) == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    assert table("linear", total=5, final=0.6) == pytest.approx([1, 0.9, 0.8, 0.7, 0.6])
    assert table("linear", total=1) == [1.0]


def test_warmup() -> None:
    schedule = with_warmup(lambda step: 10.0 - step, 4, 0.0)
    assert [schedule(step) for step in range(7)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 10, 9, 8])
    schedule = with_warmup(lambda step: 1.0, 4, 0.5)
    assert [schedule(step) for step in range(5)] == pytest.approx([0.6, 0.7, 0.8, 0.9, 1.0])
    plain = SCHEDULES.build("constant", {}, total_steps=1, steps_per_epoch=1)
    assert with_warmup(plain, 0, 0.3) is plain


@pytest.mark.parametrize("name", SCHEDULES.names())
@given(total=st.integers(1, 60), per_epoch=st.integers(1, 20), warmup=st.integers(0, 59), start=st.floats(0, 1))
def test_every_schedule_is_a_pure_function_between_zero_and_one(
    name: str, total: int, per_epoch: int, warmup: int, start: float
) -> None:
    warmup = min(warmup, total - 1)
    build = SCHEDULES.build(name, {}, total_steps=total - warmup, steps_per_epoch=per_epoch)
    schedule = with_warmup(build, warmup, start)
    forwards = [schedule(step) for step in range(total)]
    backwards = [schedule(step) for step in reversed(range(total))]
    assert forwards == backwards[::-1]
    assert all(0 <= value <= 1 and math.isfinite(value) for value in forwards)
    assert schedule(warmup) == 1 or name == "multistep"
    assert start > 0.99 or all(a < b for a, b in pairwise(forwards[:warmup]))
    # A schedule asked beyond its end stays where it is.
    assert 0 <= schedule(total) <= 1


@pytest.mark.parametrize("name", [name for name in SCHEDULES.names() if name not in ("constant", "step")])
@pytest.mark.parametrize("warmup", ["0ep", "1ep", "3st"])
def test_the_last_step_of_a_training_reaches_the_end_of_its_schedule(name: str, warmup: str) -> None:
    chosen = config(f"schedule={name}", f"schedule.warmup={warmup}", "trainer.epochs=4")
    schedule = build_schedule(chosen, Timeline.even(5, 4))
    assert schedule(19) == pytest.approx(0.01 if name == "multistep" else 0, abs=1e-12)
    length = {"0ep": 0, "1ep": 5, "3st": 3}[warmup]
    assert schedule(length) == 1
    assert length == 0 or schedule(length - 1) < 1


def test_a_warmup_as_long_as_the_training_is_refused() -> None:
    with pytest.raises(UserError, match=r"schedule.warmup=2ep is 10 steps, but the whole training has 10"):
        build_schedule(config("schedule.warmup=2ep", "trainer.epochs=2"), Timeline.even(5, 2))
    with pytest.raises(UserError, match=r"schedule.warmup: 30s is a wall-clock time"):
        build_schedule(config("schedule.warmup=30s"), Timeline.even(5, 2))
