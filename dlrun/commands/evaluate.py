"""``dlrun eval``: score checkpoints on a split; everything is rebuilt from the checkpoint alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.commands.eval_report import metrics_of, print_report, print_table, write
from dlrun.commands.request import Request
from dlrun.commands.saved import Saved, home, listed
from dlrun.commands.scoring import Subject, classified, detailed, load, open_subject, plain_scores, rated
from dlrun.commands.tta import asked_of, check_tta_words, tta_facts, views_for
from dlrun.errors import EXIT_DONE, UserError, did_you_mean
from dlrun.logs import start_console

if TYPE_CHECKING:
    from dlrun.data.feed import Split
    from dlrun.views import Views

SPLITS: tuple[Split, ...] = ("test", "val", "train")
_ENSEMBLE = ("true", "false", "snapshots")
_EXAMPLES = 8


def evaluate(request: Request) -> int:
    """Evaluate one checkpoint in detail, several in a table, or several as one.

    Raises:
        UserError: if a word, a checkpoint, the split or the data are wrong, or checkpoints do not fit each other.
    """
    start_console()
    given = request.reserved.get("split", "test")
    split = next((name for name in SPLITS if name == given), None)
    if split is None:
        raise UserError(f"split={given}: unknown split; {did_you_mean(given, SPLITS)}")
    word = request.reserved.get("checkpoint", "")
    if not word:
        raise UserError("dlrun eval needs checkpoint=PATH, a checkpoint file or a run folder")
    ensemble = request.one_of("ensemble", _ENSEMBLE, "false")
    # torch is imported from here on: a mistake in the words was told before.
    check_tta_words(request)
    from dlrun.checkpoint import find

    words = listed("checkpoint", word)
    if ensemble == "snapshots":
        paths = _snapshots(words)
    else:
        paths = [find(Path(one), "checkpoint") for one in words]
    if ensemble != "false":
        from dlrun.commands.ensemble import evaluate_ensemble

        evaluate_ensemble(paths, request, split, snapshots=ensemble == "snapshots")
        return EXIT_DONE
    reports = []
    for path in paths:
        report = _evaluate_one(load(path, request), request, split)
        reports.append(report)
        if len(paths) == 1:
            print_report(report)
        write(home(path), _file_name(path, split, request), path.stem, report)
    if len(paths) > 1:
        _print_all(reports)
    return EXIT_DONE


def _snapshots(words: Sequence[str]) -> list[Path]:
    """The snapshots of one run, in the order in which they were made."""
    if len(words) > 1:
        raise UserError("ensemble=snapshots is about the snapshots of one run; for several runs write ensemble=true")
    place = Path(words[0]).expanduser()
    folder = place / "checkpoints" if (place / "checkpoints").is_dir() else place
    found = {path.stem.removeprefix("snapshot_"): path for path in folder.glob("snapshot_*.pt")}
    paths = [found[number] for number in sorted((key for key in found if key.isdecimal()), key=int)]
    if not paths:
        raise UserError(
            f"checkpoint={words[0]}: there are no snapshots (looked for {folder}/snapshot_1.pt); train with "
            "callbacks.snapshots=true and a cyclic schedule, or callbacks.snapshots.count=5"
        )
    return paths


def _file_name(path: Path, split: Split, request: Request) -> str:
    """Of the results; what was asked for beyond the checkpoint itself is part of it."""
    return "_".join(["eval", split, path.stem, *asked_of(request)])


def _evaluate_one(saved: Saved, request: Request, split: Split) -> dict[str, Any]:
    from dlrun.commands.explaining import explaining

    subject = open_subject(saved, request, split)
    views = views_for(subject, request)
    show = getattr(subject.task, "examples", None)
    with explaining(saved.config):
        count, scores = plain_scores(subject, split) if views is None else _augmented(subject, split, views)
        examples = {} if show is None else {"examples": show(subject.model, subject.feed, split, _EXAMPLES)}
    return {
        "checkpoint": subject.name,
        **({"weights": subject.kind} if subject.kind else {}),
        "split": split,
        subject.feed.unit: count,
        **subject.feed.facts(split),
        "step": subject.step,
        **scores,
        **examples,
    }


def _augmented(subject: Subject, split: Split, views: Views) -> tuple[int, dict[str, Any]]:
    """How many images there are, and the scores with test-time augmentation and without it."""
    plain, targets = classified(subject, split)
    outputs, _ = classified(subject, split, views)
    scores = {
        **rated(subject, outputs, targets),
        "tta": tta_facts(views),
        "plain": rated(subject, plain, targets),
        **detailed(subject, outputs, targets),
    }
    return len(targets), scores


def _print_all(reports: Sequence[dict[str, Any]]) -> None:
    rows: list[tuple[str, dict[str, Any]]] = []
    for report in reports:
        if "tta" in report:
            rows.append((f"{report['checkpoint']}, plain", report["plain"]))
            rows.append((f"{report['checkpoint']}, {report['tta']['name']}", report))
        else:
            rows.append((report["checkpoint"], report))
    print_table("checkpoint", rows, list(dict.fromkeys(name for report in reports for name in metrics_of(report))))
