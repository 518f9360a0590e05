"""Finding the operation that made the first NaN; several times slower than training without it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dlrun.errors import NonFiniteError
from dlrun.train.fit import Fit


@contextmanager
def naming_nan(fit: Fit) -> Iterator[None]:
    """While inside, a training step that makes a NaN is stopped where it is made.

    Raises:
        NonFiniteError: naming the step, and the part of the model (forward pass) or the operation (backward pass).
    """
    handles = [
        module.register_forward_hook(_check(fit, f"{name} ({type(module).__name__})" if name else "the model"))
        for name, module in fit.model.named_modules()
    ]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Anomaly Detection has been enabled")
            detection = torch.autograd.set_detect_anomaly(True)
        with detection:
            yield
    except RuntimeError as error:
        if "returned nan values" not in str(error):
            raise
        step, reason = fit.state.step + 1, str(error).split(".")[0]
        raise NonFiniteError(f"the first NaN was made in the backward pass of step {step}: {reason}", step) from error
    finally:
        for handle in handles:
            handle.remove()


def _check(fit: Fit, part: str) -> Any:
    def hook(module: nn.Module, inputs: Any, outputs: Any) -> None:
        # The hook of an inner part is called before that of the part it belongs to.
        if not fit.model.training or not _holds_nan(outputs):
            return
        step = fit.state.step + 1
        place = f"before {part}, in its input" if _holds_nan(inputs) else f"by {part}"
        raise NonFiniteError(f"the first NaN was made in the forward pass of step {step} {place}", step)

    return hook


def _holds_nan(value: Any) -> bool:
    if isinstance(value, Tensor):
        return bool(value.isnan().any())
    return isinstance(value, (tuple, list)) and any(_holds_nan(item) for item in value)
