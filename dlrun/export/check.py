"""Whether a written file computes what PyTorch computes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from dlrun.errors import ExportError
from dlrun.export.formats import Format
from dlrun.export.subject import Exportable, Tensors, example_inputs
from dlrun.export.trace import first_line

BATCHES = (1, 5)
"""Sizes of the named axes that are tried: one sample, and a number that tracing has not seen."""


@dataclass(frozen=True)
class Agreement:
    """How far a file's outputs are from PyTorch's, over all batches.

    Attributes:
        difference: the largest, >= 0, in the unit of the output.
        relative: the largest difference as a part of the largest of PyTorch's values of that output in that batch.
    """

    difference: float
    relative: float


def check(path: Path, chosen: Format, subject: Exportable) -> Agreement:
    """Read a file again and compare it with the network, on random inputs of every size in :data:`BATCHES`.

    Raises:
        ExportError: if the file cannot be read or run, or gives other scores than PyTorch.
    """

    def failed(what: str) -> ExportError:
        return ExportError(f"the {chosen.name} file failed its check and was removed: {what}")

    difference = relative = 0.0
    with torch.no_grad():
        expected = {size: _expected(subject, size) for size in BATCHES}
        try:
            run = chosen.open(path, subject)
            found = {size: run(_inputs(subject, size)) for size in BATCHES}
        except ExportError as error:
            raise failed(str(error)) from error
        except Exception as error:
            raise failed(f"it does not run: {first_line(error)}") from error
        pairs = (
            (size, *pair) for size in BATCHES for pair in zip(subject.outputs, found[size], expected[size], strict=True)
        )
        for size, port, own, wanted in pairs:
            name = port.name
            if own.shape != wanted.shape or own.dtype != wanted.dtype:
                raise failed(
                    f"for {size} samples its {name} are {tuple(own.shape)} {own.dtype}, "
                    f"PyTorch's {tuple(wanted.shape)} {wanted.dtype}"
                )
            apart, largest = (own - wanted).abs().max().item(), wanted.abs().max().item()
            part = apart / largest if largest > 0 else apart
            # Also if it is NaN.
            if not part <= chosen.tolerance:
                raise failed(
                    f"for {size} random samples its {name} differ from PyTorch's by up to {apart:.3g}, {part:.1e} of "
                    f"the largest (allowed: {chosen.tolerance:.0e})"
                )
            difference, relative = max(difference, apart), max(relative, part)
    return Agreement(difference, relative)


def _inputs(subject: Exportable, size: int) -> Tensors:
    names = dict.fromkeys(name for port in subject.inputs for name in port.named_axes.values())
    # No two axes have one size, so that none can stand for another.
    return example_inputs(subject.inputs, {name: size + i for i, name in enumerate(names)}, seed=size)


def _expected(subject: Exportable, size: int) -> Tensors:
    """PyTorch's outputs; the same if it is computed twice, or else there is nothing to compare with."""
    inputs = _inputs(subject, size)
    first, second = subject.reference(subject.net, inputs), subject.reference(subject.net, inputs)
    if not all(bool(value.isfinite().all()) for value in first):
        raise ExportError(
            f"model {subject.model!r} gives NaN or infinite scores for random inputs, so an export cannot be checked"
        )
    if not all(map(torch.equal, first, second)):
        raise ExportError(
            f"model {subject.model!r} gives other scores each time it is run in evaluation, so an export cannot be "
            "checked; it must draw no random numbers and change no state then"
        )
    return first
