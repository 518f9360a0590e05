"""Whitening and contrast: against numpy and scikit-learn, and through training, resume, eval and export."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Dlrun
from hypothesis import given
from hypothesis import strategies as st
from running import SMALL, equal, make_fit, run_folder
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from dlrun import assembly, checkpoint
from dlrun.data.loaders import make_loader
from dlrun.data.source import ArraySource, SubsetSource
from dlrun.data.statistics import Kind, Statistics, fit
from dlrun.data.whitening import Contrast, check_whitenable, whitening_matrix
from dlrun.errors import UserError
from dlrun.train.loop import train

DIGITS = (
    "device=cpu",
    "trainer.threads=1",
    "data=digits",
    "data.batch_size=64",
    "model=lenet5",
    "augment=none",
    "schedule=constant",
    "schedule.warmup=0ep",
    "callbacks.tensorboard=null",
)
WHITENED: list[Kind] = ["pca", "zca"]


def source(n: int = 400, channels: int = 3, size: int = 4) -> ArraySource:
    """Images whose neighbouring pixels are alike, as those of photographs are."""
    random = torch.Generator().manual_seed(0)
    noise = torch.rand(n, channels, size, size, generator=random)
    smooth = (noise + noise.roll(1, 2) + noise.roll(1, 3) + noise.mean((1, 2, 3), keepdim=True)) / 4
    return ArraySource((smooth * 255).to(torch.uint8), torch.zeros(n, dtype=torch.int64))


def rows(images: torch.Tensor) -> np.ndarray:
    return images.flatten(1).double().numpy()


@pytest.mark.parametrize("kind", WHITENED)
@pytest.mark.parametrize("contrast", [None, Contrast(1.0, 10.0)])
def test_without_an_epsilon_the_covariance_of_the_training_images_is_the_identity(
    kind: Kind, contrast: Contrast | None
) -> None:
    # Contrast normalisation takes the mean out of each image: one direction is lost, and needs a small epsilon.
    epsilon = 0.0 if contrast is None else 1e-5
    found = fit(source(), kind, contrast=contrast, epsilon=epsilon)
    result = rows(found.normalize(source().images))
    np.testing.assert_allclose(result.mean(axis=0), 0, atol=1e-4)
    covariance = np.cov(result, rowvar=False, bias=True)
    values = np.linalg.eigvalsh(covariance)
    lost = 0 if contrast is None else 1
    np.testing.assert_allclose(values[lost:], 1, atol=1e-3)
    if contrast is None:
        np.testing.assert_allclose(covariance, np.eye(48), atol=1e-3)


def test_pca_is_that_of_scikit_learn() -> None:
    images = source().images
    found = fit(source(), "pca", epsilon=0.0).normalize(images).flatten(1).numpy()
    model = PCA(whiten=True, svd_solver="full").fit(images.flatten(1).double().numpy() / 255)
    expected = model.transform(images.flatten(1).double().numpy() / 255)
    # scikit-learn divides by N - 1, and settles the signs by another rule in some versions.
    expected *= np.sqrt(len(images) / (len(images) - 1))
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found, expected * signs, atol=2e-3)
    matrix = fit(source(), "pca", epsilon=0.0).matrix
    assert matrix is not None
    assert (matrix.gather(1, matrix.abs().argmax(1, keepdim=True)) > 0).all()


def test_zca_is_symmetric_and_nearest_to_the_image() -> None:
    images = source()
    zca, pca = (fit(images, kind, epsilon=0.0) for kind in WHITENED[::-1])
    assert zca.matrix is not None
    assert zca.matrix.equal(zca.matrix.T)
    plain = rows(fit(images, "mean_image").normalize(images.images))
    distance = {s.kind: np.square(rows(s.normalize(images.images)) - plain).mean() for s in (zca, pca)}
    # Of all whitenings ZCA changes the images least (Kessy, Lewin and Strimmer 2018).
    assert distance["zca"] < 0.5 * distance["pca"]
    both = [np.corrcoef(a, b)[0, 1] for a, b in zip(rows(zca.normalize(images.images)).T, plain.T, strict=True)]
    assert min(both) > 0.4


@pytest.mark.parametrize("kind", WHITENED)
def test_whitening_is_the_formula(kind: Kind) -> None:
    images = rows(source().images) / 255
    centred = images - images.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(images))
    rotated = centred @ vectors / np.sqrt(values + 0.1 * values.mean())
    found = rows(fit(source(), kind, epsilon=0.1).normalize(source().images))
    if kind == "zca":
        np.testing.assert_allclose(found, rotated @ vectors.T, atol=1e-4)
    else:
        np.testing.assert_allclose(np.abs(found), np.abs(rotated[:, ::-1]), atol=1e-4)


def test_golden_whitening_of_two_numbers() -> None:
    # Covariance [[2, 1], [1, 2]]: eigenvalues 3 and 1 along (1, 1) and (1, -1); without epsilon
    # zca = ((1/sqrt 3 + 1) / 2, (1/sqrt 3 - 1) / 2), symmetric.
    covariance = np.array([[2.0, 1.0], [1.0, 2.0]])
    zca = whitening_matrix(covariance, "zca", 0.0)
    torch.testing.assert_close(zca, torch.tensor([[0.788675, -0.211325], [-0.211325, 0.788675]]), atol=1e-6, rtol=0)
    pca = whitening_matrix(covariance, "pca", 0.5)
    # 3 and 1 become 4 and 2 with half of the mean variance added.
    assert pca.abs().flatten().tolist() == pytest.approx([0.353553, 0.353553, 0.5, 0.5], abs=1e-6)


@given(n=st.integers(1, 40), channels=st.sampled_from([1, 3]), size=st.integers(1, 5), kind=st.sampled_from(WHITENED))
def test_any_set_is_whitened_without_overflow(n: int, channels: int, size: int, kind: Kind) -> None:
    # Also sets with fewer images than numbers in an image.
    random = torch.Generator().manual_seed(n)
    images = torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, generator=random)
    if n == 1:
        with pytest.raises(ValueError, match="do not vary"):
            fit(ArraySource(images, torch.zeros(n)), kind)
        return
    found = fit(ArraySource(images, torch.zeros(n)), kind)
    result = found.normalize(images)
    assert result.shape == images.shape
    assert (
        np.linalg.eigvalsh(np.cov(rows(result), rowvar=False, bias=True).reshape((images[0].numel(),) * 2))[-1] <= 1.001
    )


@given(
    n=st.integers(1, 6), channels=st.sampled_from([1, 3]), size=st.integers(1, 6), scale=st.sampled_from([1.0, 55.0]),
    bias=st.sampled_from([0.0, 10.0]), innermost=st.booleans(),
)  # fmt: skip
def test_contrast_is_the_formula(n: int, channels: int, size: int, scale: float, bias: float, innermost: bool) -> None:
    random = torch.Generator().manual_seed(size)
    images = torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, generator=random)
    images[0] = 7
    layout = torch.channels_last if innermost else torch.contiguous_format
    found = Statistics("none", torch.zeros(channels, 1, 1), torch.ones(channels, 1, 1), Contrast(scale, bias))
    result = found.normalize(images.contiguous(memory_format=layout))
    x = rows(images)
    centred = x - x.mean(axis=1, keepdims=True)
    expected = scale * centred / np.maximum(1e-8, np.sqrt(bias + np.square(centred).mean(axis=1, keepdims=True)))
    np.testing.assert_allclose(rows(result), expected, rtol=1e-5, atol=1e-4)
    assert result.is_contiguous(memory_format=layout)
    assert result[0].abs().max() < 1e-4
    torch.testing.assert_close(Contrast(scale, bias).apply(images.float()), result, rtol=1e-4, atol=1e-3)


def test_contrast_forgets_light_and_contrast_of_an_image() -> None:
    contrast = Contrast(1.0, 0.0)
    image = torch.randint(0, 100, (1, 3, 5, 5)).float()
    torch.testing.assert_close(contrast.apply(image), contrast.apply(2 * image + 30), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["channel", "mean_image"])
def test_statistics_are_of_what_contrast_left(kind: Kind) -> None:
    contrast = Contrast(1.0, 10.0)
    result = fit(source(), kind, contrast=contrast).normalize(source().images)
    torch.testing.assert_close(result.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(result.square().mean((0, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["channel", "mean_image", "none", "pca", "zca"])
def test_state_survives_a_checkpoint(kind: Kind) -> None:
    found, file = fit(source(), kind, contrast=Contrast(2.0, 1.0)), io.BytesIO()
    torch.save(found.state_dict(), file)
    file.seek(0)
    again = Statistics.from_state(torch.load(file, weights_only=True))
    assert again.agrees(found)
    assert again.normalize(source().images).equal(found.normalize(source().images))
    assert not again.agrees(fit(source(), kind))
    with pytest.raises(ValueError, match="not the state"):
        Statistics.from_state({"kind": "zca", "mean": found.mean, "std": found.std})


def test_only_the_training_images_count_and_bits_do_not_depend_on_order_or_threads() -> None:
    whole = source()
    part = SubsetSource(whole, torch.arange(100, 300))
    alone = ArraySource(whole.images[100:300].flip(0).clone(), whole.labels[100:300])
    assert fit(part, "zca").agrees(fit(alone, "zca"))
    assert not fit(part, "zca").agrees(fit(whole, "zca"))


def test_what_cannot_be_whitened_is_refused() -> None:
    with pytest.raises(ValueError, match=r"3x224x224 hold 150,528 numbers.*data.normalize=channel or mean_image"):
        check_whitenable("zca", (3, 224, 224))
    check_whitenable("zca", (3, 32, 32))
    flat = ArraySource(torch.full((9, 1, 3, 3), 7, dtype=torch.uint8), torch.zeros(9))
    with pytest.raises(ValueError, match="do not vary in some direction"):
        fit(flat, "zca", epsilon=0.1)


@pytest.mark.parametrize("kind", WHITENED)
@pytest.mark.parametrize("channels_last", [False, True])
def test_resident_and_streamed_batches_are_the_same_from_any_position(kind: Kind, channels_last: bool) -> None:
    statistics = fit(source(), kind)
    made = [
        make_loader(
            source(),
            batch_size=7,
            seed=3,
            shuffle=True,
            statistics=statistics,
            device=torch.device("cpu"),
            resident=resident,
            channels_last=channels_last,
        )
        for resident in (True, False)
    ]
    resident, streamed = ([batch.clone() for batch, _ in loader.epoch(1)] for loader in made)
    assert equal(resident, streamed)
    assert equal(resident[20:], [batch.clone() for batch, _ in made[0].epoch(1, 20)])
    if channels_last:
        assert resident[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "words", [("data.normalize=zca",), ("data.normalize=pca", "data.contrast_normalize=true")], ids=["zca", "pca"]
)
def test_a_resumed_run_continues_exactly_with_the_stored_matrix(tmp_path: Path, words: tuple[str, ...]) -> None:
    straight = make_fit(tmp_path / "a", *words, "trainer.epochs=3")
    train(straight)
    first = make_fit(tmp_path / "b", *words, "trainer.epochs=2")
    train(first)
    saved = checkpoint.load(first.run.checkpoints / "last.pt")
    config = straight.config
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dlrun.data.statistics.whitening_matrix", None)
        prepared = assembly.prepare(config, saved)
        again = assembly.build_fit(config, prepared, lambda: first.run)
        again.resume(saved)
    train(again)
    assert equal(straight.model.state_dict(), again.model.state_dict())


def test_other_images_are_noticed_at_a_resume(tmp_path: Path) -> None:
    fit = make_fit(tmp_path, "data.normalize=zca", "trainer.epochs=1")
    train(fit)
    saved = checkpoint.load(fit.run.checkpoints / "last.pt")
    feed = fit.feed
    feed.check_unchanged(saved["data"])
    feed.data.train.source.images += 1  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="not those that the checkpoint was trained on"):
        feed.check_unchanged(saved["data"])


@pytest.mark.slow
def test_train_eval_transfer_and_export_of_whitened_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    dlrun = Dlrun(capsys)
    words = [*DIGITS, "run.root=runs"]
    whitened = ("data.normalize=zca", "data.contrast_normalize=true", "trainer.channels_last=true")
    done = dlrun("train", *words, *whitened, "trainer.epochs=1", "optimizer.lr=0.02")
    assert done.code == 0, done.text
    run = str(run_folder(tmp_path))
    assert dlrun("eval", f"checkpoint={run}").code == 0
    exported = dlrun("export", f"checkpoint={run}", "format=[onnx,torch_export]")
    assert exported.code == 0, exported.text
    done = dlrun(
        "train", *words, "data.normalize=weights", f"model.weights={run}", "trainer.epochs=1", "run.name=transfer"
    )
    assert done.code == 0, done.text
    (second,) = (tmp_path / "runs").glob("*_transfer_*")
    stored = checkpoint.load(second / "checkpoints/last.pt")["data"]["statistics"]
    assert equal(stored, checkpoint.load(Path(run) / "checkpoints/last.pt")["data"]["statistics"])


def test_wrong_choices_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dlrun = Dlrun(capsys)
    words = ("train", *SMALL, f"run.root={tmp_path}")
    done = dlrun("train", *DIGITS, f"run.root={tmp_path}", "data.normalize=pca")
    assert done.code == 2
    assert "data.normalize=pca: the numbers are no longer pixels with neighbours, but the layer" in done.err
    assert "data.normalize=zca" in done.err
    done = dlrun(*words, "data.size=128", "data.normalize=zca")
    assert done.code == 2
    assert "at most 4,096 numbers are whitened" in done.err
    done = dlrun("train", *DIGITS, f"run.root={tmp_path}", "data.normalize=zca", "data.whitening_epsilon=0")
    assert done.code == 2
    assert "do not vary in some direction" in done.err
    done = dlrun(*words, "data.normalize=weights", "data.contrast_normalize=true")
    assert done.code == 2
    assert "data.contrast_normalize=true has no effect" in done.err
    assert list(tmp_path.iterdir()) == []


def test_whitened_digits_are_learned_by_a_linear_model() -> None:
    """A check of sense: what scikit-learn's digits are, whitened on the training half, still tells the classes."""
    images, labels = load_digits(return_X_y=True)
    array = ArraySource(torch.from_numpy(images * 15).to(torch.uint8).view(-1, 1, 8, 8), torch.from_numpy(labels))
    half = len(array) // 2
    statistics = fit(SubsetSource(array, torch.arange(half)), "zca", epsilon=0.1)
    whitened = statistics.normalize(array.images).flatten(1)
    design = torch.cat([whitened, torch.ones(len(whitened), 1)], 1)
    targets = torch.nn.functional.one_hot(array.labels, 10).float()
    weights = torch.linalg.lstsq(design[:half], targets[:half]).solution
    accuracy = (design[half:] @ weights).argmax(1).eq(array.labels[half:]).float().mean()
    assert accuracy > 0.88
