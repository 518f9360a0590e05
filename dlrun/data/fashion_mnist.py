"""FashionMNIST through torchvision."""

from __future__ import annotations

from dlrun.data.shape import DataShape, tells_shape
from dlrun.data.source import ImageData
from dlrun.registry import DATASETS
from dlrun.types import Path


@DATASETS.register
def fashion_mnist(*, root: Path, download: bool = False) -> ImageData:
    """Articles of clothing, 60,000 training and 10,000 test images, grey, 28x28, 10 classes.

    The test split is the published one.

    Args:
        root: folder that holds ``FashionMNIST/raw``.
        download: fetch the files into ``root`` if they are not there.

    Raises:
        DataError: if the files are not there, damaged, or cannot be fetched.

    Source: Xiao, Rasul, Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking", 2017.
    """
    from dlrun.data.torchvision_sets import load

    return load("FashionMNIST", root, "FashionMNIST/raw", download)


@tells_shape(fashion_mnist)
def _shape(root: Path, download: bool) -> DataShape:
    return DataShape((1, 28, 28), 10)
