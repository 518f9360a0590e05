"""The augmentations of a configuration, one after the other.

Letters used below: B images in one call, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dlrun.augment.base import Augmentation, Mixing, Place, PlacedAugmentation


class Pipeline:
    """Applies augmentations in their order, and labels change where one of them mixes images.

    Args:
        steps: the augmentations.
        num_classes: K; needed if one of them is a :class:`Mixing`.

    Attributes:
        soft: whether the targets it gives are shares of the classes, float32 (B, K), and not labels.
        placed: whether a call needs to know which images they are.

    Raises:
        ValueError: if one mixes labels and there are no classes.
    """

    def __init__(self, steps: Sequence[Augmentation | Mixing], num_classes: int | None = None) -> None:
        self.soft = any(isinstance(step, Mixing) for step in steps)
        self.placed = any(isinstance(step, PlacedAugmentation) for step in steps)
        if self.soft and num_classes is None:
            raise ValueError("augmentations that mix labels need the number of classes")
        self._steps, self._num_classes = tuple(steps), num_classes

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._steps)

    def __call__(
        self, images: Tensor, labels: Tensor, generator: torch.Generator, place: Place | None = None
    ) -> tuple[Tensor, Tensor]:
        """Augment images.

        Args:
            images: (B, C, H, W) uint8.
            labels: int64 (B,), in [0, K); or (B, K) of 0 and 1, where images have several.
            generator: the source of all randomness, on the device of ``images``.
            place: which images of which epoch; needed if :attr:`placed`.

        Returns:
            The images, and the labels or, if :attr:`soft`, the share of each class, float32 (B, K).
        """
        targets = self._one_hot(labels) if self.soft else labels
        for step in self._steps:
            if isinstance(step, Mixing):
                images, targets = step.mix(images, targets, generator)
            elif isinstance(step, PlacedAugmentation):
                assert place is not None
                images = step.at(images, generator, place)
            else:
                images = step(images, generator)
        return images, targets

    def _one_hot(self, labels: Tensor) -> Tensor:
        if labels.dim() == 2:
            return labels.float()
        assert self._num_classes is not None
        shares = torch.zeros(len(labels), self._num_classes, device=labels.device)
        return shares.scatter_(1, labels[:, None], 1.0)
