"""``dlrun eval``: score checkpoints on a split; everything is rebuilt from the checkpoint alone."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.commands.request import Request
from dlrun.commands.saved import Saved, home, listed, load_saved
from dlrun.config.rerun import EVAL_MAY_CHANGE
from dlrun.config.sources import display_path
from dlrun.errors import EXIT_DONE, CheckpointError, UserError, did_you_mean
from dlrun.logs import log, start_console
from dlrun.runfolder import finite

if TYPE_CHECKING:
    import torch
    from torch import nn

    from dlrun.config.schema import Config
    from dlrun.data.feed import BatchLoader, Feed, Split
    from dlrun.tasks.base import Task

_NAMES = {"accuracy": "top-1", "top5": "top-5"}
SPLITS: tuple[Split, ...] = ("test", "val", "train")
_EXAMPLES = 8


def evaluate(request: Request) -> int:
    """Evaluate one checkpoint in detail, or several in a table.

    Raises:
        UserError: if a checkpoint, the split or the data are wrong.
    """
    start_console()
    given = request.reserved.get("split", "test")
    split = next((name for name in SPLITS if name == given), None)
    if split is None:
        raise UserError(f"split={given}: unknown split; {did_you_mean(given, SPLITS)}")
    given = request.reserved.get("checkpoint", "")
    if not given:
        raise UserError("dlrun eval needs checkpoint=PATH, a checkpoint file or a run folder")
    # torch is imported here: a mistake in the words was told before.
    from dlrun.checkpoint import find

    paths = [find(Path(word), "checkpoint") for word in listed("checkpoint", given)]
    reports = []
    for path in paths:
        report = _evaluate_one(_load(path, request.overrides), split)
        reports.append(report)
        if len(paths) == 1:
            _print(report)
        _write(path, split, report)
    if len(paths) > 1:
        _print_table(reports)
    return EXIT_DONE


def _load(path: Path, overrides: Sequence[str]) -> Saved:
    return load_saved(path, overrides, EVAL_MAY_CHANGE, "the checkpoint was trained with it, so eval cannot change it")


def _evaluate_one(subject: Saved, split: Split) -> dict[str, Any]:
    from dlrun.assembly import build_feed, build_model, build_task
    from dlrun.commands.explaining import explaining
    from dlrun.reproducibility import resolve_device, set_determinism
    from dlrun.weights import load_weights

    config, payload = subject.config, subject.payload
    set_determinism(deterministic=config.trainer.deterministic, threads=config.trainer.threads)
    device = resolve_device(config.device)
    try:
        feed = build_feed(config, device, payload["data"])
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {subject.path}: {error}") from None
    loader = feed.eval_loader(split)
    if loader is None:
        raise UserError(f"split={split}: the data have no {split} split")
    model = build_model(config, feed.arguments, device)
    load_weights(model, payload["model"])
    task = build_task(config, feed.arguments)
    show = getattr(task, "examples", None)
    try:
        with explaining(config):
            scores = _scores(model, loader, task, feed, config, device)
            examples = {} if show is None else {"examples": show(model, feed, split, _EXAMPLES)}
    finally:
        loader.close()
    return {
        "checkpoint": display_path(subject.path.absolute()),
        "split": split,
        feed.unit: loader.num_samples,
        **feed.facts(split),
        "step": payload["state"]["step"],
        **scores,
        **examples,
    }


def _scores(
    model: nn.Module, loader: BatchLoader, task: Task, feed: Feed, config: Config, device: torch.device
) -> dict[str, Any]:
    """Loss and metrics; where samples have classes, also those of each class."""
    from dlrun.scores import confusion_matrix, per_class
    from dlrun.tasks.base import complete
    from dlrun.train.evaluate import evaluate, predict

    if config.task.name == "sequence_labeling":
        return _tag_scores(model, loader, task, feed, config, device)
    detail = getattr(task, "detail", None)
    if feed.classes is None and detail is None:
        return evaluate(model, loader, task, config.trainer.precision, device) or {}
    outputs, targets = predict(model, loader, task, config.trainer.precision, device)
    counts = {name: float(value) / len(targets) for name, value in task.score(outputs, targets).items()}
    scores: dict[str, Any] = complete(task, {"loss": float(task.loss(outputs, targets)), **counts})
    if detail is not None:
        return {**scores, **detail(outputs, targets, feed.outputs)}
    assert feed.classes is not None
    confusion = confusion_matrix(outputs.argmax(1), targets, len(feed.classes))
    return {
        **scores,
        "per_class": per_class(confusion, feed.classes),
        "classes": list(feed.classes),
        "confusion": confusion.tolist(),
    }


def _tag_scores(
    model: nn.Module, loader: BatchLoader, task: Task, feed: Feed, config: Config, device: torch.device
) -> dict[str, Any]:
    """Loss, accuracy, F1 of the tags and their mean; of BIO tags also the F1 of spans."""
    from dlrun.losses import IGNORED
    from dlrun.scores import confusion_matrix, is_bio, macro_f1, per_class, span_f1
    from dlrun.train.evaluate import evaluate, predict

    scores = evaluate(model, loader, task, config.trainer.precision, device) or {}
    predicted, targets = predict(model, loader, task, config.trainer.precision, device)
    counted = targets != IGNORED
    predicted, targets = predicted[counted].long(), targets[counted]
    rows = per_class(confusion_matrix(predicted, targets, len(feed.outputs)), feed.outputs)
    report: dict[str, Any] = {**scores, "macro_f1": macro_f1(rows)}
    if is_bio(feed.outputs):
        lengths = [count for batch in loader.epoch(0) for count in batch.counts]
        report["span_f1"] = span_f1(*(_apart(tags, lengths, feed.outputs) for tags in (predicted, targets)))
    return {**report, "per_class": rows}


def _apart(tags: torch.Tensor, lengths: Sequence[int], names: Sequence[str]) -> list[str]:
    """Names of the tags of sequences one after the other, with an O between each two."""
    joined: list[str] = []
    numbers = iter(tags.tolist())
    for length in lengths:
        joined += [*(names[tag] for tag in islice(numbers, length)), "O"]
    return joined


def _print(report: Mapping[str, Any]) -> None:
    from dlrun.scores import is_rate

    log.info("checkpoint  %s (step %d)", report["checkpoint"], report["step"])
    unit = "samples" if "samples" in report else "tokens"
    log.info("split       %s, %s %s%s", report["split"], f"{report[unit]:,}", unit, _told(report, unit))
    metrics = {
        name: _NAMES.get(name, name) if "confusion" in report and unit == "samples" else name
        for name in _metrics(report)
    }
    width = max(12, *(len(label) + 2 for label in metrics.values()))
    for name, label in metrics.items():
        value = f"{100 * report[name]:.2f} %" if is_rate(name) else f"{report[name]:.4f}"
        log.info("%-*s%s", width, label, value)
    if "examples" in report:
        _print_examples(report["examples"])
    if "per_class" not in report:
        return
    log.info("")
    width = max(5, *(len(str(row["class"])) for row in report["per_class"]))
    columns = {"precision": "precision", "recall": "recall", "f1": "F1", "average_precision": "avg prec."}
    columns = {key: title for key, title in columns.items() if key in report["per_class"][0]}
    titles = "  ".join(f"{title:>9}" for title in columns.values())
    log.info("  %-*s  %s  %7s", width, "class", titles, unit)
    for row in report["per_class"]:
        cells = [f"{'-':>9}" if row[key] is None else f"{row[key]:9.2%}" for key in columns]
        log.info("  %-*s  %s  %7d", width, row["class"], "  ".join(cells), row["support"])


def _told(report: Mapping[str, Any], unit: str) -> str:
    """What else there is to say of the split."""
    parts = [f" in {report[name]:,} {name}" for name in ("pairs", "sequences") if name in report and unit == "tokens"]
    if "read" in report and unit == "samples":
        parts.append(f" of {report['read']:,} tokens")
    if report.get("unknown"):
        parts.append(f", {report['unknown']:,} of them unknown to the training text")
    return "".join(parts)


def _print_examples(examples: Sequence[Mapping[str, Any]]) -> None:
    """What was made of some sources, and what it should have been where that is something else."""
    log.info("")
    width = max(len(example["source"]) for example in examples)
    for example in examples:
        wrong = "" if example["prediction"] == example["target"] else f"  ({example['target']})"
        log.info("  %-*s -> %s%s", width, example["source"], example["prediction"], wrong)


def _print_table(reports: list[dict[str, Any]]) -> None:
    from dlrun.report import score_cell

    width = max(len(report["checkpoint"]) for report in reports)
    names = list(dict.fromkeys(name for report in reports for name in _metrics(report)))
    columns = [(name, max(10, len(name) + 2)) for name in names]
    log.info("  %-*s  %s", width, "checkpoint", "".join(f"{name:>{wide}}" for name, wide in columns))
    for report in reports:
        cells = [f"{score_cell(name, report.get(name)):>{wide}}" for name, wide in columns]
        log.info("  %-*s  %s", width, report["checkpoint"], "".join(cells))


def _metrics(report: Mapping[str, Any]) -> list[str]:
    """The scores of the whole split: they come after the step."""
    names = list(report)[list(report).index("step") + 1 :]
    return [name for name in names if isinstance(report[name], float)]


def _write(path: Path, split: str, report: Mapping[str, Any]) -> None:
    """JSON and PNG into the run folder, or beside a checkpoint that lies elsewhere."""
    from dlrun.charts import draw_attention, draw_confusion

    folder = home(path)
    name = f"eval_{split}_{path.stem}"
    attended = any(example["attention"] is not None for example in report.get("examples", ()))
    result = folder / f"{name}.json"
    try:
        temporary = folder / f".{name}.json.tmp"
        temporary.write_text(json.dumps(finite(report), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(temporary, result)
        if "confusion" in report:
            title = f"{path.stem} on {split}: {report['accuracy']:.2%} of {report['samples']:,}"
            draw_confusion(folder / f"{name}.png", report["confusion"], report["classes"], title)
        if attended:
            shown = report["examples"][0]
            written = [*shown["prediction"], "end"]
            title = f"{shown['source']} -> {shown['prediction']}"
            draw_attention(folder / f"{name}.png", shown["attention"], list(shown["source"]), written, title)
    except OSError as error:
        log.warning("the results cannot be written to %s: %s", folder, error.strerror)
        return
    log.info("")
    log.info("written     %s%s", display_path(result.absolute()), ", .png" if attended or "confusion" in report else "")
