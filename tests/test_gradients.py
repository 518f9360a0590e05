"""How far the gradient reaches back through the steps of recurrent layers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from running import make_fit
from torch import Tensor, nn

from dlrun.gradients import gradient_norms, reach
from dlrun.losses import IGNORED
from dlrun.models.cells import CELLS
from dlrun.models.recurrent import Recurrent
from dlrun.models.seq2seq import SequenceToSequence
from dlrun.tasks.base import last_targets
from dlrun.train.callbacks.gradient_flow import FILE, gradient_flow
from dlrun.train.loop import train

SEQUENCES = (
    "task=sequence_classification", "data=long_memory", "data.samples=60", "data.length=40", "data.batch_size=9",
    "model=rnn", "model.layers=1", "model.hidden_size=16", "schedule=constant", "schedule.warmup=0ep", "augment=none",
)  # fmt: skip


def linear(factor: float, size: int = 3) -> Recurrent:
    """h' = relu(W x + factor h): linear as long as all is positive."""
    layers = Recurrent(2, size, cell="relu")
    for name, weight in layers.named_parameters():
        nn.init.ones_(weight) if "weight_ih" in name else nn.init.zeros_(weight)
        if "weight_hh" in name:
            with torch.no_grad():
                weight.copy_(factor * torch.eye(size))
    return layers


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.5])
def test_of_a_linear_recurrence_it_is_a_power(factor: float) -> None:
    layers, x = linear(factor), torch.ones(1, 20, 2)
    norms = gradient_norms(layers, lambda: layers(x)[0][0, -1].sum())
    assert set(norms) == {"0"}
    # dL/dh_T is (1, 1, 1); each step back multiplies it by the factor.
    np.testing.assert_allclose(norms["0"], [math.sqrt(3) * factor ** (19 - t) for t in range(20)], rtol=1e-5)
    assert reach(norms["0"]) == pytest.approx(factor**19, rel=1e-5)


def test_a_loss_at_every_step_adds_up() -> None:
    layers, x = linear(0.5, size=1), torch.ones(1, 6, 2)
    norms = gradient_norms(layers, lambda: layers(x)[0].sum())
    np.testing.assert_allclose(norms["0"], [sum(0.5**k for k in range(6 - t)) for t in range(6)], rtol=1e-6)


def test_it_is_the_product_of_the_jacobians() -> None:
    torch.manual_seed(0)
    layers = Recurrent(3, 4, cell="tanh").double()
    x = torch.randn(1, 7, 3, dtype=torch.float64)
    norms = gradient_norms(layers, lambda: layers(x)[0][0, -1, 0])["0"]
    states, recurrent = layers(x)[0][0], next(w for n, w in layers.named_parameters() if "weight_hh" in n)
    row = torch.eye(4, dtype=torch.float64)[:1]
    for t in range(6, -1, -1):
        assert norms[t] == pytest.approx(float(row.detach().norm()))
        row = row @ torch.diag(1 - states[t] ** 2) @ recurrent


@pytest.mark.parametrize("cell", CELLS)
def test_watching_changes_neither_the_outputs_nor_the_parameters(cell: str) -> None:
    torch.manual_seed(0)
    layers = Recurrent(3, 4, cell=cell, layers=2, bidirectional=True)  # type: ignore[arg-type]
    x, lengths = torch.randn(3, 5, 3), torch.tensor([5, 2, 4])
    plain = layers(x, None, lengths)[0]
    seen: list[Tensor] = []

    def loss() -> Tensor:
        seen.append(layers(x, None, lengths)[0])
        return seen[0].square().sum()

    norms = gradient_norms(layers, loss)
    torch.testing.assert_close(seen[0], plain)
    assert all(parameter.grad is None for parameter in layers.parameters())
    parts = (".h", ".c") if cell == "lstm" else ("",)
    places = ("0", "0.backward", "1", "1.backward")
    assert list(norms) == [f"{place}{part}" for place in places for part in parts]
    assert all(len(values) == 5 and values[0] > 0 for values in norms.values())
    with layers.watched():
        pass
    torch.testing.assert_close(layers(x, None, lengths)[0], plain)


def test_a_plain_cell_with_small_weights_lets_it_vanish_and_an_lstm_that_keeps_does_not(tmp_path: Path) -> None:
    left = {}
    for cell, more in (("tanh", ("model.recurrent_init=default",)), ("lstm", ("model.forget_bias=5",))):
        fit = make_fit(tmp_path, *SEQUENCES, f"model.cell={cell}", *more, callbacks={})
        batch = next(iter(fit.train.epoch(0)))
        norms = gradient_norms(fit.model, lambda fit=fit, batch=batch: fit.task.forward(fit.model, batch).loss)
        (values,) = (values for name, values in norms.items() if name in ("features.0", "features.0.h"))
        assert len(values) == 41
        left[cell] = reach(values)
    assert left["tanh"] < 1e-8
    assert left["lstm"] > 1e-2


@pytest.mark.parametrize("kind", ["text", "tags", "pairs"])
def test_where_every_step_has_a_loss_that_of_the_last_one_is_taken(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tags.tsv").write_text(
        "\n\n".join("\n".join(f"w{i * k % 7}\tO{k % 2}" for k in range(30)) for i in range(9))
    )
    (tmp_path / "book.txt").write_text("".join(str(i * i) for i in range(600)))
    monkeypatch.setattr(SequenceToSequence, "decode", None)
    words = {
        "text": ("task=language_modeling", "data=text", f"data.path={tmp_path}/book.txt", "data.sequence_length=30"),
        "tags": (
            "task=sequence_labeling",
            "data=tagged_text",
            f"data.path={tmp_path}/tags.tsv",
            "data.test_fraction=0",
        ),
        "pairs": ("task=seq2seq", "data=pairs", "data.kind=reverse", "data.samples=60"),
    }[kind]
    model = ("model=rnn", "model.layers=1")
    if kind == "pairs":
        model = ("model=seq2seq", "model.bidirectional=false", "model.attention=none")
    plain = ("model.cell=tanh", "model.hidden_size=16", "model.recurrent_init=default", "augment=none")
    fed = ("data.batch_size=4", "data.eval_batch_size=4", "schedule=constant", "schedule.warmup=0ep")
    fit = make_fit(tmp_path, *words, *model, *plain, *fed, callbacks={})
    gradient_flow().fit_start(fit)
    (row,) = [json.loads(line) for line in (fit.run.path / FILE).read_text().splitlines()]
    # The gradient comes from the last step alone: it falls all the way, and a plain cell leaves little of it.
    for norms in row["norms"].values():
        assert norms[0] < norms[len(norms) // 2] < norms[-1]
        assert norms[0] < norms[-1] * (0.5 if kind == "pairs" else 1e-2)


def test_of_short_and_long_sequences_the_long_ones_are_measured(tmp_path: Path) -> None:
    # Most texts have one word, and end where the long ones begin.
    lines = [f"{'ab'[i % 2]}\t{'x' * (1 if i % 10 else 40)}{i}" for i in range(60)]
    (tmp_path / "texts.tsv").write_text("\n".join(lines))
    words = [word for word in SEQUENCES if "data" not in word]
    words += ["data=labelled_text", f"data.path={tmp_path}/texts.tsv", "data.batch_size=9", "data.val_fraction=0.5"]
    fit = make_fit(tmp_path, *words, "model.cell=tanh", "model.recurrent_init=default", callbacks={})
    gradient_flow().fit_start(fit)
    (row,) = [json.loads(line) for line in (fit.run.path / FILE).read_text().splitlines()]
    (norms,) = row["norms"].values()
    assert len(norms) > 40
    assert norms[0] < 1e-6 * norms[-1]


def test_the_last_target_of_each_row_is_kept() -> None:
    targets = torch.tensor([[3, 4, 5], [3, IGNORED, IGNORED], [IGNORED, 4, IGNORED], [IGNORED] * 3])
    kept = last_targets(targets)
    assert kept.tolist() == [[IGNORED, IGNORED, 5], [3, IGNORED, IGNORED], [IGNORED, 4, IGNORED], [IGNORED] * 3]


def test_the_training_does_not_notice(tmp_path: Path) -> None:
    payloads = []
    for callbacks in ({}, {"gradient_flow": gradient_flow()}):
        fit = make_fit(tmp_path, *SEQUENCES, "model.dropout=0.3", callbacks=callbacks)
        train(fit)
        payloads.append(fit.payload())
    for key in ("model", "random"):
        assert str(payloads[0][key]) == str(payloads[1][key])
    rows = [json.loads(line) for line in (fit.run.path / FILE).read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 6, 12]


def test_without_recurrent_layers_it_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit = make_fit(tmp_path, callbacks={"gradient_flow": gradient_flow()})
    train(fit)
    assert "model mlp has no recurrent layers to look at" in caplog.text
    assert not (fit.run.path / FILE).exists()


def test_a_wall_clock_time_is_refused() -> None:
    from dlrun.types import Duration

    with pytest.raises(ValueError, match="must be in epochs"):
        gradient_flow(every=Duration(1, "min"))
