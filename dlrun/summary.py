"""What a model costs before it is trained: parameters, multiply-adds, memory and receptive fields, layer by layer.

The model runs forward twice, best on torch's meta device, where tensors have shapes and no contents: once in training
mode as a whole batch, to see what is kept for the backward pass, and once in evaluation mode on one image, to count
multiply-adds as papers do. Every operation passes :class:`Tracer`, so functional code (residual additions,
concatenations, slices) counts like layers do. Letters: B batch, C channels, H, W pixels, K classes,
T tokens in a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from dlrun.receptive import WHOLE, Field, Window, field_behind, window_of

INPUT = "(input)"
"""Name under which the images themselves are counted."""
ROOT = "(model)"
"""Name of the row for what the model does outside of its layers."""


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
    modes = {module: module.training for module in model.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    # Batch norm refuses a single image in training.
    batch = max(2, batch_size)
    try:
        training = _trace(model, input_shape, batch, training=True)
        evaluation = _trace(model, input_shape, 1, training=False)
    finally:
        for module, mode in modes.items():
            module.training = mode
        for buffer, before in buffers:
            buffer.copy_(before)
    layers = tuple(_rows(model, training, evaluation, batch, batch_size))
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kept = training.kept_bytes()
    # The images are there during the step, whether a layer keeps them or not.
    kept[INPUT] = _bytes(training.images)
    memory = Memory(
        weights=sum(_bytes(tensor) for tensor in [*model.parameters(), *model.buffers()]),
        gradients=sum(_bytes(parameter) for parameter in trainable),
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


@dataclass
class _Seen:
    """What was seen of one module's own work."""

    order: int = -1
    calls: int = 0
    operations: int = 0
    flops: int = 0
    written: int = 0
    output: tuple[int, ...] | None = None
    field: Field | None = None


@dataclass
class Trace:
    """One forward pass.

    Attributes:
        images: (B, C, H, W) what the model ran on.
        seen: by the name of the module.
        makers: storage -> the module whose work made it, for all that is no parameter.
        kept: storage -> bytes, of all that is kept for the backward pass.
        used: storages that an operation read.
        windows: (name of the module, window) of each convolution and pool.
        flops: of the whole pass, as torch counts them.
    """

    images: Tensor
    seen: dict[str, _Seen] = field(default_factory=dict)
    makers: dict[int, str] = field(default_factory=dict)
    kept: dict[int, int] = field(default_factory=dict)
    used: set[int] = field(default_factory=set)
    windows: list[tuple[str, Window]] = field(default_factory=list)
    flops: int = 0

    def kept_bytes(self) -> dict[str, int]:
        """Bytes kept for the backward pass by the name of the module that made them."""
        sums: dict[str, int] = {}
        for storage, size in self.kept.items():
            if storage in self.makers:
                sums[self.makers[storage]] = sums.get(self.makers[storage], 0) + size
        return sums


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation of a forward pass, and knows the module in which it happens.

    Args:
        counter: torch's flop counter, active outside of this mode.
        images: (B, C, H, W) what the model will run on; receptive fields are measured on them.
    """

    def __init__(self, counter: FlopCounterMode, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counter = counter
        self.trace = Trace(images)
        self.stack: list[str] = []
        self.fields: dict[tuple[Any, ...], Field] = {}
        self.ended = 0
        # While a tensor is here, no other can take its storage's address.
        self.alive: list[Tensor] = [images]
        self.trace.makers[_storage(images)] = INPUT
        n = images.ndim - 2
        if n:
            self.fields[_key(images)] = Field((1,) * n, (1,) * n)

    @property
    def here(self) -> str:
        """Name of the innermost module that runs."""
        return self.stack[-1] if self.stack else ROOT

    def enter(self, name: str) -> None:
        """A module begins."""
        self.stack.append(name)

    def leave(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """A module ends."""
        self.stack.pop()
        seen = self.trace.seen.setdefault(name, _Seen())
        seen.calls += 1
        if seen.calls == 1:
            seen.order = self.ended
            self.ended += 1
        results = [value for value in tree_iter(output) if isinstance(value, Tensor)]
        if not results:
            return
        first = results[0]
        seen.written += sum(value.numel() for value in results if self.trace.makers.get(_storage(value)) == name)
        if isinstance(module, nn.Linear) and args and args[0].ndim > 2 and _key(args[0]) in self.fields:
            # On a map it acts on each position apart, though torch flattens them.
            self.fields[_key(first)] = self.fields[_key(args[0])]
        seen.output = tuple(first.shape[1:])
        seen.field = self.fields.get(_key(first), seen.field)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and note what it read, made and cost."""
        before = self.counter.get_total_flops()
        out = func(*args, **(kwargs or {}))
        trace, seen = self.trace, self.trace.seen.setdefault(self.here, _Seen())
        seen.operations += 1
        seen.flops += self.counter.get_total_flops() - before
        inputs = [value for value in tree_iter((args, kwargs)) if isinstance(value, Tensor)]
        outputs = [value for value in tree_iter(out) if isinstance(value, Tensor)]
        trace.used.update(_storage(value) for value in inputs)
        known = {_storage(value) for value in inputs}
        self.alive += [*inputs, *outputs]
        for value in outputs:
            if _storage(value) not in known and _storage(value) not in trace.makers:
                trace.makers[_storage(value)] = self.here
        if outputs:
            self._place(func._overloadpacket, args, inputs, outputs)
        return out

    def _place(self, op: Any, args: tuple[Any, ...], inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        placed = [(value, self.fields[_key(value)]) for value in inputs if _key(value) in self.fields]
        if not placed:
            return
        window = window_of(op, args)
        if window is not None:
            self.trace.windows.append((self.here, window))
        behind = field_behind(op, args, outputs[0], placed)
        for value in outputs:
            self.fields[_key(value)] = behind

    def keep(self, tensor: Tensor) -> Tensor:
        """Note a tensor that autograd saves for the backward pass."""
        self.alive.append(tensor)
        self.trace.kept[_storage(tensor)] = tensor.untyped_storage().nbytes()
        return tensor


def _trace(model: nn.Module, input_shape: tuple[int, ...], batch: int, *, training: bool) -> Trace:
    """One forward pass on ``batch`` images, with a graph if it is for training."""
    model.train(training)
    first = next(model.parameters(), torch.empty(0))
    dtype = torch.int64 if len(input_shape) == 1 else first.dtype
    images = torch.zeros(batch, *input_shape, device=first.device, dtype=dtype)
    with ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(training))
        counter = stack.enter_context(FlopCounterMode(display=False))
        tracer = Tracer(counter, images)
        for name, module in model.named_modules():
            handles = _watch(tracer, name or ROOT, module)
            for handle in handles:
                stack.callback(handle.remove)
        if training:
            stack.enter_context(saved_tensors_hooks(tracer.keep, lambda kept: kept))
        stack.enter_context(tracer)
        model(images)
        tracer.trace.flops = counter.get_total_flops()
    return tracer.trace


def _watch(tracer: Tracer, name: str, module: nn.Module) -> Iterator[Any]:
    yield module.register_forward_pre_hook(lambda _module, _args: tracer.enter(name), prepend=True)
    yield module.register_forward_hook(lambda module, args, output: tracer.leave(name, module, args, output))


def _rows(model: nn.Module, training: Trace, evaluation: Trace, batch: int, batch_size: int) -> Iterator[Layer]:
    """The modules that are leaves, or do something of their own; those that never ran come last."""
    own = _own_parameters(model)
    kept = training.kept_bytes()
    rows: list[tuple[float, Layer]] = []
    for path, module in model.named_modules():
        name = path or ROOT
        seen, evaluated = training.seen.get(name, _Seen()), evaluation.seen.get(name)
        ran = evaluated is not None and evaluated.calls > 0
        lent = any(_storage(value) in training.used for value in module.parameters(recurse=False))
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
    names = [name for name, value in model.named_parameters() if value.numel() and _storage(value) not in trace.used]
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield f"the forward pass does not use {', '.join(names[:3])}{more}"


def _state_bytes(optimizer: torch.optim.Optimizer) -> int | None:
    """Size of the state after one step; None if the optimizer cannot step without contents."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    try:
        optimizer.step()
    except RuntimeError:
        return None
    # State on the CPU, as step counters, takes no memory of the device.
    values = [value for state in optimizer.state.values() for value in tree_iter(state) if isinstance(value, Tensor)]
    return sum(_bytes(value) for value in values if value.ndim)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _storage(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address


def _key(tensor: Tensor) -> tuple[Any, ...]:
    """Tells views of one storage apart; autograd may give another object for the same view."""
    return _storage(tensor), tensor.storage_offset(), tuple(tensor.shape), tensor.stride()
