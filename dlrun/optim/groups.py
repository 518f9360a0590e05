"""Parameter groups: which parameters are decayed, at which rate each learns, and which are hidden matrices."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from dlrun.errors import UserError
from dlrun.optim.roles import weights_of


def parameter_groups(
    model: nn.Module,
    *,
    decay_norms_and_biases: bool,
    lr: float | None = None,
    factors: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Split the trainable parameters by the decay rule and by their learning rates.

    Weights are decayed (:func:`dlrun.optim.roles.weights_of`). All else, such as biases, the scales and shifts of
    norms, tokens and tables of positions, is decayed only on request: shrinking it does not regularise the function.

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
    weights = {id(parameter) for parameter in weights_of(model)}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        factor = (factors or {}).get(name, 1.0)
        decayed = decay_norms_and_biases or id(parameter) in weights
        group = groups.setdefault((factor, decayed), {"params": []})
        group["params"].append(parameter)
        if not decayed:
            group["weight_decay"] = 0.0
        if factor != 1:
            if lr is None:
                raise UserError("optimizer.lr_factors and layer_decay: this optimizer has no learning rate lr")
            group["lr"] = factor * lr
    # The first one's rate is what the log shows.
    order = sorted(groups, key=lambda key: (key[0] != 1, key[0], not key[1]))
    return [groups[key] for key in order]


def layer_depths(model: nn.Module, head: Collection[str] = ()) -> dict[str, int]:
    """Parameter name -> how many layers lie between it and the end of the model, for a rate that falls with it.

    Layers are found by opening the model, every ``nn.Sequential`` and ``nn.ModuleList``, and what holds a stack of
    blocks in one of these, from the outside in, in the order in which they were made: so a block of a stage is a layer.
    One without a weight of two axes or more, such as a norm, belongs to the layer before it. What is held by the opened
    modules themselves (a class token, say) belongs to the first layer.

    Args:
        model: the network.
        head: names of the parameters that depend on the number of classes. The layers at the end that hold some of them
            (with auxiliary heads: several) are all at depth 0; without them it is the last layer.

    Source: Howard and Ruder 2018, "Universal language model fine-tuning", section 3.2; Clark et al. 2020, "ELECTRA",
        section 3.1.
    """
    layers: list[list[str]] = [[]]
    for names, weighty in _layers(model, "", outermost=True):
        if weighty and any(layers):
            layers.append(names)
        else:
            layers[-1] += names
    loose = {name for name, _ in model.named_parameters()} - {name for layer in layers for name in layer}
    layers[0] += sorted(loose)
    ends = 0
    while ends < len(layers) and any(name in head for name in layers[-1 - ends]):
        ends += 1
    first_at_zero = len(layers) - max(ends, 1)
    return {name: max(first_at_zero - i, 0) for i, layer in enumerate(layers) for name in layer}


_ROWS = (nn.Sequential, nn.ModuleList)


def _is_stack(module: nn.Module) -> bool:
    """Whether it is a row of blocks: of modules that have parts, and are no rows themselves."""
    blocks = [child for child in module.children() if any(True for _ in child.children())]
    return isinstance(module, _ROWS) and sum(not isinstance(block, _ROWS) for block in blocks) >= 2


def _layers(module: nn.Module, prefix: str, *, outermost: bool) -> Iterator[tuple[list[str], bool]]:
    """The layers with parameters: the names of these, and whether one has two axes or more."""
    children = [(name, child) for name, child in module.named_children() if any(True for _ in child.parameters())]
    stacked = any(_is_stack(child) for _, child in children)
    if children and (outermost or stacked or isinstance(module, _ROWS)):
        # A model inside of a model: the outer one only adapts it.
        wraps = outermost and len(children) == 1
        for name, child in children:
            yield from _layers(child, f"{prefix}{name}.", outermost=wraps)
    else:
        named = [(f"{prefix}{name}", parameter) for name, parameter in module.named_parameters()]
        if named:
            yield [name for name, _ in named], any(parameter.ndim >= 2 for _, parameter in named)


def hidden_matrices(model: nn.Module, head: Collection[str] = ()) -> list[nn.Parameter]:
    """The weights that are matrices from one hidden layer to another.

    They are weights (:func:`dlrun.optim.roles.weights_of`) with more than one row and column. They are not the model's
    first such weight (the input layer), nor of the head or an embedding, nor of a convolution in groups, whose matrices
    lie one below the other.

    Args:
        model: the network.
        head: names of the parameters that depend on the number of classes; without them the last weight is the head.

    Source: Jordan et al. 2024, "Muon", https://kellerjordan.github.io/posts/muon/
    """
    known = {id(parameter) for parameter in weights_of(model)}
    weights = {name: parameter for name, parameter in model.named_parameters() if id(parameter) in known}
    matrices = [parameter for parameter in weights.values() if 1 < parameter.shape[0] < parameter.numel()]
    outside = {id(parameter) for parameter in matrices[:1]}
    outside |= {id(weights[name]) for name in (head or list(weights)[-1:]) if name in weights}
    for module in model.modules():
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) or getattr(module, "groups", 1) != 1:
            outside |= {id(parameter) for parameter in module.parameters(recurse=False)}
    return [parameter for parameter in matrices if id(parameter) not in outside]


def can_fuse(model: nn.Module) -> bool:
    """Whether torch has fused optimizer kernels for every trainable parameter: floating point on CPU or CUDA."""
    return all(
        parameter.device.type in ("cpu", "cuda") and torch.is_floating_point(parameter)
        for parameter in model.parameters()
        if parameter.requires_grad
    )
