"""The momentum of an optimizer, under whatever name it keeps it, for schedules that move it."""

from __future__ import annotations

from collections.abc import Callable

from torch.optim import Optimizer

_NEARLY_NONE = 1e-30
"""What stands for a momentum of 0: nothing of the former update is left, but torch's sgd and rmsprop, which keep no
buffer at 0 and leave an older one as it is, go on writing it."""


class MomentumMover:
    """Sets the momentum of an optimizer from step to step: ``momentum``, or the first of ``betas``.

    The momentum may be 0 at any step, the first included: the next one finds the buffer that the formula has then.

    Args:
        optimizer: whose groups are set; those that have neither are left alone.
        schedule: step -> momentum, in [0, 1); None: as the optimizer was built with it.

    Raises:
        ValueError: if no group has a momentum.
    """

    def __init__(self, optimizer: Optimizer, schedule: Callable[[int], float | None]) -> None:
        self._optimizer, self._schedule = optimizer, schedule
        self._base = [_momentum(group) for group in optimizer.param_groups]
        if all(momentum is None for momentum in self._base):
            raise ValueError("the optimizer has no momentum that a schedule could move")

    def set(self, step: int) -> None:
        """Set the momentum that the update of ``step`` uses."""
        chosen = self._schedule(step)
        # The groups are looked up each time: a loaded state brings new ones.
        for group, base in zip(self._optimizer.param_groups, self._base, strict=True):
            if base is None:
                continue
            momentum = base if chosen is None else chosen
            if "betas" in group:
                group["betas"] = (momentum, group["betas"][1])
            else:
                group["momentum"] = momentum or _NEARLY_NONE

    @property
    def now(self) -> float:
        """Momentum of the first group that has one."""
        momenta = (_momentum(group) for group in self._optimizer.param_groups)
        return next(momentum for momentum in momenta if momentum is not None)


def _momentum(group: dict[str, object]) -> float | None:
    betas = group.get("betas")
    if isinstance(betas, tuple | list):
        return float(betas[0])
    momentum = group.get("momentum")
    if not isinstance(momentum, float | int):
        return None
    return 0.0 if momentum == _NEARLY_NONE else momentum
