"""What an optimizer that evaluates the loss as often as it likes cannot have: a loss that is another one each time."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from dlrun.config.schema import Config
from dlrun.errors import UserError
from dlrun.optim.base import needs_closure
from dlrun.train.fit import Fit
from dlrun.train.replay import Replay

_PROBE = 64
"""Samples that the search for randomness runs the model on."""


def check_full_batch(fit: Fit) -> None:
    """Check that the loss is the same function of the weights at every evaluation, if the optimizer needs that.

    Raises:
        UserError: naming everything that makes it another one.
    """
    if not needs_closure(fit.optimizer):
        return
    problems = [*_batches(fit), *_settings(fit.config)]
    if not problems:
        drawing = random_modules(fit)
        if drawing:
            shown = ", ".join(drawing[:3]) + (", ..." if len(drawing) > 3 else "")
            problems.append(f"the model draws random numbers in training ({shown}): set its dropout options to 0")
    if problems:
        name = fit.config.optimizer.name
        raise UserError(
            f"optimizer={name} needs the same loss at every evaluation: {'; '.join(problems)}; or choose another one"
        )


def _batches(fit: Fit) -> list[str]:
    config, found = fit.config, []
    if fit.steps_per_epoch > 1:
        size = config.data.batch_size
        known = fit.feed.unit == "samples" and not config.data.drop_last
        whole = f": set it to {fit.train.num_samples}" if known else ""
        found.append(
            f"data.batch_size={size} makes {fit.steps_per_epoch} batches of the training split, and it takes all at "
            f"once{whole} (trainer.accumulate splits it to save memory)"
        )
    if config.data.drop_last:
        found.append("data.drop_last=true may leave out other samples each time: set it to false")
    if config.augment:
        found.append(f"augment={config.augment[0].name} changes the samples: set augment=none")
    return found


def _settings(config: Config) -> list[str]:
    trainer, regularization = config.trainer, config.regularization
    options = {
        "trainer.clip_norm": trainer.clip_norm,
        "trainer.clip_value": trainer.clip_value,
        "regularization.gradient_noise": regularization.gradient_noise,
        "regularization.max_norm": regularization.max_norm,
    }
    found = [f"{option}={value} is no part of the loss: set it to null" for option, value in options.items() if value]
    if trainer.precision != "fp32":
        found.append(f"trainer.precision={trainer.precision} is too coarse: set it to fp32")
    return found


def random_modules(fit: Fit) -> list[str]:
    """Names of the innermost modules that draw from torch's generators in training, found by running the model on a few
    samples; its buffers stay as they are."""
    fit.train_mode()
    batches = iter(fit.train.epoch(0))
    whole = next(batches)
    getattr(batches, "close", lambda: None)()
    batch = fit.task.split(whole, max(1, fit.task.size(whole) // _PROBE))[0]
    module = fit.evaluated
    changed: list[str] = []
    before: dict[str, list[Tensor]] = {}

    def state() -> list[Tensor]:
        cuda = [torch.cuda.get_rng_state(fit.device)] if fit.device.type == "cuda" else []
        return [torch.get_rng_state(), *cuda]

    def remember(name: str) -> Any:
        return lambda _module, _inputs: before.update({name: state()})

    def compare(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, _outputs: Any) -> None:
            if not all(torch.equal(a, b) for a, b in zip(before[name], state(), strict=True)):
                changed.append(name)

        return hook

    with ExitStack() as stack, torch.no_grad(), Replay(module.buffers(), fit.device):
        for name, part in module.named_modules():
            stack.callback(part.register_forward_pre_hook(remember(name)).remove)
            stack.callback(part.register_forward_hook(compare(name)).remove)
        start = state()
        fit.task.forward(module, batch, None)
        if not changed and not all(torch.equal(a, b) for a, b in zip(start, state(), strict=True)):
            changed.append("")
    inner = [name for name in dict.fromkeys(changed) if not any(other.startswith(f"{name}.") for other in changed)]
    return [name or "the model itself" for name in inner if name or len(changed) == 1]
