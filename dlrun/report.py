"""``report.html``: one file, no network, that shows a run: its results, its curves, its configuration."""

from __future__ import annotations

import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dlrun.monitor import is_rate
from dlrun.runfolder import RunFolder
from dlrun.yaml_text import as_yaml

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #1a1a1a; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; } td, th { padding: .25rem .9rem .25rem 0; text-align: left; }
td.number, th.number { font-variant-numeric: tabular-nums; text-align: right; }
pre { background: #f5f5f4; padding: 1rem; overflow: auto; font-size: 13px; } svg { max-width: 100%; height: auto; }
"""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a ``metrics.jsonl``; a last line that was cut off by a kill is left out."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def write_report(run: RunFolder, config: Mapping[str, Any], results: Mapping[str, Any]) -> None:
    """Write ``report.html`` into the run folder.

    Args:
        run: the run folder; its ``metrics.jsonl`` holds the curves.
        config: the plain configuration tree.
        results: what ``results.json`` holds.

    Raises:
        OSError: if it cannot be written.
    """
    rows = read_rows(run.path / "metrics.jsonl")
    name = html.escape(run.path.name)
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        f"<title>{name}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{name}</h1>",
        "<h2>Results</h2>",
        _table(results),
        "<h2>Curves</h2>",
        _curves(rows) if rows else "<p>No metrics were logged yet.</p>",
        "<h2>Configuration</h2>",
        f"<pre>{html.escape(as_yaml(config))}</pre>",
        "</body></html>",
    ]
    run.write_text("report.html", "\n".join(parts))


def score_rows(results: Mapping[str, Any]) -> list[tuple[str, dict[str, float], str]]:
    """The scores of a run, split by split.

    Args:
        results: what ``results.json`` holds.

    Returns:
        Rows (label, metric -> value, note on which weights were scored).
    """
    rows = []
    for label, key, split in (
        ("train, last epoch", "last", "train"),
        ("val, last epoch", "last", "val"),
        ("val, best", "best", "val"),
    ):
        metrics = results.get(key, {})
        values = {name.split("/")[1]: value for name, value in metrics.items() if name.startswith(f"{split}/")}
        if values:
            step = metrics.get("step", results["step"])
            rows.append((label, values, f"step {step}"))
    if "test" in results:
        rows.append(("test", dict(results["test"]), results["tested"]))
    return rows


def score_cell(name: str, value: float | None) -> str:
    """A metric as text: losses as numbers, rates in percent, a dash for none."""
    if value is None:
        return "-"
    return f"{value:.2%}" if is_rate(name) else f"{value:.4f}" if value < 1000 else f"{value:.4g}"


def _table(results: Mapping[str, Any]) -> str:
    facts = {key: results.get(key) for key in ("status", "stop", "step", "epochs", "seconds")}
    text = ", ".join(f"{key}: {value}" for key, value in facts.items() if value is not None)
    rows = score_rows(results)
    if not rows:
        return f"<p>{html.escape(text)}</p>"
    names = list(dict.fromkeys(name for _, values, _ in rows for name in values))
    head = "".join(f"<th class='number'>{html.escape(name)}</th>" for name in names)
    body = "".join(
        f"<tr><th>{html.escape(label)}</th>"
        + "".join(f"<td class='number'>{score_cell(name, values.get(name))}</td>" for name in names)
        + f"<td>{html.escape(note)}</td></tr>"
        for label, values, note in rows
    )
    return f"<p>{html.escape(text)}</p><table><tr><th></th>{head}<th></th></tr>{body}</table>"


def _curves(rows: Sequence[Mapping[str, Any]]) -> str:
    """One chart per metric, training and validation in it together, as inline SVG."""
    import matplotlib

    from dlrun.charts import new_figure

    names: dict[str, None] = {}
    for row in rows:
        for key in row:
            if "/" in key or key == "lr":
                names[key.split("/")[-1]] = None
    matplotlib.rcParams["svg.fonttype"] = "none"
    columns = 2
    height = (len(names) + columns - 1) // columns
    figure, axes = new_figure(width=11, height=3.1 * height, rows=height, columns=columns)
    for axis, name in zip(axes, names, strict=False):
        for label, event, key, style in (
            ("train, since the last row", "log", f"train/{name}", {"color": "#9db8d9", "linewidth": 1}),
            ("train, epoch", "epoch", f"train/{name}", {"color": "#2563a8", "linewidth": 1.6}),
            ("val", "eval", f"val/{name}", {"color": "#c2541b", "linewidth": 1.6}),
            (name, "log", name, {"color": "#444444", "linewidth": 1.2}),
        ):
            points = [(row["step"], row[key]) for row in rows if row["event"] == event and row.get(key) is not None]
            if points:
                marker = "o" if len(points) == 1 else None
                axis.plot(*zip(*points, strict=True), label=label, marker=marker, **style)
        axis.set_title(name, fontsize=10, loc="left")
        axis.set_xlabel("step", fontsize=8)
        axis.grid(alpha=0.25)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=7, frameon=False)
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
