"""LAMB: Adam whose step has the length of the weights it changes, layer by layer; for large batches."""

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
def lamb(
    params: Groups,
    *,
    lr: PositiveFloat = 1e-3,
    betas: tuple[Rate, Rate] = (0.9, 0.999),
    eps: PositiveFloat = 1e-6,
    weight_decay: NonNegativeFloat = 0.01,
) -> Optimizer:
    """LAMB: Adam's step, scaled in each weight tensor to the length of the weights, for large batches.

    The step is r = m / (sqrt(v) + eps) + weight_decay w with bias-corrected moments, and w changes by
    -lr |w| / |r| r. The ratio of lengths is 1 where one of them is 0, and for biases and norms (fewer than two axes),
    as in the authors' program; it is not clipped.

    Args:
        params: parameter groups.
        lr: learning rate, > 0: what part of its length a weight tensor moves in a step.
        betas: decay rates of the first and second moment, each in [0, 1).
        eps: added to the denominator, > 0.
        weight_decay: decay within the step that is scaled, >= 0.

    Source: You et al. 2020, "Large batch optimization for deep learning: training BERT in 76 minutes", algorithm 2.
    """
    return _Lamb(params, lr, betas, eps, weight_decay)


class _Lamb(eager.EagerOptimizer):
    def __init__(self, params: Groups, lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "steps": 0})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update the weights; ``closure`` is not called."""
        for group in self.param_groups:
            group["steps"] += 1
            trained, grads = with_gradients(group["params"])
            if trained:
                self._update(group, trained, grads)

    def _update(self, group: dict[str, Any], trained: list[Tensor], grads: list[Tensor]) -> None:
        first: list[Tensor] = []
        second: list[Tensor] = []
        for parameter in trained:
            state = self.state[parameter]
            if not state:
                state["first"], state["second"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            first.append(state["first"])
            second.append(state["second"])
        (beta1, beta2), count = group["betas"], group["steps"]
        torch._foreach_lerp_(first, grads, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, grads, grads, 1 - beta2)
        roots = torch._foreach_sqrt(second)
        torch._foreach_div_(roots, (1 - beta2**count) ** 0.5)
        torch._foreach_add_(roots, group["eps"])
        steps = torch._foreach_div(first, roots)
        torch._foreach_div_(steps, 1 - beta1**count)
        if group["weight_decay"]:
            torch._foreach_add_(steps, trained, alpha=group["weight_decay"])
        weights = [i for i, parameter in enumerate(trained) if parameter.ndim >= 2]
        if weights:
            scaled = [steps[i] for i in weights]
            long = torch.stack(torch._foreach_norm([trained[i] for i in weights]))
            short = torch.stack(torch._foreach_norm(scaled))
            ratios = torch.where((long > 0) & (short > 0), long / short, 1.0)
            torch._foreach_mul_(scaled, list(ratios.unbind()))
        torch._foreach_add_(trained, steps, alpha=-group["lr"])
