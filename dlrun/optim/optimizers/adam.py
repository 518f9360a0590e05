"""Adam and its variants: steps scaled by running moments of the gradient."""

from __future__ import annotations

from torch.optim import Optimizer

from dlrun.optim import eager
from dlrun.optim.base import Groups
from dlrun.registry import OPTIMIZERS
from dlrun.types import NonNegativeFloat, PositiveFloat, Rate


@OPTIMIZERS.register
def adam(
    params: Groups,
    fused: bool,
    *,
    lr: PositiveFloat = 1e-3,
    betas: tuple[Rate, Rate] = (0.9, 0.999),
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
    return eager.Adam(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused or None)


@OPTIMIZERS.register
def adamw(
    params: Groups,
    fused: bool,
    *,
    lr: PositiveFloat = 1e-3,
    betas: tuple[Rate, Rate] = (0.9, 0.999),
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
    return eager.AdamW(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused or None)


@OPTIMIZERS.register
def nadam(
    params: Groups,
    *,
    lr: PositiveFloat = 2e-3,
    betas: tuple[Rate, Rate] = (0.9, 0.999),
    eps: PositiveFloat = 1e-8,
    momentum_decay: NonNegativeFloat = 4e-3,
    weight_decay: NonNegativeFloat = 0.0,
    decoupled: bool = False,
) -> Optimizer:
    """Adam with Nesterov's momentum.

    Args:
        params: parameter groups.
        lr: learning rate, > 0.
        betas: decay rates of the first and second moment, each in [0, 1).
        eps: added to the denominator, > 0.
        momentum_decay: psi; the momentum of step t is beta1 (1 - 0.5 * 0.96^(t psi)), >= 0.
        weight_decay: decay of the weights, >= 0.
        decoupled: decay apart from the gradient, as adamw does; false: an L2 penalty added to the gradient.

    Source: Dozat 2016, "Incorporating Nesterov momentum into Adam".
    """
    return eager.NAdam(
        params,
        lr=lr,
        betas=betas,
        eps=eps,
        momentum_decay=momentum_decay,
        weight_decay=weight_decay,
        decoupled_weight_decay=decoupled,
    )


@OPTIMIZERS.register
def radam(
    params: Groups,
    *,
    lr: PositiveFloat = 1e-3,
    betas: tuple[Rate, Rate] = (0.9, 0.999),
    eps: PositiveFloat = 1e-8,
    weight_decay: NonNegativeFloat = 0.0,
    decoupled: bool = False,
) -> Optimizer:
    """Adam that rectifies the variance of its first steps, in place of a warmup.

    Args:
        params: parameter groups.
        lr: learning rate, > 0.
        betas: decay rates of the first and second moment, each in [0, 1).
        eps: added to the denominator, > 0.
        weight_decay: decay of the weights, >= 0.
        decoupled: decay apart from the gradient, as adamw does; false: an L2 penalty added to the gradient.

    Source: Liu et al. 2020, "On the variance of the adaptive learning rate and beyond", algorithm 2.
    """
    return eager.RAdam(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, decoupled_weight_decay=decoupled)
