"""One graph of a network, with axes of any size; and errors of torch's exporters told in a line."""

from __future__ import annotations

import inspect
import io
import logging
import re
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TypeVar

import torch
from torch.export import Dim, ExportedProgram

from dlrun.errors import ExportError
from dlrun.export.subject import Exportable, example_inputs

T = TypeVar("T")
_TORCH = str(Path(torch.__file__).parent)
_TRACED_SIZE = 2
"""Of every named axis while tracing: torch takes sizes of 0 and 1 for constants."""


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what libraries print, log and warn of from the screen."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def trace(subject: Exportable) -> ExportedProgram:
    """The operations of a network in evaluation mode, for any size of its named axes.

    Raises:
        ExportError: if its forward does what no graph holds, naming the line of it that does.
    """
    names = dict.fromkeys(name for port in subject.inputs for name in port.named_axes.values())
    dims = {name: Dim(name, min=1) for name in names}
    shapes = per_argument(
        subject, [{axis: dims[name] for axis, name in port.named_axes.items()} for port in subject.inputs]
    )
    example = example_inputs(subject.inputs, dict.fromkeys(names, _TRACED_SIZE), seed=0)
    try:
        with quiet():
            program = torch.export.export(subject.module, example, dynamic_shapes=shapes, strict=False)
    except Exception as error:
        raise ExportError(
            f"model {subject.model!r} cannot be written as a graph: {_why_not_traced(error)}; change its forward, or "
            "export its weights alone with format=safetensors"
        ) from error
    for node in program.graph.nodes:
        # Paths and source lines of this machine, which are nobody's business where the file goes.
        node.meta.pop("stack_trace", None)
    _leave_out_unused(program)
    return program


def per_argument(subject: Exportable, values: Sequence[T]) -> tuple[T | tuple[T, ...], ...]:
    """One value per input, those of ``*args`` in a tuple of their own, which is how torch.export wants them."""
    parameters = inspect.signature(subject.module.forward).parameters.values()
    single = sum(parameter.kind is not parameter.VAR_POSITIONAL for parameter in parameters)
    return (*values[:single], tuple(values[single:])) if len(parameters) > single else tuple(values)


def _leave_out_unused(program: ExportedProgram) -> None:
    """Take out the weights that no operation reads: auxiliary heads, and the counters of batch norms."""
    unused = {node.name: node for node in program.graph.nodes if node.op == "placeholder" and not node.users}
    specs = program.graph_signature.input_specs
    for spec in [spec for spec in specs if spec.target is not None and spec.arg.name in unused]:
        specs.remove(spec)
        program.graph.erase_node(unused[spec.arg.name])
        program.state_dict.pop(spec.target, None)
    program.graph_module.recompile()


def _why_not_traced(error: Exception) -> str:
    axis = re.search(r"Constraints violated \((\w+)", str(error))
    if axis is not None:
        return f"its forward works for one size of the axis {axis[1]!r} only, or chooses its way by that size"
    place = _place(error)
    if "data-dependent" in str(error):
        return f"its forward needs the value of a tensor in Python (if, int(), item() ...){place}"
    return f"{first_line(error)}{place}"


def _place(error: Exception) -> str:
    """File and line where the network, not torch, caused the error."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((_TORCH, "<", __file__))
    ]
    return f" ({frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line})" if frames else ""


def first_line(error: BaseException) -> str:
    """The line of an error that says most: that of its first cause."""
    missing = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", str(error))
    if missing is not None:
        return f"ONNX has no operation for {missing[1]}"
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else 'no message'}"
