"""CIFAR100 through torchvision."""

from __future__ import annotations

from dlrun.data.shape import DataShape, tells_shape
from dlrun.data.source import ImageData
from dlrun.registry import DATASETS
from dlrun.types import Path


@DATASETS.register
def cifar100(*, root: Path, download: bool = False) -> ImageData:
    """Everyday things, 50,000 training and 10,000 test images, colour, 32x32, 100 classes.

    The test split is the published one.

    Args:
        root: folder that holds ``cifar-100-python``.
        download: fetch the files into ``root`` if they are not there.

    Raises:
        DataError: if the files are not there, damaged, or cannot be fetched.

    Source: Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
    """
    from dlrun.data.torchvision_sets import load

    return load("CIFAR100", root, "cifar-100-python", download)


@tells_shape(cifar100)
def _shape(root: Path, download: bool) -> DataShape:
    return DataShape((3, 32, 32), 100)
