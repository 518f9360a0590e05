"""Statistics: exact, from what they are given, and kept through a checkpoint."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch

from dlrun.data.source import ArraySource, SubsetSource
from dlrun.data.statistics import Kind, Statistics, fit


def source(n: int = 50, channels: int = 3, size: int = 6) -> ArraySource:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, generator=random)
    return ArraySource(images, torch.zeros(n, dtype=torch.int64))


def test_channel_statistics_are_those_of_the_formula() -> None:
    images = source().images.double() / 255
    found = fit(source(), "channel")
    torch.testing.assert_close(found.mean.double().flatten(), images.mean((0, 2, 3)), rtol=1e-6, atol=0)
    torch.testing.assert_close(found.std.double().flatten(), images.std((0, 2, 3), correction=0), rtol=1e-6, atol=0)


def test_mean_image_statistics_are_those_of_the_formula() -> None:
    images = source().images.double() / 255
    found = fit(source(), "mean_image")
    torch.testing.assert_close(found.mean.double(), images.mean(0), rtol=1e-6, atol=0)
    expected = (images - images.mean(0)).square().mean((0, 2, 3)).sqrt()
    torch.testing.assert_close(found.std.double().flatten(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", ["channel", "mean_image", "none"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_normalize_is_the_formula(kind: str, channels_last: bool) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images = source().images.contiguous(memory_format=layout)
    before = images.clone()
    found = fit(source(), kind)  # type: ignore[arg-type]
    result = found.normalize(images)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=layout)
    torch.testing.assert_close(result, (images / 255 - found.mean) / found.std, rtol=1e-5, atol=1e-5)
    assert result.equal(found.normalize(images.float()))
    assert images.equal(before)


def test_normalised_training_images_have_mean_0_and_std_1() -> None:
    result = fit(source(), "channel").normalize(source().images)
    torch.testing.assert_close(result.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(result.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)


def test_only_the_given_images_count() -> None:
    whole = source()
    part = SubsetSource(whole, torch.arange(10, 30))
    expected = fit(ArraySource(whole.images[10:30].clone(), whole.labels[10:30]), "channel")
    assert fit(part, "channel").mean.equal(expected.mean)


class Files:
    """A source that is no array, and remembers what was read."""

    def __init__(self, inner: ArraySource) -> None:
        self.inner, self.seen = inner, list[int]()
        self.labels, self.image_shape = inner.labels, inner.image_shape

    def __len__(self) -> int:
        return len(self.inner)

    def read(self, indices: Any) -> torch.Tensor:
        self.seen += torch.as_tensor(indices).tolist()
        return self.inner.read(indices)


@pytest.mark.parametrize("kind", ["channel", "mean_image"])
def test_a_sample_is_measured_of_a_source_that_is_no_array(kind: Kind) -> None:
    whole = source(400)
    files, again = Files(whole), Files(whole)
    found = fit(files, kind, sample=100)
    # Spread over the whole, each once, in the order of the source, and always the same.
    assert len(files.seen) == len(set(files.seen)) == 100
    assert files.seen == sorted(files.seen)
    assert 25 < sum(number < 200 for number in files.seen) < 75
    second = fit(again, kind, sample=100)
    assert again.seen == files.seen
    assert found.mean.equal(second.mean)
    assert found.std.equal(second.std)
    part = fit(SubsetSource(whole, torch.tensor(files.seen)), kind)
    assert found.mean.equal(part.mean)
    assert found.std.equal(part.std)
    # Subsets of such a source are sampled alike; arrays, and sources of no more images, are measured whole.
    subset = Files(whole)
    fit(SubsetSource(subset, torch.arange(399, -1, -2)), kind, sample=100)
    assert len(subset.seen) == 100
    expected = fit(whole, kind)
    assert not found.mean.equal(expected.mean)
    torch.testing.assert_close(found.mean, expected.mean, atol=0.2, rtol=0)
    for measured in (fit(whole, kind, sample=100), fit(Files(whole), kind, sample=400), fit(Files(whole), kind)):
        assert measured.mean.equal(expected.mean)
    assert fit(Files(whole), "none", sample=1).mean.equal(torch.zeros(3, 1, 1))


def test_bits_do_not_depend_on_threads_or_layout() -> None:
    many = source(400, 3, 32)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results += [fit(many, "channel").normalize(many.images)]
            results += [fit(many, "channel").normalize(many.images.contiguous(memory_format=torch.channels_last))]
    finally:
        torch.set_num_threads(threads)
    assert all(result.equal(results[0]) for result in results[1:])


@pytest.mark.parametrize("kind", ["channel", "mean_image"])
def test_constant_images_are_not_divided_by_zero(kind: str) -> None:
    flat = ArraySource(torch.full((4, 1, 3, 3), 7, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    found = fit(flat, kind)  # type: ignore[arg-type]
    assert found.std.flatten().tolist() == [1.0]
    assert found.normalize(flat.images).abs().max() < 1e-6


def test_state_survives_a_checkpoint() -> None:
    found, file = fit(source(), "mean_image"), io.BytesIO()
    torch.save(found.state_dict(), file)
    file.seek(0)
    again = Statistics.from_state(torch.load(file, weights_only=True))
    assert again.kind == "mean_image"
    assert again.normalize(source().images).equal(found.normalize(source().images))


def test_wrong_use_is_refused() -> None:
    with pytest.raises(ValueError, match="kind must be one of channel, mean_image, none, pca, zca"):
        fit(source(), "whitened")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sample must be >= 1"):
        fit(source(), "channel", sample=0)
    with pytest.raises(ValueError, match="no images"):
        fit(SubsetSource(source(), torch.arange(0)), "channel")
    with pytest.raises(ValueError, match="not the state"):
        Statistics.from_state({"mean": torch.zeros(1)})
    with pytest.raises(ValueError, match="mean image is"):
        fit(source(), "mean_image").normalize(torch.zeros(1, 3, 7, 7, dtype=torch.uint8))
