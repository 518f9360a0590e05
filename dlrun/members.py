"""Several runs in one folder: their results are read from the run folders, and become a table.

A *set* is a folder with the configuration that its runs have in common; each *member* is an ordinary run folder in it,
with a fixed name. What has been done is told by the members' own files alone, so a set that is killed at any moment
goes on from what lies there.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dlrun.config.schema import Config
from dlrun.runfolder import RunFolder
from dlrun.spread import Spread, spread

TABLE = "results.csv"
SUMMARY = "summary.json"
Status = Literal["done", "failed", "stopped", "missing"]


@dataclass(frozen=True)
class Member:
    """One run of a set.

    Attributes:
        name: of its folder, such as ``fold_2``.
        label: what the screen calls it, such as ``fold 2 of 5``.
        config: its whole configuration, as for a run of its own.
        words: ``key=value`` words that make it out of the set's configuration.
    """

    name: str
    label: str
    config: Config
    words: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What became of a member.

    Attributes:
        name: of its folder.
        status: done, failed (with an ``error``), stopped (it can be resumed), or missing (not started).
        step: optimizer steps trained; None if it is not done.
        epochs: passes over the training data; likewise.
        metrics: ``split/metric`` -> value: on val of the best checkpoint, or else the last; on test of what was tested;
            on train of the last epoch. A value that was not finite is NaN.
        error: why it failed.
    """

    name: str
    status: Status
    step: int | None = None
    epochs: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None


def outcome_of(folder: Path) -> Outcome:
    """What became of the run in a folder, by its own files."""
    try:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Outcome(folder.name, "stopped" if (folder / "config.yaml").is_file() else "missing")
    found = {name: value for name, value in results["last"].items() if name.startswith("train/")}
    judged = results.get("best", results["last"])
    found |= {name: value for name, value in judged.items() if name.startswith("val/")}
    found |= {f"test/{name}": value for name, value in results.get("test", {}).items()}
    metrics = {name: math.nan if value is None else value for name, value in found.items()}
    return Outcome(folder.name, "done", results["step"], results["epochs"], metrics)


def outcomes_in(folder: Path) -> list[Outcome]:
    """What became of the runs in a set's folder, in the order of their numbers; empty if it holds none."""
    found = [outcome_of(path.parent) for path in folder.glob("*/config.yaml")]
    return sorted(found, key=lambda one: [int(part) if part.isdigit() else 0 for part in one.name.split("_")])


def spreads(outcomes: Sequence[Outcome]) -> dict[str, Spread | None]:
    """Every metric over the members that are done, in the order val, test, train; None where a value is not finite."""
    done = [outcome.metrics for outcome in outcomes if outcome.status == "done"]
    names = dict.fromkeys(name for metrics in done for name in metrics)
    ordered = sorted(names, key=lambda name: ("val", "test", "train").index(name.split("/")[0]))
    return {name: spread([metrics.get(name, math.nan) for metrics in done]) for name in ordered}


def write_table(folder: RunFolder, outcomes: Sequence[Outcome]) -> None:
    """Write ``results.csv``: a row for each member; numbers with all their digits, nothing that a clock decides.

    Raises:
        OSError: if it cannot be written.
    """
    names = list(spreads(outcomes))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["run", "status", "step", "epochs", *names])
    for one in outcomes:
        cells = [one.metrics.get(name, "") for name in names]
        table.writerow([one.name, one.status, _cell(one.step), _cell(one.epochs), *cells])
    folder.write_text(TABLE, text.getvalue())


def _cell(value: int | None) -> int | str:
    return "" if value is None else value


def summary(kind: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What ``summary.json`` holds; docs/series.md lists the keys.

    Args:
        kind: ``folds`` or ``seeds``. The runs of a cross-validation share training data, so their spread tells no
            interval of the mean (Bengio and Grandvalet, "No unbiased estimator of the variance of k-fold
            cross-validation", JMLR 5, 2004): it is left out.
        outcomes: of all members.
    """
    metrics: dict[str, Any] = {}
    for name, found in spreads(outcomes).items():
        if found is None:
            metrics[name] = None
            continue
        metrics[name] = {"n": len(found.values), "mean": found.mean, "std": found.std}
        if kind == "seeds":
            interval = None if found.interval is None else list(found.interval)
            metrics[name] |= {"standard_error": found.standard_error, "interval": interval, "noise": found.noise}
    return {
        "kind": kind,
        "status": "done" if all(one.status == "done" for one in outcomes) else "failed",
        "runs": [
            {
                "name": one.name,
                "status": one.status,
                "error": one.error,
                "step": one.step,
                "epochs": one.epochs,
                "metrics": dict(one.metrics),
            }
            for one in outcomes
        ],
        "metrics": metrics,
    }
