"""Evaluation: metrics over a split, with one transfer from the device at its end."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dlrun.config.schema import Precision
from dlrun.data.feed import BatchLoader
from dlrun.meters import Meters
from dlrun.modes import modes_kept
from dlrun.tasks.base import Carried, StepOutput, Task, complete
from dlrun.train.step import autocast


def evaluate(
    model: nn.Module,
    loader: BatchLoader,
    task: Task,
    precision: Precision,
    device: torch.device,
    interrupted: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """Mean loss and metrics over all samples of a split; of text, over all its tokens.

    The model is in eval mode meanwhile and back in its former mode after.

    Args:
        model: the network.
        loader: batches of the split.
        task: loss and metrics.
        precision: arithmetic of the forward pass.
        device: where the model is.
        interrupted: asked before each batch whether to give up.

    Returns:
        Metric -> mean over the samples; None if it was given up.
    """
    meters = Meters(task.score)

    def take(output: StepOutput, size: int) -> bool:
        meters.add(output.loss, size, output.outputs, output.targets)
        return not interrupted()

    if interrupted() or not _forward_all(model, loader, task, precision, device, take):
        return None
    return complete(task, meters.read().means())


def predict(
    model: nn.Module, loader: BatchLoader, task: Task, precision: Precision, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Outputs and targets of every sample of a split, in its order.

    Returns:
        Outputs (N, ...) float32 and targets (N, ...), both on the CPU.
    """
    outputs: list[Tensor] = []
    targets: list[Tensor] = []

    def take(output: StepOutput, size: int) -> bool:
        outputs.append(output.outputs.float().cpu())
        targets.append(output.targets.cpu())
        return True

    _forward_all(model, loader, task, precision, device, take)
    return torch.cat(outputs), torch.cat(targets)


def _forward_all(
    model: nn.Module,
    loader: BatchLoader,
    task: Task,
    precision: Precision,
    device: torch.device,
    take: Callable[[StepOutput, int], bool],
) -> bool:
    """Run the model over all batches until ``take`` gives False; returns whether it never did."""
    carried: Carried = None
    with modes_kept(model), torch.inference_mode(), autocast(precision, device):
        model.eval()
        for batch in loader.epoch(0):
            output = task.forward(model, batch, carried)
            carried = output.carried
            if not take(output, task.size(batch)):
                return False
    return True
