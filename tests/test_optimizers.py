"""Every optimizer against its formula written out, and what holds for all of them."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from running import config, equal, make_fit
from torch import Tensor, nn

from dlrun import checkpoint
from dlrun.errors import ConfigError, UserError
from dlrun.optim.groups import can_fuse, hidden_matrices, parameter_groups
from dlrun.registry import OPTIMIZERS
from dlrun.reproducibility import seed_all
from dlrun.train.fit import Callback, Fit
from dlrun.train.loop import train

STEPS = 8
"""More than the three in which the moments start; radam is rectified from the sixth on."""


def start(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def gradients(*shape: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(STEPS)]


def run(name: str, fused: bool, options: dict[str, Any], *shape: int) -> list[Tensor]:
    """The parameter after each step on the gradients above."""
    parameter = nn.Parameter(start(*shape))
    runtime = {"params": [{"params": [parameter]}], "fused": fused, "hidden": [parameter]}
    optimizer = OPTIMIZERS.build(name, options, **runtime)
    after = []
    for grad in gradients(*shape):
        parameter.grad = grad.clone()
        optimizer.step()
        after.append(parameter.detach().clone())
    return after


Formula = Callable[[int, Tensor, Tensor], Tensor]
"""(number of the step from 1, weights, gradient) -> new weights."""


def sgd(lr: float, momentum: float, nesterov: bool, weight_decay: float) -> Formula:
    velocity: list[Tensor] = []

    def update(t: int, x: Tensor, g: Tensor) -> Tensor:
        g = g + weight_decay * x
        if momentum == 0:
            return x - lr * g
        velocity[:] = [momentum * velocity[0] + g] if velocity else [g]
        return x - lr * (g + momentum * velocity[0] if nesterov else velocity[0])

    return update


def adagrad(lr: float, lr_decay: float, initial_accumulator: float, eps: float, weight_decay: float) -> Formula:
    total: Any = initial_accumulator

    def update(t: int, x: Tensor, g: Tensor) -> Tensor:
        nonlocal total
        g = g + weight_decay * x
        total = total + g**2
        return x - lr / (1 + (t - 1) * lr_decay) * g / (total.sqrt() + eps)

    return update


def adadelta(lr: float, rho: float, eps: float, weight_decay: float) -> Formula:
    squares: Any = 0.0
    updates: Any = torch.zeros((), dtype=torch.float64)

    def update(t: int, x: Tensor, g: Tensor) -> Tensor:
        nonlocal squares, updates
        g = g + weight_decay * x
        squares = rho * squares + (1 - rho) * g**2
        delta = (updates + eps).sqrt() / (squares + eps).sqrt() * g
        updates = rho * updates + (1 - rho) * delta**2
        return x - lr * delta

    return update


def rmsprop(lr: float, alpha: float, eps: float, momentum: float, centered: bool, weight_decay: float) -> Formula:
    squares: Any = 0.0
    mean: Any = 0.0
    velocity: Any = 0.0

    def update(t: int, x: Tensor, g: Tensor) -> Tensor:
        nonlocal squares, mean, velocity
        g = g + weight_decay * x
        squares = alpha * squares + (1 - alpha) * g**2
        mean = alpha * mean + (1 - alpha) * g
        scaled = g / ((squares - mean**2 if centered else squares).sqrt() + eps)
        velocity = momentum * velocity + scaled
        return x - lr * velocity

    return update


class Moments:
    """Running first and second moment, bias-corrected."""

    def __init__(self, betas: tuple[float, float]) -> None:
        self.betas = betas
        self.m: Any = 0.0
        self.v: Any = 0.0

    def take(self, t: int, g: Tensor) -> tuple[Tensor, Tensor]:
        self.m = self.betas[0] * self.m + (1 - self.betas[0]) * g
        self.v = self.betas[1] * self.v + (1 - self.betas[1]) * g**2
        return self.m / (1 - self.betas[0] ** t), self.v / (1 - self.betas[1] ** t)


def adam(lr: float, betas: tuple[float, float], eps: float, weight_decay: float, decoupled: bool = False) -> Formula:
    moments = Moments(betas)

    def update(t: int, x: Tensor, g: Tensor) -> Tensor:
        x, g = (x - lr * weight_decay * x, g) if decoupled else (x, g + weight_decay * x)
        m, v = moments.take(t, g)
        return x - lr * m / (v.sqrt() + eps)

    return update


def adamw(**options: Any) -> Formula:
    return adam(**options, decoupled=True)


def nadam(
    lr: float, betas: tuple[float, float], eps: float, momentum_decay: float, weight_decay: float, decoupled: bool
) -> Formula:
    moments = Moments(betas)
    product = 1.0

    def mu(t: int) -> float:
        return betas[0] * (1 - 0.5 * 0.96 ** (t * momentum_decay))

    def update(t: int, x: Tensor, g: Tensor) -> Tensor:
        nonlocal product
        x, g = (x - lr * weight_decay * x, g) if decoupled else (x, g + weight_decay * x)
        _, v = moments.take(t, g)
        product *= mu(t)
        m = mu(t + 1) * moments.m / (1 - product * mu(t + 1)) + (1 - mu(t)) * g / (1 - product)
        return x - lr * m / (v.sqrt() + eps)

    return update


def radam(lr: float, betas: tuple[float, float], eps: float, weight_decay: float, decoupled: bool) -> Formula:
    moments = Moments(betas)
    limit = 2 / (1 - betas[1]) - 1

    def update(t: int, x: Tensor, g: Tensor) -> Tensor:
        x, g = (x - lr * weight_decay * x, g) if decoupled else (x, g + weight_decay * x)
        m, _ = moments.take(t, g)
        length = limit - 2 * t * betas[1] ** t / (1 - betas[1] ** t)
        if length <= 5:
            return x - lr * m
        adaptive = math.sqrt(1 - betas[1] ** t) / (moments.v.sqrt() + eps)
        r = math.sqrt((length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length))
        return x - lr * m * r * adaptive

    return update


def lion(lr: float, betas: tuple[float, float], weight_decay: float) -> Formula:
    m: Any = 0.0

    def update(t: int, x: Tensor, g: Tensor) -> Tensor:
        nonlocal m
        sign = (betas[0] * m + (1 - betas[0]) * g).sign()
        m = betas[1] * m + (1 - betas[1]) * g
        return x - lr * (sign + weight_decay * x)

    return update


def lamb(lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> Formula:
    moments = Moments(betas)

    def update(t: int, x: Tensor, g: Tensor) -> Tensor:
        m, v = moments.take(t, g)
        r = m / (v.sqrt() + eps) + weight_decay * x
        trust = x.norm() / r.norm() if x.ndim >= 2 else 1.0
        return x - lr * trust * r

    return update


SGD = {"momentum": 0.9, "nesterov": False, "weight_decay": 0.1}
ADAM: dict[str, Any] = {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}
RMSPROP = {"alpha": 0.9, "eps": 1e-4, "momentum": 0.0, "centered": False, "weight_decay": 0.1}
FORMULAS: list[tuple[str, dict[str, Any], Callable[..., Formula]]] = [
    ("sgd", {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0}, sgd),
    ("sgd", SGD, sgd),
    ("sgd", {**SGD, "nesterov": True}, sgd),
    ("momentum", {"momentum": 0.8, "weight_decay": 0.1}, lambda **options: sgd(nesterov=False, **options)),
    ("nesterov", {"momentum": 0.8, "weight_decay": 0.1}, lambda **options: sgd(nesterov=True, **options)),
    ("adagrad", {"lr_decay": 0.0, "initial_accumulator": 0.0, "eps": 1e-10, "weight_decay": 0.0}, adagrad),
    ("adagrad", {"lr_decay": 0.1, "initial_accumulator": 0.5, "eps": 1e-3, "weight_decay": 0.1}, adagrad),
    ("adadelta", {"rho": 0.9, "eps": 1e-6, "weight_decay": 0.0}, adadelta),
    ("adadelta", {"rho": 0.7, "eps": 1e-3, "weight_decay": 0.1}, adadelta),
    ("rmsprop", RMSPROP, rmsprop),
    ("rmsprop", {**RMSPROP, "momentum": 0.9}, rmsprop),
    ("rmsprop", {**RMSPROP, "centered": True}, rmsprop),
    ("adam", {"betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.0}, adam),
    ("adam", ADAM, adam),
    ("adamw", ADAM, adamw),
    ("nadam", {**ADAM, "momentum_decay": 0.01, "decoupled": False}, nadam),
    ("nadam", {**ADAM, "momentum_decay": 0.004, "decoupled": True}, nadam),
    ("radam", {**ADAM, "betas": (0.9, 0.99), "decoupled": False}, radam),
    ("radam", {**ADAM, "betas": (0.9, 0.99), "decoupled": True}, radam),
    ("lion", {"betas": (0.9, 0.99), "weight_decay": 0.1}, lion),
    ("lion", {"betas": (0.5, 0.8), "weight_decay": 0.0}, lion),
    ("lamb", ADAM, lamb),
    ("lamb", {**ADAM, "weight_decay": 0.0}, lamb),
]
ROUNDED = {"nadam": 1e-6, "radam": 1e-6}
"""torch keeps the product of the momenta, or the step, in single precision."""


@pytest.mark.parametrize("shape", [(3,), (4, 2)])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("name", "options", "formula"), FORMULAS)
def test_the_steps_are_the_formula(
    name: str, options: dict[str, Any], formula: Callable[..., Formula], fused: bool, shape: tuple[int, ...]
) -> None:
    update, x = formula(lr=0.1, **options), start(*shape)
    got = run(name, fused, {"lr": 0.1, **options}, *shape)
    for t, (grad, after) in enumerate(zip(gradients(*shape), got, strict=True), 1):
        x = update(t, x, grad)
        torch.testing.assert_close(after, x, rtol=ROUNDED.get(name, 1e-12), atol=ROUNDED.get(name, 1e-13))


def test_every_optimizer_has_its_formula() -> None:
    # Those of the last three are in test_sam.py, test_lbfgs.py and test_muon.py.
    assert {*(name for name, _, _ in FORMULAS), "sam", "lbfgs", "muon"} == set(OPTIMIZERS.names())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sgd", {"momentum": 0.0, "nesterov": True}, "nesterov=true needs momentum > 0"),
        ("sam", {"momentum": 0.0, "nesterov": True}, "nesterov=true needs momentum > 0"),
        ("sam", {"betas": (0.9, 0.99)}, "betas is an option of base=adamw, but base is sgd"),
        ("sam", {"base": "adamw", "momentum": 0.5}, "momentum is an option of base=sgd, but base is adamw"),
    ],
)
def test_nonsense_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(name, False, options, 4, 2)


@pytest.mark.parametrize("word", ["optimizer.iterations=100", "optimizer.momentum=1", "optimizer.scale=big"])
def test_options_out_of_range_are_refused(word: str) -> None:
    with pytest.raises(ConfigError, match=r"must be (a|one of)"):
        config("optimizer=muon", word)


# What holds for all of them

LOSS = {"adadelta": 3.0, "lion": 0.02, "lbfgs": 1.0, "muon": 0.1}
"""Rates that get somewhere in 30 steps; 0.05 for the others."""


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_every_optimizer_lowers_a_loss(name: str) -> None:
    net = small_net()
    groups = parameter_groups(net, decay_norms_and_biases=False)
    optimizer = OPTIMIZERS.build(
        name, {"lr": LOSS.get(name, 0.05)}, params=groups, fused=can_fuse(net), hidden=hidden_matrices(net)
    )
    x = torch.randn(32, 3)

    def closure() -> Tensor:
        optimizer.zero_grad()
        # Detached: torch's L-BFGS turns it into a number.
        loss = (net(x) - x.sum(1, keepdim=True)).square().mean()
        loss.backward()
        return loss.detach()

    before = float(closure())
    for _ in range(30):
        closure()
        optimizer.step(closure)
    assert float(closure()) < 0.5 * before


WORDS: dict[str, tuple[str, ...]] = {
    "lbfgs": ("data.batch_size=144", "trainer.accumulate=2", "trainer.epochs=4", "optimizer.max_iterations=3")
}


def words(name: str) -> tuple[str, ...]:
    """A training of 20 steps with batches, or of 4 with the full batch."""
    net = ("model={name: mlp, hidden: [16, 16]}", "data.samples=200", "data.batch_size=30", "trainer.epochs=4")
    return (*net, f"optimizer={name}", "schedule=cosine", "regularization.l2=1e-3", *WORDS.get(name, ()))


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_every_optimizer_goes_on_exactly_in_mid_training(name: str, tmp_path: Path) -> None:
    class Stop(Callback):
        def step_end(self, fit: Fit) -> None:
            if fit.state.step == fit.total_steps // 2 + 1:
                fit.state.request_stop("signal", "received SIGTERM")

    silent = ("callbacks.tensorboard=null", "callbacks.progress=null")
    dropout = () if name == "lbfgs" else ("model.dropout=0.2",)
    whole, broken, resumed = (make_fit(tmp_path, *words(name), *dropout, *silent) for _ in range(3))
    assert whole.total_steps == (4 if name == "lbfgs" else 20)
    broken.callbacks = {**broken.callbacks, "stop": Stop()}
    resumed.run = broken.run
    for fit in (whole, broken):
        seed_all(0)
        train(fit)
    resumed.resume(checkpoint.load(broken.run.checkpoints / "last.pt"))
    train(resumed)
    one, other = whole.payload(), resumed.payload()
    for payload in (one, other):
        del payload["callbacks"]["metrics_jsonl"]
    assert equal(one, other)
    assert (whole.run.path / "metrics.jsonl").read_bytes() == (resumed.run.path / "metrics.jsonl").read_bytes()
    assert math.isfinite(whole.state.metrics["train/loss"])
    assert whole.state.step == resumed.state.step == whole.total_steps


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_every_optimizer_takes_rates_of_parts_and_of_layers(name: str, tmp_path: Path) -> None:
    parts = ("optimizer.lr_factors={head: 10}", "optimizer.layer_decay=0.5", "optimizer.decay_norms_and_biases=true")
    if name == "lbfgs":
        with pytest.raises(UserError, match=r"one rate for all parameters: leave out optimizer.lr_factors"):
            make_fit(tmp_path, *words(name), *parts, callbacks={})
        return
    fit = make_fit(tmp_path, *words(name), *parts, "trainer.epochs=1", callbacks={})
    lr = config(*words(name)).optimizer.params["lr"]
    rates = {id(p): group["lr"] for group in fit.optimizer.param_groups for p in group["params"]}
    other = config(*words(name)).optimizer.params.get("adamw_lr", lr)
    names = {n: rates[id(p)] for n, p in fit.model.named_parameters()}
    assert names == pytest.approx(
        {
            "features.1.weight": other * 0.25,
            "features.1.bias": other * 0.25,
            "features.3.weight": lr * 0.5,
            "features.3.bias": other * 0.5,
            "head.weight": other * 10,
            "head.bias": other * 10,
        }
    )
    assert fit.lr == pytest.approx(lr)
    train(fit)
    assert math.isfinite(fit.state.metrics["train/loss"])


def test_an_optimizer_without_a_rate_has_no_rates_of_layers() -> None:
    with pytest.raises(UserError, match=r"lr_factors and layer_decay: this optimizer has no learning rate lr"):
        parameter_groups(small_net(), decay_norms_and_biases=False, lr=None, factors={"0.weight": 0.5})


def test_no_optimizer_imports_the_compiler(tmp_path: Path) -> None:
    """It takes as long as torch itself, in every process that trains."""
    code = (
        "import sys, torch\n"
        "from dlrun.cli import main\n"
        "assert main(['train', 'trainer.epochs=1', 'trainer.threads=1', 'trainer.clip_norm=1', 'augment=none']) == 0\n"
        "from dlrun.registry import OPTIMIZERS\n"
        "for name in OPTIMIZERS.names():\n"
        "    weight = torch.nn.Parameter(torch.ones(2, 2))\n"
        "    runtime = {'params': [{'params': [weight]}], 'fused': False, 'hidden': [weight]}\n"
        "    optimizer = OPTIMIZERS.build(name, {}, **runtime)\n"
        "    def loss():\n"
        "        optimizer.zero_grad()\n"
        "        (loss := (weight**2).sum()).backward()\n"
        "        return loss\n"
        "    loss()\n"
        "    optimizer.step(loss)\n"
        "    optimizer.load_state_dict(optimizer.state_dict())\n"
        "    assert 'torch._dynamo' not in sys.modules, name\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS.names() if name != "lbfgs"])
def test_gradients_that_overflow_in_the_first_step_leave_no_trace(
    name: str, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is made without values may have any.
    monkeypatch.setattr(torch, "empty_like", lambda tensor, **options: torch.full_like(tensor, 1e30))

    def trained(overflows: bool) -> Tensor:
        weight = nn.Parameter(start(4, 2).float())
        runtime = {"params": [{"params": [weight]}], "fused": fused, "hidden": [weight]}
        optimizer, scaler = OPTIMIZERS.build(name, {}, **runtime), torch.amp.GradScaler("cpu", init_scale=4.0)
        for grad in [torch.full((4, 2), math.inf)] * overflows + [grad.float() for grad in gradients(4, 2)[:3]]:
            scaler.scale(torch.zeros(()))
            weight.grad = grad * scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
        return weight.detach()

    assert torch.equal(trained(True), trained(False))
