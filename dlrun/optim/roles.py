"""What the parameters of a network are for: weights, which decay, penalties and limits are about, or something else."""

from __future__ import annotations

import re

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_LAYERS = (_ConvNd, nn.Linear, nn.Bilinear, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
"""Layers of torch whose parameters with two axes or more are weights whatever their shape: a single output, too."""
_POSITIONS = re.compile(r"(^|_)(pos|position|positions|positional|wpe)(_|$)")
_NO_WEIGHT = re.compile(r"(bias|biases|bias_table|token|tokens|scale|gamma)$")


def weights_of(model: nn.Module) -> list[nn.Parameter]:
    """The weights of a network, in their order: what its layers multiply their inputs with.

    They have two axes or more. No weights are biases, whatever their shape, parameters of norms, scales (of channels as
    (C, 1, 1)), class tokens, and tables of positions or of biases of these. Embeddings of words are weights.

    It is decided by the type of the module that holds a parameter, then by its name and shape: outside of the layers of
    torch, what has three axes or more and a first one of size 1, or only one of another size than 1, is a token, a
    table or a scale. A parameter that several modules share is a weight if it is one in any of them.

    Source: He et al. 2019, "Bag of tricks for image classification", section 3.1; Liu et al. 2021, "Swin Transformer",
        appendix A2 (bias tables and positions).
    """
    chosen: set[int] = set()
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim >= 2 and _is_weight(module, path.rpartition(".")[2], name, parameter):
                chosen.add(id(parameter))
    return [parameter for parameter in model.parameters() if id(parameter) in chosen]


def _is_weight(module: nn.Module, place: str, name: str, parameter: nn.Parameter) -> bool:
    if isinstance(module, _NORMS) or name.endswith("bias"):
        return False
    if isinstance(module, _LAYERS):
        return True
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return _POSITIONS.search(place) is None
    if _NO_WEIGHT.search(name) or _POSITIONS.search(name) or "Norm" in type(module).__name__:
        return False
    shape = parameter.shape
    return parameter.ndim == 2 or (shape[0] > 1 and parameter.numel() > max(shape))
