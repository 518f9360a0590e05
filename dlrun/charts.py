"""Figures without a display and without pyplot's global state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def new_figure(*, width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Any, list[Any]]:
    """A figure and its axes, row by row.

    Args:
        width: in inches.
        height: in inches.
        rows: rows of axes.
        columns: columns of axes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def draw_confusion(path: Path, counts: Sequence[Sequence[int]], classes: Sequence[str], title: str) -> None:
    """Draw a confusion matrix as PNG.

    Args:
        path: the file to write.
        counts: (K, K): row is the true class, column the predicted one.
        classes: K names.
        title: above the matrix.

    Raises:
        OSError: if the file cannot be written.
    """
    size = len(classes)
    side = min(3 + 0.45 * size, 24)
    figure, (axis,) = new_figure(width=side, height=side)
    shares = [[count / max(sum(row), 1) for count in row] for row in counts]
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if size <= 50:
        axis.set_xticks(range(size), classes, rotation=90, fontsize=8)
        axis.set_yticks(range(size), classes, fontsize=8)
    if size <= 25:
        for i, row in enumerate(counts):
            for j, count in enumerate(row):
                if count:
                    color = "white" if shares[i][j] > 0.5 else "black"
                    axis.text(j, i, str(count), ha="center", va="center", fontsize=8, color=color)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    axis.set_title(title, fontsize=10)
    figure.savefig(path, dpi=120, format="png")


def draw_attention(
    path: Path, weights: Sequence[Sequence[float]], source: Sequence[str], written: Sequence[str], title: str
) -> None:
    """Draw where an attention lay as PNG.

    Args:
        path: the file to write.
        weights: (T, S) in [0, 1]: a row for each symbol that was written.
        source: S symbols.
        written: T symbols.
        title: above the map.

    Raises:
        OSError: if the file cannot be written.
    """
    height, width = (min(1.2 + 0.24 * len(side), 24) for side in (written, source))
    figure, (axis,) = new_figure(width=max(width, 3.5), height=height)
    axis.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axis.set_xticks(range(len(source)), source, fontsize=9)
    axis.set_yticks(range(len(written)), written, fontsize=9)
    axis.set_title(title, fontsize=9, parse_math=False)
    figure.savefig(path, dpi=100, format="png")


def draw_gradient_flow(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw how the gradient reaches back through time as PNG: a panel for each layer, a line for each measurement.

    Args:
        path: the file to write.
        rows: at least one; each with ``step``, and in ``norms`` name -> the norm at each time step, None if not finite.

    Raises:
        OSError: if the file cannot be written.
    """
    names = list(rows[-1]["norms"])
    figure, axes = new_figure(width=6, height=0.6 + 2.6 * len(names), rows=len(names))
    # Many lines are one colour after the other: the first is the beginning, the last is now.
    shown = rows if len(rows) <= 12 else [*rows[:: -(-len(rows) // 11)], rows[-1]]
    for axis, name in zip(axes, names, strict=True):
        for number, row in enumerate(shown):
            # A logarithm has no zero: the cell state of an LSTM after its last step has no way to the loss.
            values = [value or math.nan for value in row["norms"].get(name, ())]
            shade = str(0.8 * (1 - number / max(1, len(shown) - 1)))
            ends = number in (0, len(shown) - 1)
            axis.plot(range(1, len(values) + 1), values, color=shade, label=f"step {row['step']}" if ends else None)
        if any(value for row in shown for value in row["norms"].get(name, ())):
            axis.set_yscale("log")
        axis.set(title=name, xlabel="time step", ylabel="norm of dL/dh")
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=100, format="png")
