"""The learning rate for the batch size of a run. Needs no torch."""

from __future__ import annotations

import math

from dlrun.config.schema import Config
from dlrun.errors import UserError


def scaled_lr(config: Config) -> float | None:
    """The optimizer's lr, times lr_scaling; None if it has no lr.

    With k = data.batch_size / optimizer.lr_reference_batch it is lr k (linear) or lr sqrt(k) (sqrt). The batch is the
    whole one of a step, whatever ``trainer.accumulate`` splits it into, and that of the first epoch where it grows.

    Raises:
        UserError: if the rate is to be scaled and the optimizer has none.

    Source: Goyal et al. 2017, "Accurate, large minibatch SGD", section 2.1 (linear); Krizhevsky 2014, "One weird trick
        for parallelizing convolutional neural networks", section 5 (square root)
    """
    chosen = config.optimizer
    lr = chosen.params.get("lr")
    if chosen.lr_scaling is not None and not isinstance(lr, float):
        raise UserError(
            f"optimizer.lr_scaling={chosen.lr_scaling}: {chosen.name} has no learning rate lr; set it to null"
        )
    return scaled_rates(config).get("lr")


def scaled_rates(config: Config) -> dict[str, float]:
    """Every learning rate among the optimizer's options, scaled alike: ``lr``, and such as muon's ``adamw_lr``."""
    chosen = config.optimizer
    ratio = config.data.batch_size / chosen.lr_reference_batch
    factor = {None: 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[chosen.lr_scaling]
    rates = {name: rate for name, rate in chosen.params.items() if name == "lr" or name.endswith("_lr")}
    return {name: rate * factor for name, rate in rates.items() if isinstance(rate, float)}


def scaling_text(config: Config) -> str:
    """What the log says of the scaling; empty if there is none."""
    chosen = config.optimizer
    if chosen.lr_scaling is None:
        return ""
    ratio = f"{config.data.batch_size}/{chosen.lr_reference_batch}"
    factor = f"sqrt({ratio})" if chosen.lr_scaling == "sqrt" else ratio
    shown = []
    for name, rate in scaled_rates(config).items():
        label = "" if name == "lr" else f"{name} "
        shown.append(f"{label}{chosen.params[name]:g} x {factor} = {rate:.4g}")
    return ", ".join(shown)
