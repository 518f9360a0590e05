"""What ``dlrun eval`` prints and writes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dlrun.config.sources import display_path
from dlrun.logs import log
from dlrun.monitor import is_rate
from dlrun.runfolder import finite

_NAMES = {"accuracy": "top-1", "top5": "top-5"}


def metrics_of(report: Mapping[str, Any]) -> list[str]:
    """Names of the scores of the whole split in a report: they come after the step."""
    names = list(report)[list(report).index("step") + 1 :]
    return [name for name in names if isinstance(report[name], float)]


def print_report(report: Mapping[str, Any]) -> None:
    """One checkpoint in detail."""
    log.info("checkpoint  %s (step %d)", report["checkpoint"], report["step"])
    if report.get("weights"):
        log.info("weights     %s", report["weights"])
    print_split(report)
    names = metrics_of(report)
    if "tta" in report:
        print_views(report["tta"])
        log.info("")
        print_gain([("plain", report["plain"]), (report["tta"]["name"], report)], names)
    else:
        samples = "samples" in report and "confusion" in report
        metrics = {name: _NAMES.get(name, name) if samples else name for name in names}
        width = max(12, *(len(label) + 2 for label in metrics.values()))
        for name, label in metrics.items():
            value = f"{100 * report[name]:.2f} %" if is_rate(name) else f"{report[name]:.4f}"
            log.info("%-*s%s", width, label, value)
    if "examples" in report:
        _print_examples(report["examples"])
    if "per_class" in report:
        print_classes(report["per_class"], "samples" if "samples" in report else "tokens")


def print_split(report: Mapping[str, Any]) -> None:
    """What was evaluated on."""
    unit = "samples" if "samples" in report else "tokens"
    log.info("split       %s, %s %s%s", report["split"], f"{report[unit]:,}", unit, _told(report, unit))


def _told(report: Mapping[str, Any], unit: str) -> str:
    """What else there is to say of the split."""
    parts = [f" in {report[name]:,} {name}" for name in ("pairs", "sequences") if name in report and unit == "tokens"]
    if "read" in report and unit == "samples":
        parts.append(f" of {report['read']:,} tokens")
    counts = {"unknown": "of them", "unknown_in_sources": "of the characters in the sources"}
    unknown = [f"{report[name]:,} {what}" for name, what in counts.items() if report.get(name)]
    if unknown:
        parts.append(f", {' and '.join(unknown)} unknown to the training text")
    return "".join(parts)


def print_views(tta: Mapping[str, Any]) -> None:
    """How the images were looked at."""
    note = f" {tta['note']}" if tta["note"] else ""
    log.info("tta         %s%s, %d views, probabilities averaged", tta["name"], note, tta["views"])


def print_classes(rows: Sequence[Mapping[str, Any]], unit: str = "samples") -> None:
    """The metrics of each class; ``unit`` is what the support counts."""
    log.info("")
    width = max(5, *(len(str(row["class"])) for row in rows))
    columns = {"precision": "precision", "recall": "recall", "f1": "F1", "average_precision": "avg prec."}
    columns = {key: title for key, title in columns.items() if key in rows[0]}
    log.info("  %-*s  %s  %7s", width, "class", "  ".join(f"{title:>9}" for title in columns.values()), unit)
    for row in rows:
        cells = [f"{'-':>9}" if row[key] is None else f"{row[key]:9.2%}" for key in columns]
        log.info("  %-*s  %s  %7d", width, row["class"], "  ".join(cells), row["support"])


def _print_examples(examples: Sequence[Mapping[str, Any]]) -> None:
    """What was made of some sources, and what it should have been where that is something else."""
    log.info("")
    width = max(len(example["source"]) for example in examples)
    for example in examples:
        wrong = "" if example["prediction"] == example["target"] else f"  ({example['target']})"
        log.info("  %-*s -> %s%s", width, example["source"], example["prediction"], wrong)


def print_table(title: str, rows: Sequence[tuple[str, Mapping[str, Any]]], names: Sequence[str]) -> None:
    """Rows (label, metric -> value) under the names of the metrics."""
    from dlrun.report import score_cell

    width = max(len(label) for label, _ in [(title, {}), *rows])
    columns = [(name, max(10, len(name) + 2)) for name in names]
    log.info("  %-*s  %s", width, title, "".join(f"{name:>{wide}}" for name, wide in columns))
    for label, values in rows:
        cells = [f"{score_cell(name, values.get(name)):>{wide}}" for name, wide in columns]
        log.info("  %-*s  %s", width, label, "".join(cells))


def print_gain(rows: Sequence[tuple[str, Mapping[str, Any]]], names: Sequence[str], title: str = "") -> None:
    """A table whose last line is what the last row has more than the one before."""
    print_table(title, rows, names)
    width = max(len(label) for label, _ in [(title, {}), *rows])
    base, best = rows[-2][1], rows[-1][1]
    cells = []
    for name in names:
        wide, change = max(10, len(name) + 2), best[name] - base[name]
        cells.append(f"{change:>+{wide}.2%}" if is_rate(name) else f"{change:>+{wide}.4f}")
    log.info("  %-*s  %s", width, "gain", "".join(cells))


def write(folder: Path, name: str, title: str, report: Mapping[str, Any]) -> None:
    """JSON, and PNG where there is something to draw; a warning where nothing can be written.

    Args:
        folder: where to.
        name: of the files.
        title: what the picture says that it shows.
        report: plain values.
    """
    from dlrun.charts import draw_attention, draw_confusion

    attended = any(example["attention"] is not None for example in report.get("examples", ()))
    result = folder / f"{name}.json"
    try:
        temporary = folder / f".{name}.json.tmp"
        temporary.write_text(json.dumps(finite(report), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(temporary, result)
        if "confusion" in report:
            heading = f"{title} on {report['split']}: {report['accuracy']:.2%} of {report['samples']:,}"
            draw_confusion(folder / f"{name}.png", report["confusion"], report["classes"], heading)
        if attended:
            shown = report["examples"][0]
            written = [*shown["prediction"], "end"]
            heading = f"{shown['source']} -> {shown['prediction']}"
            draw_attention(folder / f"{name}.png", shown["attention"], list(shown["source"]), written, heading)
    except OSError as error:
        log.warning("the results cannot be written to %s: %s", folder, error.strerror)
        return
    log.info("")
    log.info("written     %s%s", display_path(result.absolute()), ", .png" if attended or "confusion" in report else "")
