"""What an augmentation is.

To add one, write a file with a pure function of the images and the numbers that were drawn, and a factory
registered in ``AUGMENTATIONS`` whose result draws the numbers and calls it; ``horizontal_flip.py`` is the
shortest example.

Letters used below: B images in one call, C channels, H x W pixels.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Augmentation(Protocol):
    """Changes images at random, each one differently, whole batches at a time.

    It keeps the shape, the type, the memory format and the range of the values, does not write into its
    input, draws from ``generator`` only, and waits for no device.
    """

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augment images.

        Args:
            images: (B, C, H, W) uint8 in 0..255, or float in the same units; on any device. Contiguous, or
                with the channels innermost (``torch.channels_last``).
            generator: the source of all randomness, on the device of ``images``.

        Returns:
            The changed images, as ``images`` in shape, type, device and memory format.
        """
        ...


def channels_innermost(images: Tensor) -> bool:
    """Whether the images lie in memory as (B, H, W, C) and not as (B, C, H, W)."""
    return not images.is_contiguous() and images.is_contiguous(memory_format=torch.channels_last)


def take(images: Tensor, rows: Tensor) -> Tensor:
    """Whole images by number, in the memory format of ``images`` (``index_select`` alone would lose it).

    Args:
        images: (B, C, H, W).
        rows: int64 (K,), numbers in [0, B).

    Returns:
        (K, C, H, W), a new tensor.
    """
    if channels_innermost(images):
        return images.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)
    return images.index_select(0, rows)
