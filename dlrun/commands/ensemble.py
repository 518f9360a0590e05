"""``dlrun eval ensemble=...``: several checkpoints as one, beside each of them alone."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.commands.eval_report import print_classes, print_gain, print_split, print_views, write
from dlrun.commands.explaining import explaining
from dlrun.commands.request import Request
from dlrun.commands.saved import Saved, home
from dlrun.commands.scoring import Subject, classified, detailed, gain, load, open_subject, probabilities_of, rated
from dlrun.commands.tta import asked_of, tta_facts, views_for
from dlrun.config.sources import display_path
from dlrun.errors import CheckpointError, UserError
from dlrun.logs import log
from dlrun.registry import TASKS

if TYPE_CHECKING:
    from torch import Tensor

    from dlrun.data.feed import Split

_LANGUAGE = "language_modeling"
"""The task whose models carry something from batch to batch, so that they must read side by side."""
_COMPARED = 64
"""Samples that are compared to see whether the members were given the same ones."""


@dataclass(frozen=True)
class _Result:
    """Scores of the members and of all together."""

    members: Sequence[Mapping[str, Any]]
    together: Mapping[str, Any]
    names: Sequence[str]
    about: Mapping[str, Any]


def evaluate_ensemble(paths: Sequence[Path], request: Request, split: Split, *, snapshots: bool) -> None:
    """Evaluate checkpoints together: the mean of the probabilities that they give.

    Args:
        paths: of the checkpoints.
        request: the command line.
        split: on which they are evaluated.
        snapshots: whether they are the snapshots of one run.

    Raises:
        UserError: if there are less than two, or they do not fit each other or the data.
    """
    if len(paths) < 2:
        raise UserError(
            f"ensemble={request.reserved['ensemble']}: an ensemble needs at least two checkpoints, and this is "
            f"{display_path(paths[0].absolute())} alone; give several as checkpoint='[a,b,c]'"
        )
    twice = next((path for i, path in enumerate(paths) if path.resolve() in [p.resolve() for p in paths[:i]]), None)
    if twice is not None:
        raise UserError(
            f"checkpoint={request.reserved['checkpoint']}: {twice} is given twice, which would count double"
        )
    members = [load(path, request) for path in paths]
    _check_outputs(members)
    chosen = _of_one_kind(members, request) if snapshots else request
    text = members[0].config.task.name == _LANGUAGE
    result = _language(members, chosen, split) if text else _classifiers(members, chosen, split)
    mean = {name: sum(member[name] for member in result.members) / len(members) for name in result.names}
    report = {
        "ensemble": [member["checkpoint"] for member in result.members],
        "split": split,
        **result.about,
        "members": list(result.members),
        "mean": mean,
        "gain": gain({name: result.together[name] for name in result.names}, mean),
        **result.together,
    }
    _print(report, result.names)
    folder, name = _place(paths, split, request, snapshots=snapshots)
    write(folder, name, f"{len(paths)} checkpoints", report)


def _of_one_kind(members: Sequence[Saved], request: Request) -> Request:
    """The request for weights of one kind: of the first snapshots of a run there may be no average yet."""
    if len({member.weights(request)[1] for member in members}) == 1:
        return request
    log.info("weights     raw, since not all of the snapshots hold averaged ones")
    return replace(request, reserved={**request.reserved, "weights": "raw"})


def _check_outputs(members: Sequence[Saved]) -> None:
    """Check that all score the same things.

    Raises:
        UserError: if they do not.
    """
    first = members[0]
    if "target" in first.payload["data"]:
        raise UserError(
            "ensemble: a model that writes one sequence from another has no probabilities of whole sequences to "
            "average; evaluate the checkpoints one by one (without ensemble=)"
        )
    for member in members:
        task = TASKS.get(member.config.task.name)
        if task is not TASKS.get(first.config.task.name):
            raise UserError(
                f"ensemble: {display_path(first.path)} has task {first.config.task.name!r}, "
                f"{display_path(member.path)} has {member.config.task.name!r}; only checkpoints with one task can be "
                "averaged"
            )
        if task is not TASKS.get(_LANGUAGE) and probabilities_of(task) is None:
            fitting = [name for name in TASKS.names() if name == _LANGUAGE or probabilities_of(TASKS.get(name))]
            raise UserError(
                f"ensemble: {display_path(member.path)} has task {member.config.task.name!r}; only checkpoints with "
                f"task={' or task='.join(fitting)} can be averaged"
            )
    for member in members[1:]:
        if _outputs(member) != _outputs(first):
            (what, a), (_, b) = _outputs(first), _outputs(member)
            raise CheckpointError(
                f"ensemble: the {what} differ: {display_path(first.path)} has {len(a)}, {display_path(member.path)} "
                f"has {len(b)}{'' if len(a) != len(b) else ', but not the same'}; only checkpoints that score the same "
                f"{what} can be averaged"
            )


def _outputs(member: Saved) -> tuple[str, tuple[Any, ...]]:
    data = member.payload["data"]
    if "labels" in data:
        return "classes", tuple(data["labels"])
    if "vocabulary" in data:
        return "symbols", (data["vocabulary"]["level"], *data["vocabulary"]["symbols"])
    return "classes", tuple(data.get("classes", data.get("target", {}).get("symbols", ())))


def _row(subject: Subject) -> dict[str, Any]:
    return {"checkpoint": subject.name, **({"weights": subject.kind} if subject.kind else {}), "step": subject.step}


def _classifiers(members: Sequence[Saved], request: Request, split: Split) -> _Result:
    """Classifiers, one after the other: each reads images through its own statistics, at its own size, and texts
    through its own vocabulary."""
    from dlrun.combine import mean_probabilities

    rows: list[dict[str, Any]] = []
    scores: list[Tensor] = []
    plain: list[Tensor] = []
    first: Subject | None = None
    for member in members:
        subject = open_subject(member, request, split)
        views = views_for(subject, request)
        with explaining(member.config):
            outputs, targets = classified(subject, split, views)
            if views is not None:
                plain.append(classified(subject, split)[0].double())
        if first is None:
            first, labels = subject, targets
            about: dict[str, Any] = {} if views is None else {"tta": tta_facts(views)}
        _check_same_samples(first, subject, labels, targets, split)
        rows.append({**_row(subject), **rated(subject, outputs, targets)})
        scores.append(outputs.double())
        # Only the data of the first are needed again, for comparison.
        del subject
    assert first is not None
    kind = probabilities_of(first.task)
    assert kind is not None
    together = mean_probabilities(scores, kind=kind)
    joined = rated(first, together, labels)
    if plain:
        about["plain"] = rated(first, mean_probabilities(plain, kind=kind), labels)
    return _Result(
        rows,
        {**joined, **detailed(first, together, labels)},
        list(joined),
        {"samples": len(labels), **about},
    )


def _check_same_samples(first: Subject, other: Subject, labels: Tensor, targets: Tensor, split: Split) -> None:
    """Check that two members were given the same samples in the same order, as far as their sizes let one see.

    Raises:
        UserError: if they were not.
    """
    import torch

    from dlrun.data.image_feed import ImageFeed
    from dlrun.data.sequence_feed import SequenceFeed

    same = torch.equal(labels, targets)
    one, two = first.feed, other.feed
    if same and other is not first and isinstance(one, ImageFeed) and isinstance(two, ImageFeed):
        sources = getattr(one.data, split), getattr(two.data, split)
        if one.data.input_shape == two.data.input_shape:
            picked = range(0, len(labels), max(1, len(labels) // _COMPARED))
            same = torch.equal(*(source.read(picked) for source in sources))
    if same and isinstance(one, SequenceFeed) and isinstance(two, SequenceFeed):
        same = [sample.tokens for sample in one.sequences(split)] == [sample.tokens for sample in two.sequences(split)]
    if not same:
        raise UserError(
            f"ensemble: the {split} split of {other.name} is not that of {first.name}: their data or the seeds of "
            "their splits differ; give what they have in common with data.root=, data.split_seed= and the like"
        )


def _language(members: Sequence[Saved], request: Request, split: Split) -> _Result:
    """Language models, side by side over the text of the first."""
    from dlrun.combine import LanguageEnsemble
    from dlrun.train.evaluate import evaluate

    if "tta" in request.reserved:
        raise UserError(f"tta={request.reserved['tta']}: is for classifiers of images; leave it out")
    subjects = [open_subject(member, request, split) for member in members]
    first = subjects[0]
    precision = members[0].config.trainer.precision
    with ExitStack() as stack:
        loader = first.loader(split)
        stack.callback(loader.close)
        rows = []
        for one in subjects:
            alone = evaluate(one.model, loader, first.task, precision, first.device) or {}
            rows.append({**_row(one), **alone})
        ensemble = LanguageEnsemble([one.model for one in subjects])
        together = evaluate(ensemble, loader, first.task, precision, first.device) or {}
        about = {"tokens": loader.num_samples, **first.feed.facts(split)}
    return _Result(rows, together, ["loss", *first.task.metrics], about)


def _print(report: Mapping[str, Any], names: Sequence[str]) -> None:
    log.info("ensemble    of %d checkpoints, probabilities averaged", len(report["members"]))
    print_split(report)
    if "tta" in report:
        print_views(report["tta"])
    log.info("")
    rows = [(_label(member), member) for member in report["members"]]
    if "plain" in report:
        rows.append(("ensemble, plain images", report["plain"]))
    print_gain([*rows, ("mean of the members", report["mean"]), ("ensemble", report)], names, "member")
    if "per_class" in report:
        print_classes(report["per_class"])


def _label(member: Mapping[str, Any]) -> str:
    kind = member.get("weights", "")
    return f"{member['checkpoint']} (step {member['step']}{kind and f', {kind}'})"


def _place(paths: Sequence[Path], split: Split, request: Request, *, snapshots: bool) -> tuple[Path, str]:
    """Where the results go: the run folder that all members have in common, or the folder that holds their runs."""
    homes = {home(path.absolute()) for path in paths}
    folder = homes.pop() if len(homes) == 1 else Path(os.path.commonpath(homes))
    digest = hashlib.sha256("\n".join(sorted(str(path.absolute()) for path in paths)).encode()).hexdigest()[:6]
    return folder, "_".join(["ensemble", split, "snapshots" if snapshots else digest, *asked_of(request)])
