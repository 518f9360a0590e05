"""The statistics of batch norm of a network whose weights were not trained as they are, taken anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from itertools import islice

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dlrun.data.feed import BatchLoader
from dlrun.tasks.base import Carried, Task


def norms_of(model: nn.Module, frozen: Iterable[nn.Module] = ()) -> list[_BatchNorm]:
    """The layers of batch norm that keep statistics, but for the frozen ones."""
    fixed = set(frozen)
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats and module not in fixed
    ]


def recompute_statistics(
    model: nn.Module,
    norms: Sequence[_BatchNorm],
    loader: BatchLoader,
    batches: int | None,
    task: Task,
    precision: AbstractContextManager[object],
    interrupted: Callable[[], bool] = lambda: False,
) -> bool:
    """Take the statistics of batch norm from training batches, with the weights as they are.

    Each is the mean over the batches, augmented as in training; all layers but batch norm are as in evaluation, so that
    no random number is drawn. A layer that takes no part in an evaluation, as of an auxiliary head, keeps what it had.

    Args:
        model: in eval mode, and so afterwards.
        norms: its layers of batch norm, as :func:`norms_of` finds them.
        loader: of the training split; epoch 0 is read.
        batches: how many; None: all of the epoch.
        task: runs the network on a batch.
        precision: context of the forward passes.
        interrupted: asked before each batch whether to give up and leave all as it was.

    Returns:
        Whether it was not given up.

    Source: Izmailov et al. 2018, "Averaging weights leads to wider optima and better generalization", section 3.2
    """
    before = [[buffer.clone() for buffer in norm.buffers(recurse=False)] for norm in norms]
    momenta = [norm.momentum for norm in norms]
    carried: Carried = None
    done = False
    try:
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
            # None: the mean over all batches instead of one that forgets.
            norm.momentum = None
        with torch.no_grad(), precision:
            for batch in islice(loader.epoch(0), batches):
                if interrupted():
                    return False
                carried = task.forward(model, batch, carried).carried
        done = True
    finally:
        for norm, momentum, former in zip(norms, momenta, before, strict=True):
            norm.momentum = momentum
            if not done or not norm.num_batches_tracked:
                torch._foreach_copy_(list(norm.buffers(recurse=False)), former)
        model.eval()
    return done
