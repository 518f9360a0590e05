"""Watching a forward pass: which module made, kept and computed what.

Every operation passes :class:`Tracer`, a dispatch mode, with the module in which it happens; so functional code counts
like layers do. Letters: B batch, C channels, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from dlrun.receptive import Field, Window, field_behind, window_of

INPUT = "(input)"
"""Name under which the images themselves are counted."""
ROOT = "(model)"
"""Name of the row for what the model does outside of its layers."""


@dataclass
class Seen:
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
    seen: dict[str, Seen] = field(default_factory=dict)
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
        self.trace.makers[storage_of(images)] = INPUT
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
        seen = self.trace.seen.setdefault(name, Seen())
        seen.calls += 1
        if seen.calls == 1:
            seen.order = self.ended
            self.ended += 1
        results = [value for value in tree_iter(output) if isinstance(value, Tensor)]
        if not results:
            return
        first = results[0]
        seen.written += sum(value.numel() for value in results if self.trace.makers.get(storage_of(value)) == name)
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
        trace, seen = self.trace, self.trace.seen.setdefault(self.here, Seen())
        seen.operations += 1
        seen.flops += self.counter.get_total_flops() - before
        inputs = [value for value in tree_iter((args, kwargs)) if isinstance(value, Tensor)]
        outputs = [value for value in tree_iter(out) if isinstance(value, Tensor)]
        trace.used.update(storage_of(value) for value in inputs)
        known = {storage_of(value) for value in inputs}
        self.alive += [*inputs, *outputs]
        for value in outputs:
            if storage_of(value) not in known and storage_of(value) not in trace.makers:
                trace.makers[storage_of(value)] = self.here
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
        self.trace.kept[storage_of(tensor)] = tensor.untyped_storage().nbytes()
        return tensor


def trace_forward(model: nn.Module, input_shape: tuple[int, ...], batch: int, *, training: bool) -> Trace:
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


def bytes_of(tensor: Tensor) -> int:
    """Size of a tensor's values, whatever it shares with others."""
    return tensor.numel() * tensor.element_size()


def storage_of(tensor: Tensor) -> int:
    """What tells the storage behind a tensor from all others that are alive."""
    address: int = tensor.untyped_storage()._cdata
    return address


def _key(tensor: Tensor) -> tuple[Any, ...]:
    """Tells views of one storage apart; autograd may give another object for the same view."""
    return storage_of(tensor), tensor.storage_offset(), tuple(tensor.shape), tensor.stride()
