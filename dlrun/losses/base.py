"""What losses have in common. Letters: B samples, K classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) -> mean loss over the batch."""

IGNORED = -100
"""Label of a masked position: it has no loss and is not averaged."""


def mean(losses: Tensor, targets: Tensor) -> Tensor:
    """Mean over the samples that have a label.

    Args:
        losses: (B,), of any value where the label is :data:`IGNORED`.
        targets: labels (B,), or (B, K), of which none is ignored.
    """
    if targets.dim() > 1:
        return losses.mean()
    kept = targets != IGNORED
    return losses.where(kept, 0).sum() / kept.sum()


def full(scores: Tensor) -> Tensor:
    """Scores of half precision as float32: sums over many classes need it, as torch's own losses know."""
    return scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores


def indicators(scores: Tensor, targets: Tensor) -> Tensor:
    """The wanted number of each class, (B, K) in the type of the scores: targets of that form, or labels one-hot."""
    if targets.dim() > 1:
        return targets.to(scores.dtype)
    # Not one_hot, which reads the largest label from the device.
    return torch.zeros_like(scores).scatter(1, targets.clamp(min=0)[:, None], 1.0)


def smoothed(targets: Tensor, smoothing: float, rest: float) -> Tensor:
    """Targets (B, K) in [0, 1], of which a part is exchanged for ``rest`` everywhere.

    That is 1/K for shares of the classes, and 1/2 where each label is there or not.
    """
    return targets if smoothing == 0 else targets * (1 - smoothing) + smoothing * rest


class Weights:
    """Factors of the classes, on whatever device they are needed.

    Args:
        values: K factors.
    """

    def __init__(self, values: Sequence[float]) -> None:
        self._values = torch.tensor(values)
        self._there: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def like(self, scores: Tensor) -> Tensor:
        """float (K,) on the device of the scores; only the first call copies."""
        key = scores.device, scores.dtype
        if key not in self._there:
            self._there[key] = self._values.to(*key)
        return self._there[key]


def weights_of(
    given: Sequence[float] | str | None,
    classes: int | None,
    counts: Sequence[int] | None,
    option: str = "class_weights",
) -> Weights | None:
    """The weights of the classes as they were asked for.

    ``balanced`` gives the class with n_c of the n training samples the weight n / (K n_c), so that the mean weight of a
    sample is 1; a class without a sample counts as if it had one.

    Args:
        given: K factors, ``balanced``, or None.
        classes: K; None if it is not known.
        counts: n_c; None if the data do not tell.
        option: its name, for messages.

    Raises:
        ValueError: if there is not a weight for each class, or nothing is known to balance by.

    Source: King and Zeng 2001, "Logistic regression in rare events data"; scikit-learn's ``class_weight="balanced"``
    """
    if given is None:
        return None
    if isinstance(given, str):
        if counts is None:
            raise ValueError(f"{option}={given}: these data do not count the samples of each class; give a list")
        total = sum(counts)
        return Weights([total / (len(counts) * max(count, 1)) for count in counts])
    if classes is not None and len(given) != classes:
        raise ValueError(f"{option} has {len(given)} values, but there are {classes} classes: give one for each")
    return Weights(given)
