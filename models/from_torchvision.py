"""The models of torchvision. Shapes: B batch, C channels, H height, W width, K classes."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import torch
from torch import nn
from torchvision import models as library

from dlrun.data.statistics import Statistics
from dlrun.errors import did_you_mean
from dlrun.models.libraries import check_input, start_small
from dlrun.registry import MODELS
from dlrun.tasks.base import WithAuxiliary
from dlrun.weights import Weights, brings_weights

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_AUXILIARY = {"googlenet": 0.3, "inception_v3": 0.4}
"""Nets with auxiliary heads, and the weight of their losses in torchvision's own training."""


def _statistics(architecture: str) -> Statistics:
    """What torchvision's weights are normalised with."""
    # The weights of these two were carried over from TensorFlow.
    mean, std = ((0.5,) * 3, (0.5,) * 3) if architecture in _AUXILIARY else (_MEAN, _STD)
    return Statistics("channel", torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1))


def _named(name: str, *, architecture: str) -> Weights:
    """Weights by torchvision's name for them, such as DEFAULT or IMAGENET1K_V2; downloaded at their first use.

    Raises:
        ValueError: if there are none of this name, or they cannot be fetched.
    """
    _check(architecture)
    known = library.get_model_weights(architecture)
    names = ["DEFAULT", *known.__members__]
    if name not in names:
        raise ValueError(f"torchvision has no such weights of {architecture}; {did_you_mean(name, names)}")
    weights = known[name] if name in known.__members__ else known.DEFAULT
    options: dict[str, Any] = {"aux_logits": True} if architecture in _AUXILIARY else {}
    try:
        with warnings.catch_warnings():
            # GoogLeNet's auxiliary heads come untrained.
            warnings.simplefilter("ignore")
            net = library.get_model(architecture, weights=weights, **options)
    except OSError as error:
        raise ValueError(
            f"the weights cannot be fetched: {error}; with a copy of the file, give its path ({weights.url})"
        ) from None
    classes = tuple(weights.meta["categories"]) if "categories" in weights.meta else None
    return Weights(f"torchvision's {architecture} {weights.name}", net.state_dict(), classes, _statistics(architecture))


def _check(architecture: str) -> None:
    known = library.list_models(module=library)
    if architecture not in known:
        raise ValueError(f"torchvision has no model {architecture!r}; {did_you_mean(architecture, known)}")


@brings_weights(_named, _statistics)
@MODELS.register
def torchvision(input_shape: tuple[int, int, int], num_classes: int, *, architecture: str) -> nn.Module:
    """A classification model of torchvision: model=torchvision/resnet50.

    Maps (B, C, H, W) to class scores (B, K), as torchvision builds it for K classes. For other images than colour ones
    its first convolution takes C channels; nets with a fixed input take the size of the images. The last layer starts
    small, so that the loss is ln K. googlenet and inception_v3 train their auxiliary heads too.

    Args:
        input_shape: (C, H, W) of one image.
        num_classes: K.
        architecture: torchvision's name of the model.

    Raises:
        ValueError: if torchvision has no such model, or the model cannot take such images.

    Source: torchvision, https://pytorch.org/vision/stable/models.html
    """
    _check(architecture)
    channels, height, width = input_shape
    known = inspect.signature(library.get_model_builder(architecture)).parameters
    options: dict[str, Any] = {}
    if architecture.startswith("vit_"):
        if height != width:
            raise ValueError(f"{architecture} takes square images, not {height}x{width}; see data.size")
        options["image_size"] = height
    elif architecture.startswith("maxvit"):
        options["input_size"] = (height, width)
    elif architecture in _AUXILIARY:
        options["init_weights"] = True
    assert "kwargs" in known
    try:
        net: nn.Module = library.get_model(architecture, num_classes=num_classes, **options)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"{architecture} cannot be built for images of {height}x{width}: {error}") from None
    if channels != 3:
        _take_channels(net, channels)
    if architecture in _AUXILIARY:
        net.register_forward_hook(_with_auxiliary(_AUXILIARY[architecture]))
    start_small(_last_layer(net))
    return check_input(net, input_shape, architecture)


def _take_channels(net: nn.Module, channels: int) -> None:
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            assert isinstance(module.padding, tuple)
            convolution = nn.Conv2d(
                channels,
                module.out_channels,
                module.kernel_size,  # type: ignore[arg-type]
                module.stride,  # type: ignore[arg-type]
                module.padding,  # type: ignore[arg-type]
                bias=module.bias is not None,
            )
            parent, _, last = name.rpartition(".")
            setattr(net.get_submodule(parent), last, convolution)
            return


def _last_layer(net: nn.Module) -> nn.Linear | nn.Conv2d:
    # Those with auxiliary heads make them before their own.
    return [module for module in net.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]


def _with_auxiliary(weight: float) -> Any:
    def hook(_module: nn.Module, _inputs: Any, out: Any) -> Any:
        if isinstance(out, torch.Tensor):
            return out
        heads = tuple(scores for scores in out[1:] if scores is not None)
        return WithAuxiliary(out[0], heads, weight) if heads else out[0]

    return hook
