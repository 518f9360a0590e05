"""``dlrun eval``: everything is rebuilt from the checkpoint alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from running import config, make_fit
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support, top_k_accuracy_score

from dlrun import assembly, scores
from dlrun.cli import main
from dlrun.config.schema import Config
from dlrun.data.source import ImageData
from dlrun.train.evaluate import evaluate, predict
from dlrun.train.fit import Fit
from dlrun.train.loop import train

WORDS = ("data.noise=0.7", "data.samples=300", "trainer.epochs=3", "optimizer.lr=0.02")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Fit:
    fit = make_fit(tmp_path_factory.mktemp("runs"), *WORDS)
    train(fit)
    return fit


@pytest.fixture
def run(trained: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the trained run, in the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained.run.path, tmp_path / "run")
    (tmp_path / "run/config.yaml").write_text("")
    return Path("run")


@pytest.fixture
def dlrun_eval(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["eval", *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def report(run: Path, name: str = "eval_test_best") -> dict[str, Any]:
    result: dict[str, Any] = json.loads((run / f"{name}.json").read_text(), parse_constant=pytest.fail)
    return result


# The numbers


def truth(fit: Fit, split: str, which: str = "best") -> tuple[Any, Any]:
    """Scores (N, K) and labels (N,), computed without dlrun's evaluation."""
    from dlrun.checkpoint import load

    model = assembly.build_model(fit.config, fit.feed.arguments, torch.device("cpu"))
    model.load_state_dict(load(fit.run.checkpoints / f"{which}.pt")["model"])
    data = assembly.build_data(fit.config)
    source = getattr(data, split)
    images, mean = data.train.read(range(len(data.train))).double() / 255, (0, 2, 3)
    center, spread = images.mean(mean, keepdim=True), images.std(mean, keepdim=True, correction=0)
    inputs = (source.read(range(len(source))).double() / 255 - center) / spread
    with torch.inference_mode():
        return model.eval()(inputs.float()).numpy(), source.labels.numpy()


@pytest.mark.parametrize("split", ["test", "val", "train"])
def test_the_scores_are_those_of_scikit_learn(
    trained: Fit, run: Path, dlrun_eval: Callable[..., tuple[int, str, str]], split: str
) -> None:
    words = [] if split == "test" else [f"split={split}"]
    code, out, err = dlrun_eval("checkpoint=run", *words)
    assert (code, err) == (0, "")
    result = report(run, f"eval_{split}_best")
    outputs, labels = truth(trained, split)
    assert (result["split"], result["samples"]) == (split, len(labels))
    assert result["accuracy"] == accuracy_score(labels, outputs.argmax(1))
    assert 0.2 < result["accuracy"] < 1
    assert result["top5"] == top_k_accuracy_score(labels, outputs, k=5, labels=range(10))
    logs = outputs - np.log(np.exp(outputs).sum(1, keepdims=True))
    assert result["loss"] == pytest.approx(-logs[np.arange(len(labels)), labels].mean(), rel=1e-4)
    assert result["confusion"] == confusion_matrix(labels, outputs.argmax(1), labels=range(10)).tolist()
    table = precision_recall_fscore_support(labels, outputs.argmax(1), labels=range(10), zero_division=np.nan)
    for row, precision, recall, f1, support in zip(result["per_class"], *table, strict=True):
        for got, wanted in ((row["precision"], precision), (row["recall"], recall), (row["f1"], f1)):
            assert got is None if np.isnan(wanted) else got == pytest.approx(wanted)
        assert row["support"] == support
    assert [row["class"] for row in result["per_class"]] == result["classes"] == list(trained.feed.classes or ())
    assert f"top-1       {100 * result['accuracy']:.2f} %" in out
    assert f"top-5       {100 * result['top5']:.2f} %" in out
    assert f"run/eval_{split}_best.json" in out


def test_a_class_that_never_occurs_has_no_ratio() -> None:
    confusion = scores.confusion_matrix(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]), 4)
    assert confusion.tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    rows = scores.per_class(confusion, ["a", "b", "c", "d"])
    assert rows[0] == {"class": "a", "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}
    assert rows[1] == {"class": "b", "precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1}
    assert rows[2] == {"class": "c", "precision": None, "recall": None, "f1": None, "support": 0}


def test_eval_gives_what_training_reported_for_its_best(
    trained: Fit, run: Path, dlrun_eval: Callable[..., tuple[int, str, str]]
) -> None:
    assert dlrun_eval("checkpoint=run", "split=val")[0] == 0
    callback: Any = trained.callbacks["checkpoint"]
    result = report(run, "eval_val_best")
    assert result["accuracy"] == callback.best
    assert result["step"] == callback.best_step


def test_evaluation_leaves_the_model_as_it_was(trained: Fit) -> None:
    assert trained.val is not None
    for mode in (True, False):
        trained.model.train(mode)
        first = evaluate(trained.model, trained.val, trained.task, "fp32", trained.device)
        assert trained.model.training is mode
        assert evaluate(trained.model, trained.val, trained.task, "fp32", trained.device) == first
    outputs, targets = predict(trained.model, trained.val, trained.task, "bf16", trained.device)
    assert outputs.dtype == torch.float32
    assert len(outputs) == len(targets) == trained.val.num_samples


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_size_of_a_batch_does_not_show(
    run: Path, dlrun_eval: Callable[..., tuple[int, str, str]], size: int
) -> None:
    assert dlrun_eval("checkpoint=run")[0] == 0
    whole = report(run)
    assert dlrun_eval("checkpoint=run", f"data.eval_batch_size={size}", "data.resident=false", "data.workers=0")[0] == 0
    parts = report(run)
    assert parts.pop("loss") == pytest.approx(whole.pop("loss"), rel=1e-6)
    assert parts == whole


@pytest.mark.parametrize("option", ["normalize=zca", "batch_growth=3", "batch_size=7", "contrast_normalize=true"])
def test_what_only_the_training_heeds_is_refused(
    run: Path, dlrun_eval: Callable[..., tuple[int, str, str]], option: str
) -> None:
    code, _, err = dlrun_eval("checkpoint=run", f"data.{option}")
    assert code == 2
    assert f"data.{option.partition('=')[0]}: was " in err
    assert "eval cannot change it" in err


# What is given


def test_the_matrix_is_drawn(run: Path, dlrun_eval: Callable[..., tuple[int, str, str]]) -> None:
    assert dlrun_eval("checkpoint=run")[0] == 0
    with Image.open(run / "eval_test_best.png") as image:
        image.load()
        assert image.format == "PNG"
        assert min(image.size) > 300
        assert len(image.convert("L").getcolors() or []) > 10


def test_a_file_a_run_folder_and_a_folder_of_checkpoints(
    run: Path, dlrun_eval: Callable[..., tuple[int, str, str]]
) -> None:
    assert dlrun_eval("checkpoint=run/checkpoints")[0] == 0
    first = report(run)
    assert first["checkpoint"] == "run/checkpoints/best.pt"
    assert dlrun_eval("checkpoint=run/checkpoints/last.pt")[0] == 0
    assert report(run, "eval_test_last")["checkpoint"] == "run/checkpoints/last.pt"
    (run / "checkpoints/best.pt").unlink()
    assert dlrun_eval("checkpoint=run")[0] == 0


def test_a_checkpoint_that_was_taken_elsewhere(run: Path, dlrun_eval: Callable[..., tuple[int, str, str]]) -> None:
    for name in ("net.v1.pt", "net.v2.pt"):
        shutil.copy(run / "checkpoints/best.pt", name)
    shutil.rmtree(run)
    assert dlrun_eval("checkpoint=[net.v1.pt,net.v2.pt]")[0] == 0
    assert {path.name for path in Path().iterdir()} >= {"eval_test_net.v1.json", "eval_test_net.v2.png"}


def test_several_give_a_table(run: Path, dlrun_eval: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = dlrun_eval("checkpoint=[run, run/checkpoints/last.pt]")
    assert code == 0
    table = [line.split() for line in out.splitlines() if "%" in line or "accuracy" in line]
    assert table[0] == ["checkpoint", "loss", "accuracy", "top5"]
    for row, name in zip(table[1:], ("best", "last"), strict=True):
        result = report(run, f"eval_test_{name}")
        assert row == [
            f"run/checkpoints/{name}.pt",
            *(f"{result['loss']:.4f}", f"{result['accuracy']:.2%}", f"{result['top5']:.2%}"),
        ]


def test_a_table_of_different_metrics_keeps_its_columns(
    run: Path, tmp_path: Path, dlrun_eval: Callable[..., tuple[int, str, str]]
) -> None:
    few = make_fit(tmp_path / "few", "data.classes=3")
    train(few)
    code, out, _ = dlrun_eval(f"checkpoint=[{few.run.path},run]")
    assert code == 0
    assert [line.split()[-1] for line in out.splitlines() if line.startswith("  ")][1] == "-"


def test_where_nothing_can_be_written_it_is_said(
    run: Path, dlrun_eval: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dlrun.charts.draw_confusion", full)
    code, out, err = dlrun_eval("checkpoint=run")
    assert code == 0
    assert "top-1" in out
    assert "the results cannot be written to run: No space left on device" in err


# What is refused


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "dlrun eval needs checkpoint=PATH"),
        (("checkpoint=absent.pt",), "checkpoint absent.pt: no such file"),
        (("checkpoint=empty",), "the folder holds no checkpoint yet"),
        (("checkpoint=[run,]",), "an empty entry in the list"),
        (("checkpoint=run", "split=tests"), "split=tests: unknown split; did you mean test?"),
        (("checkpoint=run", "model.hidden=[8]"), "the checkpoint was trained with it, so eval cannot change it"),
        (("checkpoint=run", "seed=1"), "seed: was 0, now 1"),
        (("checkpoint=run", "data.batchsize=1"), "did you mean"),
        (("checkpoint=run", "data.classes=5", "data.samples=100"), "was trained on 10 classes, but the data have 5"),
        (("checkpoint=run", "data.size=16"), "was trained on images of shape [3, 8, 8]"),
        (("checkpoint=run", "data.test_fraction=0"), "split=test: the data have no test split"),
        (("checkpoint=run", "device=cuda:77"), "device=cuda:77"),
    ],
)
def test_wrong_input(
    run: Path, dlrun_eval: Callable[..., tuple[int, str, str]], words: tuple[str, ...], message: str
) -> None:
    Path("empty").mkdir()
    code, _, err = dlrun_eval(*words)
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert "Traceback" not in err


def test_another_split_of_the_same_images_is_told(run: Path, dlrun_eval: Callable[..., tuple[int, str, str]]) -> None:
    for words, changed in (
        (("data.test_fraction=0.4",), "split=test is not what was held out at the training, as data.test_fraction was"),
        (("split=val", "data.val_fraction=0.5"), "split=val is not what was held out at the training"),
        (("data.val_fraction=0.5",), ""),
        (("split=val",), ""),
    ):
        code, _, err = dlrun_eval("checkpoint=run", *words)
        assert code == 0
        assert err.startswith(f"warning: {changed}") if changed else err == ""


def test_other_classes_of_the_same_number(
    run: Path, dlrun_eval: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = assembly.build_data

    def renamed(config: Config, data: ImageData | None) -> ImageData:
        data = real(config, data)
        return replace(data, classes=("zero", *data.classes[1:]))

    monkeypatch.setattr("dlrun.assembly.data.build_data", renamed)
    code, _, err = dlrun_eval("checkpoint=run")
    assert code == 2
    assert "the classes of the data are not those it was trained on (0: 'class 0' is now 'zero')" in err


def test_labels_are_smoothed_as_in_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fit = make_fit(tmp_path, *WORDS, "loss.label_smoothing=0.2")
    train(fit)
    assert main(["eval", f"checkpoint={fit.run.path}", "split=val"]) == 0
    from dlrun.checkpoint import load

    saved = load(fit.run.checkpoints / "best.pt")["state"]["metrics"]
    result = json.loads((fit.run.checkpoints / "eval_val_best.json").read_text())
    assert result["loss"] == pytest.approx(saved["val/loss"], rel=1e-5)
    assert config(*WORDS, "loss.label_smoothing=0.2").loss.params["label_smoothing"] == 0.2
