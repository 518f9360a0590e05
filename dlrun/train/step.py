"""One optimizer step: forward, backward, regularisation, clipping, update. Nothing here waits for the device.

ordinary            gradient -> penalties -> clipping -> noise -> update -> limits
sharpness-aware     gradient -> perturb -> gradient again -> restore -> penalties -> ... as above
with a closure      update, which evaluates gradient and penalties as often as it likes (L-BFGS; it reads the device)
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from dlrun.config.schema import Precision, TrainerConfig
from dlrun.optim.base import Perturbing, needs_closure
from dlrun.optim.regularization import Regularizer
from dlrun.tasks.base import Batch, Carried, StepOutput, Task, join_carried, split_carried
from dlrun.train.replay import Replay

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
        regularizer: penalties, noise and limits; None if there are none.

    Attributes:
        reg_loss: penalty of the weights that the newest step with ``want_norm`` began with, a scalar tensor on the
            device; None without penalties.
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
        regularizer: Regularizer | None = None,
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
        self._regularizer = regularizer
        self._perturbing = optimizer if isinstance(optimizer, Perturbing) else None
        self._closure = needs_closure(optimizer)
        self.reg_loss: Tensor | None = None

    def __call__(
        self, batch: Batch, carried: Carried = None, *, want_norm: bool, number: int = 0
    ) -> tuple[StepOutput, Tensor | None]:
        """Take one step.

        Args:
            batch: what the loader gave.
            carried: what the batch before left to this one.
            want_norm: also measure the gradient's norm, and the penalty.
            number: steps taken before; noise depends on it.

        Returns:
            The detached output of the batch, and the L2 norm of the gradient before clipping (a scalar tensor on the
            device) if it was wanted or needed. Both are of the weights that the step began with, but for a perturbing
            optimizer, where the norm is that of the gradient which the update takes.
        """
        if self._closure:
            return self._by_closure(batch, carried, want_norm)
        if self._perturbing is None:
            output = self._gradient(batch, carried)
        else:
            output = self._gradient_nearby(batch, carried, self._perturbing)
        regularizer = self._regularizer
        changed = want_norm or self._clip_norm or self._clip_value or regularizer is not None
        if self._scaler is not None and changed:
            self._scaler.unscale_(self._optimizer)
        if regularizer is not None:
            self._penalise(regularizer, want_norm)
        norm = self._clip(want_norm)
        if regularizer is not None:
            regularizer.add_noise(number)
        if self._scaler is None:
            self._optimizer.step()
        else:
            self._scaler.step(self._optimizer)
            self._scaler.update()
        if regularizer is not None:
            regularizer.limit_norms()
        self._clear()
        return output, norm

    def _by_closure(self, batch: Batch, carried: Carried, want_norm: bool) -> tuple[StepOutput, Tensor | None]:
        """One step of an optimizer that evaluates the loss, penalties included, as often as it likes."""
        regularizer = self._regularizer
        first: list[StepOutput] = []
        norms: list[Tensor | None] = []
        again = Replay(self._model.buffers(), self._device)

        def closure() -> Tensor:
            self._clear()
            with again if first else nullcontext():
                output = self._gradient(batch, carried)
            loss = output.loss
            if regularizer is not None and regularizer.penalises:
                self._penalise(regularizer, want_norm and not first)
                loss = loss + regularizer.loss()
            if not first:
                first.append(output)
                norms.append(self._clip(want_norm))
            return loss

        self._optimizer.step(closure)  # type: ignore[arg-type]
        self._clear()
        return first[0], norms[0]

    def _gradient_nearby(self, batch: Batch, carried: Carried, optimizer: Perturbing) -> StepOutput:
        """The gradient at the weights that the optimizer chooses; the output is that at the weights themselves."""
        again = Replay(self._model.buffers(), self._device)
        output = self._gradient(batch, carried)
        optimizer.perturb()
        self._clear()
        try:
            with again:
                self._gradient(batch, carried)
        finally:
            optimizer.restore()
        return output

    def _penalise(self, regularizer: Regularizer, measure: bool) -> None:
        if measure and regularizer.penalises:
            self.reg_loss = regularizer.loss()
        regularizer.add_gradients()

    def _clear(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    def _forward(self, batch: Batch, carried: Carried) -> StepOutput:
        if not self._mixed:
            return self._task.forward(self._model, batch, carried)
        with autocast(self._precision, self._device):
            return self._task.forward(self._model, batch, carried)

    def _gradient(self, batch: Batch, carried: Carried) -> StepOutput:
        """Gradients of the data loss, in ``.grad``, which must be clear."""
        return self._backward(batch, carried) if self._accumulate == 1 else self._backward_in_parts(batch, carried)

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
