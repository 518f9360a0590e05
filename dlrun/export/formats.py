"""The formats: how a network becomes a file, how the file runs, and how it tells what it is."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from dlrun.errors import ExportError, UserError
from dlrun.export.metadata import MARK
from dlrun.export.subject import Exportable, Tensors
from dlrun.export.trace import first_line, per_argument, quiet

Program = Callable[[], ExportedProgram]
"""Gives the traced graph; traced at the first call only."""
Runner = Callable[[Tensors], Tensors]
"""Inputs of the network -> its outputs, computed from a file."""

TOLERANCE = 1e-4
"""Largest difference to PyTorch's scores that a graph may have, as a part of the largest of them.

float32 carries 6e-8. The built-in models differ by 2e-7 to 4e-6 in ONNX, which folds batch norm into convolutions and
adds in another order."""
_PROTOBUF_LIMIT = 2**31 - 1
_EXTRA = "dlrun.json"


@dataclass(frozen=True)
class Format:
    """One format of exported files.

    Attributes:
        name: as in ``format=``.
        suffix: of its files, with the dot.
        packages: what must be installed beside torch.
        tolerance: see :data:`TOLERANCE`.
        encode: (network, its graph) -> content of the file.
        open: (file, network) -> what computes the network's outputs from the file.
        metadata: file -> what it says about itself; None if it is not of this format.
    """

    name: str
    suffix: str
    packages: tuple[str, ...]
    tolerance: float
    encode: Callable[[Exportable, Program], bytes]
    open: Callable[[Path, Exportable], Runner]
    metadata: Callable[[Path], Mapping[str, str] | None]

    @property
    def graph(self) -> bool:
        """Whether a file holds operations and not weights alone."""
        return self.name != "safetensors"


def need_packages(formats: Sequence[Format]) -> None:
    """Check that what the formats need is installed.

    Raises:
        UserError: naming every package that is not there.
    """
    missing = {package: chosen.name for chosen in formats for package in chosen.packages if find_spec(package) is None}
    if missing:
        names = " and ".join(dict.fromkeys(missing.values()))
        raise UserError(
            f"format={names}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed; "
            "run: pip install 'dlrun[export]'"
        )


# ---- ONNX


def _encode_onnx(subject: Exportable, program: Program) -> bytes:
    graph = program()
    try:
        with quiet():
            made = torch.onnx.export(
                graph,
                dynamo=True,
                verbose=False,
                input_names=[port.name for port in subject.inputs],
                output_names=[port.name for port in subject.outputs],
                # The graph has its axes already; this gives them their names in the file.
                dynamic_shapes=per_argument(subject, [port.named_axes for port in subject.inputs]),
            )
            assert made is not None
            proto = made.model_proto
    except Exception as error:
        raise ExportError(
            f"model {subject.model!r} cannot be written as ONNX: {first_line(error)}; use format=torch_export, or "
            "another operation in the model"
        ) from error
    for key, value in subject.metadata.items():
        proto.metadata_props.add(key=key, value=value)
    proto.producer_name, proto.producer_version = MARK, subject.metadata[MARK]
    if proto.ByteSize() > _PROTOBUF_LIMIT:
        raise ExportError(
            f"model {subject.model!r} is larger than the 2 GB that one ONNX file holds; use format=torch_export"
        )
    return bytes(proto.SerializeToString())


def _open_onnx(path: Path, subject: Exportable) -> Runner:
    with quiet():
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(inputs: Tensors) -> Tensors:
        named = {port.name: value.numpy() for port, value in zip(subject.inputs, inputs, strict=True)}
        return tuple(torch.from_numpy(output) for output in session.run(None, named))

    return run


def _metadata_of_onnx(path: Path) -> Mapping[str, str] | None:
    with quiet():
        import onnx
        from google.protobuf.message import DecodeError

        try:
            proto = onnx.load(str(path), load_external_data=False)
        except DecodeError:
            return None
    return {entry.key: entry.value for entry in proto.metadata_props}


# ---- torch.export


def _encode_torch_export(subject: Exportable, program: Program) -> bytes:
    graph, buffer = program(), io.BytesIO()
    with quiet():
        torch.export.save(graph, buffer, extra_files={_EXTRA: json.dumps(dict(subject.metadata))})
    return buffer.getvalue()


def _open_torch_export(path: Path, subject: Exportable) -> Runner:
    with quiet():
        module = torch.export.load(path).module()

    def run(inputs: Tensors) -> Tensors:
        output: Tensor | Tensors = module(*inputs)
        return (output,) if isinstance(output, Tensor) else tuple(output)

    return run


def _metadata_of_torch_export(path: Path) -> Mapping[str, str] | None:
    # Not through torch.export.load, which would build the whole graph of a stranger's file.
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(f"/extra/{_EXTRA}"))
            content: Mapping[str, str] = json.loads(archive.read(name))
    except (zipfile.BadZipFile, ValueError):
        return None
    return content


# ---- safetensors


def _encode_safetensors(subject: Exportable, program: Program) -> bytes:
    from safetensors.torch import save

    weights = subject.net.state_dict()
    strange = next((name for name, value in weights.items() if not isinstance(value, Tensor)), None)
    if strange is not None:
        raise ExportError(
            f"model {subject.model!r} cannot be written as safetensors: {strange} of its state is no tensor; use "
            "format=torch_export"
        )
    # Copies, because weights that share their memory are refused.
    copies = {name: value.clone().contiguous() for name, value in weights.items()}
    return save(copies, dict(subject.of_weights))


def _open_safetensors(path: Path, subject: Exportable) -> Runner:
    from safetensors.torch import load_file

    found, net = load_file(path), subject.fresh()
    for name, value in subject.net.state_dict().items():
        if name not in found or found[name].dtype != value.dtype or not _same_bits(found[name], value):
            raise ExportError(f"{name} was not written to the file as it is")
    net.load_state_dict(found)
    net.eval().requires_grad_(False)
    return lambda inputs: subject.reference(net, inputs)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.flatten().view(torch.uint8), b.flatten().view(torch.uint8))


def _metadata_of_safetensors(path: Path) -> Mapping[str, str] | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            content: Mapping[str, str] | None = file.metadata()
    except SafetensorError:
        return None
    return content


FORMATS: dict[str, Format] = {
    made.name: made
    for made in (
        Format(
            "onnx",
            ".onnx",
            ("onnx", "onnxscript", "onnxruntime"),
            TOLERANCE,
            _encode_onnx,
            _open_onnx,
            _metadata_of_onnx,
        ),
        Format(
            "torch_export",
            ".pt2",
            (),
            TOLERANCE,
            _encode_torch_export,
            _open_torch_export,
            _metadata_of_torch_export,
        ),
        Format(
            "safetensors",
            ".safetensors",
            ("safetensors",),
            0.0,
            _encode_safetensors,
            _open_safetensors,
            _metadata_of_safetensors,
        ),
    )
}
"""Every format by name; the first is the default."""
