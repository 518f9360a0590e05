"""MNIST through torchvision."""

from __future__ import annotations

from dlrun.data.shape import DataShape, tells_shape
from dlrun.data.source import ImageData
from dlrun.registry import DATASETS
from dlrun.types import Path


@DATASETS.register
def mnist(*, root: Path, download: bool = False) -> ImageData:
    """Handwritten digits, 60,000 training and 10,000 test images, grey, 28x28, 10 classes.

    The test split is the published one.

    Args:
        root: folder that holds ``MNIST/raw``.
        download: fetch the files into ``root`` if they are not there.

    Raises:
        DataError: if the files are not there, damaged, or cannot be fetched.

    Source: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", 1998.
    """
    from dlrun.data.torchvision_sets import load

    return load("MNIST", root, "MNIST/raw", download)


@tells_shape(mnist)
def _shape(root: Path, download: bool) -> DataShape:
    return DataShape((1, 28, 28), 10)
