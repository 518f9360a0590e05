"""Sharpness-aware steps: the formula, and what the second pass must not change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from running import config
from torch import Tensor, nn

from dlrun.optim.regularization import Regularizer
from dlrun.registry import OPTIMIZERS
from dlrun.tasks.classification import classification
from dlrun.train.step import TrainStep

RHO, LR = 0.3, 0.1
BATCH = torch.randn(12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3)), torch.arange(12) % 3


def net(*middle: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), *middle, nn.Tanh(), nn.Linear(7, 3)).double()


def make_step(model: nn.Module, *words: str, scaler: Any = None, **options: Any) -> TrainStep:
    given = {"lr": LR, "rho": RHO, "momentum": 0.0, "weight_decay": 0.0, **options}
    parameters = list(model.parameters())
    optimizer = OPTIMIZERS.build("sam", given, params=[{"params": parameters}], fused=False)
    chosen = config(*words)
    task = classification(nn.functional.cross_entropy, 3)
    regularizer = Regularizer(model, chosen.regularization, 0)
    return TrainStep(model, parameters, task, optimizer, scaler, chosen.trainer, torch.device("cpu"), regularizer)


def values(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def gradient(model: nn.Module, weights: list[Tensor], batch: Any = BATCH) -> list[Tensor]:
    """Of the cross entropy at other weights."""
    named = {name: w.requires_grad_() for (name, _), w in zip(model.named_parameters(), weights, strict=True)}
    loss = nn.functional.cross_entropy(torch.func.functional_call(model, named, (batch[0],)), batch[1])
    return list(torch.autograd.grad(loss, list(named.values())))


def nearby(model: nn.Module) -> list[Tensor]:
    """The gradient at w + rho g / |g|."""
    weights = values(model)
    first = gradient(model, [w.clone() for w in weights])
    norm = torch.cat([g.flatten() for g in first]).norm()
    return gradient(model, [w + RHO * g / norm for w, g in zip(weights, first, strict=True)])


@pytest.mark.parametrize("parts", [1, 5])
def test_three_steps_are_the_formula(parts: int) -> None:
    model = net()
    step = make_step(model, f"trainer.accumulate={parts}")
    for _ in range(3):
        wanted = [w - LR * g for w, g in zip(values(model), nearby(model), strict=True)]
        loss = nn.functional.cross_entropy(model(BATCH[0]), BATCH[1]).detach()
        output, _ = step(BATCH, want_norm=False)
        torch.testing.assert_close(values(model), wanted, rtol=1e-11, atol=1e-13)
        # What is reported is the loss at the weights, not nearby.
        torch.testing.assert_close(output.loss, loss)


def test_the_base_makes_the_update() -> None:
    model, other = net(), net()
    step = make_step(model, base="adamw", momentum=None, betas=(0.8, 0.9), weight_decay=0.1)
    adamw = torch.optim.AdamW(other.parameters(), lr=LR, betas=(0.8, 0.9), weight_decay=0.1)
    for _ in range(3):
        for parameter, grad in zip(other.parameters(), nearby(other), strict=True):
            parameter.grad = grad
        adamw.step()
        step(BATCH, want_norm=False)
        torch.testing.assert_close(values(model), values(other), rtol=1e-10, atol=1e-11)


def test_penalties_are_those_of_the_weights_themselves() -> None:
    model = net()
    step = make_step(model, "regularization.l2=0.1", "regularization.l1=0.01")
    weights = values(model)
    grads = [g + (0.2 * w + 0.01 * w.sign() if w.ndim > 1 else 0) for w, g in zip(weights, nearby(model), strict=True)]
    step(BATCH, want_norm=False)
    torch.testing.assert_close(values(model), [w - LR * g for w, g in zip(weights, grads, strict=True)])


def test_the_gradient_of_the_update_is_clipped_and_measured() -> None:
    model = net()
    weights, grads = values(model), nearby(model)
    norm = torch.cat([g.flatten() for g in grads]).norm()
    _, measured = make_step(model, "trainer.clip_norm=0.01")(BATCH, want_norm=True)
    assert measured is not None
    torch.testing.assert_close(measured, norm)
    wanted = [w - LR * g * 0.01 / norm for w, g in zip(weights, grads, strict=True)]
    torch.testing.assert_close(values(model), wanted, rtol=1e-4, atol=1e-9)


def test_both_passes_have_the_same_masks_and_later_random_numbers_do_not_change() -> None:
    dropout = nn.Dropout(0.5)
    seen: list[Tensor] = []
    dropout.register_forward_hook(lambda module, inputs, output: seen.append(output == 0))
    model = net(dropout)
    step = make_step(model)
    torch.manual_seed(7)
    model(BATCH[0])
    after_one_pass = torch.get_rng_state()
    seen.clear()
    torch.manual_seed(7)
    step(BATCH, want_norm=False)
    assert len(seen) == 2
    assert torch.equal(seen[0], seen[1])
    assert seen[0].any()
    assert not seen[0].all()
    assert torch.equal(torch.get_rng_state(), after_one_pass)
    step(BATCH, want_norm=False)
    assert not torch.equal(seen[0], seen[2])


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_counts_a_batch_once(momentum: float | None) -> None:
    model, other = net(nn.BatchNorm1d(7, momentum=momentum)), net(nn.BatchNorm1d(7, momentum=momentum))
    other(BATCH[0])
    make_step(model)(BATCH, want_norm=False)
    for buffer, wanted in zip(model.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(buffer, wanted, rtol=0, atol=0)
    assert int(model[1].num_batches_tracked) == 1


def test_an_overflow_of_fp16_leaves_the_weights_as_they_were() -> None:
    model = net().float()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    batch = BATCH[0].float() * 1e3, BATCH[1]
    before = values(model)
    step = make_step(model, "trainer.precision=fp16", scaler=scaler)
    step(batch, want_norm=False)
    torch.testing.assert_close(values(model), before, rtol=0, atol=0)
    assert scaler.get_scale() == 2.0**126


def test_a_scaled_loss_gives_the_step_of_the_loss() -> None:
    models = [net().float(), net().float()]
    batch = BATCH[0].float(), BATCH[1]
    words = ("regularization.l2=0.1",)
    make_step(models[0], *words)(batch, want_norm=False)
    make_step(models[1], *words, scaler=torch.amp.GradScaler("cpu", init_scale=256.0))(batch, want_norm=False)
    torch.testing.assert_close(values(models[1]), values(models[0]), rtol=1e-5, atol=1e-7)


def test_a_pass_that_fails_leaves_the_weights_as_they_were() -> None:
    class Failing(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls == 2:
                raise RuntimeError("out of memory")
            return x

    model = net(Failing())
    before = values(model)
    with pytest.raises(RuntimeError, match="out of memory"):
        make_step(model)(BATCH, want_norm=False)
    torch.testing.assert_close(values(model), before, rtol=0, atol=0)


def test_its_state_is_that_of_the_base() -> None:
    model = net()
    step = make_step(model, momentum=0.9)
    step(BATCH, want_norm=False)
    state = step._optimizer.state_dict()
    again = make_step(model, momentum=0.9)._optimizer
    again.load_state_dict(state)
    assert len(state["state"]) == 4
    for one, other in zip(again.state.values(), step._optimizer.state.values(), strict=True):
        torch.testing.assert_close(one["momentum_buffer"], other["momentum_buffer"], rtol=0, atol=0)
    # A schedule acts through the groups: they are those of the base.
    again.param_groups[0]["lr"] = 0.0
    before = values(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    again.step()
    torch.testing.assert_close(values(model), before, rtol=0, atol=0)
