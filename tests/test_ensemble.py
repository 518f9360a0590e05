"""Ensembles and test-time augmentation: the mean of probabilities, of several nets or of several views."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.transforms.v2.functional as tv
from hypothesis import given
from hypothesis import strategies as st
from running import make_fit
from torch import Tensor, nn
from torch.nn import functional as F

from dlrun import assembly, checkpoint
from dlrun.cli import main
from dlrun.combine import LanguageEnsemble, Viewed, mean_probabilities
from dlrun.data.image_feed import PIXELS
from dlrun.data.statistics import Statistics
from dlrun.train.evaluate import evaluate
from dlrun.train.fit import Fit
from dlrun.train.loop import train
from dlrun.views import NAMES, Name, make_views
from dlrun.weights import load_weights

WORDS = ("data.noise=0.7", "data.samples=300", "trainer.epochs=2", "optimizer.lr=0.02", "callbacks.tensorboard=null")
MEMBERS = {
    "first": ("seed=1",),
    "second": ("seed=2", "model={name: linear}", "averaging=ema"),
    "third": ("seed=3", "data.normalize=none", "loss.label_smoothing=0.1"),
    "fourth": ("seed=4", "data.normalize=mean_image", "model={name: convnet, channels: [4], convs: 1, hidden: [8]}"),
}
"""Nets of several kinds, each with statistics of its own."""


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Fit]:
    fits = {}
    for name, words in MEMBERS.items():
        fits[name] = make_fit(tmp_path_factory.mktemp(name), *WORDS, *words, "callbacks.snapshots.count=2")
        train(fits[name])
    return fits


@pytest.fixture
def dlrun_eval(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["eval", *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def checkpoints(fits: dict[str, Fit]) -> str:
    return "checkpoint=[" + ",".join(str(fit.run.path) for fit in fits.values()) + "]"


def written(out: str) -> dict[str, Any]:
    (line,) = (line for line in out.splitlines() if line.startswith("written"))
    result: dict[str, Any] = json.loads(Path(line.split()[1].removesuffix(",")).read_text(), parse_constant=pytest.fail)
    return result


def pixels(fit: Fit) -> tuple[Tensor, Tensor]:
    """The test images (N, C, H, W) as float64 in 0..255 and their labels, without dlrun's evaluation."""
    source = assembly.build_data(fit.config).test
    return source.read(range(len(source))).double(), source.labels


def probabilities(fit: Fit, images: Tensor, which: str = "best") -> Tensor:
    """Of a member, without dlrun's evaluation: (N, K) float64."""
    payload = checkpoint.load(fit.run.checkpoints / f"{which}.pt")
    model = assembly.build_model(fit.config, fit.feed.arguments, torch.device("cpu"))
    model.load_state_dict(payload["averaged" if "averaged" in payload else "model"])
    state = payload["data"]["statistics"]
    inputs = (images / 255 - state["mean"].double()) / state["std"].double()
    with torch.inference_mode():
        return model.eval()(inputs.float()).double().softmax(1)


def nll(given: Tensor, labels: Tensor) -> float:
    return float(-given[range(len(labels)), labels].log().mean())


# The mean of probabilities


@given(st.integers(1, 5), st.integers(1, 4), st.integers(2, 6), st.integers(0, 10**6))
def test_it_is_the_mean_of_softmaxes(opinions: int, batch: int, classes: int, seed: int) -> None:
    torch.manual_seed(seed)
    scores = list(10 * torch.randn(opinions, batch, classes, dtype=torch.float64))
    weights = torch.rand(opinions, dtype=torch.float64).add(0.01)
    weights /= weights.sum()
    plain = torch.stack([one.softmax(-1) for one in scores])
    torch.testing.assert_close(mean_probabilities(scores).exp(), plain.mean(0))
    found = mean_probabilities(scores, weights.tolist())
    torch.testing.assert_close(found.exp(), (weights[:, None, None] * plain).sum(0))
    labels = torch.zeros(batch, dtype=torch.int64)
    torch.testing.assert_close(
        F.cross_entropy(found, labels), -(weights[:, None, None] * plain).sum(0)[:, 0].log().mean()
    )


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 6), st.integers(0, 10**6))
def test_of_several_labels_it_is_the_mean_of_sigmoids(opinions: int, batch: int, labels: int, seed: int) -> None:
    torch.manual_seed(seed)
    scores = list(10 * torch.randn(opinions, batch, labels, dtype=torch.float64))
    found = mean_probabilities(scores, kind="sigmoid")
    torch.testing.assert_close(found.sigmoid(), torch.stack(scores).sigmoid().mean(0))
    wanted = torch.rand(batch, labels, dtype=torch.float64)
    torch.testing.assert_close(
        F.binary_cross_entropy_with_logits(found, wanted),
        F.binary_cross_entropy(torch.stack(scores).sigmoid().mean(0), wanted),
    )


def test_sure_and_wrong_members_give_no_infinity() -> None:
    scores = [torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]])]
    torch.testing.assert_close(mean_probabilities(scores).exp(), torch.tensor([[0.5, 0.5]]))
    torch.testing.assert_close(
        mean_probabilities([torch.tensor([1e4]), torch.tensor([-1e4])], kind="sigmoid"), torch.tensor([0.0])
    )
    assert mean_probabilities([one.bfloat16() for one in scores]).dtype == torch.float32


# Ensembles


def test_an_ensemble_is_the_mean_of_its_members(
    members: dict[str, Fit], dlrun_eval: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = dlrun_eval(checkpoints(members), "ensemble=true")
    assert (code, err) == (0, "")
    images, labels = pixels(members["first"])
    alone = [probabilities(fit, images) for fit in members.values()]
    together = torch.stack(alone).mean(0)
    result = written(out)
    for row, one in zip(result["members"], alone, strict=True):
        assert row["accuracy"] == (one.argmax(1) == labels).double().mean()
        assert row["loss"] == pytest.approx(nll(one, labels), rel=1e-5)
    assert [row.get("weights") for row in result["members"]] == [None, "averaged", None, None]
    assert result["accuracy"] == (together.argmax(1) == labels).double().mean()
    assert result["loss"] == pytest.approx(nll(together, labels), rel=1e-5)
    top = together.topk(5).indices
    assert result["top5"] == (top == labels[:, None]).any(1).double().mean()
    assert result["gain"]["loss"] == pytest.approx(
        result["loss"] - sum(nll(one, labels) for one in alone) / 4, rel=1e-4
    )
    # By Jensen's inequality the mean of probabilities is never worse than the mean of the losses.
    assert result["gain"]["loss"] < 0
    assert torch.tensor(result["confusion"]).trace() == (together.argmax(1) == labels).sum()
    assert [row["support"] for row in result["per_class"]] == torch.bincount(labels, minlength=10).tolist()
    lines = [line.split() for line in out.splitlines()]
    assert ["ensemble", f"{result['loss']:.4f}", f"{result['accuracy']:.2%}", f"{result['top5']:.2%}"] in lines
    assert ["gain", f"{result['gain']['loss']:+.4f}"] in [line[:2] for line in lines]


def test_the_order_of_the_members_does_not_show_in_the_name(
    members: dict[str, Fit], dlrun_eval: Callable[..., tuple[int, str, str]]
) -> None:
    first = written(dlrun_eval(checkpoints(members), "ensemble=true")[1])
    backwards = dict(reversed(list(members.items())))
    code, out, _ = dlrun_eval(checkpoints(backwards), "ensemble=true")
    assert code == 0
    again = written(out)
    assert again["ensemble"] == list(reversed(first["ensemble"]))
    assert again["loss"] == pytest.approx(first["loss"], rel=1e-12)
    assert again["confusion"] == first["confusion"]


def test_the_snapshots_of_a_run(members: dict[str, Fit], dlrun_eval: Callable[..., tuple[int, str, str]]) -> None:
    fit = members["second"]
    code, out, _ = dlrun_eval(f"checkpoint={fit.run.path}", "ensemble=snapshots", "split=test")
    assert code == 0
    result = json.loads((fit.run.checkpoints / "ensemble_test_snapshots.json").read_text())
    assert (fit.run.checkpoints / "ensemble_test_snapshots.png").is_file()
    assert [Path(row["checkpoint"]).name for row in result["members"]] == ["snapshot_1.pt", "snapshot_2.pt"]
    assert [row["step"] for row in result["members"]] == [fit.total_steps // 2, fit.total_steps]
    images, labels = pixels(fit)
    together = sum(probabilities(fit, images, f"snapshot_{i}") for i in (1, 2)) / 2
    assert isinstance(together, Tensor)
    assert result["loss"] == pytest.approx(nll(together, labels), rel=1e-5)
    assert f"(step {fit.total_steps}, averaged)" in out


def test_members_of_different_sizes(
    members: dict[str, Fit], tmp_path: Path, dlrun_eval: Callable[..., tuple[int, str, str]]
) -> None:
    other = make_fit(tmp_path, *WORDS, "data.size=12")
    train(other)
    code, out, _ = dlrun_eval(f"checkpoint=[{members['first'].run.path},{other.run.path}]", "ensemble=true")
    assert code == 0
    assert len(written(out)["members"]) == 2


def test_snapshots_are_all_of_one_kind_of_weights(
    tmp_path: Path, dlrun_eval: Callable[..., tuple[int, str, str]]
) -> None:
    swa = "averaging={name: swa, start: 0.5, every: 1ep}"
    fit = make_fit(tmp_path, *WORDS, swa, "trainer.epochs=4", "callbacks.snapshots.count=4")
    train(fit)
    code, out, _ = dlrun_eval(f"checkpoint={fit.run.path}", "ensemble=snapshots")
    assert code == 0
    assert "weights     raw, since not all of the snapshots hold averaged ones" in out
    images, _ = pixels(fit)
    result = written(out)
    assert {row.get("weights", "raw") for row in result["members"]} == {"raw"}
    payload = checkpoint.load(fit.run.checkpoints / "snapshot_4.pt")
    fit.model.load_state_dict(payload["model"])
    with torch.inference_mode():
        alone = fit.model.eval()(fit.feed.statistics.normalize(images.float()))  # type: ignore[attr-defined]
    labels = assembly.build_data(fit.config).test.labels
    assert result["members"][-1]["loss"] == pytest.approx(nll(alone.double().softmax(1), labels), rel=1e-4)
    code, out, err = dlrun_eval(f"checkpoint={fit.run.path}", "ensemble=snapshots", "weights=averaged")
    assert code == 2
    assert "holds no averaged weights" in err


def test_several_labels_are_averaged_over_nets_and_views(
    tmp_path: Path, dlrun_eval: Callable[..., tuple[int, str, str]]
) -> None:
    several = ("data.several_labels=true", "task=multilabel_classification", "loss=binary_cross_entropy")
    fits = [make_fit(tmp_path, *WORDS, *several, f"seed={seed}") for seed in (1, 2)]
    for fit in fits:
        train(fit)
    loader = fits[0].feed.eval_loader("test")
    assert loader is not None
    together, sides, targets = [], [], []
    for fit in fits:
        load_weights(fit.model, checkpoint.load(fit.run.checkpoints / "best.pt")["model"])
    with torch.inference_mode():
        for inputs, labels in loader.epoch(0):
            together.append(torch.stack([fit.model.eval()(inputs).sigmoid() for fit in fits]).mean(0))
            sides.append((fits[0].model(inputs).sigmoid() + fits[0].model(inputs.flip(-1)).sigmoid()) / 2)
            targets.append(labels)
    wanted = torch.cat(targets).float()
    code, out, _ = dlrun_eval(f"checkpoint=[{fits[0].run.path},{fits[1].run.path}]", "ensemble=true")
    assert code == 0
    result = written(out)
    mean = torch.cat(together)
    assert result["loss"] == pytest.approx(float(F.binary_cross_entropy(mean, wanted)), rel=1e-4)
    assert result["accuracy"] == pytest.approx(float(((mean > 0.5) == (wanted > 0.5)).all(1).float().mean()))
    assert result["gain"].keys() == {"loss", "accuracy", "f1_micro", "f1_macro", "mean_average_precision"}
    assert result["gain"]["loss"] < 0
    code, out, _ = dlrun_eval(f"checkpoint={fits[0].run.path}", "tta=flip")
    assert code == 0
    result = written(out)
    assert result["loss"] == pytest.approx(float(F.binary_cross_entropy(torch.cat(sides), wanted)), rel=1e-4)
    assert result["plain"]["mean_average_precision"] > 0
    assert len(result["per_class"]) == wanted.shape[1]


def test_classifiers_of_sequences_are_averaged(tmp_path: Path, dlrun_eval: Callable[..., tuple[int, str, str]]) -> None:
    words = (
        *("task=sequence_classification", "data=long_memory", "data.samples=80", "data.length=4", "augment=none"),
        *("model={name: rnn, layers: 1, hidden_size: 8}", "callbacks.tensorboard=null", "data.batch_size=16"),
    )
    fits = [make_fit(tmp_path, *words, f"seed={seed}", "data.normalize=none") for seed in (1, 2)]
    for fit in fits:
        train(fit)
        load_weights(fit.model, checkpoint.load(fit.run.checkpoints / "best.pt")["model"])
    loader = fits[0].feed.eval_loader("test")
    assert loader is not None
    chances, targets = [], []
    with torch.inference_mode():
        for batch in loader.epoch(0):
            scores = [fit.model.eval()(batch.tokens, batch.lengths) for fit in fits]
            chances.append(torch.stack([one.double().softmax(1) for one in scores]).mean(0))
            targets.append(batch.targets)
    code, out, _ = dlrun_eval(f"checkpoint=[{fits[0].run.path},{fits[1].run.path}]", "ensemble=true")
    assert code == 0
    result = written(out)
    assert result["loss"] == pytest.approx(nll(torch.cat(chances), torch.cat(targets)), rel=1e-5)
    assert sum(row["support"] for row in result["per_class"]) == result["samples"]
    other = make_fit(tmp_path / "other", *words, "seed=1", "data.normalize=none", "data.split_seed=5")
    train(other)
    code, _, err = dlrun_eval(f"checkpoint=[{fits[0].run.path},{other.run.path}]", "ensemble=true")
    assert code == 2
    assert "is not that of" in err


# Language models


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory) -> list[Fit]:
    folder = tmp_path_factory.mktemp("text")
    book = folder / "book.txt"
    book.write_text("".join(f"{i} green bottles hanging on the wall, take {i % 3} down.\n" for i in range(60)))
    words = (
        f"data={{name: text, path: {book}, val_fraction: 0.1, sequence_length: 16, batch_size: 8}}",
        *("task=language_modeling", "trainer.epochs=1", "callbacks.tensorboard=null"),
        *("callbacks.checkpoint={monitor: val/loss, mode: min}", "optimizer=adam", "optimizer.lr=0.01"),
    )
    fits = []
    for cell, layers in (("lstm", 2), ("gru", 1)):
        fits.append(make_fit(folder, *words, f"model={{name: rnn, cell: {cell}, layers: {layers}, hidden_size: 8}}"))
        train(fits[-1])
    return fits


def test_language_models_average_their_next_token_probabilities(
    writers: list[Fit], dlrun_eval: Callable[..., tuple[int, str, str]]
) -> None:
    fit = writers[0]
    code, out, _ = dlrun_eval(f"checkpoint=[{writers[0].run.path},{writers[1].run.path}]", "ensemble=true", "split=val")
    assert code == 0
    result = written(out)
    loader = fit.feed.eval_loader("val")
    assert loader is not None
    carried: list[Any] = [None, None]
    total, hits, count = 0.0, 0, 0
    with torch.inference_mode():
        for batch in loader.epoch(0):
            parts = []
            for i, writer in enumerate(writers):
                logits, carried[i] = writer.model.eval()(batch.inputs, carried[i])
                parts.append(logits.double().softmax(-1))
            mean, known = sum(parts) / 2, batch.targets >= 0
            assert isinstance(mean, Tensor)
            total -= float(mean[known].gather(1, batch.targets[known][:, None]).log().sum())
            hits += int((mean.argmax(-1) == batch.targets)[known].sum())
            count += int(known.sum())
    assert result["tokens"] == count
    assert result["loss"] == pytest.approx(total / count, rel=1e-5)
    assert result["accuracy"] == pytest.approx(hits / count)
    assert result["bpc"] == pytest.approx(result["loss"] / 0.6931471805599453)
    for row, writer in zip(result["members"], writers, strict=True):
        alone = evaluate(writer.model, loader, writer.task, "fp32", writer.device)
        assert alone is not None
        assert row["loss"] == pytest.approx(alone["loss"])


def test_models_that_carry_nothing_stand_beside_those_that_do() -> None:
    class Carrying(nn.Module):
        def forward(self, tokens: Tensor, carried: Any) -> Any:
            seen = tokens.sum(1) if carried is None else carried[0] + tokens.sum(1)
            return F.one_hot(seen % 3, 3).float()[:, None].expand(-1, tokens.shape[1], -1), (seen,)

    class Simple(nn.Module):
        def forward(self, tokens: Tensor, carried: Any) -> Any:
            assert carried is None
            return F.one_hot(tokens % 3, 3).float()

    ensemble, tokens = LanguageEnsemble([Simple(), Carrying()]), torch.tensor([[1, 2], [4, 4]])
    first, carried = ensemble(tokens, None)
    second, carried = ensemble(tokens, carried)
    assert carried[0].tolist() == [6, 16]
    one = F.one_hot(tokens % 3, 3).float().softmax(-1)
    for found, sums in ((first, [3, 8]), (second, [6, 16])):
        other = F.one_hot(torch.tensor(sums) % 3, 3).float().softmax(-1)[:, None]
        torch.testing.assert_close(found.exp(), (one + other) / 2)


# Views


def test_ten_crops_are_those_of_torchvision() -> None:
    images = 255 * torch.rand(2, 3, 9, 9)
    views = [view for _, view in make_views("ten_crop", (9, 9), crop=6)(images)]
    expected = [F.interpolate(crop, size=(9, 9), mode="bilinear") for crop in tv.ten_crop(images, [6])]
    assert len(views) == 10
    for view, crop in zip(views, expected, strict=True):
        assert torch.equal(view, crop)
    five = [view for _, view in make_views("five_crop", (9, 9), crop=6)(images)]
    for view, crop in zip(five, tv.five_crop(images, [6]), strict=True):
        assert torch.equal(view, F.interpolate(crop, size=(9, 9), mode="bilinear"))


def test_default_sizes() -> None:
    assert make_views("ten_crop", (224, 224)).note == "196 of 224 pixels"
    assert make_views("ten_crop", (32, 32)).note == "28 of 32 pixels"
    large, small = (make_views("multi_scale_ten_crop", (side, side)) for side in (224, 32))
    assert (large.note, len(large)) == ("at 224, 256, 384, 480, 640 pixels", 42)
    assert (small.note, len(small)) == ("at 32, 36, 40, 44, 48 pixels", 42)


def test_translate_is_that_of_airbench() -> None:
    """``infer_mirror_translate`` of airbench94.py, for a net whose scores are linear in the image."""
    images = torch.rand(2, 3, 8, 8)

    def mirror(x: Tensor) -> Tensor:
        return 0.5 * x + 0.5 * x.flip(-1)

    padded = F.pad(images, (1,) * 4, "reflect")
    translated = torch.stack([mirror(padded[:, :, 0:8, 0:8]), mirror(padded[:, :, 2:10, 2:10])]).mean(0)
    expected = 0.5 * mirror(images) + 0.5 * translated
    found = torch.stack([weight * view for weight, view in make_views("translate", (8, 8))(images)]).sum(0)
    torch.testing.assert_close(found, expected)


@given(st.sampled_from(NAMES), st.integers(4, 12), st.integers(4, 12), st.sampled_from([1, 3]), st.booleans())
def test_views_keep_the_form_and_their_weights_add_up(
    name: Name, height: int, width: int, channels: int, last: bool
) -> None:
    images = 255 * torch.rand(2, channels, height, width)
    if last:
        images = images.contiguous(memory_format=torch.channels_last)
    before = images.clone()
    total = 0.0
    for weight, view in make_views(name, (height, width))(images):
        assert view.shape == images.shape
        assert view.min() >= images.min() - 1e-3
        assert view.max() <= images.max() + 1e-3
        total += weight
    assert total == pytest.approx(1)
    assert torch.equal(images, before)
    # A picture without any structure looks the same from everywhere.
    flat = torch.full((1, channels, height, width), 7.0)
    for _, view in make_views(name, (height, width))(flat):
        torch.testing.assert_close(view, flat)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"name": "ten_crop", "crop": 9}, "crop=9: must be in 1 to 8, the side of the images"),
        ({"name": "translate", "shift": 8}, "shift=8: must be in 1 to 7, less than the image"),
        ({"name": "multi_scale_ten_crop", "scales": [8, 7]}, "must be different sizes from 8 pixels on"),
        ({"name": "multi_scale_ten_crop", "scales": [9, 9]}, "must be different sizes from 8 pixels on"),
    ],
)
def test_views_that_cannot_be(words: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_views(size=(8, 10), **words)


def test_pixels_are_left_as_they_are() -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(PIXELS.normalize(images), images.float())


def test_a_view_is_normalised_after_it_was_made() -> None:
    """With a mean image it makes a difference."""
    mean = torch.rand(3, 4, 4)
    statistics = Statistics("mean_image", mean, torch.ones(3, 1, 1))
    images = torch.randint(256, (2, 3, 4, 4)).float()
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    found = Viewed(net, statistics, make_views("flip", (4, 4)))(images)
    expected = [net(one / 255 - mean).softmax(1) for one in (images, images.flip(-1))]
    torch.testing.assert_close(found.exp(), (expected[0] + expected[1]) / 2, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", list(MEMBERS))
def test_flipped_images_beside_the_plain_ones(
    members: dict[str, Fit], dlrun_eval: Callable[..., tuple[int, str, str]], name: str
) -> None:
    fit = members[name]
    code, out, _ = dlrun_eval(f"checkpoint={fit.run.path}", "tta=flip", "data.eval_batch_size=7")
    assert code == 0
    images, labels = pixels(fit)
    plain, flipped = probabilities(fit, images), probabilities(fit, images.flip(-1))
    result = json.loads((fit.run.checkpoints / "eval_test_best_flip.json").read_text())
    assert result["tta"] == {"name": "flip", "views": 2, "note": ""}
    assert result["loss"] == pytest.approx(nll((plain + flipped) / 2, labels), rel=1e-5)
    assert result["plain"]["loss"] == pytest.approx(nll(plain, labels), rel=1e-5)
    assert result["accuracy"] == ((plain + flipped).argmax(1) == labels).double().mean()
    assert result["plain"]["accuracy"] == (plain.argmax(1) == labels).double().mean()
    assert [line.split()[0] for line in out.splitlines() if "%" in line][:3] == ["plain", "flip", "gain"]


def test_an_ensemble_that_looks_twice(members: dict[str, Fit], dlrun_eval: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = dlrun_eval(checkpoints(members), "ensemble=true", "tta=ten_crop", "crop=6")
    assert code == 0
    images, labels = pixels(members["first"])
    crops = [view.double() for _, view in make_views("ten_crop", (8, 8), crop=6)(images)]
    every = [probabilities(fit, crop) for fit in members.values() for crop in crops]
    result = written(out)
    assert result["tta"]["views"] == 10
    assert result["loss"] == pytest.approx(nll(torch.stack(every).mean(0), labels), rel=1e-4)
    plain = torch.stack([probabilities(fit, images) for fit in members.values()]).mean(0)
    assert result["plain"]["loss"] == pytest.approx(nll(plain, labels), rel=1e-5)
    assert "ensemble, plain images" in out


def test_several_checkpoints_with_views_in_a_table(
    members: dict[str, Fit], dlrun_eval: Callable[..., tuple[int, str, str]]
) -> None:
    plain = dlrun_eval(f"checkpoint={members['first'].run.path}", "tta=translate")[1]
    code, out, _ = dlrun_eval(checkpoints(members), "tta=translate", "shift=2")
    # The options are part of the name: no result takes the place of another.
    assert "best_translate.json" in plain
    assert "best_translate_shift2.json" in out
    assert code == 0
    rows = [line.split()[1] for line in out.splitlines() if "best.pt, " in line and "%" in line]
    assert rows == ["plain", "translate"] * len(members)


# What is refused

PAIRS = (
    *("data={name: pairs, kind: reverse, samples: 60, batch_size: 16}", "model={name: seq2seq, hidden_size: 8}"),
    *("task=seq2seq", "trainer.limit_batches=2", "callbacks.checkpoint.monitor=val/accuracy"),
)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("ensemble=true", "checkpoint={first}"), "an ensemble needs at least two checkpoints"),
        (("ensemble=true", "checkpoint=[{first},{first}]"), "is given twice, which would count double"),
        (("ensemble=yes", "checkpoint={first}"), "ensemble=yes: must be true, false or snapshots"),
        (("ensemble=snapshots", "checkpoint=[{first},{second}]"), "is about the snapshots of one run"),
        (("ensemble=snapshots", "checkpoint={few}"), "there are no snapshots"),
        (("ensemble=true", "checkpoint=[{first},{few}]"), "the classes differ"),
        (("ensemble=true", "checkpoint=[{first},{writer}]"), "only checkpoints with one task can be averaged"),
        (("ensemble=true", "checkpoint=[{first},{other}]"), "is not that of"),
        (("ensemble=true", "checkpoint=[{first},{second}]", "weights=averaged"), "holds no averaged weights"),
        (("checkpoint={first}", "weights=averaged"), "was trained without averaging (averaging=ema"),
        (("checkpoint={first}", "tta=flop"), "tta=flop: unknown; did you mean flip?"),
        (("checkpoint={first}", "tta=flip", "crop=4"), "crop=4: is an option of tta=five_crop and tta=ten_crop"),
        (("checkpoint={first}", "shift=4"), "shift=4: is an option of tta=translate"),
        (("checkpoint={first}", "tta=ten_crop", "crop=9"), "tta=ten_crop: crop=9: must be in 1 to 8"),
        (("checkpoint={first}", "tta=multi_scale_ten_crop", "scales=[8,x]"), "must be whole numbers of pixels"),
        (("checkpoint={writer}", "tta=flip", "split=val"), "tta= is for classifiers of images"),
        (("checkpoint=[{pairs},{first}]", "ensemble=true"), "has no probabilities of whole sequences to average"),
    ],
)
def test_wrong_input(
    members: dict[str, Fit],
    writers: list[Fit],
    tmp_path: Path,
    dlrun_eval: Callable[..., tuple[int, str, str]],
    words: tuple[str, ...],
    message: str,
) -> None:
    places = {name: fit.run.path for name, fit in members.items()} | {"writer": writers[0].run.path}
    made = {"few": (*WORDS, "data.classes=3"), "other": (*WORDS, "data.split_seed=7"), "pairs": PAIRS}
    for name, extra in made.items():
        if any(f"{{{name}}}" in word for word in words):
            fit = make_fit(tmp_path / name, *extra, "trainer.epochs=1", "callbacks.tensorboard=null")
            train(fit)
            places[name] = fit.run.path
    code, _, err = dlrun_eval(*(word.format(**places) for word in words))
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
