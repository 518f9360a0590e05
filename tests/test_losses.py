"""Losses against worked examples and their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from dlrun.losses import cross_entropy
from dlrun.registry import LOSSES
from dlrun.tasks.classification import classification


def test_a_worked_example() -> None:
    # Stanford's CS231n, linear classification: scores of cat, car and frog for a cat.
    loss = cross_entropy()(torch.tensor([[3.2, 5.1, -1.7]]), torch.tensor([0]))
    assert float(loss) == pytest.approx(2.04, abs=0.005)
    assert float(loss) == pytest.approx(-math.log(math.exp(3.2) / (math.exp(3.2) + math.exp(5.1) + math.exp(-1.7))))


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equal_scores_lose_the_logarithm_of_the_number_of_classes(classes: int, smoothing: float) -> None:
    loss = cross_entropy(label_smoothing=smoothing)(torch.zeros(4, classes), torch.arange(4) % classes)
    assert float(loss) == pytest.approx(math.log(classes))


def test_label_smoothing_is_its_formula() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 4, 0])
    logs = logits - logits.exp().sum(1, keepdim=True).log()
    targets = 0.2 / 5 + 0.8 * torch.eye(5, dtype=torch.float64)[labels]
    expected = -(targets * logs).sum(1).mean()
    torch.testing.assert_close(cross_entropy(label_smoothing=0.2)(logits, labels), expected)


def test_large_scores_do_not_overflow() -> None:
    logits = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]])
    assert cross_entropy()(logits, torch.tensor([0, 1])) == 0
    assert cross_entropy()(logits, torch.tensor([1, 0])) == 1000


@pytest.mark.parametrize("name", LOSSES.names())
def test_every_loss_is_a_mean_with_gradient(name: str) -> None:
    """The mean over the batch is that of equal parts, a scalar; a perfect and confident answer costs nothing."""
    loss = LOSSES.build(name, {})
    logits = torch.randn(8, 10, requires_grad=True)
    labels = torch.arange(8)
    value = loss(logits, labels)
    assert value.shape == ()
    torch.testing.assert_close(value, (loss(logits[:4], labels[:4]) + loss(logits[4:], labels[4:])) / 2)
    value.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert float(loss(torch.eye(10)[labels] * 100, labels)) == pytest.approx(0, abs=1e-6)


def test_scores_of_the_classification_task() -> None:
    task = classification(cross_entropy(), 10)
    outputs = torch.arange(10.0).repeat(4, 1)  # class 9 is highest, then 8, ...
    counts = task.score(outputs, torch.tensor([9, 5, 4, 0]))
    assert {name: int(value) for name, value in counts.items()} == {"accuracy": 1, "top5": 2}
    few = classification(cross_entropy(), 9)
    assert few.metrics == ("accuracy",)
    assert set(few.score(outputs[:, :9], torch.zeros(4, dtype=torch.int64))) == {"accuracy"}


def test_parts_of_a_batch() -> None:
    task = classification(cross_entropy(), 3)
    batch = torch.randn(7, 2), torch.arange(7)
    assert task.size(batch) == 7
    for parts in range(1, 10):
        cut = task.split(batch, parts)
        sizes = [task.size(part) for part in cut]
        assert len(cut) == min(parts, 7)
        assert max(sizes) - min(sizes) <= 1
        assert torch.equal(torch.cat([inputs for inputs, _ in cut]), batch[0])
        assert torch.equal(torch.cat([labels for _, labels in cut]), batch[1])
