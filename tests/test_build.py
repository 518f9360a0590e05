"""Turning a configuration into objects: what is refused before a run folder exists, and what a run is built from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from running import config, make_fit
from torch import nn

from dlrun import assembly
from dlrun.cli import main
from dlrun.commands.explaining import explaining
from dlrun.data.image_feed import ImageFeed
from dlrun.data.source import ArraySource, ImageData
from dlrun.errors import UserError
from dlrun.train.loop import train


def test_data_dependent_initialisation_sees_all_classes() -> None:
    """A folder lists its images class by class."""
    labels = torch.arange(10).repeat_interleave(1000)
    images = labels.to(torch.uint8).mul(20).reshape(-1, 1, 1, 1).repeat(1, 1, 2, 2)
    source = ArraySource(images, labels)
    data = ImageData(source, None, None, tuple("0123456789"))
    feed = ImageFeed(data, config("data.normalize=none"), [], torch.device("cpu"))
    seen: list[torch.Tensor] = []

    class Net(nn.Module):
        def init_from_data(self, images: torch.Tensor) -> None:
            seen.append(images)

    assembly.init_from_data(Net(), feed)
    assert len(seen[0]) == assembly.DATA_INIT_SAMPLES
    assert len(seen[0][:, 0, 0, 0].unique()) == 10


def test_limit_batches_limits_every_split() -> None:
    chosen = config("data.samples=600", "data.eval_batch_size=8", "trainer.limit_batches=2")
    data = assembly.build_data(chosen)
    assert (len(data.train), len(data.val or ()), len(data.test or ())) == (32, 16, 16)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("callbacks.checkpoint={monitor: val/acuracy, mode: max}",), "did you mean val/accuracy"),
        (("data.val_fraction=0",), "there is no validation split"),
        (("schedule.warmup=9ep",), "shorten the warmup"),
    ],
)
def test_an_experiment_that_cannot_start_leaves_no_folder(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_fit(tmp_path, *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "word",
    ["trainer.eval_every=0ep", "callbacks.checkpoint.every=0st", "callbacks.max_time.limit=0s"],
)
def test_a_duration_of_zero_is_refused(word: str) -> None:
    with pytest.raises(UserError, match=r"must be a duration.* > 0, got"):
        config(word)


def test_a_last_batch_of_one_sample_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["model=mlp", "model.norm=batch", "data=synthetic", "data.samples=60", "data.classes=3"]
    words += ["data.batch_size=14", "augment=[]", "device=cpu", "trainer.threads=1"]
    assert main(["train", *words]) == 2
    assert "data.drop_last=true" in capsys.readouterr().err


def test_accuracy_is_the_trace_of_the_confusion_matrix_at_ties() -> None:
    task = assembly.build_task(config(), {"num_classes": 10})
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randint(0, 3, (2000, 10), generator=generator).float()
    targets = torch.randint(0, 10, (2000,), generator=generator)
    assert int(task.score(outputs, targets)["accuracy"]) == int((outputs.argmax(1) == targets).sum())


def test_a_report_that_cannot_be_drawn_does_not_end_a_finished_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def broken(*_: object) -> None:
        raise RuntimeError("no font")

    monkeypatch.setattr("dlrun.report.write_report", broken)
    words = ["model=mlp", "data=synthetic", "augment=[]", "device=cpu", "trainer.threads=1", "trainer.epochs=1"]
    assert main(["train", *words]) == 0
    said = capsys.readouterr()
    assert "report.html cannot be written: no font" in said.err
    assert "dlrun eval checkpoint=" in said.out
    (results,) = tmp_path.glob("runs/*/results.json")
    assert json.loads(results.read_text())["status"] == "done"


def test_more_patience_lets_a_stopped_run_go_on(tmp_path: Path) -> None:
    words = (
        "callbacks.early_stopping={monitor: val/loss, mode: min, patience: 1}",
        "optimizer.lr=1e-9",
        "trainer.epochs=4",
    )
    fit = make_fit(tmp_path, *words)
    train(fit)
    assert fit.state.stop is not None
    payload = fit.payload()
    same = make_fit(tmp_path, *words)
    same.resume(payload)
    assert same.state.stop is not None
    more = make_fit(tmp_path, words[0].replace("patience: 1", "patience: 9"), *words[1:])
    more.resume(payload)
    assert more.state.stop is None
    train(more)
    assert more.state.epoch == 4


def test_other_data_are_refused_at_a_resume(tmp_path: Path) -> None:
    fit = make_fit(tmp_path)
    payload = fit.payload()
    other = make_fit(tmp_path, "data.noise=0.9")
    with pytest.raises(UserError, match="the data are not those"):
        other.resume(payload)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), r"raise trainer\.accumulate \(now 1\)"),
        (MemoryError(), "out of memory: lower data.batch_size"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), "data.resident=false"),
        (
            RuntimeError("pool2d does not have a deterministic implementation, but you set x"),
            "trainer.deterministic=true",
        ),
        (RuntimeError("No working C++ compiler found in cpp.cxx: (None, 'g++')"), r"install one \(g\+\+\)"),
    ],
)
def test_errors_of_torch_that_a_setting_mends(error: Exception, message: str) -> None:
    with pytest.raises(UserError, match=message), explaining(config()):
        raise error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "the last batch of an epoch with one sample, and batch norm needs two: set data.drop_last=true"),
        (
            ("trainer.accumulate=16",),
            "trainer.accumulate=16 leaves a part of a batch with one sample.*: lower trainer.acc",
        ),
    ],
)
def test_one_sample_is_no_batch(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message), explaining(config(*words)):
        torch.nn.BatchNorm1d(3)(torch.zeros(1, 3))


@pytest.mark.parametrize(
    "augment", ["{name: gaussian_blur, kernel_size: 23}", "{name: random_crop, padding: 8, mode: reflect}"]
)
def test_what_is_too_large_for_the_images_is_refused_before_the_run_folder(tmp_path: Path, augment: str) -> None:
    with pytest.raises(UserError, match=r"(kernel_size=23|padding=8) .* images of 8x8: use"):
        make_fit(tmp_path / "runs", f"augment=[{augment}]")
    assert not (tmp_path / "runs").exists()


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), explaining(config()):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
