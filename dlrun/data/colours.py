"""How the colours of the training split vary together: the principal axes of its pixels.

Letters used below: N images in all, B in one call, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlrun.data.source import ImageSource
from dlrun.data.statistics import SAMPLE_IMAGES, chunks, measured


@dataclass(frozen=True, eq=False)
class Colours:
    """Principal axes of the C values of a pixel, over all pixels.

    Attributes:
        axes: float32 (C, C): each column is an axis of length 1, those of the greatest variances first; its entry of
            the greatest size is positive.
        variances: float32 (C,): along each axis, in units of 0..1 for the values; >= 0.
    """

    axes: Tensor
    variances: Tensor

    def state_dict(self) -> dict[str, Any]:
        """Tensors for a checkpoint."""
        return {"axes": self.axes, "variances": self.variances}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Colours:
        """What :meth:`state_dict` gave."""
        return cls(state["axes"], state["variances"])


def fit_colours(source: ImageSource, *, sample: int = SAMPLE_IMAGES) -> Colours:
    """Measure a source; give it the training split only.

    As for :func:`dlrun.data.statistics.fit`: images in an array are all measured, of others a random sample, and sums
    are whole numbers.

    Args:
        source: N >= 1 images.
        sample: number of images measured at most, >= 1, if the source is no array.

    Raises:
        ValueError: if there are no images, or ``sample`` is less than 1.
        DataError: if a file cannot be decoded.
    """
    source = measured(source, sample)
    channels, height, width = source.image_shape
    sums = np.zeros(channels, dtype=np.int64)
    products = np.zeros((channels, channels), dtype=np.int64)
    for images in chunks(source):
        # Sums of a chunk are whole numbers far below 2^53: exact in float64, whatever their order.
        values = images.transpose(0, 1).flatten(1).double()
        sums += values.sum(1).numpy().astype(np.int64)
        products += (values @ values.T).numpy().astype(np.int64)
    n = len(source) * height * width
    means = [Fraction(total, n) for total in sums.tolist()]
    covariance = [
        [float((Fraction(products[i, j].item(), n) - means[i] * means[j]) / 255**2) for j in range(channels)]
        for i in range(channels)
    ]
    variances, axes = np.linalg.eigh(np.array(covariance))
    variances, axes = variances[::-1].clip(min=0), axes[:, ::-1]
    # A library may give either direction of an axis.
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(channels)])
    return Colours(torch.tensor(axes, dtype=torch.float32), torch.tensor(variances.copy(), dtype=torch.float32))
