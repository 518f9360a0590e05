"""What the training step must know of an optimizer that needs more than one gradient for an update."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

Groups = list[dict[str, Any]]
"""Parameter groups as torch's optimizers take them."""


class Perturbing(Optimizer):
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
