"""The options that many models share, and layers in a row made to them. Shapes: B batch, C channels, H, W pixels.

:class:`Kit` holds the options and makes single layers; :class:`Chain` puts them in a row and keeps count of channels
and sizes, so that an image that is too small is refused at the layer that it does not reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torch import nn

from dlrun.models.blocks import GlobalAverage, leaving_its_input, make_activation, make_norm, window_out
from dlrun.models.layers import DropConnect, FractionalMaxPool, Maxout, fractional_out

PIECES = 2
"""Inputs of one maxout unit, where no option says it."""


@dataclass(frozen=True)
class Kit:
    """What a net's layers have in common.

    Attributes:
        norm: behind each convolution and hidden layer: batch, group, layer, instance (convolutions alone) or none.
        norm_groups: groups of norm=group; ``None`` for :func:`dlrun.models.blocks.own_groups` of each layer.
        activation: a key of :data:`dlrun.models.blocks.ACTIVATIONS`, or maxout: the layer before it then gives
            ``pieces`` times the channels or units.
        negative_slope: slope below zero; ``None`` for the activation's own.
        pieces: inputs of one maxout; ``None`` for 2.
        pool: max, average, strided (a convolution with the pool's window, norm and activation) or fractional (max over
            overlapping windows that leaves 0.7 of each side).
        dropout: probability of dropping a hidden unit, in [0, 1).
        drop_connect: probability of dropping a weight of a hidden layer, in [0, 1).
        eps: what batch norm adds to the variance.

    Raises:
        ValueError: if norm_groups, negative_slope or pieces is given without the norm or activation that has it.

    Source: strided: Springenberg et al. 2015, "Striving for Simplicity", section 2
    """

    norm: str = "none"
    norm_groups: int | None = None
    activation: str = "relu"
    negative_slope: float | None = None
    pieces: int | None = None
    pool: str = "max"
    dropout: float = 0.0
    drop_connect: float = 0.0
    eps: float = 1e-5

    def __post_init__(self) -> None:
        """Refuse what has no effect, also where the net has no layer that it could act on."""
        if self.norm_groups is not None and self.norm != "group":
            raise ValueError(
                f"norm_groups={self.norm_groups} has no effect with norm={self.norm}; set it to null, or norm=group"
            )
        if self.pieces is not None and self.activation != "maxout":
            raise ValueError(
                f"pieces={self.pieces} has no effect with activation={self.activation}; "
                "set it to null, or activation=maxout"
            )
        if self.activation != "maxout" or self.negative_slope is not None:
            make_activation(self.activation, self.negative_slope)

    @property
    def factor(self) -> int:
        """Channels or units of a layer before the activation, relative to those behind it."""
        return (self.pieces or PIECES) if self.activation == "maxout" else 1

    def act(self) -> nn.Module:
        """Make the activation; it may work in place."""
        return (
            Maxout(self.factor)
            if self.activation == "maxout"
            else make_activation(self.activation, self.negative_slope)
        )

    def normalise(self, channels: int) -> list[nn.Module]:
        """Make the norm of maps (B, C, H, W) as a list, empty for none.

        Raises:
            ValueError: if the groups of norm=group do not divide the channels.
        """
        if self.norm == "batch":
            return [nn.BatchNorm2d(channels, eps=self.eps)]
        return make_norm(self.norm, channels, self.norm_groups)

    def before(self, channels: int) -> list[nn.Module]:
        """Make norm and activation to stand before a convolution; they leave their input alone."""
        return leaving_its_input(self.normalise(channels), self.act())

    def refuse_single_pixels(self, layer: str, size: tuple[int, int]) -> None:
        """Check that the norm has something to compare in the maps of a layer.

        Args:
            layer: its name, for the message.
            size: (H, W) of its output.

        Raises:
            ValueError: if norm=instance would see single pixels.
        """
        if self.norm == "instance" and prod(size) < 2:
            raise ValueError(
                f"norm=instance needs more than one pixel in each map, and layer {layer} gives 1x1; "
                "use larger images, fewer pools, or another norm"
            )

    def conv(
        self,
        c_in: int,
        c_out: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int | tuple[int, int] | None = None,
        groups: int = 1,
        act: bool = True,
    ) -> list[nn.Module]:
        """Make convolution, norm and activation as a flat list: (B, c_in, H, W) to (B, c_out, H', W').

        Args:
            c_in: channels of the input.
            c_out: channels of the output.
            kernel: side of the square window.
            stride: step of the window.
            padding: zeros on each side; ``None`` keeps the size at stride 1 and an odd kernel.
            groups: parts of the channels that are convolved apart.
            act: with the activation.
        """
        made = c_out * self.factor if act else c_out
        same = kernel // 2 if padding is None else padding
        conv = nn.Conv2d(c_in, made, kernel, stride, same, groups=groups, bias=self.bias)
        return [conv, *self.normalise(made), *([self.act()] if act else [])]

    @property
    def bias(self) -> bool:
        """Whether convolutions have a bias: the norms of single channels would subtract it again as a whole."""
        return self.norm not in ("batch", "instance")

    def hidden(self, n_in: int, n_out: int, *, bias: bool | None = None) -> list[nn.Module]:
        """Make a hidden fully connected layer as a flat list: (B, n_in) to (B, n_out).

        The order is linear (with DropConnect), norm, activation, dropout.

        Args:
            n_in: number of inputs.
            n_out: number of units.
            bias: of the linear layer; ``None``: unless batch norm would subtract it again.

        Raises:
            ValueError: if the groups of norm=group do not divide the units, or are single units.
        """
        units = n_out * self.factor
        has_bias = self.norm != "batch" if bias is None else bias
        if self.norm == "group" and self.norm_groups == units > 1:
            raise ValueError(
                f"norm_groups={units} leaves one unit of {units} in each group, and its norm is zero; "
                "choose fewer groups, more units, or another norm"
            )
        layers: list[nn.Module] = [
            DropConnect(n_in, units, self.drop_connect, bias=has_bias)
            if self.drop_connect > 0
            else nn.Linear(n_in, units, bias=has_bias)
        ]
        if self.norm == "batch":
            layers.append(nn.BatchNorm1d(units, eps=self.eps))
        elif self.norm != "instance":
            layers += make_norm(self.norm, units, self.norm_groups)
        layers.append(self.act())
        if self.dropout > 0:
            layers.append(nn.Dropout(self.dropout))
        return layers


class Chain:
    """Layers in a row, from the image on, with the channels and the size they give.

    Args:
        kit: what they have in common.
        input_shape: (C, H, W) of one image.
        remedy: what the user can do if the image is too small for a layer.

    Attributes:
        channels: C, or the number of features behind :meth:`flatten` or :meth:`average`.
        size: (H, W).
    """

    def __init__(self, kit: Kit, input_shape: tuple[int, int, int], remedy: str) -> None:
        self.kit = kit
        self.channels = input_shape[0]
        self.size = (input_shape[1], input_shape[2])
        self._remedy = remedy
        self._layers: list[nn.Module] = []

    def take(self) -> list[nn.Module]:
        """Give the layers since the last call, in order."""
        taken, self._layers = self._layers, []
        return taken

    def add(self, *layers: nn.Module, channels: int | None = None) -> None:
        """Append layers that keep the size, and the channels unless they are given."""
        self._layers += layers
        self.channels = self.channels if channels is None else channels

    def conv(
        self,
        name: str,
        c_out: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int | tuple[int, int] | None = None,
        groups: int = 1,
    ) -> None:
        """Append convolution, norm and activation; see :meth:`Kit.conv`.

        Args:
            name: for messages.
            c_out: channels behind the activation.
            kernel: side of the square window.
            stride: step of the window.
            padding: zeros on each side; ``None`` keeps the size at stride 1 and an odd kernel.
            groups: parts of the channels that are convolved apart.

        Raises:
            ValueError: if the window does not fit, or norm=instance would see single pixels.
        """
        same = kernel // 2 if padding is None else padding
        self._slide(name, kernel, stride, same, ceil=False)
        self.kit.refuse_single_pixels(name, self.size)
        layers = self.kit.conv(self.channels, c_out, kernel, stride=stride, padding=same, groups=groups)
        self.add(*layers, channels=c_out)

    def pool(
        self,
        name: str,
        kernel: int,
        *,
        stride: int = 2,
        padding: int = 0,
        ceil: bool = False,
        kind: str | None = None,
    ) -> None:
        """Append a pool.

        Args:
            name: for messages.
            kernel: side of the square window; fractional pools have 2x2 windows at places of their own.
            stride: step of the window.
            padding: border on each side; averages leave it out.
            ceil: let a last window count that only begins inside; strided convolutions have none.
            kind: max, average, strided or fractional; ``None`` for the kit's.

        Raises:
            ValueError: if the window does not fit.
        """
        kind = self.kit.pool if kind is None else kind
        if kind == "strided":
            self.conv(name, self.channels, kernel, stride=stride, padding=padding)
        elif kind == "fractional":
            window_out(name, self.size, 2, remedy=self._remedy)
            self.size = fractional_out(self.size)
            self.add(FractionalMaxPool())
        else:
            self._slide(name, kernel, stride, padding, ceil=ceil)
            self.add(
                nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil)
                if kind == "max"
                else nn.AvgPool2d(kernel, stride, padding, ceil_mode=ceil, count_include_pad=False)
            )

    def flatten(self) -> None:
        """Append what makes the maps (B, C, H, W) features (B, C H W)."""
        self.add(nn.Flatten(), channels=self.channels * prod(self.size))

    def average(self) -> None:
        """Append a global average: (B, C, H, W) to (B, C)."""
        self.add(GlobalAverage())

    def hidden(self, units: Sequence[int], *, bias: bool | None = None) -> None:
        """Append hidden fully connected layers, behind :meth:`flatten` or :meth:`average`; see :meth:`Kit.hidden`."""
        for n_out in units:
            self.add(*self.kit.hidden(self.channels, n_out, bias=bias), channels=n_out)

    def _slide(self, name: str, kernel: int, stride: int, padding: int | tuple[int, int], *, ceil: bool) -> None:
        border = (padding, padding) if isinstance(padding, int) else padding
        self.size = window_out(name, self.size, kernel, stride=stride, padding=border, ceil=ceil, remedy=self._remedy)


def refuse_large_maps(pool: str, form: str) -> None:
    """Refuse fractional pools before hidden layers that are made for maps of a few pixels.

    Args:
        pool: the option's value.
        form: the form that was chosen: imagenet has such hidden layers.

    Raises:
        ValueError: if both come together.
    """
    if pool == "fractional" and form == "imagenet":
        raise ValueError(
            "pool=fractional does not apply to form=imagenet: it leaves 0.7 of each side, where the hidden layers count"
            " on a half, and would have tens of times the weights; choose another pool, or form=small"
        )
