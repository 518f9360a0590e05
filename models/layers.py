"""Layers that torch has not, or not in a reproducible form. Shapes: B batch, C channels, H height, W width."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

FRACTION = (7, 10)
"""Size of the output of fractional max pooling relative to its input, exactly; the paper's nets have 0.5 to 0.79."""


class Maxout(nn.Module):
    """The largest of each ``pieces`` neighbouring channels or units; so the layer before it has that many times more.

    Args:
        pieces: k, inputs of one output, at least 2.

    Source: Goodfellow et al. 2013, "Maxout Networks", section 3
    """

    def __init__(self, pieces: int = 2) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, pieces C, ...) to (B, C, ...)."""
        return x.reshape(x.shape[0], -1, self.pieces, *x.shape[2:]).amax(2)


@cache
def maxout_mean_square(pieces: int) -> float:
    """Give the mean square of the largest of k independent values from N(0, 1): 1 for k = 2, 1.80 for k = 5.

    ReLU's is 1/2. A layer of n_in inputs keeps the mean square if its weights have the variance 1 / (n_in this).

    Args:
        pieces: k, at least 1.
    """
    # The largest has the density k phi(x) Phi(x)^(k-1); beyond 10 standard deviations there is nothing.
    step = 0.01
    return sum(
        x
        * x
        * pieces
        * math.exp(-x * x / 2)
        / math.sqrt(2 * math.pi)
        * (0.5 * math.erfc(-x / math.sqrt(2))) ** j
        * step
        for x, j in ((i * step, pieces - 1) for i in range(-1000, 1001))
    )


class DropConnect(nn.Linear):
    """A linear layer that in training drops single weights, the same for the whole batch, and scales the others up.

    In evaluation it has the mean weights, as with dropout (the expectation), in the place of the paper's Gaussian
    approximation of what follows; and the bias is never dropped. The paper draws for each sample, which would take a
    weight matrix for each.

    Args:
        n_in: number of inputs.
        n_out: number of units.
        rate: probability of dropping a weight, in [0, 1).
        bias: with a bias.

    Source: Wan et al. 2013, "Regularization of Neural Networks using DropConnect", section 3
    """

    def __init__(self, n_in: int, n_out: int, rate: float, *, bias: bool = True) -> None:
        super().__init__(n_in, n_out, bias)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, n_in) to (B, n_out)."""
        return functional.linear(x, functional.dropout(self.weight, self.rate, self.training), self.bias)


class FractionalMaxPool(nn.Module):
    """Max pool to 0.7 of the size over overlapping 2x2 windows: in training at random places, else evenly spread.

    The places come from torch's global generator of the device, so that a seed repeats them. torch's own layer has a
    backward pass on CUDA that is not deterministic; here it has only to find the largest values.

    Source: Graham 2014, "Fractional Max-Pooling", section 2: pseudorandom, overlapping
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, floor(0.7 H), floor(0.7 W)); H and W at least 2."""
        size = fractional_out((x.shape[2], x.shape[3]))
        if not self.training:
            for axis in (2, 3):
                first = _even_places(x.shape[axis], size[axis - 2])
                x = torch.maximum(*(x.index_select(axis, torch.tensor(first, device=x.device) + i) for i in (0, 1)))
            return x
        with torch.no_grad():
            places = torch.rand(x.shape[0], x.shape[1], 2, device=x.device, dtype=x.dtype)
            _, where = functional.fractional_max_pool2d_with_indices(
                x, (2, 2), output_size=size, _random_samples=places
            )
        return x.flatten(2).gather(2, where.flatten(2)).reshape(*x.shape[:2], *size)


def _even_places(n_in: int, n_out: int) -> list[int]:
    """First of the two rows (columns) of each window, as torch's layer has them for samples of 0.5.

    Said in operations that every export format knows: none has the layer itself.
    """
    if n_out == 1:
        return [n_in - 2]
    # In the precision of the layer: windows must not move by rounding.
    alpha, half = np.float32(n_in - 2) / np.float32(n_out - 1), np.float32(0.5)
    return [*(int((i + half) * alpha) - int(half * alpha) for i in range(n_out - 1)), n_in - 2]


def fractional_out(size: tuple[int, int]) -> tuple[int, int]:
    """Give the output (H', W') of :class:`FractionalMaxPool`."""
    share, whole = FRACTION
    return size[0] * share // whole, size[1] * share // whole
