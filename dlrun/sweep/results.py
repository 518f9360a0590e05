"""What a sweep leaves behind: ``results.csv``, ``best.yaml``, its page, and what the screen says at the end."""

from __future__ import annotations

import csv
import io
import logging
import os
import shlex
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dlrun.config.search import Search
from dlrun.runfolder import RunFolder
from dlrun.sweep.common import QUIET
from dlrun.sweep.confirm import SEED, lead
from dlrun.sweep.hparams import write_hparams
from dlrun.sweep.identity import place
from dlrun.sweep.outcome import Outcome
from dlrun.sweep.page import PAGE, write_page
from dlrun.sweep.page.commands import next_sweep
from dlrun.sweep.record import FAILURES, REPEATABLE, Record
from dlrun.sweep.scalars import counted, number, plain
from dlrun.sweep.screen import shown, told
from dlrun.yaml_text import as_yaml

log = logging.getLogger("dlrun")

TOP = 5
_COLUMNS = ("stage", "trial", "status", "score", "epochs", "seconds", "memory_mib", "folder", "reason")


def table(search: Search, outcome: Outcome) -> str:
    """All trials as CSV, in their order: :data:`_COLUMNS`, and amid them a column for each axis, which also has what it
    was fixed at for later stages."""
    rows = [(record, outcome.complete(record, search.fixed)) for record in outcome.records]
    keys = list(dict.fromkeys(key for _, known in rows for key in known))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_COLUMNS[:4], *keys, *_COLUMNS[4:]])
    for record, known in rows:
        values = [plain(known[key]) if key in known else "" for key in keys]
        score = "" if record.score is None else repr(record.score)
        head = [record.stage, record.number, record.status, score]
        memory = record.memory_mib or ""
        tail = [f"{record.epochs:g}", record.seconds, memory, record.where, record.reason]
        writer.writerow([*head, *values, *tail])
    return text.getvalue()


def best_config(search: Search, folder: RunFolder, outcome: Outcome, record: Record) -> Mapping[str, Any]:
    """The configuration of a trial for ``dlrun train``: its own, with what the sweep took from the user's put back.

    Args:
        search: what is searched now; the trial may be from before it was extended.
        folder: of the sweep.
        outcome: of the sweep.
        record: of the trial.
    """
    try:
        trial = yaml.safe_load((folder.path / "trials" / record.folder / "config.yaml").read_text(encoding="utf-8"))
    except OSError:
        # It is on another machine, or was deleted.
        return _composed(search, outcome, record)
    base, place = search.composed.tree, search.composed.provenance.base(("run", "root"))
    kept, own = dict(base["callbacks"]), trial["callbacks"]
    callbacks = {name: kept.get(name) if name in QUIET else own.get(name) for name in {**kept, **own}}
    tree = {**trial, "callbacks": callbacks, "device": base["device"]}
    root = os.path.normpath(place / Path(base["run"]["root"]).expanduser())
    tree["run"] = {**trial["run"], **base["run"], "root": root}
    for path, value in record.changed.items():
        section, _, key = path.partition(".")
        tree[section] = {**tree[section], key: value}
    return tree


def _composed(search: Search, outcome: Outcome, record: Record) -> Mapping[str, Any]:
    result = next(result for result in outcome.stages if result.stage.number == record.stage)
    settings: dict[str, Any] = {
        "callbacks.checkpoint.monitor": search.settings.metric,
        "callbacks.checkpoint.mode": search.settings.mode,
    }
    if result.stage.epochs is not None:
        settings["trainer.epochs"] = result.stage.epochs
    return search.trial(
        {**settings, **result.searched.complete(record.values, search.fixed), **record.changed}
    ).to_tree()


def write(search: Search, folder: RunFolder, outcome: Outcome) -> None:
    """Write the results, the page and TensorBoard's, each for itself: what cannot be written is told in one line."""

    def results() -> None:
        folder.write_text("results.csv", table(search, outcome))

    def best() -> None:
        for record in outcome.best(search.settings.mode):
            score = f"{search.settings.metric} {record.score}"
            head = f"# The best trial of a sweep, {record.where}: {score} after {record.epochs:g} epochs.\n"
            tree = as_yaml(best_config(search, folder, outcome, record))
            folder.write_text("best.yaml", f"{head}#\n#   dlrun train config=best.yaml\n{tree}")

    products: dict[str, Callable[[], None]] = {
        "results.csv": results,
        "best.yaml": best,
        PAGE: lambda: write_page(search, folder, outcome),
        "tensorboard": lambda: write_hparams(folder.tensorboard, search, outcome),
    }
    for name, product in products.items():
        try:
            product()
        except OSError as error:
            log.warning("%s cannot be written: %s", folder.path / name, error.strerror)
        except Exception as error:
            # The trials are done: a fault here must not cost the closing report.
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(frame.filename).name}:{frame.lineno}"
            text = " ".join(str(error).split())
            log.warning("%s is not written: %s: %s (%s)", folder.path / name, type(error).__name__, text, place)


def report(search: Search, folder: RunFolder, outcome: Outcome) -> None:
    """Say on the screen what was found and how to go on."""
    settings = search.settings
    best = outcome.best(settings.mode, TOP)
    if outcome.confirmed:
        _confirmed(search, outcome)
    elif best:
        log.info("")
        log.info("best of %s by %s", counted(len(outcome.records), "trial"), settings.metric)
        for record in best:
            assert record.score is not None
            log.info(
                "  %-10s  %s  %s",
                number(float(f"{record.score:.5g}")),
                record.folder,
                told(outcome.complete(record, search.fixed)),
            )
    else:
        log.info("")
        log.info("no trial came to its end with a %s: there is no best one", settings.metric)
    counts: dict[str, int] = {}
    for record in outcome.records:
        counts[record.status] = counts.get(record.status, 0) + 1
    log.info("")
    log.info("trials      %s", ", ".join(f"{count} {status}" for status, count in counts.items()) or "none")
    path = shown(folder.path)
    if outcome.stopped:
        log.info("stopped     %s", outcome.stopped)
        log.info("go on with  dlrun sweep resume=%s", shlex.quote(path))
    repeatable = [status for status in REPEATABLE if counts.get(status)]
    if repeatable:
        log.info("run again   dlrun sweep resume=%s retry=%s", shlex.quote(path), ",".join(repeatable))
    log.info("results     %s/results.csv", path)
    log.info("page        %s/%s", path, PAGE)
    if best:
        log.info("train it    dlrun train config=%s", shlex.quote(f"{path}/best.yaml"))
        if best[0].place in ("", place(folder)):
            # It may have been deleted since.
            if (folder.path / "trials" / best[0].folder / "checkpoints" / "best.pt").is_file():
                log.info("evaluate    dlrun eval checkpoint=%s", shlex.quote(f"{path}/trials/{best[0].folder}"))
        else:
            log.info("it lies in  %s", best[0].where)
    after = next_sweep(search, outcome)
    if after is not None and not outcome.stopped:
        log.info("search on   %s", after)


def _confirmed(search: Search, outcome: Outcome) -> None:
    settings = search.settings
    log.info("")
    log.info("the best with other seeds, %s as mean and standard deviation", settings.metric)
    for item in outcome.confirmed:
        failed = f", {item.failed} failed" if item.failed else ""
        scores = f"{item.mean:.5g} +- {item.deviation:.2g} ({len(item.scores)} seeds{failed})"
        log.info(
            "  %-34s  %s  %s", scores, item.record.folder, told(outcome.complete(item.record, search.fixed), but=SEED)
        )
    if len(outcome.confirmed) > 1:
        found = lead(outcome.confirmed[0], outcome.confirmed[1], settings.mode)
        if found is None:
            return
        verdict = "within the noise of the seeds" if found.noise else "more than the noise of the seeds"
        log.info(
            "  the first leads the second by %.2g +- %.2g (95 %%), with %.2g between seeds: %s (p = %.2g)",
            found.gain,
            found.half,
            found.deviation,
            verdict,
            found.p_value,
        )


def failures(records: Sequence[Record]) -> int:
    """Trials whose code or machine failed."""
    return sum(record.status in FAILURES for record in records)
