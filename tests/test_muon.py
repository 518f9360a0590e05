"""Muon: the formula, which parameters are taken, and kernels as matrices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from running import config, make_fit
from torch import Tensor, nn

from dlrun.errors import UserError
from dlrun.optim.groups import hidden_matrices, parameter_groups
from dlrun.optim.roles import weights_of
from dlrun.registry import OPTIMIZERS

PLAIN = {"lr": 0.1, "weight_decay": 0.0}


def build(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    groups = parameter_groups(model, decay_norms_and_biases=False)
    built: torch.optim.Optimizer = OPTIMIZERS.build(
        "muon", options, params=groups, fused=False, hidden=hidden_matrices(model)
    )
    return built


def newton_schulz(matrix: Tensor, steps: int) -> Tensor:
    """In double precision: p(X) = a X + b (X X') X + c (X X')^2 X with the coefficients of Jordan et al. 2024."""
    x = matrix / matrix.norm()
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (5, 5)])
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("scale", ["original", "match_rms_adamw"])
def test_three_steps_are_the_formula(shape: tuple[int, int], nesterov: bool, scale: str) -> None:
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(shape))
    options = {"lr": 0.1, "momentum": 0.9, "nesterov": nesterov, "scale": scale, "weight_decay": 0.2}
    optimizer = OPTIMIZERS.build("muon", options, params=[{"params": [parameter]}], fused=False, hidden=[parameter])
    x, velocity = parameter.detach().double(), torch.zeros(shape, dtype=torch.float64)
    rows, columns = shape
    factor = max(1, rows / columns) ** 0.5 if scale == "original" else 0.2 * max(rows, columns) ** 0.5
    for _ in range(3):
        grad = torch.randn(shape)
        parameter.grad = grad.clone()
        optimizer.step()
        velocity = 0.9 * velocity + 0.1 * grad.double()
        direction = 0.1 * grad.double() + 0.9 * velocity if nesterov else velocity
        x = x - 0.1 * 0.2 * x - 0.1 * factor * newton_schulz(direction, 5)
        # The iteration runs in bfloat16, which has 8 bits.
        torch.testing.assert_close(parameter.detach().double(), x, rtol=0, atol=0.1 * factor * 0.06)
        x = parameter.detach().double()


def test_an_update_is_nearly_orthogonal() -> None:
    model = nn.Sequential(nn.Linear(4, 12), nn.Linear(12, 20, bias=False), nn.Linear(20, 3))
    before = model[1].weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) * 1e-3
    build(model, **PLAIN).step()
    moved = (before - model[1].weight.detach()) / (0.1 * (20 / 12) ** 0.5)
    singular = torch.linalg.svdvals(moved)
    assert float(singular.min()) > 0.6
    assert float(singular.max()) < 1.25


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 4))
        self.words = nn.Embedding(5, 4)
        self.stem = nn.Conv2d(3, 8, 3)
        self.conv = nn.Conv2d(8, 6, 3)
        self.grouped = nn.Conv2d(6, 6, 3, groups=6)
        self.norm = nn.BatchNorm2d(6)
        self.images = nn.LayerNorm([6, 4])
        self.column = nn.Linear(6, 1)
        self.hidden = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)


def names(model: nn.Module, chosen: list[nn.Parameter]) -> list[str]:
    return [name for name, parameter in model.named_parameters() if any(parameter is other for other in chosen)]


def test_hidden_matrices_are_those_between_input_and_head() -> None:
    model = Net()
    # The embedding is the input layer here, so the convolution behind it is a hidden one.
    assert names(model, hidden_matrices(model)) == ["stem.weight", "conv.weight", "hidden.weight"]
    # A head of several layers, as the data tell it.
    assert names(model, hidden_matrices(model, ["hidden.weight", "hidden.bias", "head.weight"])) == [
        "stem.weight",
        "conv.weight",
    ]
    del model.words
    assert names(model, hidden_matrices(model)) == ["conv.weight", "hidden.weight"]


def test_matrices_have_the_rate_of_muon_and_the_rest_that_of_adamw() -> None:
    model = Net()
    optimizer = build(model, lr=0.02, adamw_lr=0.001)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    inside = {id(p) for p in hidden_matrices(model)}
    assert all(rates[id(p)] == (0.02 if id(p) in inside else 0.001) for p in model.parameters())
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    weights = {id(p) for p in weights_of(model)}
    assert all(decays[id(p)] == (0.01 if id(p) in weights else 0) for p in model.parameters())


def test_the_rest_is_trained_by_adamw() -> None:
    torch.manual_seed(0)
    model, other = Net(), Net()
    other.load_state_dict(model.state_dict())
    options = {"lr": 0.1, "weight_decay": 0.05, "adamw_lr": 0.01, "adamw_betas": (0.7, 0.8), "adamw_eps": 1e-4}
    muon = build(model, **options)
    groups = parameter_groups(other, decay_norms_and_biases=False)
    adamw = torch.optim.AdamW(groups, lr=0.01, betas=(0.7, 0.8), eps=1e-4, weight_decay=0.05)
    for _ in range(3):
        for one, two in zip(model.parameters(), other.parameters(), strict=True):
            one.grad = torch.randn_like(one)
            two.grad = one.grad.clone()
        muon.step()
        adamw.step()
    hidden = names(model, hidden_matrices(model))
    for name, parameter in other.named_parameters():
        same = torch.allclose(model.get_parameter(name), parameter, rtol=1e-5, atol=1e-7)
        assert same == (name not in hidden)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("grad_layout", [torch.contiguous_format, torch.channels_last])
def test_a_kernel_is_trained_as_a_matrix(layout: torch.memory_format, grad_layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    model = Net().to(memory_format=layout)
    kernel = model.conv.weight
    matrix = nn.Parameter(kernel.detach().flatten(1).clone())
    one = build(model, lr=0.1)
    other = OPTIMIZERS.build("muon", {"lr": 0.1}, params=[{"params": [matrix]}], fused=False, hidden=[matrix])
    assert kernel.is_contiguous(memory_format=layout)
    for _ in range(2):
        grad = torch.randn(kernel.shape)
        kernel.grad = grad.to(memory_format=grad_layout)
        matrix.grad = grad.flatten(1)
        one.step()
        other.step()
    torch.testing.assert_close(kernel.detach().flatten(1), matrix.detach(), rtol=0, atol=0.01)
    assert (kernel - Net().conv.weight).abs().max() > 0.02


def test_a_model_without_hidden_matrices_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    with pytest.raises(UserError, match=r"no trained weight matrix between its input layer and its head"):
        build(model)
    # Frozen ones are not trained.
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3))
    model[1].requires_grad_(False)
    with pytest.raises(UserError, match=r"use optimizer=adamw"):
        build(model)


def test_the_head_of_the_data_counts(tmp_path: Path) -> None:
    words = ("model={name: mlp, hidden: [16, 16]}", "optimizer=muon")
    fit = make_fit(tmp_path, *words, callbacks={})
    lr = config(*words).optimizer.params["lr"]
    matrices = [p for group in fit.optimizer.param_groups if group["lr"] == lr for p in group["params"]]
    assert names(fit.model, matrices) == ["features.3.weight"]
