"""Parameter groups: which parameters are decayed, and at which rate each learns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dlrun.errors import UserError


def parameter_groups(
    model: nn.Module,
    *,
    decay_norms_and_biases: bool,
    lr: float | None = None,
    factors: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Split the trainable parameters by the decay rule and by their learning rates.

    Weights (two axes or more) are decayed. Parameters with fewer axes, which are the biases and the scales and shifts
    of normalisation layers, are decayed only on request: shrinking them does not regularise the function.

    Args:
        model: the network.
        decay_norms_and_biases: decay every parameter.
        lr: the optimizer's learning rate; None if it has none, and then there are no factors.
        factors: parameter -> factor on ``lr``; those that are not named have 1.

    Returns:
        Groups for the optimizer, those with the plain ``lr`` first; what is not decayed has ``weight_decay`` 0.

    Raises:
        UserError: if there are factors and no ``lr``.

    Source: Goyal et al. 2017, "Accurate, large minibatch SGD", section 5.1; He et al. 2019, "Bag of tricks",
        section 3.1.
    """
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        factor = (factors or {}).get(name, 1.0)
        decayed = decay_norms_and_biases or parameter.ndim >= 2
        group = groups.setdefault((factor, decayed), {"params": []})
        group["params"].append(parameter)
        if not decayed:
            group["weight_decay"] = 0.0
        if factor != 1:
            if lr is None:
                raise UserError("optimizer.lr_factors: this optimizer has no learning rate lr")
            group["lr"] = factor * lr
    # The first one's rate is what the log shows.
    order = sorted(groups, key=lambda key: (key[0] != 1, key[0], not key[1]))
    return [groups[key] for key in order]


def can_fuse(model: nn.Module) -> bool:
    """Whether torch has fused optimizer kernels for every trainable parameter: floating point on CPU or CUDA."""
    return all(
        parameter.device.type in ("cpu", "cuda") and torch.is_floating_point(parameter)
        for parameter in model.parameters()
        if parameter.requires_grad
    )
