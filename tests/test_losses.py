"""Losses against worked examples, their formulas and torch's own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from running import config, make_fit
from torch import Tensor

from dlrun.assembly import build_task
from dlrun.errors import UserError
from dlrun.losses import IGNORED, cross_entropy
from dlrun.losses.elementwise import binary_cross_entropy, mse
from dlrun.losses.margin import hinge, squared_hinge
from dlrun.losses.softmax import focal
from dlrun.registry import LOSSES
from dlrun.tasks.classification import classification
from dlrun.train.loop import train

# Stanford's CS231n, linear classification: scores of cat, car and frog for three images.
SCORES = torch.tensor([[3.2, 5.1, -1.7], [1.3, 4.9, 2.0], [2.2, 2.5, -3.1]])
LABELS = torch.tensor([0, 1, 2])


def drawn(rows: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, classes, dtype=torch.float64, generator=generator)
    return scores, torch.randint(0, classes, (rows,), generator=generator)


# Worked examples


def test_cross_entropy_of_the_worked_example() -> None:
    loss = cross_entropy()(SCORES[:1], LABELS[:1])
    assert float(loss) == pytest.approx(2.04, abs=0.005)
    assert float(loss) == pytest.approx(-math.log(math.exp(3.2) / (math.exp(3.2) + math.exp(5.1) + math.exp(-1.7))))


def test_hinge_of_the_worked_example() -> None:
    each = [float(hinge()(SCORES[i : i + 1], LABELS[i : i + 1])) for i in range(3)]
    assert each == pytest.approx([2.9, 0, 12.9], abs=1e-5)
    assert float(hinge()(SCORES, LABELS)) == pytest.approx(5.27, abs=0.005)
    squares = [float(squared_hinge()(SCORES[i : i + 1], LABELS[i : i + 1])) for i in range(3)]
    assert squares == pytest.approx([2.9**2, 0, 6.3**2 + 6.6**2], abs=1e-4)


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("cross_entropy", {}, math.log),
        ("cross_entropy", {"label_smoothing": 0.1}, math.log),
        ("hinge", {}, lambda c: c - 1),
        ("hinge", {"margin": 0.5}, lambda c: 0.5 * (c - 1)),
        ("squared_hinge", {}, lambda c: c - 1),
        ("focal", {}, lambda c: (1 - 1 / c) ** 2 * math.log(c)),
        ("binary_cross_entropy", {}, lambda c: math.log(2)),
        ("mse", {}, lambda c: 1 / c),
    ],
)
def test_the_loss_at_initialisation(name: str, options: dict[str, Any], expected: Any, classes: int) -> None:
    loss = LOSSES.build(name, options)
    assert float(loss(torch.zeros(4, classes), torch.arange(4) % classes)) == pytest.approx(expected(classes), rel=1e-5)


# Formulas


def test_label_smoothing_is_its_formula() -> None:
    scores, labels = drawn(6, 5)
    logs = scores - scores.exp().sum(1, keepdim=True).log()
    targets = 0.2 / 5 + 0.8 * torch.eye(5, dtype=torch.float64)[labels]
    expected = -(targets * logs).sum(1).mean()
    torch.testing.assert_close(cross_entropy(label_smoothing=0.2)(scores, labels), expected)
    torch.testing.assert_close(cross_entropy()(scores, targets), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_class_weights_are_their_formula(smoothing: float) -> None:
    scores, labels = drawn(6, 3)
    weights = (0.5, 1.0, 4.0)
    shares = smoothing / 3 + (1 - smoothing) * torch.eye(3, dtype=torch.float64)[labels]
    expected = -(shares * torch.tensor(weights) * scores.log_softmax(1)).sum(1).mean()
    loss = cross_entropy(3, label_smoothing=smoothing, class_weights=weights)
    torch.testing.assert_close(loss(scores, labels), expected)
    plain = cross_entropy(3, class_weights=weights)
    torch.testing.assert_close(plain(scores, shares), expected)
    torch.testing.assert_close(
        cross_entropy(3, class_weights=(1.0,) * 3)(scores, labels), cross_entropy()(scores, labels)
    )


def test_balanced_weights_give_each_class_the_same_share() -> None:
    counts = (30, 60, 10)
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
    loss = cross_entropy(3, counts, class_weights="balanced")
    scores = torch.zeros(100, 3)
    assert float(loss(scores, labels)) == pytest.approx(math.log(3))
    for c in range(3):
        part = loss(scores[: counts[c]], labels[labels == c]) * counts[c] / 100
        assert float(part) == pytest.approx(math.log(3) / 3, rel=1e-5)
    assert cross_entropy(2, (5, 0), class_weights="balanced")(scores[:1, :2], labels[:1]).isfinite()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_is_its_formula(gamma: float) -> None:
    scores, labels = drawn(8, 4)
    own = scores.softmax(1)[torch.arange(8), labels]
    weights = torch.tensor([1.0, 2.0, 3.0, 0.5], dtype=torch.float64)
    expected = -((1 - own) ** gamma * own.log())
    torch.testing.assert_close(focal(gamma=gamma)(scores, labels), expected.mean())
    weighted = focal(4, gamma=gamma, class_weights=tuple(weights.tolist()))
    torch.testing.assert_close(weighted(scores, labels), (weights[labels] * expected).mean())
    sure = torch.tensor([[100.0, 0.0]], requires_grad=True)
    focal(gamma=gamma)(sure, torch.tensor([0])).backward()
    assert sure.grad is not None
    assert sure.grad.isfinite().all()


@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_focal_of_shares_and_smoothed_labels_is_its_formula(gamma: float, weighted: bool) -> None:
    scores, labels = drawn(8, 4)
    shares = drawn(8, 4, 1)[0].softmax(1)
    weights = torch.tensor([1.0, 2.0, 3.0, 0.5], dtype=torch.float64) if weighted else torch.ones(4)
    p = scores.softmax(1)
    each = -weights * (1 - p) ** gamma * p.log()
    options: Any = {"gamma": gamma, "class_weights": tuple(weights.tolist()) if weighted else None}
    torch.testing.assert_close(focal(4, **options)(scores, shares), (shares * each).sum(1).mean())
    even = 0.3 / 4 + 0.7 * torch.eye(4, dtype=torch.float64)[labels]
    smooth = focal(4, label_smoothing=0.3, **options)
    torch.testing.assert_close(smooth(scores, labels), (even * each).sum(1).mean())
    torch.testing.assert_close(smooth(scores, shares), ((0.3 / 4 + 0.7 * shares) * each).sum(1).mean())
    masked = labels.where(torch.arange(8) < 6, IGNORED)
    torch.testing.assert_close(smooth(scores, masked), (even * each).sum(1)[:6].mean())


@given(rows=st.integers(1, 6), classes=st.integers(2, 6), margin=st.floats(0.1, 3), seed=st.integers(0, 1000))
def test_hinge_is_its_formula_and_that_of_torch(rows: int, classes: int, margin: float, seed: int) -> None:
    scores, labels = drawn(rows, classes, seed)
    for power, made in ((1, hinge), (2, squared_hinge)):
        by_hand = 0.0
        for i in range(rows):
            for j in range(classes):
                if j != labels[i]:
                    by_hand += max(0.0, float(scores[i, j] - scores[i, labels[i]]) + margin) ** power
        loss = float(made(margin=margin)(scores, labels))
        assert loss == pytest.approx(by_hand / rows)
        # torch divides by the number of classes.
        theirs = F.multi_margin_loss(scores, labels, p=power, margin=margin)
        assert loss == pytest.approx(float(theirs) * classes)


def test_binary_cross_entropy_is_its_formula() -> None:
    scores, labels = drawn(6, 4)
    targets = (drawn(6, 4, 1)[0] > 0).double()
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    p = scores.sigmoid()
    plain = -(targets * p.log() + (1 - targets) * (1 - p).log()).mean()
    weighted = -(weights * targets * p.log() + (1 - targets) * (1 - p).log()).mean()
    torch.testing.assert_close(binary_cross_entropy()(scores, targets.long()), plain)
    loss = binary_cross_entropy(4, positive_weights=tuple(weights.tolist()))
    torch.testing.assert_close(loss(scores, targets), weighted)
    one_hot = torch.eye(4, dtype=torch.float64)[labels]
    torch.testing.assert_close(binary_cross_entropy()(scores, labels), binary_cross_entropy()(scores, one_hot))
    smooth = binary_cross_entropy(label_smoothing=0.2)
    torch.testing.assert_close(smooth(scores, targets), binary_cross_entropy()(scores, 0.1 + 0.8 * targets))
    torch.testing.assert_close(smooth(scores, labels), binary_cross_entropy()(scores, 0.1 + 0.8 * one_hot))


def test_balanced_labels_weigh_the_same_with_and_without() -> None:
    loss = binary_cross_entropy(3, (20, 5, 100), 100, positive_weights="balanced")
    targets = torch.zeros(100, 3)
    targets[:20, 0], targets[:5, 1], targets[:, 2] = 1, 1, 1
    scores = torch.zeros(100, 3)
    there = sum(float(loss(scores[i : i + 1, :], targets[i : i + 1])) for i in range(100))
    assert there / 100 == pytest.approx(math.log(2) * (2 * 0.8 + 2 * 0.95 + 1) / 3, rel=1e-4)


def test_mse_is_the_distance_to_the_one_hot_label() -> None:
    scores, labels = drawn(6, 4)
    one_hot = torch.eye(4, dtype=torch.float64)[labels]
    torch.testing.assert_close(mse()(scores, labels), F.mse_loss(scores, one_hot))
    torch.testing.assert_close(mse()(scores, one_hot), F.mse_loss(scores, one_hot))


def test_large_scores_do_not_overflow() -> None:
    scores = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]])
    assert cross_entropy()(scores, torch.tensor([0, 1])) == 0
    assert cross_entropy()(scores, torch.tensor([1, 0])) == 1000
    assert focal()(scores, torch.tensor([1, 0])) == 1000
    assert binary_cross_entropy()(scores, torch.tensor([1, 0])) == pytest.approx(500 + math.log(2) / 2)


# What holds for every loss

PERFECT = {
    "cross_entropy": 100.0,
    "focal": 100.0,
    "hinge": 1.0,
    "squared_hinge": 1.0,
    "mse": 1.0,
    "binary_cross_entropy": 100.0,
}
"""Score of the right class above that of the others which costs nothing."""


@pytest.mark.parametrize("name", LOSSES.names())
def test_every_loss_is_a_mean_with_gradient(name: str) -> None:
    """The mean over the batch is that of equal parts, a scalar; a perfect and confident answer costs nothing."""
    loss = LOSSES.build(name, {})
    scores = torch.randn(8, 10, requires_grad=True, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(8)
    value = loss(scores, labels)
    assert value.shape == ()
    torch.testing.assert_close(value, (loss(scores[:4], labels[:4]) + loss(scores[4:], labels[4:])) / 2)
    value.backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    below = -100.0 if name == "binary_cross_entropy" else 0.0
    perfect = torch.eye(10)[labels] * (PERFECT[name] - below) + below
    assert float(loss(perfect, labels)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES.names())
def test_ignored_labels_have_no_loss_and_are_not_averaged(name: str) -> None:
    loss = LOSSES.build(name, {})
    scores, labels = drawn(7, 5)
    kept = torch.tensor([0, 2, 3, 6])
    masked = torch.full((7,), IGNORED)
    masked[kept] = labels[kept]
    scores.requires_grad_()
    value = loss(scores, masked)
    torch.testing.assert_close(value, loss(scores[kept], labels[kept]))
    (gradient,) = torch.autograd.grad(value, scores)
    assert not gradient[[1, 4, 5]].any()


@pytest.mark.parametrize("name", LOSSES.names())
def test_every_loss_says_which_targets_it_takes(name: str) -> None:
    loss = LOSSES.build(name, {})
    scores, labels = drawn(5, 4)
    one_hot = torch.eye(4, dtype=torch.float64)[labels]
    if loss.soft_targets or loss.multi_label:
        torch.testing.assert_close(loss(scores, one_hot), loss(scores, labels))
    assert (loss.soft_targets, loss.multi_label) == {
        "cross_entropy": (True, False),
        "focal": (True, False),
        "binary_cross_entropy": (True, True),
        "mse": (True, True),
    }.get(name, (False, False))


@pytest.mark.parametrize("name", LOSSES.names())
def test_no_loss_reads_a_value_from_the_device(name: str) -> None:
    """On meta there is none."""
    weights = {"binary_cross_entropy": {"positive_weights": (1.0, 2.0)}, "mse": {}, "hinge": {}, "squared_hinge": {}}
    loss = LOSSES.build(name, weights.get(name, {"class_weights": (1.0, 2.0)}))
    value = loss(torch.zeros(3, 2, device="meta"), torch.zeros(3, dtype=torch.int64, device="meta"))
    assert value.device.type == "meta"


@pytest.mark.parametrize("name", LOSSES.names())
def test_half_precision_gives_nearly_the_same(name: str) -> None:
    loss = LOSSES.build(name, {})
    scores, labels = drawn(64, 100)
    scores = scores.bfloat16().double()
    assert float(loss(scores.bfloat16(), labels)) == pytest.approx(float(loss(scores, labels)), rel=2e-2)
    if loss.soft_targets:
        # The shares keep their precision, whatever that of the scores is.
        shares = torch.rand(64, 100, generator=torch.Generator().manual_seed(1)).double()
        shares /= shares.sum(1, keepdim=True)
        assert float(loss(scores.bfloat16(), shares.float())) == pytest.approx(float(loss(scores, shares)), rel=1e-5)


# In a configuration


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("loss.class_weights=[1,2]",), "'cross_entropy': class_weights has 2 values, but there are 10 classes"),
        (("loss=focal", "loss.class_weights=[1,2]"), "'focal': class_weights has 2 values, but there are 10 classes"),
        (("loss=binary_cross_entropy", "loss.positive_weights=[1]"), "positive_weights has 1 values, but there are 10"),
    ],
)
def test_weights_must_be_as_many_as_the_classes(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_task(config(*words), {"num_classes": 10})


def test_balancing_needs_labels_to_count() -> None:
    chosen = config("loss.class_weights=balanced")
    with pytest.raises(UserError, match="class_weights=balanced: these data do not count the samples of each class"):
        build_task(chosen, {"num_classes": 10})
    assert build_task(chosen, {"num_classes": 2, "label_counts": (3, 1)}).loss(
        torch.zeros(1, 2), torch.tensor([1])
    ) == pytest.approx(2 * math.log(2))


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


@pytest.mark.parametrize("name", LOSSES.names())
def test_every_loss_trains_a_classifier(name: str, tmp_path: Path) -> None:
    words = ("optimizer=adam", "optimizer.lr=0.01", "trainer.epochs=6", "data.classes=4")
    fit = make_fit(tmp_path, *words, f"loss={name}", callbacks={})
    train(fit)
    assert fit.state.metrics["val/accuracy"] > 0.9
