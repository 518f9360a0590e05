"""Where images come from: a source gives decoded uint8 images by index, and its labels at once.

Letters used below: N images in the source, B in one read, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dlrun.data.order import permutation


class ImageSource(Protocol):
    """Decoded images by index. Must be picklable, so that the workers of a loader can read from it.

    Attributes:
        labels: int64 (N,), class numbers from 0; or, where an image can have several labels, int64 (N, K) of 0 and 1.
        image_shape: (C, H, W), the same for every image.
    """

    labels: Tensor
    image_shape: tuple[int, int, int]

    def __len__(self) -> int:
        """N."""
        ...

    def read(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Decode some images.

        Args:
            indices: B numbers in [0, N).

        Returns:
            uint8 (B, C, H, W), contiguous, that the caller may keep.

        Raises:
            DataError: if a file cannot be decoded; the message names it.
        """
        ...


class ArraySource:
    """Images that lie decoded in memory, or in a memory-mapped file.

    Args:
        images: uint8 (N, C, H, W).
        labels: (N,) whole numbers >= 0, or (N, K) of 0 and 1.

    Raises:
        ValueError: if the shapes or the type of the images do not fit.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        if images.dtype != torch.uint8 or images.dim() != 4:
            raise ValueError(f"images must be uint8 of shape (N, C, H, W), got {images.dtype} {tuple(images.shape)}")
        if labels.shape[:1] != images.shape[:1] or labels.dim() > 2:
            raise ValueError(f"{len(images)} images but labels of shape {tuple(labels.shape)}")
        self.images = images
        self.labels = labels.to(torch.int64)
        channels, height, width = images.shape[1:]
        self.image_shape = (channels, height, width)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: Sequence[int] | Tensor) -> Tensor:
        """See :meth:`ImageSource.read`."""
        return self.images.index_select(0, torch.as_tensor(indices, dtype=torch.int64))


class SubsetSource:
    """Some images of another source; the pixels are shared, not copied.

    Args:
        source: the source to choose from; a subset of a subset refers to the innermost source.
        indices: int64 (N,), the chosen images in their new order.
    """

    def __init__(self, source: ImageSource, indices: Tensor) -> None:
        self.source: ImageSource = source.source if isinstance(source, SubsetSource) else source
        self.indices: Tensor = source.indices[indices] if isinstance(source, SubsetSource) else indices
        self.labels = source.labels[indices]
        self.image_shape = source.image_shape

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, indices: Sequence[int] | Tensor) -> Tensor:
        """See :meth:`ImageSource.read`."""
        return self.source.read(self.indices[torch.as_tensor(indices, dtype=torch.int64)])


def first(source: ImageSource, count: int, seed: int) -> ImageSource:
    """A random part of at most ``count`` images, fixed by the seed."""
    return SubsetSource(source, permutation(seed, 0, len(source))[:count]) if count < len(source) else source


@dataclass(frozen=True)
class ImageData:
    """A data set in its splits.

    Attributes:
        train: images to learn from.
        val: images to choose hyper-parameters and checkpoints by; None until it is split off from ``train``.
        test: images for the one final score; None if the set has none.
        classes: their names, in the order of the class numbers.
        skipped: number of files left out because they could not be decoded.
    """

    train: ImageSource
    val: ImageSource | None
    test: ImageSource | None
    classes: tuple[str, ...]
    skipped: int = 0

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.train.image_shape

    @property
    def multi_label(self) -> bool:
        """Whether an image can have several labels, or none."""
        return self.train.labels.dim() == 2

    def label_counts(self) -> tuple[int, ...]:
        """Training images that have each label."""
        labels, classes = self.train.labels, len(self.classes)
        counts = labels.sum(0) if self.multi_label else labels.bincount(minlength=classes)
        return tuple(int(count) for count in counts)


def decoded_bytes(source: ImageSource) -> int:
    """Size of all images of a source as one uint8 array."""
    channels, height, width = source.image_shape
    return len(source) * channels * height * width


def array_of(source: ImageSource) -> tuple[ArraySource, Tensor | None] | None:
    """The array behind a source.

    Returns:
        The array and the rows of it that are the source's images (None: all, in order); or None if the images
        are not in an array.
    """
    if isinstance(source, ArraySource):
        return source, None
    if isinstance(source, SubsetSource) and isinstance(source.source, ArraySource):
        return source.source, source.indices
    return None
