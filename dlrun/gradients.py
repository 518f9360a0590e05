"""How the gradient reaches back through the steps of recurrent layers.

Letters: B sequences, T steps, H hidden units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from dlrun.models.recurrent import Recurrent

Norms = dict[str, list[float]]
"""Name of a layer's state -> the norm at each step, T numbers >= 0."""


def gradient_norms(model: nn.Module, loss: Callable[[], Tensor]) -> Norms:
    """The L2 norm of the gradient of a loss with respect to the state of every recurrent layer after every step.

    It is the derivative along all ways from the state to the loss: with h_T = U h_(T-1), |U^(T-t) dL/dh_T| at step t.
    Of an LSTM the hidden state h and the cell state c are taken apart: the derivative with respect to one holds the
    other fixed at that step (so that of c after the last step is 0). The norm is over the whole batch (B, H) and of the
    loss as it is, mean over the batch.

    The layers take their steps one by one meanwhile, which is slower. No gradient is left in the parameters.

    Args:
        model: with :class:`dlrun.models.recurrent.Recurrent` layers.
        loss: runs the model and gives the loss, a scalar.

    Returns:
        For each layer and direction, from the bottom up, as ``features.0`` (of both directions ``features.0`` and
        ``features.0.backward``); of an LSTM with ``.h`` and ``.c`` behind it. Steps are in the order in which the
        direction takes them. A layer that the loss does not depend on is left out.

    Source: Bengio, Simard and Frasconi 1994, "Learning long-term dependencies with gradient descent is difficult";
        Pascanu, Mikolov and Bengio 2013, "On the difficulty of training recurrent neural networks", section 2
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, Recurrent)}
    with ExitStack() as stack, torch.enable_grad():
        seen = {name: stack.enter_context(module.watched()) for name, module in layers.items()}
        value = loss()
    names, wanted = [], []
    for name, calls in seen.items():
        for states in calls:
            for index, state in enumerate(states):
                for part, nudge in zip(_parts(len(state)), state, strict=True):
                    names.append(f"{name}.{_place(layers[name], index)}{part}".lstrip("."))
                    wanted.append(nudge)
    found = torch.autograd.grad(value, wanted, allow_unused=True) if wanted else ()
    norms: Norms = {}
    for name, gradient in zip(names, found, strict=True):
        if gradient is not None:
            # Squares of what is left after many steps are too small for fp32. A layer that is called step after step
            # has its steps in many calls.
            norms.setdefault(name, []).extend(gradient.double().flatten(1).norm(dim=1).tolist())
    return norms


def reach(norms: Sequence[float]) -> float | None:
    """What is left at the first step of the gradient at the last: their ratio; None if there is none at the last."""
    return norms[0] / norms[-1] if norms and norms[-1] > 0 else None


def _parts(states: int) -> tuple[str, ...]:
    return ("",) if states == 1 else (".h", ".c")


def _place(layers: Recurrent, index: int) -> str:
    if not layers.bidirectional:
        return str(index)
    return f"{index // 2}{'.backward' if index % 2 else ''}"
