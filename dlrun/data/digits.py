"""Handwritten digits that come with scikit-learn: real data without a download."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from dlrun.data.shape import DataShape, tells_shape
from dlrun.data.source import ArraySource, ImageData
from dlrun.data.splits import hold_out
from dlrun.errors import DataError
from dlrun.registry import DATASETS
from dlrun.types import Fraction


@DATASETS.register
def digits(split_seed: int, *, test_fraction: Fraction = 0.2) -> ImageData:
    """Handwritten digits, 1,797 grey images of 8x8 pixels, 10 classes; a file of scikit-learn, no download.

    Args:
        test_fraction: share of the images for the test split, stratified by class.

    Raises:
        DataError: if scikit-learn is not installed, or its file is missing or damaged.

    Source: Alpaydin, Kaynak, "Optical recognition of handwritten digits", UCI Machine Learning Repository,
    1998.
    """
    # numpy and torch only: importing scikit-learn itself takes a second.
    import numpy as np
    import torch

    path = _file()
    try:
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
        pixels, labels = table[:, :64].reshape(-1, 1, 8, 8), table[:, 64].astype(np.int64)
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise DataError(f"cannot read the digits in {path}: {error}; reinstall scikit-learn") from error
    # 0..16 to 0..255.
    images = np.rint(pixels * (255 / 16)).astype(np.uint8)
    source = ArraySource(torch.from_numpy(images), torch.from_numpy(labels))
    train, test = hold_out(source, test_fraction, split_seed)
    return ImageData(train, None, test, tuple("0123456789"))


@tells_shape(digits)
def _shape(test_fraction: float) -> DataShape:
    return DataShape((1, 8, 8), 10)


def _file() -> Path:
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise DataError(
            "the data set 'digits' is a file of scikit-learn, which is not installed: pip install scikit-learn"
        )
    return Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
