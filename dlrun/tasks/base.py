"""The contract of a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from dlrun.losses import IGNORED

Batch = Any
"""What a loader yields and only the task takes apart: a tuple of tensors for the built-in tasks."""


Probabilities = Literal["softmax", "sigmoid"]
"""How scores (B, K) stand for probabilities: those of one class of K, or of each of K labels by itself. A task whose
models give such scores has it as the attribute ``probabilities``, and several models or views can then be averaged."""

Carried = tuple[Tensor, ...] | None
"""What a model of streams hands from one batch to the next: tensors (layers, B, ...) with the streams along axis 1;
None where a stream begins, and always for batches that do not follow one another."""


class WithAuxiliary(NamedTuple):
    """What a model with auxiliary heads returns in training mode; in evaluation it returns the logits alone."""

    logits: Tensor
    """(B, K) scores of the last head, the only ones that are measured."""
    auxiliary: tuple[Tensor, ...]
    """(B, K) each, scores of the heads on the way."""
    weight: float
    """Factor on the loss of each auxiliary head."""


class StepOutput(NamedTuple):
    """Result of a forward pass over one batch."""

    loss: Tensor
    """Mean over the batch, a scalar with gradient."""
    outputs: Tensor
    """(B, ...) what the metrics are counted from."""
    targets: Tensor
    """(B, ...)."""
    carried: Carried = None
    """Detached: what the next batch of the same streams starts from."""


def split_carried(carried: Carried, parts: int) -> list[Carried]:
    """Cut what is carried along the streams, as ``Tensor.tensor_split`` cuts the batch."""
    if carried is None:
        return [None] * parts
    return list(zip(*(tensor.tensor_split(parts, dim=1) for tensor in carried), strict=True))


def join_carried(parts: Sequence[Carried]) -> Carried:
    """The inverse of :func:`split_carried`."""
    known = [part for part in parts if part is not None]
    return tuple(torch.cat(tensors, dim=1) for tensors in zip(*known, strict=True)) if known else None


class Task(Protocol):
    """What differs between problems: the loss of a batch, what is measured, and what is carried to the next batch.

    A task has no state of its own: the training carries along its own streams, an evaluation along its own.
    """

    metrics: tuple[str, ...]
    """Names of the metrics beside ``loss``, those that :meth:`derive` gives included."""
    loss: Callable[[Tensor, Tensor], Tensor]
    """(outputs (B, ...), targets (B, ...)) -> mean over the batch, a scalar."""

    def size(self, batch: Batch) -> int:
        """Samples (of text: tokens) in the batch that count in the loss; never a transfer from the device."""

    def split(self, batch: Batch, parts: int) -> Sequence[Batch]:
        """Cut a batch into at most ``parts`` micro-batches of nearly equal size, none empty, in the order of its rows,
        as ``Tensor.tensor_split`` does."""

    def forward(self, model: nn.Module, batch: Batch, carried: Carried = None) -> StepOutput:
        """Run the model on a batch, from what the batch before left, and take the loss."""

    def score(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        """Per metric, and per sum that :meth:`derive` needs, the sum over the batch, as scalar tensors on the device of
        ``outputs``."""

    def derive(self, means: Mapping[str, float]) -> Mapping[str, float]:
        """Metrics that follow from the means of the others over many batches, such as a perplexity."""


def longest_rows(*lengths: Sequence[int]) -> list[int]:
    """The rows of a batch that are the longest; of those that are by the first lengths, those that are by the next."""
    keys = list(zip(*lengths, strict=True))
    return [row for row, key in enumerate(keys) if key == max(keys)]


def last_targets(targets: Tensor) -> Tensor:
    """Mask all targets of each sequence but the last one that counts.

    Args:
        targets: int64 (B, T), :data:`dlrun.losses.IGNORED` where nothing is asked.

    Returns:
        (B, T) with at most one target in each row.
    """
    asked = targets != IGNORED
    # The last one is where the count of those from there on is one.
    behind = asked.flip(1).cumsum(1).flip(1)
    return targets.masked_fill(~(asked & (behind == 1)), IGNORED)


def complete(task: Task, means: Mapping[str, float]) -> dict[str, float]:
    """The loss and the task's metrics, from means over many batches and what follows from these; empty if there were
    none. Sums that only serve to derive others are left out."""
    known = {**means, **task.derive(means)} if means else {}
    return {name: known[name] for name in ("loss", *task.metrics) if name in known}
