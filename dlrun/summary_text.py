"""A model's summary as text for people and as plain values for programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dlrun.summary import Layer, Memory, Summary

FP32_BYTES = 4


@dataclass(frozen=True)
class Subject:
    """A summarised model, and what it was asked for as.

    Attributes:
        name: as the user gave it: a model, a recipe, a file.
        model: registered name of the model.
        classes: K; of text, the size of the vocabulary.
        precision: of the training; the summary counts in fp32.
        summary: its figures.
        scored: what its K are, of labelled sequences: classes or tags.
    """

    name: str
    model: str
    classes: int
    precision: str
    summary: Summary
    scored: str | None = None

    @property
    def text(self) -> bool:
        """Whether the model reads text instead of images."""
        return len(self.summary.input_shape) == 1

    @property
    def batch(self) -> str:
        """What a step takes, in words."""
        count = self.summary.batch_size
        kind = "stream" if self.scored is None else "sequence"
        return f"{count} {kind}{'' if count == 1 else 's'}" if self.text else images(count)


def to_plain(subject: Subject) -> dict[str, Any]:
    """The object that ``--json`` prints; its keys are documented in docs/summary.md and stay."""
    summary = subject.summary
    plain = asdict(summary)
    layers = list(plain.pop("layers"))
    warnings = plain.pop("warnings")
    for i, layer in enumerate(layers):
        layers[i] = {"name": layer.pop("name"), "type": layer.pop("kind"), **layer}
    return {
        "name": subject.name,
        "model": subject.model,
        "classes": subject.classes,
        **plain,
        "memory": {**plain["memory"], "total": summary.memory.total},
        "most_parameters": _name_of(_heaviest(summary, _parameters)),
        "most_memory": _name_of(_heaviest(summary, _memory)),
        "warnings": list(warnings),
        "layers": layers,
    }


def table(subject: Subject) -> str:
    """All layers and the totals."""
    summary = subject.summary
    read = f"{sides(summary.input_shape)} tokens" if subject.text else sides(summary.input_shape)
    head = (
        f"{subject.name}: model {subject.model}, input {read}, {subject.classes} "
        f"{subject.scored or ('symbols' if subject.text else 'classes')}, {subject.batch} at once"
    )
    rows: list[tuple[str, ...]] = [("layer", "type", "output", "parameters", "multiply-adds", "memory", "field")]
    rows += [_cells(layer) for layer in summary.layers]
    if subject.text:
        # A recurrent layer sees all that came before.
        rows = [row[:-1] for row in rows]
    parts = [head, "", *_aligned(rows, left=3)]
    if any(layer.training_only for layer in summary.layers):
        parts.append("* in training only: its multiply-adds are not in the total")
    return "\n".join([*parts, "", *_totals(subject), *(f"warning: {text}" for text in summary.warnings)])


def comparison(subjects: Sequence[Subject]) -> str:
    """One row for each model."""
    rows = [("model", "input", "batch", "parameters", "multiply-adds", "activations", "memory", "warnings")]
    for subject in subjects:
        summary = subject.summary
        label = subject.name if subject.name == subject.model else f"{subject.name} ({subject.model})"
        rows.append(
            (
                label,
                sides(summary.input_shape),
                str(summary.batch_size),
                f"{summary.parameters:,}",
                short(summary.multiply_adds),
                size(summary.activations * FP32_BYTES),
                size(summary.memory.total),
                str(len(summary.warnings) or "-"),
            )
        )
    notes = (
        "multiply-adds: one image, forward, in evaluation; activations: the layers' outputs for one image, in fp32;",
        "memory: weights, gradients, optimizer state and activations of a training step on a batch, in fp32",
    )
    return "\n".join([*_aligned(rows, left=2), "", *notes])


def sides(shape: Sequence[int]) -> str:
    """``3x32x32``."""
    return "x".join(str(side) for side in shape)


def images(count: int) -> str:
    """``1 image``, ``128 images``."""
    return f"{count} image{'' if count == 1 else 's'}"


def short(count: int) -> str:
    """A count in three digits: ``760``, ``34.9K``, ``138M``, ``15.5G``."""
    return _scaled(count, ("", "K", "M", "G", "T"), "")


def size(count: int) -> str:
    """Bytes in three digits: ``760 B``, ``96.1 MB``; an MB is 1,000,000 bytes."""
    return _scaled(count, ("B", "KB", "MB", "GB", "TB"), " ")


def _scaled(count: int, units: tuple[str, ...], space: str) -> str:
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(units) - 1:
        value /= 1000
        unit += 1
    digits = 0 if unit == 0 or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f}{space}{units[unit]}"


def _cells(layer: Layer) -> tuple[str, ...]:
    field = layer.receptive_field
    if not layer.calls:
        where = "not run"
    elif field is None:
        where = "all"
    else:
        where = str(field[0]) if len(set(field)) == 1 else sides(field)
    return (
        layer.name + ("*" if layer.training_only else ""),
        layer.kind + (f" ({layer.calls} times)" if layer.calls > 1 else ""),
        "-" if layer.output_shape is None else sides(layer.output_shape),
        f"{layer.parameters:,}" if layer.parameters else "-",
        short(layer.multiply_adds) if layer.multiply_adds else "-",
        size(layer.memory) if layer.memory else "-",
        where,
    )


def _aligned(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Columns; the first ``left`` of them are flush left, the others flush right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _totals(subject: Subject) -> list[str]:
    summary = subject.summary
    frozen = summary.parameters - summary.trainable
    extra = summary.training_multiply_adds - summary.multiply_adds
    auxiliary = f"; {short(summary.training_multiply_adds)} in training" if extra > 0 else ""
    multiply_adds, of, one = summary.multiply_adds, "one image", "one image"
    if subject.text:
        multiply_adds, of, one = (
            multiply_adds // summary.input_shape[0],
            "one token",
            "one stream" if subject.scored is None else "one sequence",
        )
    lines = [
        f"parameters       {summary.parameters:,}" + (f", {frozen:,} of them frozen" if frozen else ""),
        f"multiply-adds    {short(multiply_adds)} for {of}, forward{auxiliary}",
        f"activations      {short(summary.activations)} values for {one}, forward: "
        f"{size(summary.activations * FP32_BYTES)}",
        f"memory           {_memory_text(summary.memory)}",
        f"                 for a training step on {subject.batch} in fp32"
        + (f"; {subject.precision} takes about half for the activations" if subject.precision != "fp32" else ""),
        f"most parameters  {_share(summary, _parameters, short)}",
        f"most memory      {_most_memory(summary)}",
    ]
    return [line for line in lines if line.strip()]


def _memory_text(memory: Memory) -> str:
    state = "unknown" if memory.optimizer is None else size(memory.optimizer)
    return (
        f"{size(memory.total)} = {size(memory.weights)} weights + {size(memory.gradients)} gradients + "
        f"{state} optimizer + {size(memory.activations)} activations"
    )


def _most_memory(summary: Summary) -> str:
    memory = summary.memory
    share = 100 * memory.activations / max(1, memory.total)
    if share < 50:
        return f"weights, gradients and optimizer state ({100 - share:.0f} %)"
    return f"activations ({share:.0f} %): {_share(summary, _memory, size)}"


def _parameters(layer: Layer) -> int:
    return layer.parameters


def _memory(layer: Layer) -> int:
    return layer.memory


def _heaviest(summary: Summary, weight: Callable[[Layer], int]) -> Layer | None:
    heaviest = max(summary.layers, key=weight, default=None)
    return heaviest if heaviest is not None and weight(heaviest) else None


def _name_of(layer: Layer | None) -> str | None:
    return None if layer is None else layer.name


def _share(summary: Summary, weight: Callable[[Layer], int], text: Callable[[int], str]) -> str:
    """The heaviest layer, and how few layers hold half of the whole."""
    heaviest = _heaviest(summary, weight)
    if heaviest is None:
        return "none"
    weights = sorted((weight(layer) for layer in summary.layers if weight(layer)), reverse=True)
    total, half, count = sum(weights), 0, 0
    while 2 * half < total:
        half += weights[count]
        count += 1
    line = f"{heaviest.name} ({heaviest.kind}) {text(weights[0])} of {text(total)} ({100 * weights[0] / total:.0f} %)"
    return line if count == 1 else f"{line}; {count} of {len(weights)} layers hold half"
