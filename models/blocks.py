"""Parts that several models share, and the arithmetic of their sizes.

Activations work in place where the layer before them does not need its output for the gradient (convolution,
linear, batch norm do not).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from dlrun.models.init import initialise, with_data

ACTIVATIONS: dict[str, Callable[..., nn.Module]] = {
    "relu": partial(nn.ReLU, inplace=True),
    "leaky_relu": partial(nn.LeakyReLU, inplace=True),
    "prelu": nn.PReLU,
    "elu": partial(nn.ELU, inplace=True),
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
"""Activation layers by the name that the models' option ``activation`` takes."""

OWN_ACTIVATIONS: dict[str, Callable[..., nn.Module]] = {"relu6": partial(nn.ReLU6, inplace=True)}
"""Those that belong to one family and are no value of the option."""

SLOPE_ARGUMENT = {"leaky_relu": "negative_slope", "prelu": "init"}
"""The activations with a slope below zero, and what torch calls it."""

LARGEST_SMALL = 64
"""The ``auto`` form is ``small`` up to this length of the shorter side, in pixels; above it, ``imagenet``."""


class GlobalAverage(nn.Module):
    """Average of each channel over all pixels.

    Plain ``mean`` instead of ``nn.AdaptiveAvgPool2d(1)``, whose strides for channels-last have no rule in
    ``torch.func.vmap``, so that several nets stacked into one program would fall back to a loop.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C)."""
        return x.mean((2, 3))


class Stack(nn.Module):
    """Run branches on one input and stack their outputs along the channels.

    Args:
        branches: modules with outputs of one height and width.
    """

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, sum of the branches' channels, H', W')."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class DropPath(nn.Module):
    """Drop a branch: in training, set whole samples to zero and scale the others up, so that the mean stays.

    Args:
        rate: probability of dropping a sample, in [0, 1).

    Source: Larsson, Maire and Shakhnarovich 2017, "FractalNet", section 3; per sample as in Huang et al. 2016,
        "Deep Networks with Stochastic Depth"
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, ...) to (B, ...)."""
        if not self.training or self.rate == 0:
            return x
        kept = torch.rand(x.shape[0], *(1,) * (x.ndim - 1), device=x.device) >= self.rate
        return x * (kept / (1 - self.rate)).to(x.dtype)


class SqueezeExcite(nn.Module):
    """Scale each channel by a factor in (0, 1) that two linear layers compute from the averages of all channels.

    Args:
        channels: C.
        reduction: the layers meet in C / reduction units, rounded down; at least 1 remains.

    Source: Hu, Shen and Sun 2018, "Squeeze-and-Excitation Networks", section 3
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        squeezed = max(1, channels // reduction)
        self.gate = nn.Sequential(
            GlobalAverage(),
            nn.Linear(channels, squeezed),
            nn.ReLU(inplace=True),
            nn.Linear(squeezed, channels),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        gate: Tensor = self.gate(x)
        return x * gate[:, :, None, None]


def make_norm(name: str, channels: int, groups: int | None) -> list[nn.Module]:
    """Make the norm of maps (B, C, H, W) as a list, empty for none.

    Args:
        name: batch, group, layer (over all channels and pixels of a sample), instance or none.
        channels: C.
        groups: groups of the norm ``group``; ``None`` for those of :func:`own_groups`.

    Raises:
        ValueError: if the groups of the norm ``group`` do not divide the channels.

    Source: group, and its kin: Wu and He 2018, "Group Normalization", section 3
    """
    if name == "none":
        return []
    if name == "batch":
        return [nn.BatchNorm2d(channels)]
    if name == "instance":
        return [nn.InstanceNorm2d(channels, affine=True)]
    if name == "layer":
        # Layer norm is group norm with one group.
        return [nn.GroupNorm(1, channels)]
    parts = own_groups(channels) if groups is None else groups
    if channels % parts:
        raise ValueError(
            f"norm_groups={parts} does not divide {channels} channels; choose a divisor of all of them, "
            "another width, or another norm"
        )
    return [nn.GroupNorm(parts, channels)]


def own_groups(channels: int) -> int:
    """Give the largest divisor of the channels up to 8 that leaves two of them or more in each group; 1 for primes."""
    return max((parts for parts in range(1, 9) if channels % parts == 0 and 2 * parts <= channels), default=1)


def make_activation(name: str, negative_slope: float | None = None) -> nn.Module:
    """Make a new activation layer.

    Args:
        name: a key of :data:`ACTIVATIONS` or :data:`OWN_ACTIVATIONS`.
        negative_slope: slope below zero; ``None`` for the activation's own (leaky_relu 0.01, prelu starts at
            0.25).

    Raises:
        ValueError: if a slope is given to an activation that has none.
    """
    if negative_slope is None:
        return (ACTIVATIONS | OWN_ACTIVATIONS)[name]()
    if name not in SLOPE_ARGUMENT:
        raise ValueError(
            f"negative_slope={negative_slope:g} has no effect with activation={name}; "
            f"set it to null, or choose {' or '.join(SLOPE_ARGUMENT)}"
        )
    return ACTIVATIONS[name](**{SLOPE_ARGUMENT[name]: negative_slope})


def leaving_its_input(norm: Sequence[nn.Module], act: nn.Module) -> list[nn.Module]:
    """Put norm, if any, and activation before a layer whose input others take too: they must not change it in place.

    Args:
        norm: the norm as a list, empty for none.
        act: a new activation layer.
    """
    if not norm and isinstance(act, nn.ReLU | nn.LeakyReLU | nn.ELU):
        act.inplace = False
    return [*norm, act]


def conv_norm_act(
    c_in: int,
    c_out: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int | tuple[int, int] | None = None,
    act: bool = True,
) -> list[nn.Module]:
    """Make convolution, batch norm and ReLU as a flat list: (B, c_in, H, W) to (B, c_out, H', W').

    The convolution has no bias, as the norm would subtract it again.

    Args:
        c_in: channels of the input.
        c_out: channels of the output.
        kernel: side of the square window, odd.
        stride: step of the window.
        padding: zeros on each side; ``None`` keeps the size at stride 1.
        act: with ReLU.
    """
    same = kernel // 2 if padding is None else padding
    layers: list[nn.Module] = [nn.Conv2d(c_in, c_out, kernel, stride, same, bias=False), nn.BatchNorm2d(c_out)]
    if act:
        layers.append(nn.ReLU(inplace=True))
    return layers


def local_response_norm() -> nn.LocalResponseNorm:
    """Make AlexNet's norm over 5 neighbouring channels: (B, C, H, W) to b = a / (2 + 1e-4 sum a^2)^0.75."""
    # The paper sums over the channels; torch averages, so its alpha is 5 times that.
    return nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)


def classifier(
    features: nn.Module | Sequence[nn.Module], num_features: int, num_classes: int, init: str
) -> nn.Sequential:
    """Put a linear head on a feature extractor and initialise both.

    Args:
        features: a module, or layers in order, that map a batch of images to (B, num_features).
        num_features: number of features.
        num_classes: K.
        init: a key of :data:`dlrun.models.init.INITS`.
    """
    body = features if isinstance(features, nn.Module) else nn.Sequential(*features)
    head = nn.Linear(num_features, num_classes)
    initialise(body, head, init)
    net = nn.Sequential(OrderedDict(features=body, head=head))
    with_data(net, init)
    return net


def pick_form(
    form: Literal["auto", "imagenet", "small"], input_shape: tuple[int, int, int]
) -> Literal["imagenet", "small"]:
    """Resolve the form ``auto`` by the image size.

    Args:
        form: the option's value.
        input_shape: (C, H, W) of one image.
    """
    if form != "auto":
        return form
    return "imagenet" if min(input_shape[1:]) > LARGEST_SMALL else "small"


def scaled(channels: int, width: float) -> int:
    """Multiply a number of channels by a width factor; at least 1."""
    return max(1, round(channels * width))


def window_out(
    layer: str,
    size: tuple[int, int],
    kernel: int,
    *,
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
    ceil: bool = False,
    remedy: str,
) -> tuple[int, int]:
    """Give the output (H', W') of a convolution or pooling layer: floor((W - F + 2P) / S) + 1.

    Args:
        layer: name of the layer, for the message.
        size: (H, W) of its input.
        kernel: F, side of the window.
        stride: S.
        padding: P, above and below, and left and right.
        ceil: round the division up, so that a last window that only begins inside counts (``ceil_mode`` of pools).
        remedy: what the user can do if the window does not fit.

    Raises:
        ValueError: if the window is larger than the padded input.
    """
    rest = stride - 1 if ceil else 0
    height, width = ((side + 2 * pad - kernel + rest) // stride + 1 for side, pad in zip(size, padding, strict=True))
    if height < 1 or width < 1:
        raise ValueError(
            f"the image is too small: at layer {layer} only {size[0]}x{size[1]} pixels are left "
            f"for a {kernel}x{kernel} window; {remedy}"
        )
    return height, width
