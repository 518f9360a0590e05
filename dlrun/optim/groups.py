"""Parameter groups: which parameters are decayed."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def parameter_groups(model: nn.Module, *, decay_norms_and_biases: bool) -> list[dict[str, Any]]:
    """Split the trainable parameters by the decay rule.

    Weights (two axes or more) are decayed. Parameters with fewer axes, which are the biases and the scales and shifts
    of normalisation layers, are decayed only on request: shrinking them does not regularise the function.

    Args:
        model: the network.
        decay_norms_and_biases: decay every parameter.

    Returns:
        One or two groups for the optimizer; the second has ``weight_decay`` 0.

    Source: Goyal et al. 2017, "Accurate, large minibatch SGD", section 5.1; He et al. 2019, "Bag of tricks",
        section 3.1.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if decay_norms_and_biases:
        return [{"params": trainable}]
    decayed = [parameter for parameter in trainable if parameter.ndim >= 2]
    others = [parameter for parameter in trainable if parameter.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def can_fuse(model: nn.Module) -> bool:
    """Whether torch has fused optimizer kernels for every trainable parameter: floating point on CPU or CUDA."""
    return all(
        parameter.device.type in ("cpu", "cuda") and torch.is_floating_point(parameter)
        for parameter in model.parameters()
        if parameter.requires_grad
    )
