"""Metrics that are summed on the device and read once per log interval.

``add`` never waits for the device. Between two readings a meter keeps the loss of every step (one scalar each) and the
outputs of the steps whose counts are still to be taken; small outputs are counted together, many steps in one
operation, which is what makes accuracy nearly free for tiny models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Scorer = Callable[[Tensor, Tensor], Mapping[str, Tensor]]
"""(outputs (B, ...), targets (B, ...)) -> per metric the sum over the batch, as a scalar tensor."""

_PENDING_LIMIT = 1 << 20
"""Output elements kept for counting together; 4 MiB of float32."""


class Meters:
    """Loss and metrics of the steps since the last reading.

    Args:
        score: counts of a batch; called with the outputs of several steps at once.
    """

    def __init__(self, score: Scorer) -> None:
        self._score = score
        self._reset()

    def _reset(self) -> None:
        self._losses: list[Tensor] = []
        self._sizes: list[int] = []
        self._outputs: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._pending = 0
        self._counts: dict[str, Tensor] = {}

    def __len__(self) -> int:
        """Steps since the last reading."""
        return len(self._losses)

    def add(self, loss: Tensor, size: int, outputs: Tensor, targets: Tensor) -> None:
        """Take in one step, without waiting for the device.

        Args:
            loss: mean loss of the batch, a scalar tensor without gradient.
            size: samples in the batch.
            outputs: (B, ...) without gradient.
            targets: (B, ...).
        """
        self._losses.append(loss)
        self._sizes.append(size)
        self._outputs.append(outputs)
        self._targets.append(targets)
        self._pending += outputs.numel()
        if self._pending > _PENDING_LIMIT:
            self._count()

    def _count(self) -> None:
        """Turn the kept outputs into sums, on the device."""
        if not self._outputs:
            return
        one = len(self._outputs) == 1
        outputs = self._outputs[0] if one else torch.cat(self._outputs)
        targets = self._targets[0] if one else torch.cat(self._targets)
        for name, value in self._score(outputs, targets).items():
            # float64 holds every integer count up to 2^53: the order of summing cannot show.
            total = value.double()
            self._counts[name] = self._counts[name] + total if name in self._counts else total
        self._outputs, self._targets, self._pending = [], [], 0

    def read(self, extra: Mapping[str, Tensor] | None = None) -> Reading:
        """Transfer everything once and start anew.

        Args:
            extra: scalar tensors that ride along, such as a gradient norm.

        Returns:
            Sums over the samples since the last reading. This waits for the device: call it at log intervals.
        """
        self._count()
        steps = len(self._losses)
        if steps == 0:
            return Reading({}, 0, [])
        extra = extra or {}
        scalars = [*self._counts.values(), *extra.values()]
        values = torch.cat(
            [torch.stack(self._losses).double(), *(scalar.double().reshape(1) for scalar in scalars)]
        ).tolist()
        losses, counts = values[:steps], values[steps : steps + len(self._counts)]
        weighted = [loss * n for loss, n in zip(losses, self._sizes, strict=True)]
        # fsum refuses to add infinities of both signs.
        sums = {"loss": math.fsum(weighted) if all(map(math.isfinite, weighted)) else sum(weighted)}
        sums.update(zip(self._counts, counts, strict=True))
        riding = dict(zip(extra, values[steps + len(self._counts) :], strict=True))
        reading = Reading(sums, sum(self._sizes), losses, riding)
        self._reset()
        return reading

    def first_non_finite(self) -> int | None:
        """Index of the first step since the last reading whose loss is NaN or infinite; None if there is none.

        This waits for the device.
        """
        if not self._losses:
            return None
        bad = ~torch.stack(self._losses).isfinite()
        return int(bad.int().argmax()) if bad.any() else None

    def state_dict(self) -> dict[str, Any]:
        """What has been taken in since the last reading, as tensors and plain values."""
        self._count()
        return {
            "losses": torch.stack(self._losses).cpu() if self._losses else torch.empty(0),
            "sizes": list(self._sizes),
            "counts": {name: value.cpu() for name, value in self._counts.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on from ``state``, on ``device``."""
        self._reset()
        self._losses = list(state["losses"].to(device).unbind())
        self._sizes = list(state["sizes"])
        self._counts = {name: value.to(device) for name, value in state["counts"].items()}


class Reading:
    """Sums over samples, on the host.

    Args:
        sums: metric -> sum over the samples.
        samples: number of samples.
        losses: mean loss of each step, in order.
        extra: scalars that rode along.
    """

    def __init__(
        self,
        sums: Mapping[str, float],
        samples: int,
        losses: list[float],
        extra: Mapping[str, float] | None = None,
    ) -> None:
        self.sums = dict(sums)
        self.samples = samples
        self.losses = losses
        self.extra = dict(extra or {})

    def means(self) -> dict[str, float]:
        """Metric -> mean over the samples."""
        return {name: value / self.samples for name, value in self.sums.items()} if self.samples else {}

    def first_non_finite(self) -> int | None:
        """Index of the first step whose loss is NaN or infinite; None if there is none."""
        return next((i for i, loss in enumerate(self.losses) if not math.isfinite(loss)), None)

    def __add__(self, other: Reading) -> Reading:
        names = {**self.sums, **other.sums}
        sums = {name: self.sums.get(name, 0.0) + other.sums.get(name, 0.0) for name in names}
        # Only the newest steps are kept: the sum of an epoch must not grow with its length.
        return Reading(sums, self.samples + other.samples, other.losses)
