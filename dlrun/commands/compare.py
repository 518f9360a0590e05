"""``dlrun compare A B``: do two settings differ by more than the noise between runs?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlrun.commands.request import Request
from dlrun.config.sources import display_path, read_yaml
from dlrun.errors import EXIT_DONE, UserError
from dlrun.logs import log, start_console
from dlrun.members import outcomes_in, spreads
from dlrun.monitor import is_rate
from dlrun.runfolder import finite
from dlrun.spread import Difference, Spread, difference, paired_difference

_ELSEWHERE = frozenset(
    (
        *("root", "path", "cache", "download", "size", "fit", "on_error"),
        *("batch_size", "batch_growth", "batch_growth_at", "batch_growth_max", "eval_batch_size", "drop_last"),
        *("normalize", "whitening_epsilon", "contrast_normalize", "contrast_scale", "contrast_bias"),
        *("resident", "workers"),
    )
)
"""Options of the data with which the images of a fold are still the same ones."""


@dataclass(frozen=True)
class _Set:
    """One side of the comparison."""

    path: Path
    paired_by: tuple[Any, ...] | None
    metrics: Mapping[str, Spread | None]
    runs: int


def compare(request: Request) -> int:
    """Compare two sets of runs, metric by metric.

    Raises:
        UserError: if two sets are not given, one of them is none, or they have no metric in common.
    """
    start_console(stdout_is_data=request.json)
    if len(request.words) != 2 or request.overrides or request.reserved:
        raise UserError("dlrun compare needs two folders that seeds= or folds= made: dlrun compare runs/a runs/b")
    first, second = (_read(Path(word).expanduser()) for word in request.words)
    if (first.paired_by is None) != (second.paired_by is None):
        raise UserError("dlrun compare: one folder holds seeds and the other folds; compare two of one kind")
    if first.paired_by != second.paired_by:
        raise UserError(
            "dlrun compare: the two cross-validations divide the data differently (folds, data.split_seed, the data), "
            "so their folds cannot be compared one by one; make them alike"
        )
    test = difference if first.paired_by is None else paired_difference
    found: dict[str, tuple[Spread, Spread, Difference]] = {}
    for name, one in first.metrics.items():
        other = second.metrics.get(name)
        if one is not None and other is not None and not name.startswith("train/"):
            found[name] = one, other, test(one, other)
    if not found:
        raise UserError("dlrun compare: the two folders have no metric in common, of which all values are finite")
    if request.json:
        print(json.dumps(finite({name: _plain(*parts) for name, parts in found.items()}), indent=2))
        return EXIT_DONE
    _print(first, second, found)
    return EXIT_DONE


def _read(path: Path) -> _Set:
    outcomes = outcomes_in(path) if (path / "config.yaml").is_file() else []
    done = [one for one in outcomes if one.status == "done"]
    if not outcomes:
        raise UserError(f"{path}: is not a folder of several runs; dlrun train seeds=5 (or folds=5) makes one")
    if len(done) < 2:
        raise UserError(
            f"{path}: {len(done)} of its runs are done, and a comparison needs two; dlrun train resume={path}"
        )
    tree, _ = read_yaml(path / "config.yaml", str(path))
    paired = None
    if tree.get("folds") is not None:
        paired = tuple(_division(path / one.name, tree) for one in done)
    return _Set(path, paired, spreads(outcomes), len(done))


def _division(folder: Path, tree: Mapping[str, Any]) -> tuple[Any, ...]:
    """What the images that one fold held out are recognised by.

    The number, class and file of each are in its predictions. What the images show follows from the data's options, of
    which those that say where the data lie and how large the images are made do not count.
    """
    from dlrun.commands.out_of_fold import FILE, division

    data = {key: value for key, value in tree["data"].items() if key not in _ELSEWHERE}
    predictions = folder / FILE
    return folder.name, tree["folds"], data, division(predictions) if predictions.is_file() else None


def _plain(first: Spread, second: Spread, found: Difference) -> dict[str, Any]:
    sides = [{"n": len(side.values), "mean": side.mean, "std": side.std} for side in (first, second)]
    return {
        "first": sides[0],
        "second": sides[1],
        "difference": found.value,
        "interval": [found.value - found.half, found.value + found.half],
        "p": found.p,
        "effect": found.effect,
        "certain": found.certain,
    }


def _print(first: _Set, second: _Set, found: Mapping[str, tuple[Spread, Spread, Difference]]) -> None:
    for label, side in (("A", first), ("B", second)):
        log.info("%s  %s (%d runs)", label, display_path(side.path.absolute()), side.runs)
    log.info("")
    log.info("  %-16s%20s%20s%22s%8s%8s", "", "A", "B", "B - A, 95 %", "p", "effect")
    for name, (one, other, judged) in found.items():
        cells = [f"{_shown(name, side.mean)} +- {_shown(name, side.std or 0.0)}" for side in (one, other)]
        between = f"{_shown(name, judged.value, sign=True)} +- {_shown(name, judged.half)}"
        effect = "-" if judged.effect is None else f"{judged.effect:+.1f}"
        p = f"{judged.p:.3f}" if judged.p >= 0.001 else "<0.001"
        log.info("  %-16s%20s%20s%22s%8s%8s", name, *cells, between, p, effect)
    log.info("")
    for name, (_, _, judged) in found.items():
        log.info("%s", _verdict(name, judged))


def _verdict(name: str, judged: Difference) -> str:
    by = f"{_shown(name, abs(judged.value))} +- {_shown(name, judged.half)}"
    if judged.certain:
        return f"{name}: B is {'higher' if judged.value > 0 else 'lower'} by {by}"
    return f"{name}: the difference of {by} is within the noise"


def _shown(name: str, value: float, *, sign: bool = False) -> str:
    plus = "+" if sign else ""
    return f"{value:{plus}.2%}" if is_rate(name) else f"{value:{plus}.4f}"
