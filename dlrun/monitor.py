"""What kind of number a metric is, and which of two values is better."""

from __future__ import annotations

import math

from dlrun.types import Mode

_NUMBERS = ("loss", "bpc", "bpb", "bpw", "perplexity")


def is_rate(name: str) -> bool:
    """Whether a metric is a share of the samples, shown in percent; or else a number, as losses and perplexities are.

    Args:
        name: of the metric, with or without its split: ``val/accuracy``.
    """
    return not any(word in name for word in _NUMBERS)


def better(new: float, best: float | None, mode: Mode, min_delta: float = 0.0) -> bool:
    """Whether ``new`` is an improvement on ``best``.

    Args:
        new: newest value; NaN is never better.
        best: best value so far; None if there is none yet.
        mode: whether small or large is good; never guessed from the metric's name.
        min_delta: absolute improvement that counts, >= 0.
    """
    if math.isnan(new):
        return False
    if best is None:
        return True
    return new > best + min_delta if mode == "max" else new < best - min_delta
