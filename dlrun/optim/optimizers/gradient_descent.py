"""Stochastic gradient descent, plain and with momentum."""

from __future__ import annotations

from typing import Annotated

from torch.optim import Optimizer

from dlrun.optim import eager
from dlrun.optim.base import Groups
from dlrun.registry import OPTIMIZERS
from dlrun.types import NonNegativeFloat, PositiveFloat, Range, Rate


@OPTIMIZERS.register
def sgd(
    params: Groups,
    fused: bool,
    *,
    lr: PositiveFloat = 0.1,
    momentum: Rate = 0.9,
    nesterov: bool = True,
    weight_decay: NonNegativeFloat = 5e-4,
) -> Optimizer:
    """Stochastic gradient descent with momentum.

    Args:
        params: parameter groups.
        fused: use the fused kernel.
        lr: learning rate, > 0, per step.
        momentum: fraction of the last update that is kept, in [0, 1); 0.9 or 0.99 are usual, 0 is plain SGD.
        nesterov: look ahead along the momentum (Nesterov); needs momentum > 0.
        weight_decay: L2 penalty added to the gradient, >= 0; it also enters the momentum.

    Raises:
        ValueError: if nesterov is asked for without momentum.

    Source: Polyak 1964; Nesterov 1983; Sutskever et al. 2013, "On the importance of initialization and momentum".
    """
    if nesterov and momentum == 0:
        raise ValueError("nesterov=true needs momentum > 0; set nesterov=false for plain SGD")
    return eager.SGD(
        params, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, fused=fused or None
    )


@OPTIMIZERS.register
def momentum(
    params: Groups,
    fused: bool,
    *,
    lr: PositiveFloat = 0.1,
    momentum: Annotated[float, Range(gt=0, lt=1)] = 0.9,
    weight_decay: NonNegativeFloat = 5e-4,
) -> Optimizer:
    """Gradient descent with Polyak's heavy-ball momentum: sgd with nesterov=false.

    Args:
        params: parameter groups.
        fused: use the fused kernel.
        lr: learning rate, > 0, per step.
        momentum: fraction of the last update that is kept, in (0, 1); 0.9 or 0.99 are usual.
        weight_decay: L2 penalty added to the gradient, >= 0; it also enters the momentum.

    Source: Polyak 1964, "Some methods of speeding up the convergence of iteration methods".
    """
    return eager.SGD(params, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=fused or None)


@OPTIMIZERS.register
def nesterov(
    params: Groups,
    fused: bool,
    *,
    lr: PositiveFloat = 0.1,
    momentum: Annotated[float, Range(gt=0, lt=1)] = 0.9,
    weight_decay: NonNegativeFloat = 5e-4,
) -> Optimizer:
    """Gradient descent with Nesterov's momentum, which looks ahead: sgd with nesterov=true.

    Args:
        params: parameter groups.
        fused: use the fused kernel.
        lr: learning rate, > 0, per step.
        momentum: fraction of the last update that is kept, in (0, 1); 0.9 or 0.99 are usual.
        weight_decay: L2 penalty added to the gradient, >= 0; it also enters the momentum.

    Source: Nesterov 1983; Sutskever et al. 2013, "On the importance of initialization and momentum", equations 3-4.
    """
    return eager.SGD(params, lr=lr, momentum=momentum, nesterov=True, weight_decay=weight_decay, fused=fused or None)
