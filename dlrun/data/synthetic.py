"""Made-up images for tests and for trying things out."""

from __future__ import annotations

from typing import Literal

from dlrun.data.shape import DataShape, tells_shape
from dlrun.data.source import ArraySource, ImageData
from dlrun.data.splits import hold_out
from dlrun.registry import DATASETS
from dlrun.types import Fraction, PositiveInt


@DATASETS.register
def synthetic(
    split_seed: int,
    *,
    samples: PositiveInt = 512,
    classes: PositiveInt = 10,
    size: PositiveInt = 8,
    channels: Literal[1, 3] = 3,
    noise: Fraction = 0.5,
    test_fraction: Fraction = 0.2,
    several_labels: bool = False,
) -> ImageData:
    """Noisy copies of one random pattern per class: quickly learnt, made in memory.

    Args:
        samples: images in all splits together; at least ``classes``. Classes are equally frequent.
        classes: number of classes.
        size: height and width in pixels.
        channels: 1 grey, 3 colour.
        noise: share of the noise in each pixel, 0 (copies of the pattern) to 1 (nothing to learn).
        test_fraction: share of the images for the test split, stratified by class.
        several_labels: an image has one to three labels and is the mean of their patterns
            (task=multilabel_classification).

    Raises:
        ValueError: if there are fewer samples than classes.
    """
    import numpy as np
    import torch

    from dlrun.data.order import random_words

    if samples < classes:
        raise ValueError(f"samples={samples} is less than classes={classes}: give each class at least one image")
    shape = (channels, size, size)
    numbers = channels * size * size

    def random_bytes(count: int, stream: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        words = random_words(-(-count * numbers // 8), "synthetic", stream, split_seed)
        # A fixed byte order, so that the images are the same on every machine.
        return words.astype("<u8").view(np.uint8)[: count * numbers].reshape(count, *shape)

    labels = np.arange(samples) % classes
    patterns, speckles = random_bytes(classes, "patterns"), random_bytes(samples, "noise")
    if several_labels:
        words = random_words(3 * samples, "synthetic", "labels", split_seed).reshape(3, samples) % classes
        # One, two or three of them, each as often; the same one twice counts once.
        words = np.where(np.arange(3)[:, None] <= np.arange(samples) % 3, words, words[0]).astype(np.int64)
        several = np.zeros((samples, classes), dtype=np.int64)
        np.put_along_axis(several, words.T, 1, axis=1)
        targets = torch.from_numpy(several)
        clean = np.einsum("nk,kchw->nchw", several / several.sum(1, keepdims=True), patterns)
    else:
        targets, clean = torch.from_numpy(labels.astype(np.int64)), patterns[labels]
    images = np.rint(clean * (1 - noise) + speckles * noise).astype(np.uint8)
    source = ArraySource(torch.from_numpy(images), targets)
    train, test = hold_out(source, test_fraction, split_seed)
    return ImageData(train, None, test, tuple(f"class {c}" for c in range(classes)))


@tells_shape(synthetic)
def _shape(classes: int, size: int, channels: int, **_: object) -> DataShape:
    return DataShape((channels, size, size), classes)
