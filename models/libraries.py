"""What the models of torchvision and timm have in common: their head is drawn anew, their input is checked."""

from __future__ import annotations

import torch
from torch import nn

from dlrun.models.init import HEAD_GAIN


def check_input(net: nn.Module, input_shape: tuple[int, int, int], name: str) -> nn.Module:
    """Run a model on shapes alone, to learn whether it takes images of this size.

    Args:
        net: the model; it is not changed.
        input_shape: (C, H, W) of one image.
        name: how the message names it.

    Returns:
        ``net``.

    Raises:
        ValueError: if it does not, with the library's own reason.
    """
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    shapes = {key: value.detach().to("meta") for key, value in tensors.items()}
    images = torch.empty(2, *input_shape, device="meta")
    training = {module: module.training for module in net.modules()}
    try:
        with torch.no_grad():
            torch.func.functional_call(net.eval(), shapes, (images,))
    except NotImplementedError:
        # It computes with values, which meta tensors do not have: training will tell.
        pass
    except (RuntimeError, AssertionError, ValueError, IndexError, ZeroDivisionError) as error:
        size = "x".join(str(side) for side in input_shape)
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(
            f"{name} cannot take images of {size} (channels, height, width): {reason}; many nets of the libraries need "
            "at least 32 to 75 pixels, some a fixed size such as 224 (data.size)"
        ) from None
    finally:
        for module, mode in training.items():
            module.training = mode
    return net


def start_small(layer: nn.Linear | nn.Conv2d) -> None:
    """Draw a head's weights so small that the loss starts at ln K, as dlrun's own models do."""
    fan_in = layer.weight[0].numel()
    nn.init.normal_(layer.weight, std=HEAD_GAIN / fan_in**0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
