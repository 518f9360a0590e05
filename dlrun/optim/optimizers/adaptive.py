"""AdaGrad and its successors: a rate of its own for every weight, from the squares of its gradients."""

from __future__ import annotations

from torch.optim import Optimizer

from dlrun.optim import eager
from dlrun.optim.base import Groups
from dlrun.registry import OPTIMIZERS
from dlrun.types import NonNegativeFloat, PositiveFloat, Rate


@OPTIMIZERS.register
def adagrad(
    params: Groups,
    fused: bool,
    *,
    lr: PositiveFloat = 0.01,
    lr_decay: NonNegativeFloat = 0.0,
    initial_accumulator: NonNegativeFloat = 0.0,
    eps: PositiveFloat = 1e-10,
    weight_decay: NonNegativeFloat = 0.0,
) -> Optimizer:
    """AdaGrad: steps divided by the root of the sum of all squared gradients so far.

    Args:
        params: parameter groups.
        fused: use the fused kernel.
        lr: learning rate, > 0.
        lr_decay: the rate of step t, from 0, is lr / (1 + t lr_decay), >= 0; beside the schedule.
        initial_accumulator: what the sum of squares starts from, >= 0.
        eps: added to the denominator, > 0.
        weight_decay: L2 penalty added to the gradient, >= 0.

    Source: Duchi et al. 2011, "Adaptive subgradient methods for online learning and stochastic optimization", figure 1.
    """
    return eager.Adagrad(
        params,
        lr=lr,
        lr_decay=lr_decay,
        initial_accumulator_value=initial_accumulator,
        eps=eps,
        weight_decay=weight_decay,
        fused=fused or None,
    )


@OPTIMIZERS.register
def adadelta(
    params: Groups,
    *,
    lr: PositiveFloat = 1.0,
    rho: Rate = 0.9,
    eps: PositiveFloat = 1e-6,
    weight_decay: NonNegativeFloat = 0.0,
) -> Optimizer:
    """AdaDelta: steps in the unit of the weights, from running means of squared gradients and of squared updates.

    Args:
        params: parameter groups.
        lr: factor on the update, > 0; the paper has none, which is 1.
        rho: decay rate of both means, in [0, 1).
        eps: added below both roots, > 0; it also sets the size of the first steps.
        weight_decay: L2 penalty added to the gradient, >= 0.

    Source: Zeiler 2012, "ADADELTA: an adaptive learning rate method", algorithm 1.
    """
    return eager.Adadelta(params, lr=lr, rho=rho, eps=eps, weight_decay=weight_decay)


@OPTIMIZERS.register
def rmsprop(
    params: Groups,
    *,
    lr: PositiveFloat = 1e-2,
    alpha: Rate = 0.99,
    eps: PositiveFloat = 1e-8,
    momentum: Rate = 0.0,
    centered: bool = False,
    weight_decay: NonNegativeFloat = 0.0,
) -> Optimizer:
    """RMSProp: steps divided by the root of a running mean of squared gradients.

    Args:
        params: parameter groups.
        lr: learning rate, > 0.
        alpha: decay rate of the mean, in [0, 1).
        eps: added to the denominator, > 0.
        momentum: fraction of the last update that is kept, in [0, 1).
        centered: divide by the estimated standard deviation: the mean of the gradients is subtracted (Graves 2013).
        weight_decay: L2 penalty added to the gradient, >= 0.

    Source: Tieleman and Hinton 2012, "Neural networks for machine learning", lecture 6.5.
    """
    return eager.RMSprop(
        params, lr=lr, alpha=alpha, eps=eps, momentum=momentum, centered=centered, weight_decay=weight_decay
    )
