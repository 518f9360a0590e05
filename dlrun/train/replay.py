"""Doing a forward pass again: the same random numbers, and nothing counted twice."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType

import torch
from torch import Tensor


class Replay:
    """Passes inside draw the random numbers that followed the moment at which this was made, and keep the buffers.

    So dropout masks are those of the pass before, and running statistics are updated by that one only. The states of
    torch's generators are on the host, of CUDA too: nothing here waits for the device.

    Args:
        buffers: of the model.
        device: where it runs.
    """

    def __init__(self, buffers: Iterable[Tensor], device: torch.device) -> None:
        self._buffers = list(buffers)
        self._cuda = device if device.type == "cuda" else None
        self._kept: list[Tensor] = []
        self._random = torch.get_rng_state()
        self._random_cuda = None if self._cuda is None else torch.cuda.get_rng_state(self._cuda)

    def __enter__(self) -> None:
        self._kept = [buffer.clone() for buffer in self._buffers]
        torch.set_rng_state(self._random)
        if self._random_cuda is not None:
            assert self._cuda is not None
            torch.cuda.set_rng_state(self._random_cuda, self._cuda)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with torch.no_grad():
            for buffer, kept in zip(self._buffers, self._kept, strict=True):
                buffer.copy_(kept)
        self._kept = []
