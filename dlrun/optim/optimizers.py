"""Optimizers. Each takes parameter groups, so the decay rule is decided in one place (:mod:`dlrun.optim.groups`).

``fused`` asks for the single-kernel implementation; dlrun passes True where the device has one for all parameters.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch.optim import Optimizer

from dlrun.registry import OPTIMIZERS
from dlrun.types import NonNegativeFloat, PositiveFloat, Range

Groups = list[dict[str, Any]]


@OPTIMIZERS.register
def sgd(
    params: Groups,
    fused: bool,
    *,
    lr: PositiveFloat = 0.1,
    momentum: Annotated[float, Range(ge=0, lt=1)] = 0.9,
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
    return torch.optim.SGD(
        params, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, fused=fused or None
    )


@OPTIMIZERS.register
def adam(
    params: Groups,
    fused: bool,
    *,
    lr: PositiveFloat = 1e-3,
    betas: tuple[Annotated[float, Range(ge=0, lt=1)], Annotated[float, Range(ge=0, lt=1)]] = (0.9, 0.999),
    eps: PositiveFloat = 1e-8,
    weight_decay: NonNegativeFloat = 0.0,
) -> Optimizer:
    """Adam; its weight decay is an L2 penalty added to the gradient (use adamw for decoupled decay).

    Args:
        params: parameter groups.
        fused: use the fused kernel.
        lr: learning rate, > 0; 1e-3 or 5e-4 are great starting points.
        betas: decay rates of the first and second moment, each in [0, 1).
        eps: added to the denominator, > 0.
        weight_decay: L2 penalty added to the gradient, >= 0; rescaled by the second moment like any gradient.

    Source: Kingma and Ba 2015, "Adam: a method for stochastic optimization", algorithm 1.
    """
    return torch.optim.Adam(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused or None)


@OPTIMIZERS.register
def adamw(
    params: Groups,
    fused: bool,
    *,
    lr: PositiveFloat = 1e-3,
    betas: tuple[Annotated[float, Range(ge=0, lt=1)], Annotated[float, Range(ge=0, lt=1)]] = (0.9, 0.999),
    eps: PositiveFloat = 1e-8,
    weight_decay: NonNegativeFloat = 0.01,
) -> Optimizer:
    """Adam with decoupled weight decay: weights shrink by lr * weight_decay each step, apart from the gradient.

    Args:
        params: parameter groups.
        fused: use the fused kernel.
        lr: learning rate, > 0.
        betas: decay rates of the first and second moment, each in [0, 1).
        eps: added to the denominator, > 0.
        weight_decay: decoupled decay, >= 0.

    Source: Loshchilov and Hutter 2019, "Decoupled weight decay regularization", algorithm 2.
    """
    return torch.optim.AdamW(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused or None)
