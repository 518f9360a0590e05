"""One optimizer step: forward, backward, clipping, update. Nothing here waits for the device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from dlrun.config.schema import Precision, TrainerConfig
from dlrun.tasks.base import Batch, Carried, StepOutput, Task, join_carried, split_carried

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The context of a forward pass in ``precision``."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=_AUTOCAST[precision])


class TrainStep:
    """Forward, backward and update of one batch.

    Args:
        model: what is called on the inputs (compiled or not).
        parameters: the trainable parameters.
        task: loss of a batch.
        optimizer: updates the parameters.
        scaler: loss scaler for fp16; None otherwise.
        config: precision, clipping and accumulation.
        device: where the model is.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: list[nn.Parameter],
        task: Task,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None,
        config: TrainerConfig,
        device: torch.device,
    ) -> None:
        self._model = model
        self._parameters = parameters
        self._task = task
        self._optimizer = optimizer
        self._scaler = scaler
        self._clip_norm = config.clip_norm
        self._clip_value = config.clip_value
        self._accumulate = config.accumulate
        self._mixed = config.precision != "fp32"
        self._precision = config.precision
        self._device = device

    def __call__(self, batch: Batch, carried: Carried = None, *, want_norm: bool) -> tuple[StepOutput, Tensor | None]:
        """Take one step.

        Args:
            batch: what the loader gave.
            carried: what the batch before left to this one.
            want_norm: also measure the gradient's norm.

        Returns:
            The detached output of the batch, and the L2 norm of the gradient before clipping (a scalar tensor on the
            device) if it was wanted or needed.
        """
        output = self._backward(batch, carried) if self._accumulate == 1 else self._backward_in_parts(batch, carried)
        if self._scaler is not None and (want_norm or self._clip_norm or self._clip_value):
            self._scaler.unscale_(self._optimizer)
        norm = self._clip(want_norm)
        if self._scaler is None:
            self._optimizer.step()
        else:
            self._scaler.step(self._optimizer)
            self._scaler.update()
        for parameter in self._parameters:
            parameter.grad = None
        return output, norm

    def _forward(self, batch: Batch, carried: Carried) -> StepOutput:
        if not self._mixed:
            return self._task.forward(self._model, batch, carried)
        with autocast(self._precision, self._device):
            return self._task.forward(self._model, batch, carried)

    def _backward(self, batch: Batch, carried: Carried) -> StepOutput:
        loss, outputs, targets, after = self._forward(batch, carried)
        (loss if self._scaler is None else self._scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]
        return StepOutput(loss.detach(), outputs.detach(), targets, after)

    def _backward_in_parts(self, batch: Batch, carried: Carried) -> StepOutput:
        """Micro-batches weighted by their true share of the batch: the gradient is that of the whole batch."""
        total = self._task.size(batch)
        loss: Tensor | None = None
        results: list[StepOutput] = []
        parts = self._task.split(batch, self._accumulate)
        for part, before in zip(parts, split_carried(carried, len(parts)), strict=True):
            result = self._forward(part, before)
            share = result.loss * (self._task.size(part) / total)
            (share if self._scaler is None else self._scaler.scale(share)).backward()  # type: ignore[no-untyped-call]
            loss = share.detach() if loss is None else loss + share.detach()
            results.append(result._replace(outputs=result.outputs.detach()))
        assert loss is not None
        return StepOutput(
            loss,
            torch.cat([result.outputs for result in results]),
            torch.cat([result.targets for result in results]),
            join_carried([result.carried for result in results]),
        )

    def _clip(self, want_norm: bool) -> Tensor | None:
        norm = None
        if self._clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        elif want_norm:
            norm = nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        if self._clip_value is not None:
            nn.utils.clip_grad_value_(self._parameters, self._clip_value)
        return norm
