"""Whitening, and the contrast normalisation of single images that may stand in front of every normalisation.

Letters used below: N images measured, B in one call, C channels, H x W pixels, D = C * H * W numbers in an image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Whitening = Literal["pca", "zca"]
WHITENINGS: tuple[str, ...] = get_args(Whitening)
MAX_NUMBERS = 4096
"""D up to which images are whitened: the matrix, of D x D numbers, then takes at most 64 MiB in each checkpoint."""
_SMALLEST = 1e-8
# Pixels are measured from here, so that products of them stay small whole numbers.
_MIDDLE = 128.0


@dataclass(frozen=True)
class Contrast:
    """Global contrast normalisation: each image for itself gets the mean 0 and one standard deviation.

    ``scale * (x - mean(x)) / max(1e-8, sqrt(bias + variance(x)))``, mean and variance over all C * H * W numbers.

    Attributes:
        scale: s > 0, the standard deviation of an image afterwards.
        bias: lambda >= 0, added to the variance of the pixels (0..255): an image of little contrast, whose variance is
            not far above lambda, stays one; the noise in it is not blown up.

    Source: Goodfellow, Bengio and Courville, Deep Learning (2016), equation 12.3; lambda = 10 is of Coates, Ng and Lee,
    "An analysis of single-layer networks in unsupervised feature learning", AISTATS 2011, section 3.1.1.
    """

    scale: float
    bias: float

    def apply_(self, images: Tensor) -> Tensor:
        """Normalise in place.

        Args:
            images: float32 (B, C, H, W), values in 0..255, in any memory format.

        Returns:
            ``images``.
        """
        count = images[0].numel() if len(images) else 1
        # Sums of whole numbers below 2^53 are exact, so they do not depend on threads, layout or batch.
        total = images.sum((1, 2, 3), dtype=torch.float64)
        squares = images.square().sum((1, 2, 3), dtype=torch.float64)
        mean = total / count
        deviation = (self.bias + (squares / count - mean.square()).clamp_(min=0)).sqrt_().clamp_(min=_SMALLEST)
        factor = (self.scale / deviation).to(torch.float32)[:, None, None, None]
        return images.sub_(mean.to(torch.float32)[:, None, None, None]).mul_(factor)

    def apply(self, images: Tensor) -> Tensor:
        """The same in single operations of float32 on a new tensor, as an exported graph holds them."""
        centred = images - images.mean((1, 2, 3), keepdim=True)
        variance = centred.square().mean((1, 2, 3), keepdim=True)
        return centred * (self.scale / (self.bias + variance).sqrt().clamp(min=_SMALLEST))


class Covariance:
    """Mean and covariance of images, chunk by chunk, in float64.

    Of whole pixels all sums are whole numbers below 2^53, so the result is exact and depends on neither the order nor
    the number of threads.

    Args:
        numbers: D.
    """

    def __init__(self, numbers: int) -> None:
        self._products = np.zeros((numbers, numbers))
        self._sums = np.zeros(numbers)
        self._count = 0
        self._shift = 0.0

    def add(self, images: Tensor, *, pixels: bool) -> None:
        """Count some images.

        Args:
            images: (B, C, H, W).
            pixels: whether they are pixels of 0..255; the same in all calls.
        """
        self._shift = _MIDDLE if pixels else 0.0
        rows = images.flatten(1).numpy().astype(np.float64)
        rows -= self._shift
        self._products += rows.T @ rows
        self._sums += rows.sum(axis=0)
        self._count += len(rows)

    def matrix(self) -> NDArray[np.float64]:
        """The covariance (D, D) of the population (divided by N), symmetric, in the squared unit of the images."""
        mean = self._sums / self._count
        result: NDArray[np.float64] = self._products / self._count - np.outer(mean, mean)
        return result

    def mean(self, unit: float) -> NDArray[np.float64]:
        """The mean (D,) divided by ``unit``; one rounding where the images are pixels."""
        result: NDArray[np.float64] = (self._sums + self._shift * self._count) / (unit * self._count)
        return result


def whitening_matrix(covariance: NDArray[np.float64], kind: Whitening, epsilon: float) -> Tensor:
    """The matrix W that takes centred images to whitened ones: ``W (x - mean)``.

    With the eigenvalues l_i of the covariance, the eigenvectors U, and l their mean::

        pca    W = diag(1 / sqrt(l_i + epsilon l)) U'      the largest eigenvalue first
        zca    W = U diag(1 / sqrt(l_i + epsilon l)) U'    of all whitenings the one that changes the images least

    With ``epsilon = 0`` the covariance of what comes out is the identity. An epsilon leaves weak directions, which are
    mostly noise, weaker than the others.

    Args:
        covariance: (D, D), symmetric.
        kind: ``pca`` or ``zca``.
        epsilon: >= 0, in units of the mean variance of a number.

    Returns:
        float32 (D, D); each row of PCA's has its largest entry positive, so its sign is settled.

    Raises:
        ValueError: if ``epsilon`` is 0 and the images do not vary in some direction.

    Source: Bell and Sejnowski, "The independent components of natural scenes are edge filters", 1997 (ZCA); Krizhevsky,
    "Learning multiple layers of features from tiny images", 2009, appendix A.
    """
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1].clip(min=0), vectors[:, ::-1]
    mean = float(values.mean())
    smallest = float(values[-1]) + epsilon * mean
    if smallest <= mean * len(values) * np.finfo(np.float64).eps:
        raise ValueError(
            "the training images do not vary in some direction (they are fewer than the numbers in an image, or some "
            "pixels never change), so they cannot be whitened with so small an epsilon; raise it to 0.01 or so"
        )
    scales = 1 / np.sqrt(values + epsilon * mean)
    if kind == "zca":
        result = (vectors * scales) @ vectors.T
        # Symmetric to the last bit, whatever order the product was summed in.
        return torch.from_numpy((result + result.T) / 2).to(torch.float32)
    columns = np.arange(len(values))
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), columns])
    return torch.from_numpy((vectors * (signs * scales)).T.copy()).to(torch.float32)


def check_whitenable(kind: str, shape: tuple[int, int, int]) -> None:
    """Check that images are small enough to be whitened.

    Raises:
        ValueError: naming what to use instead.
    """
    numbers = math.prod(shape)
    if numbers > MAX_NUMBERS:
        size = "x".join(str(side) for side in shape)
        raise ValueError(
            f"images of {size} hold {numbers:,} numbers, and whitening needs a matrix of "
            f"{numbers:,} x {numbers:,}; at most {MAX_NUMBERS:,} numbers are whitened (3x32x32, 1x64x64): set "
            "data.normalize=channel or mean_image, or take smaller images"
        )


def whiten(images: Tensor, matrix: Tensor) -> Tensor:
    """Multiply centred images by a whitening matrix.

    Args:
        images: float32 (B, C, H, W), centred; not changed.
        matrix: float32 (D, D) on their device.

    Returns:
        float32 (B, C, H, W), contiguous; the numbers of PCA's come in the order of the matrix, row after row.
    """
    # Evaluation draws its batches inside of autocast, which would halve the precision of this product.
    with torch.autocast(images.device.type, enabled=False):
        return (images.flatten(1) @ matrix.T).view(images.shape)
