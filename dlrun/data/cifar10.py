"""CIFAR10 through torchvision."""

from __future__ import annotations

from dlrun.data.shape import DataShape, tells_shape
from dlrun.data.source import ImageData
from dlrun.registry import DATASETS
from dlrun.types import Path


@DATASETS.register
def cifar10(*, root: Path, download: bool = False) -> ImageData:
    """Animals and vehicles, 50,000 training and 10,000 test images, colour, 32x32, 10 classes.

    The test split is the published one.

    Args:
        root: folder that holds ``cifar-10-batches-py``.
        download: fetch the files into ``root`` if they are not there.

    Raises:
        DataError: if the files are not there, damaged, or cannot be fetched.

    Source: Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
    """
    from dlrun.data.torchvision_sets import load

    return load("CIFAR10", root, "cifar-10-batches-py", download)


@tells_shape(cifar10)
def _shape(root: Path, download: bool) -> DataShape:
    return DataShape((3, 32, 32), 10)
