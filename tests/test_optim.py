"""Optimizers against their formulas, schedules against tables."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from running import config
from torch import Tensor, nn

from dlrun.assembly import build_optimizer
from dlrun.errors import UserError
from dlrun.optim.groups import can_fuse, parameter_groups
from dlrun.registry import OPTIMIZERS

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
