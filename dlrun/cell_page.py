"""The page of ``dlrun inspect cells``: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

import numpy as np

from dlrun.inspection import HIGH, LOW, Floats, Found, Saturation

_LEVELS = 10
"""Steps of colour on either side of zero."""
_GATES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")


@dataclass(frozen=True)
class Line:
    """A unit to show.

    Attributes:
        name: layer:unit.
        found: the feature that it tells best, if the text has any.
        values: of each token, (N,).
    """

    name: str
    found: Found | None
    values: Floats


def told(found: Found | None) -> str:
    """What a unit tells, in words."""
    if found is None:
        return "no feature of this text"
    area = "" if found.auc is None else f"AUC {found.auc:.3f}, "
    return f"{found.feature} ({area}r {found.correlation:+.3f})"


def page(
    title: str, facts: str, pieces: Sequence[str], lines: Sequence[Line], gates: Sequence[Saturation], kind: str
) -> str:
    """The page.

    Args:
        title: heading.
        facts: what was looked at, in a sentence.
        pieces: text of each token that is shown.
        lines: the units, values of at least as many tokens.
        gates: how often they are saturated.
        kind: what the values are, such as tanh(c).

    Returns:
        HTML in one piece: no script, nothing from elsewhere.
    """
    body = [
        f"<h1>{escape(title)}</h1><p>{escape(facts)}</p>",
        _legend(kind),
        *(_line(line, pieces) for line in lines),
        *_gates(gates),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}{_colours()}</style></head><body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#1b1b1b;background:#fff}
h1{font-size:1.4em;overflow-wrap:anywhere}h2{font-size:1.15em;margin-top:2em}h3{font-size:1em;margin:1.6em 0 .4em}
pre{font:13px/1.55 ui-monospace,Menlo,Consolas,monospace;white-space:pre-wrap;overflow-wrap:anywhere;margin:0;
padding:.7em;border:1px solid #ddd;border-radius:4px;max-height:24em;overflow-y:auto}
i{color:#999;font-style:normal}table{border-collapse:collapse}th,td{padding:.2em .9em .2em 0;text-align:left}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}tr{border-bottom:1px solid #eee}
.bar{display:inline-block;width:1.1em;height:1.1em;vertical-align:-.2em}.charts{display:flex;flex-wrap:wrap;gap:1.5em}
svg{font:11px system-ui,sans-serif}small{color:#555;font-weight:normal}
"""


def _colours() -> str:
    """Red below zero, blue above, white at zero: told apart with every kind of colour vision."""
    rules = []
    for side, dark in (("n", (202, 70, 54)), ("p", (43, 108, 196))):
        for level in range(1, _LEVELS + 1):
            share = 0.7 * level / _LEVELS
            red, green, blue = (round(255 - share * (255 - part)) for part in dark)
            rules.append(f".{side}{level}{{background:rgb({red},{green},{blue})}}")
    return "".join(rules)


def _legend(kind: str) -> str:
    steps = [f"n{level}" for level in range(_LEVELS, 0, -1)] + [""] + [f"p{level}" for level in range(1, _LEVELS + 1)]
    bar = "".join(f'<span class="bar {step}"></span>' for step in steps)
    return (
        f"<h2>Units</h2><p>{bar} &nbsp;negative, zero, positive: {escape(kind)} after each token was read. "
        "Full colour: 98 % of the values of the unit are smaller in size. AUC: how probably the "
        "unit is higher where the feature is there than where it is not (0.5 by chance); r: their correlation.</p>"
    )


def _line(line: Line, pieces: Sequence[str]) -> str:
    size = max(float(np.quantile(np.abs(line.values), 0.98)), 1e-9)
    levels = np.clip(np.rint(line.values[: len(pieces)] / size * _LEVELS), -_LEVELS, _LEVELS).astype(int)
    text = "".join(_spans(pieces, levels.tolist()))
    head = f"{line.name} &nbsp;{escape(told(line.found))} <small>full colour: {size:.2f}</small>"
    return f"<h3>{head}</h3><pre>{text}</pre>"


def _spans(pieces: Sequence[str], levels: Sequence[int]) -> Iterator[str]:
    # Neighbours of one colour share a span: the page is half as large.
    for level, group in groupby(zip(levels, pieces, strict=True), key=lambda pair: pair[0]):
        text = escape("".join(piece for _, piece in group)).replace("\n", "<i>↵</i>\n")
        yield f'<span class="{"n" if level < 0 else "p"}{abs(level)}">{text}</span>' if level else text


def _gates(gates: Sequence[Saturation]) -> Iterator[str]:
    if not gates:
        yield "<h2>Gates</h2><p>Cells of this kind have none.</p>"
        return
    yield (
        f"<h2>Gates</h2><p>Share of time in which a gate is shut (below {LOW}) and open (above {HIGH}), mean over the "
        "units of a layer; in the charts each point is a unit.</p>"
    )
    rows = "".join(
        f'<tr><td>{gate.layer}</td><td>{escape(gate.gate)}</td><td class="n">{gate.left.mean():.1%}</td>'
        f'<td class="n">{gate.right.mean():.1%}</td></tr>'
        for gate in gates
    )
    yield f'<table><tr><th>layer</th><th>gate</th><th class="n">shut</th><th class="n">open</th></tr>{rows}</table>'
    charts = (
        _chart(layer, list(own)) for layer, own in groupby(sorted(gates, key=lambda g: g.layer), lambda g: g.layer)
    )
    yield f'<div class="charts">{"".join(charts)}</div>'


def _chart(layer: int, gates: Sequence[Saturation]) -> str:
    """A scatter plot: share of time shut against share of time open."""
    side, left, top = 220, 44, 26
    parts = [
        f'<svg width="{side + left + 16}" height="{side + top + 62}" role="img" aria-label="gates of layer {layer}">',
        f'<text x="{left}" y="16" font-weight="bold">layer {layer}</text>',
        f'<rect x="{left}" y="{top}" width="{side}" height="{side}" fill="none" stroke="#999"/>',
        f'<line x1="{left}" y1="{top}" x2="{left + side}" y2="{top + side}" stroke="#ddd"/>',
    ]
    for share in (0, 0.5, 1):
        x, y = left + share * side, top + side - share * side
        parts.append(f'<text x="{x}" y="{top + side + 14}" text-anchor="middle">{share:g}</text>')
        parts.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{share:g}</text>')
    middle = top + side / 2
    parts.append(f'<text x="{left + side / 2}" y="{top + side + 28}" text-anchor="middle">shut</text>')
    parts.append(f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">open</text>')
    for number, gate in enumerate(gates):
        colour = _GATES[number % len(_GATES)]
        parts += [
            f'<circle cx="{left + x * side:.1f}" cy="{top + side - y * side:.1f}" r="2.5" fill="{colour}" '
            'fill-opacity=".55"/>'
            for x, y in zip(gate.left, gate.right, strict=True)
        ]
        x = left + number * 72
        parts.append(f'<circle cx="{x + 4}" cy="{top + side + 46}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{x + 12}" y="{top + side + 50}">{escape(gate.gate)}</text>')
    return "".join([*parts, "</svg>"])
