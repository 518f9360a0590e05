"""The blocks of the ResNet family. Shapes: B batch, C channels, H height, W width."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from dlrun.models.blocks import DropPath, SqueezeExcite, leaving_its_input, make_activation, make_norm

EXPANSION = 4
"""Channels of a bottleneck's output relative to those that ``channels`` names."""


@dataclass(frozen=True)
class Style:
    """What a net's blocks have in common.

    Attributes:
        norm: as :func:`dlrun.models.blocks.make_norm` takes it.
        norm_groups: groups of the norm ``group``.
        activation: a key of :data:`dlrun.models.blocks.ACTIVATIONS`.
        negative_slope: slope below zero; ``None`` for the activation's own.
        pre_activation: norm and activation stand before each convolution, not behind it.
        bottleneck: blocks of 1x1, 3x3, 1x1 convolutions, not of two 3x3 ones.
        groups: parts of the channels that a bottleneck's 3x3 convolution treats apart.
        base_width: channels of each of these parts in a block of 64 channels.
        squeeze_excite: reduction of the squeeze-excite at the end of each block; ``None`` for none.
        dropout: probability of dropping a value before the last convolution of each block.
        shortcut: ``A``, ``B`` or, in a plain net, ``None``.
    """

    norm: str
    norm_groups: int
    activation: str
    negative_slope: float | None
    pre_activation: bool
    bottleneck: bool
    groups: int
    base_width: int
    squeeze_excite: int | None
    dropout: float
    shortcut: str | None

    def conv(self, c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
        """Make a convolution; with a bias where no norm adds one."""
        return nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=self.norm == "none")

    def normalise(self, channels: int) -> list[nn.Module]:
        """Make the norm as a list, empty for none.

        Raises:
            ValueError: if the groups of norm=group do not divide the channels.
        """
        return make_norm(self.norm, channels, self.norm_groups)

    def act(self) -> nn.Module:
        """Make the activation; it may work in place."""
        return make_activation(self.activation, self.negative_slope)

    def norm_act(self, channels: int) -> nn.Sequential:
        """Make what stands before a convolution in a pre-activation net; it leaves its input alone."""
        return nn.Sequential(*leaving_its_input(self.normalise(channels), self.act()))

    def c_out(self, channels: int) -> int:
        """Channels of the output of a block of ``channels`` channels."""
        return channels * EXPANSION if self.bottleneck else channels

    def body(self, c_in: int, channels: int, stride: int, drop_path: float) -> nn.Sequential:
        """Make the residual function of a block, up to the addition.

        Args:
            c_in: channels of its input.
            channels: its own channels.
            stride: of its first 3x3 convolution.
            drop_path: probability of leaving it out for a sample.
        """
        if self.bottleneck:
            inner = max(1, int(channels * (self.base_width / 64))) * self.groups
            convs = [
                self.conv(c_in, inner, 1),
                self.conv(inner, inner, 3, stride, self.groups),
                self.conv(inner, channels * EXPANSION, 1),
            ]
        else:
            convs = [self.conv(c_in, channels, 3, stride), self.conv(channels, channels, 3)]
        layers: list[nn.Module] = []
        for conv in convs[:-1]:
            layers += [conv, *self.normalise(conv.out_channels), self.act()]
        if self.dropout > 0:
            layers.append(nn.Dropout(self.dropout))
        layers.append(convs[-1])
        if not self.pre_activation:
            layers += self.normalise(convs[-1].out_channels)
        if self.squeeze_excite is not None:
            layers.append(SqueezeExcite(convs[-1].out_channels, self.squeeze_excite))
        if drop_path > 0:
            layers.append(DropPath(drop_path))
        return nn.Sequential(*layers)

    def block(self, c_in: int, channels: int, stride: int, *, drop_path: float = 0.0, first: bool = False) -> nn.Module:
        """Make a block: (B, c_in, H, W) to (B, c_out(channels), H / stride, W / stride).

        Args:
            c_in: channels of its input.
            channels: its own channels.
            stride: step of its windows.
            drop_path: probability of leaving the body out for a sample.
            first: the first block of the net: its input comes activated from the stem.
        """
        body = self.body(c_in, channels, stride, drop_path)
        if self.shortcut is None:
            return nn.Sequential(*body, self.act())
        shortcut = self._shortcut(c_in, self.c_out(channels), stride)
        if self.pre_activation:
            return PreActivation(nn.Identity() if first else self.norm_act(c_in), body, shortcut)
        return Residual(body, shortcut, self.act())

    def _shortcut(self, c_in: int, c_out: int, stride: int) -> nn.Module:
        if stride == 1 and c_in == c_out:
            return nn.Identity()
        if self.shortcut == "A":
            return ZeroPad(stride, c_out - c_in)
        norm = [] if self.pre_activation else self.normalise(c_out)
        return nn.Sequential(self.conv(c_in, c_out, 1, stride), *norm)


class ZeroPad(nn.Module):
    """Shortcut of option A: every ``stride``-th pixel, and zeros for the new channels; no parameters.

    Args:
        stride: step in both directions.
        new: number of channels to add behind the present ones.
    """

    def __init__(self, stride: int, new: int) -> None:
        super().__init__()
        self.stride = stride
        self.new = new

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C + new, H / stride, W / stride)."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new))


class Residual(nn.Module):
    """A residual block: act(body(x) + shortcut(x)).

    Args:
        body: the residual function; ends in a norm.
        shortcut: identity, or what brings x to the shape of the body's output.
        act: the activation.
    """

    def __init__(self, body: nn.Sequential, shortcut: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the body's output shape."""
        out: Tensor = self.body(x)
        out += self.shortcut(x)
        result: Tensor = self.act(out)
        return result


class PreActivation(nn.Module):
    """A residual block with nothing behind the addition: body(before(x)) + x.

    A shortcut that changes the shape takes before(x), so that it does not see values of any scale.

    Args:
        before: norm and activation; identity if x comes activated.
        body: the residual function; begins and ends in a convolution.
        shortcut: identity, or what brings before(x) to the shape of the body's output.

    Source: He, Zhang, Ren and Sun 2016, "Identity Mappings in Deep Residual Networks", section 4 and appendix; the
        shared activation before shortcuts that change the shape is that of the authors' code
    """

    def __init__(self, before: nn.Module, body: nn.Sequential, shortcut: nn.Module) -> None:
        super().__init__()
        self.before = before
        self.body = body
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the body's output shape."""
        active = self.before(x)
        out: Tensor = self.body(active)
        out += x if isinstance(self.shortcut, nn.Identity) else self.shortcut(active)
        return out


def last_scale(block: Residual | PreActivation) -> nn.Module:
    """Give what scales a body's output: its last norm or, where it ends without one, its last convolution."""
    kinds = nn.Conv2d | nn.BatchNorm2d | nn.GroupNorm | nn.InstanceNorm2d
    return [layer for layer in block.body if isinstance(layer, kinds)][-1]
