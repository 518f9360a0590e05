"""Windows and receptive fields: the arithmetic of convolutions and pools, for any number of spatial axes.

A map is a tensor whose last n axes are positions (n is 2 for images). Its receptive field F is the side of the square
of input pixels that one of its values depends on, its step S the distance in input pixels between two neighbouring
values. A window of kernel k, stride s and dilation d maps (F, S) to (F + (k - 1) d S, S s); branches that meet have
the largest F among them.

Source: Araujo, Norris and Sim 2019, "Computing Receptive Fields of Convolutional Neural Networks", sections 2 and 3
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

_CONVOLUTIONS = frozenset({aten.convolution, aten._convolution})
_MAX_POOLS = frozenset({aten.max_pool2d_with_indices, aten.max_pool2d, aten.max_pool3d_with_indices})
_AVERAGE_POOLS = frozenset({aten.avg_pool1d, aten.avg_pool2d})
_GRIDS = frozenset({aten._adaptive_avg_pool2d, aten.adaptive_max_pool2d})
_REDUCTIONS = frozenset({aten.mean, aten.sum, aten.amax, aten.amin, aten.max, aten.var, aten.std})
_MIXERS = frozenset(
    {
        aten._scaled_dot_product_flash_attention,
        aten._scaled_dot_product_flash_attention_for_cpu,
        aten._scaled_dot_product_efficient_attention,
        aten._scaled_dot_product_attention_math,
        aten._scaled_dot_product_fused_attention_overrideable,
    }
)


@dataclass(frozen=True)
class Field:
    """Receptive field of a map; one number per spatial axis.

    Attributes:
        size: input pixels that one value depends on.
        step: input pixels between two neighbouring values.
    """

    size: tuple[float, ...]
    step: tuple[float, ...]


WHOLE = Field((), ())
"""The field of values without a position: they depend on the whole image."""


@dataclass(frozen=True)
class Window:
    """A window that slides over a map; one number per spatial axis.

    Attributes:
        side: W, of the map.
        kernel: F.
        stride: S; a fraction where windows are spread evenly.
        padding: P, on each side.
        dilation: distance of two neighbouring values inside the window.
        ceil: whether a last window that only begins inside counts.
    """

    side: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[float, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil: bool = False

    def rest(self) -> tuple[int, ...]:
        """What (W - F + 2P) / S leaves as a remainder on each axis."""
        axes = zip(self.side, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return tuple(int((w + 2 * p - d * (f - 1) - 1) % s) for w, f, s, p, d in axes)

    def dropped(self) -> tuple[int, ...]:
        """Rows and columns of the map at its far end that no window sees, on each axis.

        Zero where only zeros of the border are left over, and where windows smaller than their stride leave such
        gaps between all of them.
        """
        if self.ceil:
            return (0,) * len(self.side)
        axes = zip(self.rest(), self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return tuple(max(0, rest - p - max(0, int(s) - d * (f - 1) - 1)) for rest, f, s, p, d in axes)

    def field(self, before: Field) -> Field:
        """The field behind the window."""
        axes = list(zip(before.size, before.step, self.kernel, self.stride, self.dilation, strict=True))
        return Field(
            tuple(size + (f - 1) * d * step for size, step, f, _, d in axes),
            tuple(step * s for _, step, _, s, _ in axes),
        )


def window_of(op: Any, args: Sequence[Any]) -> Window | None:
    """The window that an operation of torch slides over its first argument; None if it is no such operation.

    Args:
        op: overload packet, such as ``torch.ops.aten.convolution``.
        args: its positional arguments. Transposed convolutions count as none.
    """
    if op in _CONVOLUTIONS:
        x, weight, _, stride, padding, dilation, transposed = args[:7]
        n = weight.ndim - 2
        if transposed:
            return None
        return Window(_side(x, n), tuple(weight.shape[2:]), _each(stride, n), _each(padding, n), _each(dilation, n))
    if op in _MAX_POOLS:
        x, kernel, stride, padding, dilation, ceil = _filled(args, (None, None, [], 0, 1, False))
    elif op in _AVERAGE_POOLS:
        x, kernel, stride, padding, ceil = _filled(args, (None, None, [], 0, False))
        dilation = 1
    elif op is aten.fractional_max_pool2d:
        return _spread(args[0], args[2], kernel=_each(args[1], 2))
    elif op in _GRIDS:
        return _spread(args[0], args[1])
    else:
        return None
    n = 3 if op is aten.max_pool3d_with_indices else 1 if op is aten.avg_pool1d else 2
    k = _each(kernel, n)
    return Window(_side(x, n), k, _each(stride, n) if stride else k, _each(padding, n), _each(dilation, n), bool(ceil))


def field_behind(op: Any, args: Sequence[Any], out: Tensor, fields: Sequence[tuple[Tensor, Field]]) -> Field:
    """The receptive field of an operation's result.

    Normalisation statistics and gates (squeeze-excite) do not count, by convention: else every batch norm would see
    everything.

    Args:
        op: overload packet.
        args: its positional arguments.
        out: its (first) result.
        fields: its inputs whose fields are known, with them; at least one.
    """
    if op is aten.gather:
        # The index tells what is picked: for a pool, that of its windows.
        fields = [(x, field) for x, field in fields if x is args[2]] or fields
    placed = [(x, field) for x, field in fields if field is not WHOLE]
    if not placed or out.ndim < 3 or op in _MIXERS or (op is aten.bmm and len(fields) > 1):
        return WHOLE
    # A gate has fewer pixels than the map that it scales.
    largest = max(_pixels(x, field) for x, field in placed)
    placed = [(x, field) for x, field in placed if _pixels(x, field) == largest]
    x, field = placed[0]
    n = len(field.size)
    same = [other for _, other in placed if len(other.size) == n]
    field = Field(tuple(max(other.size[i] for other in same) for i in range(n)), field.step)
    window = window_of(op, args)
    if window is not None:
        return window.field(field) if len(window.kernel) == n else WHOLE
    if op is aten.slice and len(args) > 4:
        axis = args[1] % x.ndim - (x.ndim - n)
        return Field(field.size, _scaled(field.step, axis, args[4]))
    if op in _REDUCTIONS and len(args) > 1:
        size = list(field.size)
        for dim in args[1] if isinstance(args[1], (list, tuple)) else [args[1]]:
            axis = dim % x.ndim - (x.ndim - n)
            if axis >= 0:
                size[axis] += (x.shape[dim] - 1) * field.step[axis]
        return Field(tuple(size), field.step)
    return field


def _filled(args: Sequence[Any], defaults: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*args[: len(defaults)], *defaults[len(args) :])


def _each(value: Any, n: int) -> tuple[Any, ...]:
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return values * n if len(values) == 1 else values


def _side(x: Tensor, n: int) -> tuple[int, ...]:
    return tuple(x.shape[x.ndim - n :])


def _pixels(x: Tensor, field: Field) -> int:
    count = 1
    for side in _side(x, min(len(field.size), x.ndim)):
        count *= side
    return count


def _spread(x: Tensor, output: Any, kernel: tuple[int, ...] | None = None) -> Window:
    """Windows spread evenly over a map: they overlap as they must, and drop nothing."""
    side, out = _side(x, 2), _each(output, 2)
    k = kernel or tuple(-(-w // o) for w, o in zip(side, out, strict=True))
    return Window(side, k, tuple(w / o for w, o in zip(side, out, strict=True)), (0, 0), (1, 1), ceil=True)


def _scaled(step: tuple[float, ...], axis: int, factor: int) -> tuple[float, ...]:
    return tuple(value * factor if i == axis else value for i, value in enumerate(step))
