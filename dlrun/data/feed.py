"""What depends on the kind of the data (images, text): a *feed* owns it, and nothing else asks for the kind.

Between the data set, which knows what there is, and the training, which wants batches, stands a feed. It makes the
loaders, tells the factories of models and tasks what they must know of the data, and says what a checkpoint has to hold
so that the same data are recognised at a resume and an evaluation rebuilds itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, Protocol

from torch import Tensor

Split = Literal["train", "val", "test"]


class Augmented(NamedTuple):
    """Some training images, and what the augmentation made of them. N images, D draws, K classes."""

    images: Tensor
    """uint8 (N, 1 + D, C, H, W), the image itself first."""
    labels: Tensor
    """int64 (N,): their classes."""
    targets: Tensor
    """Of the draws: int64 (N, D), or where images are mixed the share of each class, float32 (N, D, K)."""


class BatchLoader(Protocol):
    """Gives the batches of any epoch from any position: the position in the data is two whole numbers.

    Attributes:
        batch_size: B of the first epoch.
        num_samples: what the first epoch holds, in the unit of the feed.
        steps_per_epoch: batches in the first epoch, >= 1.
    """

    batch_size: int
    num_samples: int
    steps_per_epoch: int

    def steps(self, epoch: int) -> int:
        """Batches in an epoch, >= 1: not the same in all epochs if the batch grows."""
        ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches of one epoch.

        Args:
            epoch: counted from 0.
            start: number of the first batch wanted, in 0..steps(epoch).

        Yields:
            Batches on the device, as the tasks for this kind of data take them.

        Raises:
            ValueError: if ``epoch`` or ``start`` is out of range.
            DataError: if a file cannot be decoded, or a worker died.
        """
        ...

    def close(self) -> None:
        """End the workers, if there are any. The loader can be used again: they are then started anew."""
        ...


class Feed(Protocol):
    """One kind of data, ready to be trained on.

    Attributes:
        kind: name of the kind, for messages.
        unit: what is counted: in one batch, in a split, per second.
        arguments: runtime arguments for the factories of models and tasks (:data:`dlrun.registry.MODELS`); each takes
            those that it names.
        counted: which of the arguments is the number of scores that a head gives.
        outputs: names of what a head scores: classes, or the symbols of a vocabulary.
        classes: names of the classes, where each sample has one; else None.
        soft_targets: whether the targets in training are shares of the classes, float (B, K), and not labels.
    """

    kind: str
    unit: Literal["samples", "tokens"]
    arguments: Mapping[str, Any]
    counted: str
    outputs: tuple[str, ...]
    classes: tuple[str, ...] | None
    soft_targets: bool

    def sizes(self) -> dict[Split, int]:
        """Units in each split that there is, in the order train, val, test."""
        ...

    def describe(self) -> str:
        """What the data are, in a few words."""
        ...

    def facts(self, split: Split) -> dict[str, int]:
        """What else is to be told of a split when it was evaluated: name -> count."""
        ...

    def train_loader(self) -> BatchLoader:
        """Batches of the training split for training.

        Raises:
            DataError: if the split is too small for a batch.
        """
        ...

    def eval_loader(self, split: Split) -> BatchLoader | None:
        """Batches of a split in its own order, without augmentation; None if there is no such split."""
        ...

    def sample_inputs(self, count: int) -> Tensor:
        """Inputs of the model from the training split, at most ``count`` and the same in every run, on the device."""
        ...

    def example(self, count: int) -> Tensor | str:
        """Something of the training split to look at: uint8 images (N, C, H, W), N <= ``count``, or a text."""
        ...

    def augmented(self, count: int, draws: int) -> Augmented | None:
        """Images of the training split before and after the augmentation; None if there is none.

        Args:
            count: N, images at most.
            draws: D, how often each is augmented, >= 1.
        """
        ...

    def digest(self, split: Split) -> str | None:
        """What a split is recognised by; None if there is no such split, or it cannot be recognised."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of the data: plain values and tensors."""
        ...

    def check_unchanged(self, stored: Mapping[str, Any]) -> None:
        """Check that a run can go on with these data.

        Args:
            stored: :meth:`state_dict` of the checkpoint.

        Raises:
            CheckpointError: if the data are not those of the checkpoint.
        """
        ...
