"""Images with several labels: the file of labels, the task and its metrics, training and evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import TINY, Dlrun
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from running import make_fit

from dlrun.data.image_folder import image_folder
from dlrun.data.synthetic import synthetic
from dlrun.errors import DataError, UserError
from dlrun.export.subject import scored
from dlrun.losses import cross_entropy
from dlrun.losses.elementwise import binary_cross_entropy
from dlrun.scores import average_precision
from dlrun.tasks.base import complete
from dlrun.tasks.multilabel_classification import multilabel_classification
from dlrun.train.loop import train

SEVERAL = ("data.several_labels=true", "task=multilabel_classification", "loss=binary_cross_entropy")


def images(folder: Path, names: list[str]) -> None:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 10 * i, dtype=np.uint8)).save(folder / name)


def opened(folder: Path, text: str, separator: str = " "):  # type: ignore[no-untyped-def]
    (folder / "labels.csv").write_text(text)
    return image_folder(
        0, root=folder, size=8, cache=folder / "cache", labels=folder / "labels.csv", label_separator=separator
    )


@pytest.fixture
def dlrun(capsys: pytest.CaptureFixture[str]) -> Dlrun:
    return Dlrun(capsys)


# The file of labels


def test_a_file_of_labels(tmp_path: Path) -> None:
    images(tmp_path, ["a.png", "b/b.png", "c.png", "d.png", "e.png"])
    data = opened(tmp_path, "file,labels\na.png,cat dog\nb/b.png,\nc.png,bird\nd.png,dog  cat\ne.png,bird dog\n")
    assert data.classes == ("bird", "cat", "dog")
    assert data.multi_label
    assert data.test is not None
    assert (len(data.train), len(data.test)) == (4, 1)
    found = {}
    for source in (data.train, data.test):
        for image, labels in zip(source.read(range(len(source))), source.labels.tolist(), strict=True):
            found[int(image[0, 0, 0]) // 10] = labels
    assert found == {0: [0, 1, 1], 1: [0, 0, 0], 2: [1, 0, 0], 3: [0, 1, 1], 4: [1, 0, 1]}
    assert data.label_counts() == tuple(data.train.labels.sum(0).tolist())


def test_a_file_of_labels_may_fix_the_splits(tmp_path: Path) -> None:
    images(tmp_path, ["a.png", "b.png", "c.png"])
    text = "split,file,more,labels\nval,b.png,x,dog;big cat\ntrain,a.png,y,big cat\ntest,c.png,z,dog\n"
    data = opened(tmp_path, text, ";")
    assert data.classes == ("big cat", "dog")
    assert data.train.labels.tolist() == [[1, 0]]
    assert data.val is not None
    assert data.val.labels.tolist() == [[1, 1]]
    assert int(data.val.read([0])[0, 0, 0, 0]) == 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,labels\na.png,cat\n", "no column file; its first line must be file,labels"),
        ("file,labels\nx.png,cat\n", r"labels.csv:2: there is no image 'x.png' in"),
        ("file,labels\na.png,cat\na.png,dog\n", r"labels.csv:3: a.png is there twice"),
        ("file,labels,split\na.png,cat dog,trian\n", "labels.csv:2: unknown split 'trian'; write train, val or test"),
        ("file,labels\na.png,cat\n", r"fewer than two labels in all \(cat\)"),
        ("file,labels\na.png,\n", r"fewer than two labels in all \(none\)"),
        ("file,labels,split\na.png,cat dog,val\n", "lists no image to train on"),
        ("file,labels\n", "lists no image to train on"),
    ],
)
def test_a_file_of_labels_that_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    images(tmp_path, ["a.png"])
    with pytest.raises(DataError, match=message):
        opened(tmp_path, text)


def test_a_file_of_labels_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.csv cannot be read: No such file or directory; set data.labels to"):
        image_folder(0, root=tmp_path, labels=tmp_path / "none.csv")
    (tmp_path / "labels.csv").write_bytes(b"file,labels\n\xff\xfe,\xe4\n")
    with pytest.raises(DataError, match="is not a CSV file in UTF-8"):
        image_folder(0, root=tmp_path, labels=tmp_path / "labels.csv")
    with pytest.raises(ValueError, match="label_separator is empty"):
        opened(tmp_path, "file,labels\n", "")


def test_synthetic_images_with_several_labels() -> None:
    data = synthetic(0, samples=90, classes=5, several_labels=True, noise=0.0)
    assert data.multi_label
    counts = data.train.labels.sum(1)
    assert (int(counts.min()), int(counts.max())) == (1, 3)
    again = synthetic(0, samples=90, classes=5, several_labels=True, noise=0.0)
    assert torch.equal(data.train.labels, again.train.labels)
    assert torch.equal(data.train.read([3]), again.train.read([3]))


# The metrics


def by_hand(scores: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
    predicted, there = (scores > 0).tolist(), targets.bool().tolist()
    labels = range(targets.shape[1])
    both = [sum(p[k] and t[k] for p, t in zip(predicted, there, strict=True)) for k in labels]
    all_ = [sum(p[k] + t[k] for p, t in zip(predicted, there, strict=True)) for k in labels]
    return {
        "accuracy": sum(p == t for p, t in zip(predicted, there, strict=True)) / len(there),
        "f1_micro": 2 * sum(both) / sum(all_) if sum(all_) else 0.0,
        "f1_macro": sum(2 * b / a if a else 0.0 for b, a in zip(both, all_, strict=True)) / len(both),
    }


@given(rows=st.integers(1, 12), labels=st.integers(1, 5), cut=st.integers(0, 12), seed=st.integers(0, 10000))
def test_metrics_of_batches_are_those_of_the_whole(rows: int, labels: int, cut: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, labels, generator=generator)
    targets = torch.randint(0, 2, (rows, labels), generator=generator)
    task = multilabel_classification(binary_cross_entropy(), labels)
    sums: dict[str, float] = {}
    for part in (slice(0, cut), slice(cut, rows)):
        for name, value in task.score(scores[part], targets[part]).items():
            sums[name] = sums.get(name, 0) + float(value)
    means = {name: value / rows for name, value in sums.items()}
    found = complete(task, {"loss": 0.5, **means})
    assert found == pytest.approx({"loss": 0.5, **by_hand(scores, targets)})


def test_average_precision() -> None:
    there = torch.tensor([True, False, True, False])
    assert average_precision(torch.tensor([4.0, 3.0, 2.0, 1.0]), there) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(torch.tensor([4.0, 1.0, 3.0, 2.0]), there) == 1
    assert average_precision(torch.zeros(4), there) == 0.5
    assert average_precision(torch.zeros(4), torch.zeros(4, dtype=torch.bool)) is None


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=15))
def test_average_precision_is_that_of_scikit_learn(pairs: list[tuple[int, bool]]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    scores, there = torch.tensor([float(s) for s, _ in pairs]), torch.tensor([t for _, t in pairs])
    if there.any():
        expected = metrics.average_precision_score(there.numpy(), scores.numpy())
        assert average_precision(scores, there) == pytest.approx(expected)


def test_details_name_what_is_missing() -> None:
    task = multilabel_classification(binary_cross_entropy(), 3)
    scores = torch.tensor([[1.0, -1.0, -1.0], [1.0, 1.0, -1.0]])
    detail = task.detail(scores, torch.tensor([[1, 0, 0], [0, 1, 0]]), ("a", "b", "c"))
    assert detail["mean_average_precision"] == pytest.approx((0.5 + 1) / 2)
    assert detail["per_class"][0] == {
        "class": "a", "precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3),
        "average_precision": 0.5, "support": 1,
    }  # fmt: skip
    assert [detail["per_class"][2][key] for key in ("precision", "recall", "f1", "average_precision")] == [None] * 4


def test_the_threshold() -> None:
    scores = torch.tensor([[0.2, -0.2]])
    for threshold, expected in ((0.5, [True, False]), (0.4, [True, True]), (0.6, [False, False])):
        task = multilabel_classification(binary_cross_entropy(), 2, threshold=threshold)
        assert task.predicted(scores).tolist() == [expected]


# Together


def test_a_loss_for_one_label_is_refused() -> None:
    with pytest.raises(ValueError, match="this loss is for one label per sample; set loss=binary_cross_entropy"):
        multilabel_classification(cross_entropy(), 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (SEVERAL[:1], "have several labels per image, which task 'classification' does not take; set task=multilabel"),
        (SEVERAL[1:], "task 'multilabel_classification' needs num_labels, which data 'synthetic' .* do not have"),
        (SEVERAL[:2], "task 'multilabel_classification': this loss is for one label per sample; set loss=binary"),
    ],
)
def test_what_does_not_go_together(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_fit(tmp_path, *words, callbacks={})


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "mse"])
@pytest.mark.parametrize("words", [(), ("data.resident=false", "data.workers=0", "trainer.accumulate=2")])
def test_it_learns(tmp_path: Path, loss: str, words: tuple[str, ...]) -> None:
    fit = make_fit(
        tmp_path, *SEVERAL[:2], f"loss={loss}", "data.classes=4", "trainer.epochs=12", "task.threshold=0.6", *words,
        "optimizer.lr=0.05", callbacks={},
    )  # fmt: skip
    train(fit)
    assert fit.state.metrics["val/f1_micro"] > 0.8
    assert fit.state.metrics["train/f1_macro"] > 0.8


def test_training_and_evaluation(dlrun: Dlrun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = dlrun("train", *TINY, *SEVERAL, "loss.positive_weights=balanced")
    assert done.code == 0, done.err
    assert "3 labels, several per image" in done.text
    (run,) = (tmp_path / "runs").iterdir()
    done = dlrun("eval", f"checkpoint={run}")
    assert done.code == 0, done.err
    assert "mean_average_precision" in done.text
    assert "avg prec." in done.text
    report = json.loads((run / "eval_test_best.json").read_text())
    results = json.loads((run / "results.json").read_text())
    for name in ("loss", "accuracy", "f1_micro", "f1_macro"):
        assert report[name] == pytest.approx(results["test"][name], rel=1e-5)
    assert len(report["per_class"]) == 3
    stricter = dlrun("eval", f"checkpoint={run}", "task.threshold=0.99")
    assert stricter.code == 0


def test_class_weights_of_a_checkpoint_are_those_of_its_training(
    dlrun: Dlrun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert dlrun("train", *TINY, "loss.class_weights=balanced", "data.val_fraction=0.3").code == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert dlrun("eval", f"checkpoint={run}").code == 0
    before = json.loads((run / "eval_test_best.json").read_text())["loss"]
    assert before == pytest.approx(json.loads((run / "results.json").read_text())["test"]["loss"], rel=1e-5)


@pytest.mark.slow
def test_probabilities_of_an_exported_network_are_those_of_each_label(
    dlrun: Dlrun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = torch.tensor([[0.0, 2.0]])
    assert torch.equal(scored(scores, "label_probabilities"), scores.sigmoid())
    monkeypatch.chdir(tmp_path)
    assert dlrun("train", *TINY, *SEVERAL).code == 0
    (run,) = (tmp_path / "runs").iterdir()
    words = ("format=torch_export", "output_scores=probabilities", "output=net.pt2")
    done = dlrun("export", f"checkpoint={run}", *words, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["metadata"]["scores"] == "label_probabilities"
