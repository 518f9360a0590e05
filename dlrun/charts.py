"""Figures without a display and without pyplot's global state."""

from __future__ import annotations

from collections.abc import Sequence
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
