"""torch's optimizers without torch.compile.

torch imports torch._dynamo with the first optimizer that is made, which takes about as long as importing torch itself,
so that torch.compile can leave some of its methods alone. dlrun compiles models, never optimizers: here these methods
are as they were written, and training starts in two thirds of the time.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch.optim import Optimizer

_F = TypeVar("_F", bound=Callable[..., Any])
_O = TypeVar("_O", bound=Optimizer)

_GUARDS = ("torch._compile", "torch.optim.optimizer")
"""Modules of the wrappers that import torch._dynamo."""


def _unguarded(method: _F) -> _F:
    """What the guards of torch.compile are around; the method itself where torch has none."""

    def inside(function: Callable[..., Any]) -> bool:
        return getattr(function, "__globals__", {}).get("__name__") not in _GUARDS

    return cast(_F, inspect.unwrap(method, stop=inside))


class EagerOptimizer(Optimizer):
    """The base of optimizers that are not compiled."""

    add_param_group = _unguarded(Optimizer.add_param_group)
    state_dict = _unguarded(Optimizer.state_dict)
    load_state_dict = _unguarded(Optimizer.load_state_dict)
    zero_grad = _unguarded(Optimizer.zero_grad)


def _eager(kind: type[_O]) -> type[_O]:
    """The same optimizer; torch's guard of ``step`` also turns gradients off."""
    step = torch.no_grad()(_unguarded(kind.step))
    members = {"step": step, "__doc__": kind.__doc__, "__module__": __name__}
    return cast(type[_O], type(kind.__name__, (EagerOptimizer, kind), members))


_SGD = _eager(torch.optim.SGD)


class SGD(_SGD):  # type: ignore[misc, valid-type]
    """torch's, with momenta of zero from the beginning.

    The fused kernel makes them without values in the first step, and if the gradients of that step have overflowed in
    half precision it leaves them so: the second step would take whatever lay in the memory.
    """

    def __init__(self, params: list[dict[str, Any]], **options: Any) -> None:
        super().__init__(params, **options)
        for group in self.param_groups:
            if group["momentum"]:
                for parameter in group["params"]:
                    self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


Adam = _eager(torch.optim.Adam)
AdamW = _eager(torch.optim.AdamW)
NAdam = _eager(torch.optim.NAdam)
RAdam = _eager(torch.optim.RAdam)
Adagrad = _eager(torch.optim.Adagrad)
Adadelta = _eager(torch.optim.Adadelta)
RMSprop = _eager(torch.optim.RMSprop)
Muon = _eager(torch.optim.Muon)
