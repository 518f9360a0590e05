"""What a model costs before it is trained: parameters, multiply-adds, memory and receptive fields, layer by layer.

The model runs forward twice, best on torch's meta device, where tensors have shapes and no contents: once in training
mode as a whole batch, to see what is kept for the backward pass, and once in evaluation mode on one image, to count
multiply-adds as papers do. Every operation passes :class:`Tracer`, so functional code (residual additions,
concatenations, slices) counts like layers do. Letters: B batch, C channels, H, W pixels, K classes,
T tokens in a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter

from dlrun.modes import modes_kept
from dlrun.optim.base import needs_closure
from dlrun.receptive import WHOLE, Field
from dlrun.tracing import INPUT, ROOT, Seen, Trace, bytes_of, storage_of, trace_forward


@dataclass(frozen=True)
class Layer:
    """One row: a module without children, or the work that a module does outside of its children.

    Attributes:
        name: path of the module in the model.
        kind: class of the module.
        output_shape: of its (first) result, without B; None if the forward pass does not call it.
        parameters: numbers in its own parameters, each counted where it first appears.
        multiply_adds: of one image, forward, as torch's flop counter has them (flops / 2; biases, norms, activations
            and pools count nothing).
        activations: values of its output for one image; none if it works in place or gives a view.
        memory: bytes it makes for a batch that are kept for the backward pass: values, indices, masks.
        receptive_field: side of the input area that one output value depends on, (height, width) in pixels, not cut
            at the border; None where it is the whole image.
        calls: how often it ran in one forward pass in training mode; 1 too where another module read its parameters.
        training_only: whether evaluation leaves it out, as auxiliary heads.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...] | None
    parameters: int
    multiply_adds: int
    activations: int
    memory: int
    receptive_field: tuple[int, ...] | None
    calls: int
    training_only: bool


@dataclass(frozen=True)
class Memory:
    """Bytes for a training step in fp32; their sum estimates the peak, without workspaces and passing gradients.

    Attributes:
        weights: parameters and buffers.
        gradients: of the trainable parameters.
        optimizer: its state; None if it cannot be told.
        activations: what the forward pass keeps for the backward pass of the batch, with the images.
        input: the share of the images in that.
    """

    weights: int
    gradients: int
    optimizer: int | None
    activations: int
    input: int

    @property
    def total(self) -> int:
        """Sum of the parts."""
        return self.weights + self.gradients + (self.optimizer or 0) + self.activations


@dataclass(frozen=True)
class Summary:
    """All of a model's figures.

    Attributes:
        input_shape: (C, H, W) of one image, or (T,) of one chunk of text: what is said below of one image, is of it.
        batch_size: B, to which ``memory`` applies.
        layers: the rows, in the order in which they end.
        parameters: of the whole model.
        trainable: those that are trained.
        multiply_adds: of one image in evaluation, forward.
        training_multiply_adds: the same in training mode, with auxiliary heads.
        activations: values that the layers give for one image in training mode: the sum over the rows.
        memory: for a training step.
        warnings: what is probably not meant: dropped rows, unused parameters.
    """

    input_shape: tuple[int, ...]
    batch_size: int
    layers: tuple[Layer, ...]
    parameters: int
    trainable: int
    multiply_adds: int
    training_multiply_adds: int
    activations: int
    memory: Memory
    warnings: tuple[str, ...]


def summarise(
    model: nn.Module,
    input_shape: tuple[int, ...],
    batch_size: int,
    optimizer: torch.optim.Optimizer | None = None,
) -> Summary:
    """Count what a model costs.

    The model stays as it is, with its running statistics and its mode; but neither an optimizer nor its parameters must
    be used afterwards, as a step without meaning is taken with it.

    Args:
        model: maps images (B, C, H, W) or tokens (B, T) to scores, in any structure; on the meta device nothing is
            computed.
        input_shape: (C, H, W) of one image, or (T,) of one chunk of text.
        batch_size: B.
        optimizer: over the model's parameters, to count its state; on the meta device only.

    Raises:
        RuntimeError: if the model cannot run on the device that it lies on.
    """
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    # Batch norm refuses a single image in training.
    batch = max(2, batch_size)
    try:
        with modes_kept(model):
            training = trace_forward(model, input_shape, batch, training=True)
            evaluation = trace_forward(model, input_shape, 1, training=False)
    finally:
        for buffer, before in buffers:
            buffer.copy_(before)
    layers = tuple(_rows(model, training, evaluation, batch, batch_size))
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kept = training.kept_bytes()
    # The images are there during the step, whether a layer keeps them or not.
    kept[INPUT] = bytes_of(training.images)
    memory = Memory(
        weights=sum(bytes_of(tensor) for tensor in [*model.parameters(), *model.buffers()]),
        gradients=sum(bytes_of(parameter) for parameter in trainable),
        optimizer=None if optimizer is None else _state_bytes(optimizer),
        activations=sum(kept.values()) * batch_size // batch,
        input=kept[INPUT] * batch_size // batch,
    )
    return Summary(
        input_shape=input_shape,
        batch_size=batch_size,
        layers=layers,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trainable=sum(parameter.numel() for parameter in trainable),
        multiply_adds=evaluation.flops // 2,
        training_multiply_adds=training.flops // 2 // batch,
        activations=sum(layer.activations for layer in layers),
        memory=memory,
        warnings=(*_dropped(training), *_unused(model, training)),
    )


def _rows(model: nn.Module, training: Trace, evaluation: Trace, batch: int, batch_size: int) -> Iterator[Layer]:
    """The modules that are leaves, or do something of their own; those that never ran come last."""
    own = _own_parameters(model)
    kept = training.kept_bytes()
    rows: list[tuple[float, Layer]] = []
    for path, module in model.named_modules():
        name = path or ROOT
        seen, evaluated = training.seen.get(name, Seen()), evaluation.seen.get(name)
        ran = evaluated is not None and evaluated.calls > 0
        lent = any(storage_of(value) in training.used for value in module.parameters(recurse=False))
        flops = evaluated.flops if evaluated is not None and ran else seen.flops // batch
        layer = Layer(
            name=name,
            kind=type(module).__name__,
            output_shape=seen.output,
            parameters=own[name],
            multiply_adds=flops // 2,
            activations=seen.written // batch,
            memory=kept.get(name, 0) * batch_size // batch,
            receptive_field=_sides(seen.field),
            calls=seen.calls or int(lent),
            training_only=not ran and seen.calls > 0,
        )
        # An identity does nothing.
        leaf = next(module.children(), None) is None and seen.operations > 0
        if leaf or layer.parameters or layer.multiply_adds or layer.memory:
            rows.append((seen.order if seen.calls else inf, layer))
    yield from (layer for _, layer in sorted(rows, key=lambda row: row[0]))


def _own_parameters(model: nn.Module) -> dict[str, int]:
    """Numbers in the parameters of each module without its children; a shared parameter counts once."""
    counted: set[Tensor] = set()
    sizes: dict[str, int] = {}
    for name, module in model.named_modules():
        mine = set(module.parameters(recurse=False)) - counted
        counted |= mine
        sizes[name or ROOT] = sum(parameter.numel() for parameter in mine)
    return sizes


def _sides(seen: Field | None) -> tuple[int, ...] | None:
    return None if seen is None or seen is WHOLE else tuple(round(size) for size in seen.size)


def _dropped(trace: Trace) -> Iterator[str]:
    told = set()
    for name, window in trace.windows:
        dropped = window.dropped()
        if not any(dropped) or (name, window) in told:
            continue
        told.add((name, window))
        axis = max(range(len(dropped)), key=lambda i: dropped[i])
        w, f, p = window.side[axis], (window.kernel[axis] - 1) * window.dilation[axis] + 1, window.padding[axis]
        s = int(window.stride[axis])
        words = ("row", "column") if len(dropped) == 2 else ("position",) * len(dropped)
        lost = [f"{n} {word}{'s' if n > 1 else ''}" for n, word in zip(dropped, words, strict=True) if n]
        yield (
            f"{name}: (W - F + 2P)/S + 1 = ({w} - {f} + {2 * p})/{s} + 1 = {(w - f + 2 * p) / s + 1:g} is not a whole "
            f"number: it drops {' and '.join(lost)} at the end of its {'x'.join(map(str, window.side))} input"
        )


def _unused(model: nn.Module, trace: Trace) -> Iterator[str]:
    names = [name for name, value in model.named_parameters() if value.numel() and storage_of(value) not in trace.used]
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield f"the forward pass does not use {', '.join(names[:3])}{more}"


def _state_bytes(optimizer: torch.optim.Optimizer) -> int | None:
    """Size of the state after one step; None if the optimizer cannot step without contents."""
    if needs_closure(optimizer):
        return None
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    try:
        optimizer.step()
    except RuntimeError:
        return None
    # State on the CPU, as step counters, takes no memory of the device.
    values = [value for state in optimizer.state.values() for value in tree_iter(state) if isinstance(value, Tensor)]
    return sum(bytes_of(value) for value in values if value.ndim)
