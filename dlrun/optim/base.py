"""What optimizers have in common, and what the step must know of those that need several gradients for an update."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from dlrun.optim.eager import EagerOptimizer

Groups = list[dict[str, Any]]
"""Parameter groups as torch's optimizers take them."""


def with_gradients(parameters: Iterable[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The parameters that have a gradient, and these gradients."""
    trained, grads = [], []
    for parameter in parameters:
        if parameter.grad is not None:
            trained.append(parameter)
            grads.append(parameter.grad)
    return trained, grads


class Perturbing(EagerOptimizer):
    """An optimizer that wants the gradient at other weights than those it updates.

    The training step calls, for each batch: backward, :meth:`perturb`, backward on the same batch with the same random
    numbers, :meth:`restore`, step. None of these waits for the device.
    """

    def perturb(self) -> None:
        """Move the weights to where the second gradient is wanted; ``.grad`` holds the first one, of any scale."""
        raise NotImplementedError

    def restore(self) -> None:
        """Give the weights back, bit for bit."""
        raise NotImplementedError


def needs_closure(optimizer: Optimizer) -> bool:
    """Whether ``optimizer.step`` evaluates the loss as often as it likes, so that it must be the same function each
    time: it has a true attribute ``needs_closure``."""
    return bool(getattr(optimizer, "needs_closure", False))
