"""L-BFGS: a quasi-Newton method for the whole training set at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch.optim import Optimizer

from dlrun.optim import eager
from dlrun.optim.base import Groups
from dlrun.registry import OPTIMIZERS
from dlrun.types import NonNegativeFloat, PositiveFloat, PositiveInt


@OPTIMIZERS.register
def lbfgs(
    params: Groups,
    *,
    lr: PositiveFloat = 1.0,
    max_iterations: PositiveInt = 20,
    max_evaluations: PositiveInt | None = None,
    history: PositiveInt = 10,
    line_search: Literal["strong_wolfe"] | None = "strong_wolfe",
    tolerance_gradient: NonNegativeFloat = 1e-7,
    tolerance_change: NonNegativeFloat = 1e-9,
) -> Optimizer:
    """L-BFGS on the full batch: one step per epoch, each of several iterations; it reads the device in each.

    It needs the same loss at every evaluation, so dlrun refuses batches, augmentation, dropout, mixed precision and all
    that changes gradients or weights beside it. trainer.accumulate may split the full batch. Decay the weights with
    regularization.l2, a term of the loss. Batch norm counts one pass per step.

    Args:
        params: parameter groups.
        lr: length of the first step tried, > 0; 1 is Newton's, which schedule=constant keeps.
        max_iterations: iterations in a step, >= 1.
        max_evaluations: evaluations of loss and gradient in a step, >= 1; null: 1.25 times the iterations.
        history: updates that the approximate Hessian is made of, >= 1; each takes twice the memory of the weights.
        line_search: strong_wolfe looks along each direction for a step that lowers the loss enough; null takes lr.
        tolerance_gradient: ends a step when no element of the gradient is greater, >= 0.
        tolerance_change: ends a step when weights or loss change less, >= 0.

    Raises:
        ValueError: if parameters are to learn at different rates.

    Source: Liu and Nocedal 1989, "On the limited memory BFGS method for large scale optimization".
    """
    if any("lr" in group for group in params):
        raise ValueError("it has one rate for all parameters: leave out optimizer.lr_factors and optimizer.layer_decay")
    # The groups differ in weight decay only, which it has not.
    everything = [parameter for group in params for parameter in group["params"]]
    return _FullBatch(
        everything,
        lr=lr,
        max_iter=max_iterations,
        max_eval=max_evaluations,
        history_size=history,
        line_search_fn=line_search,
        tolerance_grad=tolerance_gradient,
        tolerance_change=tolerance_change,
    )


class _FullBatch(eager.EagerOptimizer, torch.optim.LBFGS):
    needs_closure = True

    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        """Lower the loss that ``closure`` gives, with its gradient."""
        if self.param_groups[0]["lr"] == 0:
            # The end of many schedules; torch's line search divides by it.
            return closure()
        return super().step(closure)  # type: ignore[no-untyped-call]
