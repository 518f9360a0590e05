"""Order and randomness as pure functions of (seed, epoch, chunk): no state, so any position can be entered
directly.

Seeds are mixed with BLAKE2b, so neighbouring seeds and epochs have nothing in common. Orders come from the
raw stream of the Philox counter generator, which is defined by its paper and the same in every version of
NumPy; they do not depend on PyTorch's or NumPy's shuffling code, nor on any global generator. Streams for
augmentation are ``torch.Generator`` objects, because the numbers are drawn on the device: the same for one
version of PyTorch and one kind of device.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox).
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def mix(*parts: int | str) -> int:
    """A number in [0, 2^128) that depends on every part, also on their order and kind."""
    # NumPy's whole numbers print differently from Python's: equal numbers must give equal streams.
    plain = tuple(part if isinstance(part, str) else int(part) for part in parts)
    return int.from_bytes(blake2b(repr(plain).encode(), digest_size=16).digest(), "little")


def random_words(count: int, *parts: int | str) -> NDArray[np.uint64]:
    """Uniform random 64-bit words.

    Args:
        count: how many, >= 0.
        parts: what they depend on, such as a stream's name and a seed.

    Returns:
        uint64 (count,).
    """
    words: NDArray[np.uint64] = np.random.Philox(key=mix(*parts)).random_raw(count)
    return words


def permutation(seed: int, epoch: int, n: int) -> Tensor:
    """The order of the samples in one epoch.

    Args:
        seed: the run's seed.
        epoch: counted from 0.
        n: number of samples.

    Returns:
        int64 (n,), every number of [0, n) once.
    """
    # A stable sort, so that even equal words give one order on every machine.
    return torch.from_numpy(random_words(n, "order", seed, epoch).argsort(kind="stable"))


def generator(
    seed: int, epoch: int, chunk: int, device: torch.device | str = "cpu", stream: str = "augment"
) -> torch.Generator:
    """A fresh random stream for one chunk of one epoch.

    Args:
        seed: the run's seed.
        epoch: counted from 0.
        chunk: number of the chunk in the epoch, counted from 0.
        device: where the numbers will be drawn.
        stream: name of the use, so that two uses at one position draw different numbers.
    """
    # PyTorch's CPU generator looks at the low 32 bits only: they are as well mixed as the others.
    return torch.Generator(device).manual_seed(mix(stream, seed, epoch, chunk) % 2**63)
