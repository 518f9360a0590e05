"""The models of timm, where it is installed. Shapes: B batch, C channels, H height, W width, K classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dlrun.data.statistics import Statistics
from dlrun.errors import UserError, did_you_mean
from dlrun.models.libraries import check_input, start_small
from dlrun.registry import MODELS
from dlrun.weights import Weights, brings_weights


def _library(architecture: str) -> Any:
    """timm itself, if it is installed and has the model.

    Raises:
        UserError: if it is not installed.
        ValueError: if it has no such model.
    """
    try:
        import timm as library
    except ImportError:
        raise UserError(f"model=timm/{architecture}: needs the package timm: pip install 'dlrun[timm]'") from None
    known = library.list_models()
    if architecture.partition(".")[0] not in known:
        raise ValueError(f"timm has no model {architecture!r}; {did_you_mean(architecture, known)}")
    return library


def _normalised_with(config: Any) -> Statistics:
    mean, std = (torch.tensor(config[key]).view(-1, 1, 1) for key in ("mean", "std"))
    return Statistics("channel", mean, std)


def _statistics(architecture: str) -> Statistics | None:
    """What the model's first weights in timm are normalised with."""
    config = _library(architecture).get_pretrained_cfg(architecture)
    return None if config is None else _normalised_with(config.to_dict())


def _named(name: str, *, architecture: str) -> Weights:
    """Weights by timm's tag for them, such as a1_in1k; DEFAULT takes the first. Downloaded at their first use.

    Raises:
        ValueError: if there are none of this name, or they cannot be fetched.
    """
    library = _library(architecture)
    bare = architecture.partition(".")[0]
    tags = [known.partition(".")[2] for known in library.list_pretrained(f"{bare}.*")]
    if name != "DEFAULT" and name not in tags:
        raise ValueError(f"timm has no such weights of {bare}; {did_you_mean(name, ['DEFAULT', *tags])}")
    wanted = architecture if name == "DEFAULT" else f"{bare}.{name}"
    try:
        net = library.create_model(wanted, pretrained=True)
    except (OSError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"the weights cannot be fetched: {reason}; with a copy of the file, give its path") from None
    return Weights(f"timm's {wanted}", net.state_dict(), None, _normalised_with(net.pretrained_cfg))


@brings_weights(_named, _statistics)
@MODELS.register
def timm(input_shape: tuple[int, int, int], num_classes: int, *, architecture: str) -> nn.Module:
    """A classification model of timm: model=timm/convnext_tiny. Needs the package: pip install 'dlrun[timm]'.

    Maps (B, C, H, W) to class scores (B, K), as timm builds it for K classes and C channels; nets with a fixed input
    take the size of the images. A last layer that is linear starts small, so that the loss is ln K.

    Args:
        input_shape: (C, H, W) of one image.
        num_classes: K.
        architecture: timm's name of the model.

    Raises:
        UserError: if timm is not installed.
        ValueError: if timm has no such model, or the model cannot take such images.

    Source: Wightman, "PyTorch Image Models", https://github.com/huggingface/pytorch-image-models
    """
    library = _library(architecture)
    channels, height, width = input_shape
    options = {"num_classes": num_classes, "in_chans": channels}
    try:
        try:
            net: nn.Module = library.create_model(architecture, img_size=(height, width), **options)
        except TypeError:
            # Most take any size, and have no such option.
            net = library.create_model(architecture, **options)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ValueError(f"{architecture} cannot be built for images of {height}x{width}: {error}") from None
    last = net.get_classifier()  # type: ignore[operator]
    if isinstance(last, nn.Linear | nn.Conv2d):
        start_small(last)
    return check_input(net, input_shape, architecture)
