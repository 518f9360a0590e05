"""Penalties on the weights, limits of their norms, and noise on the gradient.

A penalty is a term of the loss; its gradient is added to ``.grad`` directly, without an autograd graph. This is not the
``weight_decay`` of an optimizer, which is no part of any loss that is reported: there sgd adds ``weight_decay * w`` to
the gradient (as ``l2 = weight_decay / 2`` here), and adamw shrinks the weights apart from it (decoupled).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dlrun.config.schema import RegularizationConfig
from dlrun.data.order import generator
from dlrun.optim.base import with_gradients
from dlrun.optim.roles import weights_of

REG_LOSS = "train/reg_loss"
"""The penalty on the weights, at the newest reading; ``train/loss`` is the loss of the data alone."""


@torch.no_grad()
def penalty(weights: list[Tensor], l2: float, l1: float) -> Tensor:
    """The elastic net R(W) = l2 * sum of w^2 + l1 * sum of |w|; with one of them 0, ridge or lasso.

    Args:
        weights: tensors of any shapes on one device, at least one.
        l2: factor of the squares, >= 0.
        l1: factor of the absolute values, >= 0.

    Returns:
        A scalar tensor on the device, without gradient.

    Source: Zou and Hastie 2005, "Regularization and variable selection via the elastic net".
    """
    total = weights[0].new_zeros(())
    if l2:
        total = total + l2 * torch.stack(torch._foreach_norm(weights)).square().sum()
    if l1:
        total = total + l1 * torch.stack(torch._foreach_norm(weights, 1)).sum()
    return total


@torch.no_grad()
def add_penalty_gradients(weights: list[Tensor], l2: float, l1: float) -> None:
    """Add the gradient of :func:`penalty`, 2 l2 w + l1 sign(w), to each weight's ``.grad``; sign(0) is 0."""
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
    _, grads = with_gradients(weights)
    if l2:
        torch._foreach_add_(grads, weights, alpha=2 * l2)
    if l1:
        torch._foreach_add_(grads, torch._foreach_sign(weights), alpha=l1)


@torch.no_grad()
def limit_norms(weights: Sequence[tuple[Tensor, int]], longest: float) -> None:
    """Scale the incoming weights of each output unit down to an L2 norm where they are longer (max-norm).

    Args:
        weights: weight and the axis of its output units; changed in place.
        longest: the norm, > 0.

    Source: Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting", section 5.1.
    """
    for weight, axis in weights:
        weight.renorm_(2, axis, longest)


def noise_scale(eta: float, step: int, decay: float = 0.55) -> float:
    """Standard deviation of the gradient noise: the square root of eta / (1 + step)^decay.

    Source: Neelakantan et al. 2015, "Adding gradient noise improves learning for very deep networks", equation 1.
    """
    return float((eta / (1 + step) ** decay) ** 0.5)


@torch.no_grad()
def add_gradient_noise(parameters: list[Tensor], scale: float, seed: int, step: int) -> None:
    """Add Gaussian noise to every gradient; a function of (seed, step), so a resumed run draws the same.

    Args:
        parameters: those without a gradient are left alone.
        scale: standard deviation, > 0.
        seed: the run's seed.
        step: steps taken before.
    """
    _, grads = with_gradients(parameters)
    if not grads:
        return
    source = generator(seed, 0, step, grads[0].device, "gradient noise")
    for grad in grads:
        grad.add_(torch.empty_like(grad).normal_(generator=source), alpha=scale)


class Regularizer:
    """What a training step does beside following the gradient of the data loss.

    Args:
        model: its trainable parameters are regularised: penalties are for weights
            (:func:`dlrun.optim.roles.weights_of`), the noise is for all, and the limit for weights but embeddings,
            whose rows are no units that sum up inputs.
        config: which, and how strongly.
        seed: of the noise.

    Attributes:
        penalises: whether there is a penalty.
    """

    def __init__(self, model: nn.Module, config: RegularizationConfig, seed: int) -> None:
        self._config = config
        self._seed = seed
        self._parameters: list[Tensor] = [parameter for parameter in model.parameters() if parameter.requires_grad]
        weights = {id(weight) for weight in weights_of(model)}
        self._penalised = [p for p in self._parameters if config.norms_and_biases or id(p) in weights]
        self._limited = _units(model)
        self.penalises = bool(self._penalised and (config.l2 or config.l1))

    def loss(self) -> Tensor:
        """The penalty of the weights as they are, a scalar tensor on the device; only where there is one."""
        return penalty(self._penalised, self._config.l2, self._config.l1)

    def add_gradients(self) -> None:
        """Add the gradient of the penalty."""
        if self.penalises:
            add_penalty_gradients(self._penalised, self._config.l2, self._config.l1)

    def add_noise(self, step: int) -> None:
        """Add the noise of a step, counted from 0, to the gradient."""
        eta = self._config.gradient_noise
        if eta is not None:
            scale = noise_scale(eta, step, self._config.gradient_noise_decay)
            add_gradient_noise(self._parameters, scale, self._seed, step)

    def limit_norms(self) -> None:
        """Limit the norms, after an update."""
        if self._config.max_norm is not None:
            limit_norms(self._limited, self._config.max_norm)


def _units(model: nn.Module) -> list[tuple[Tensor, int]]:
    """Trainable weights with the axis of their output units; those of transposed convolutions in as many parts as there
    are groups, each of which has output units of its own."""
    found: dict[Tensor, tuple[int, int]] = {}
    skipped: set[Tensor] = set()
    weights = {id(weight) for weight in weights_of(model)}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
                skipped.add(parameter)
            elif parameter.requires_grad and id(parameter) in weights:
                if isinstance(module, nn.modules.conv._ConvTransposeNd):
                    found.setdefault(parameter, (1, module.groups))
                else:
                    found.setdefault(parameter, (0, 1))
    return [
        (part, axis)
        for parameter, (axis, groups) in found.items()
        if parameter not in skipped
        for part in ([parameter] if groups == 1 else parameter.detach().chunk(groups))
    ]
