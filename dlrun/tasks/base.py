"""The contract of a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

Batch = Any
"""What a loader yields and only the task takes apart: a tuple of tensors for the built-in tasks."""


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


class Task(Protocol):
    """What differs between problems: the loss of a batch, and what is measured."""

    metrics: tuple[str, ...]
    """Names of the metrics beside ``loss``."""
    loss: Callable[[Tensor, Tensor], Tensor]
    """(outputs (B, ...), targets (B, ...)) -> mean over the batch, a scalar."""

    def size(self, batch: Batch) -> int:
        """Samples in the batch, from its shape: never a transfer from the device."""

    def split(self, batch: Batch, parts: int) -> Sequence[Batch]:
        """Cut a batch into at most ``parts`` micro-batches of nearly equal size, none empty."""

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Run the model on a batch and take the loss."""

    def score(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        """Per metric the sum over the batch, as scalar tensors on the device of ``outputs``."""
