"""A curve in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Bits of a braille character: for its left and right column, from top to bottom."""


def draw_curve(values: Sequence[float], *, width: int, height: int, plain: bool) -> list[str]:
    """Draw a curve from 0 to its largest value, every value of it: what happens within a column is a vertical line.

    Args:
        values: >= 0, one for each step.
        width: characters of a line.
        height: number of lines, the uppermost first.
        plain: stars, where the output has no braille characters (2 x 4 dots each).
    """
    columns, rows = (width, height) if plain else (2 * width, 4 * height)
    top = max(values) or 1.0
    lit: set[tuple[int, int]] = set()
    before: int | None = None
    for column in range(columns):
        begin = column * len(values) // columns
        end = max(begin + 1, (column + 1) * len(values) // columns)
        levels = [round(value / top * (rows - 1)) for value in values[begin:end]]
        # Up to the neighbour, so that a jump is a line and not a gap.
        reach = [] if before is None else [before + (levels[0] > before) - (levels[0] < before)]
        before = levels[-1]
        lit.update((column, rows - 1 - level) for level in range(min(levels + reach), max(levels + reach) + 1))
    if plain:
        return ["".join("*" if (x, y) in lit else " " for x in range(width)).rstrip() for y in range(height)]
    return [
        "".join(
            chr(0x2800 + sum(_DOTS[i][j] for i in range(2) for j in range(4) if (2 * x + i, 4 * y + j) in lit))
            for x in range(width)
        ).rstrip("\u2800")
        for y in range(height)
    ]


def with_axes(
    lines: Sequence[str], *, top: float, width: int, below: Sequence[tuple[Sequence[float], str]], plain: bool
) -> list[str]:
    """Put axes around a curve that starts at 0.

    Args:
        lines: of :func:`draw_curve`.
        top: value of the uppermost line.
        width: characters of a line.
        below: scales of the horizontal axis: numbers at equal distances from its beginning to its end, and their unit.
        plain: characters of ASCII only.
    """
    bar, tick, corner, dash = "|++-" if plain else "│┤└─"
    labels = {0: f"{top:.3g}", len(lines) // 2: f"{top * (1 - (len(lines) // 2) / len(lines)):.3g}"}
    margin = max(len(label) for label in labels.values())
    drawn = [
        f"{labels.get(i, ''):>{margin}} {tick if i in labels else bar}{line}".rstrip() for i, line in enumerate(lines)
    ]
    drawn.append(f"{'0':>{margin}} {corner}{dash * width}")
    for numbers, unit in below:
        row = [" "] * (margin + width + 12)
        for i, number in enumerate(numbers):
            text = f"{number:g}"
            place = margin + 2 + round(i * (width - 1) / (len(numbers) - 1)) - len(text) // 2
            row[place : place + len(text)] = text
        drawn.append(f"{''.join(row).rstrip()} {unit}")
    return drawn
