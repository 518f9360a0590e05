"""L-BFGS: the formula, full batches, and what is refused beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from running import config, make_fit
from torch import Tensor, nn

from dlrun.errors import UserError
from dlrun.optim.regularization import Regularizer
from dlrun.registry import MODELS, OPTIMIZERS
from dlrun.tasks.classification import classification
from dlrun.train.loop import train
from dlrun.train.step import TrainStep

FULL = ("optimizer=lbfgs", "data.batch_size=144", "schedule=constant", "trainer.epochs=3")
"""The training split of the small data has 144 samples."""


def quadratic(n: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    root = torch.randn(n, n, dtype=torch.float64)
    return root @ root.T + torch.eye(n, dtype=torch.float64), torch.randn(n, dtype=torch.float64)


def two_loops(gradient: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """-H g by Nocedal's recursion, H_0 = (s'y / y'y) I of the newest pair."""
    q, alphas = -gradient, []
    for s, y in reversed(pairs):
        alphas.append(s @ q / (y @ s))
        q = q - alphas[-1] * y
    s, y = pairs[-1]
    r = s @ y / (y @ y) * q
    for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
        r = r + (alpha - y @ r / (y @ s)) * s
    return r


def test_steps_without_a_line_search_are_the_formula() -> None:
    a, b = quadratic(4)
    x = nn.Parameter(torch.ones(4, dtype=torch.float64))
    options = {"lr": 0.5, "max_iterations": 1, "history": 2, "line_search": None}
    optimizer = OPTIMIZERS.build("lbfgs", options, params=[{"params": [x]}])

    def closure() -> Tensor:
        loss = x @ a @ x / 2 - b @ x
        (x.grad,) = torch.autograd.grad(loss, [x])
        return loss.detach()

    wanted, pairs = x.detach().clone(), []
    before: tuple[Tensor, Tensor] | None = None
    for _ in range(5):
        gradient = a @ wanted - b
        if before is None:
            # The first direction is the steepest; its length is bounded.
            move = -gradient * min(1.0, 1 / float(gradient.abs().sum())) * 0.5
        else:
            pairs = [*pairs, (wanted - before[0], gradient - before[1])][-2:]
            move = two_loops(gradient, pairs) * 0.5
        before, wanted = (wanted, gradient), wanted + move
        optimizer.step(closure)
        torch.testing.assert_close(x.detach(), wanted, rtol=1e-9, atol=1e-12)


def test_the_line_search_finds_the_minimum_of_a_quadratic() -> None:
    a, b = quadratic(6)
    x = nn.Parameter(torch.ones(6, dtype=torch.float64))
    optimizer = OPTIMIZERS.build("lbfgs", {"max_iterations": 50}, params=[{"params": [x]}])

    def closure() -> Tensor:
        (x.grad,) = torch.autograd.grad(x @ a @ x / 2 - b @ x, [x])
        return (x @ a @ x / 2 - b @ x).detach()

    optimizer.step(closure)
    torch.testing.assert_close(x.detach(), torch.linalg.solve(a, b), rtol=1e-4, atol=1e-5)
    # The end of many schedules: a rate of nothing changes nothing.
    optimizer.param_groups[0]["lr"] = 0.0
    at_end = x.detach().clone()
    optimizer.step(closure)
    assert torch.equal(x.detach(), at_end)


# The step


def make_step(model: nn.Module, *words: str) -> TrainStep:
    chosen = config(*words)
    parameters = list(model.parameters())
    optimizer = OPTIMIZERS.build("lbfgs", {"max_iterations": 30}, params=[{"params": parameters}])
    return TrainStep(
        model,
        parameters,
        classification(nn.functional.cross_entropy, 3),
        optimizer,
        None,
        chosen.trainer,
        torch.device("cpu"),
        Regularizer(model, chosen.regularization, 0),
    )


def batch(n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 5, dtype=torch.float64, generator=generator), torch.arange(n) % 3


@pytest.mark.parametrize("parts", [1, 4])
def test_the_minimum_with_a_penalty_has_the_gradient_zero(parts: int) -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 3).double()
    data = batch(30)
    first = nn.functional.cross_entropy(model(data[0]), data[1]).detach()
    step = make_step(model, "regularization.l2=0.05", f"trainer.accumulate={parts}")
    output, norm = step(data, want_norm=True)
    torch.testing.assert_close(output.loss, first)
    assert norm is not None
    assert norm > 0.01
    for _ in range(3):
        step(data, want_norm=False)
    loss = nn.functional.cross_entropy(model(data[0]), data[1]) + 0.05 * model.weight.square().sum()
    grads = torch.autograd.grad(loss, list(model.parameters()))
    assert max(float(grad.abs().max()) for grad in grads) < 1e-5


def test_batch_norm_counts_one_pass_of_a_step() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
    data = batch(30)
    with torch.no_grad():
        features = model[0](data[0])
    make_step(model)(data, want_norm=False)
    assert int(model[1].num_batches_tracked) == 1
    torch.testing.assert_close(model[1].running_mean, 0.1 * features.mean(0))


def test_training_on_the_full_batch(tmp_path: Path) -> None:
    fit = make_fit(tmp_path, *FULL, "trainer.accumulate=3", callbacks={})
    train(fit)
    assert fit.state.step == 3
    assert fit.state.metrics["train/loss"] < 0.5


# What is refused


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("data.batch_size=100",), "data.batch_size=100 makes 2 batches of the training split, .*: set it to 144 "),
        (("data.batch_size=100", "data.drop_last=true"), "data.drop_last=true may leave out other samples each time"),
        (("augment=crop_flip",), "augment=random_crop changes the samples: set augment=none"),
        (("model.dropout=0.5",), r"draws random numbers in training \(features\.\d\): set its dropout options to 0"),
        (("trainer.clip_norm=1",), "trainer.clip_norm=1.0 is no part of the loss: set it to null"),
        (("trainer.clip_value=1",), "trainer.clip_value=1.0 is no part of the loss"),
        (("regularization.gradient_noise=0.1",), "regularization.gradient_noise=0.1 is no part of the loss"),
        (("regularization.max_norm=3",), "regularization.max_norm=3.0 is no part of the loss"),
        (("trainer.precision=fp16",), "trainer.precision=fp16 is too coarse: set it to fp32"),
        (("trainer.precision=bf16",), "trainer.precision=bf16 is too coarse: set it to fp32"),
        (("optimizer.layer_decay=0.5",), "one rate for all parameters: leave out optimizer.lr_factors"),
    ],
)
def test_what_makes_the_loss_another_one_each_time(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    given = [word.partition("=")[0] for word in words]
    kept = [word for word in FULL if word.partition("=")[0] not in given]
    with pytest.raises(UserError, match=message):
        make_fit(tmp_path, *kept, *words, callbacks={})
    assert not list(tmp_path.iterdir())


def test_all_reasons_are_given_at_once(tmp_path: Path) -> None:
    words = ("optimizer=lbfgs", "augment=crop_flip", "trainer.clip_norm=1")
    with pytest.raises(UserError, match=r"optimizer=lbfgs needs .*batch_size=16.*; augment=.*; trainer.clip_norm"):
        make_fit(tmp_path, *words, callbacks={})


RANDOM = {
    "stochastic depth": "model={name: resnet, depth: 8, width: 0.25, stochastic_depth: 0.5}",
    "DropConnect": "model={name: mlp, hidden: [8], drop_connect: 0.5}",
}


@pytest.mark.parametrize("word", RANDOM.values(), ids=RANDOM)
def test_whatever_draws_random_numbers_is_found(tmp_path: Path, word: str) -> None:
    with pytest.raises(UserError, match="draws random numbers in training"):
        make_fit(tmp_path, *FULL, word, callbacks={})


def test_looking_for_randomness_changes_nothing(tmp_path: Path) -> None:
    word = "model={name: resnet, depth: 8, width: 0.25}"
    plain, looked = (make_fit(tmp_path, *words, word, callbacks={}) for words in ((*FULL, "optimizer=sgd"), FULL))
    for (name, one), other in zip(plain.model.state_dict().items(), looked.model.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_a_model_that_draws_outside_of_its_modules_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            flat = x.flatten(1)[:, :64]
            return self.head(flat + torch.randn_like(flat)) if self.training else self.head(flat)

    real = MODELS.build
    monkeypatch.setattr(
        type(MODELS), "build", lambda self, *a, **k: Noisy() if self is MODELS else _call(real, self, *a, **k)
    )
    with pytest.raises(UserError, match=r"draws random numbers in training \(the model itself\)"):
        make_fit(tmp_path, *FULL, callbacks={})


def _call(real: Any, registry: Any, *args: Any, **kwargs: Any) -> Any:
    return real.__func__(registry, *args, **kwargs)
