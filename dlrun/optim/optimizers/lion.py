"""Lion: steps of one size for every weight, by the sign of a momentum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from dlrun.optim import eager
from dlrun.optim.base import Groups, with_gradients
from dlrun.registry import OPTIMIZERS
from dlrun.types import NonNegativeFloat, PositiveFloat, Rate


@OPTIMIZERS.register
def lion(
    params: Groups,
    *,
    lr: PositiveFloat = 1e-4,
    betas: tuple[Rate, Rate] = (0.9, 0.99),
    weight_decay: NonNegativeFloat = 0.1,
) -> Optimizer:
    """Lion: the sign of a momentum as the step, with decoupled weight decay and half the state of Adam.

    Args:
        params: parameter groups.
        lr: learning rate, > 0; a third to a tenth of that of adamw.
        betas: share of the momentum in the step, and decay rate of the momentum, each in [0, 1).
        weight_decay: decoupled decay, >= 0; three to ten times that of adamw, since the rate is smaller.

    Source: Chen et al. 2023, "Symbolic discovery of optimization algorithms", algorithm 2.
    """
    return _Lion(params, lr, betas, weight_decay)


class _Lion(eager.EagerOptimizer):
    def __init__(self, params: Groups, lr: float, betas: tuple[float, float], weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update the weights; ``closure`` is not called."""
        for group in self.param_groups:
            trained, grads = with_gradients(group["params"])
            if not trained:
                continue
            momenta: list[Tensor] = []
            for parameter in trained:
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momenta.append(state["momentum"])
            share, decay = group["betas"]
            steps = torch._foreach_sign(torch._foreach_lerp(momenta, grads, 1 - share))
            if group["weight_decay"]:
                torch._foreach_mul_(trained, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(trained, steps, alpha=-group["lr"])
            torch._foreach_lerp_(momenta, grads, 1 - decay)
