"""``dlrun export``: a checkpoint as a file that runs without dlrun, checked before it is called good."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from dlrun.commands.request import Request
from dlrun.commands.saved import Saved, home, listed, load_saved
from dlrun.config.rerun import EXPORT_MAY_CHANGE
from dlrun.config.sources import display_path
from dlrun.errors import EXIT_DONE, UserError, did_you_mean
from dlrun.logs import log, start_console

if TYPE_CHECKING:
    from torch import nn

    from dlrun.export.files import Written
    from dlrun.export.formats import Format
    from dlrun.export.images import Input
    from dlrun.export.subject import Exportable, Port, Scores

_CHECKPOINT_ALONE = "an export is made of the checkpoint alone, on the CPU; leave it out"


@dataclass(frozen=True)
class _Asked:
    """What the command line asks for, apart from the checkpoint."""

    formats: tuple[Format, ...]
    given: Input | None
    steps: int | None
    scores: Scores


def export(request: Request) -> int:
    """Write a checkpoint in one or several formats and check each file against PyTorch.

    Raises:
        UserError: if the input is wrong, a package is missing, or the model cannot be exported.
    """
    start_console(stdout_is_data=request.json)
    word = request.reserved.get("checkpoint", "")
    if not word:
        raise UserError("dlrun export needs checkpoint=PATH, a checkpoint file or a run folder")
    if request.reserved.get("output") == "":
        raise UserError("output=: give a file or a folder, or leave it out")
    asked = _asked(request.reserved)
    from dlrun.checkpoint import find

    path = find(Path(word), "checkpoint")
    saved = load_saved(path, request.overrides, EXPORT_MAY_CHANGE, _CHECKPOINT_ALONE)
    from dlrun.export.files import targets, write
    from dlrun.weights import UNSETTLED, unsettled

    chosen = targets(asked.formats, request.reserved.get("output"), home(path) / "export", path.stem)
    weights, kind = saved.weights(request)
    if unsettled(saved.payload, kind):
        log.warning(UNSETTLED, display_path(path))
    subject = _subject(saved, asked, weights)
    written = write(subject, chosen)
    if request.json:
        print(json.dumps(_plain(saved, kind, subject, written), indent=2))
    else:
        _print(saved, kind, subject, written)
    return EXIT_DONE


def _asked(words: Mapping[str, str]) -> _Asked:
    from dlrun.export.formats import FORMATS, need_packages
    from dlrun.export.images import Input

    names = listed("format", words.get("format", next(iter(FORMATS))))
    for name in names:
        if name not in FORMATS:
            raise UserError(f"format={name}: unknown format; {did_you_mean(name, FORMATS)}")
        if names.count(name) > 1:
            raise UserError(f"format={words['format']}: {name} is given twice")
    formats = tuple(FORMATS[name] for name in names)
    given: Input | None = _one_of("input", words["input"], get_args(Input)) if "input" in words else None
    scores: Scores = _one_of("output_scores", words.get("output_scores", "logits"), ("logits", "probabilities"))
    steps = words.get("steps")
    if steps is not None and not (steps.isascii() and steps.isdecimal() and int(steps) > 0):
        raise UserError(f"steps={steps}: must be a whole number >= 1")
    for key in ("input", "steps", "output_scores"):
        if key in words and not any(chosen.graph for chosen in formats):
            raise UserError(f"{key}={words[key]}: format=safetensors holds weights and no graph; leave it out")
    need_packages(formats)
    return _Asked(formats, given, None if steps is None else int(steps), scores)


def _one_of(key: str, word: str, known: Sequence[str]) -> Any:
    if word not in known:
        raise UserError(f"{key}={word}: must be {' or '.join(known)}")
    return word


def _subject(saved: Saved, asked: _Asked, weights: Mapping[str, Any]) -> Exportable:
    """The network of a checkpoint; what its data are is read from the checkpoint too."""
    import torch

    from dlrun.assembly import build_model
    from dlrun.data.statistics import Statistics
    from dlrun.data.vocabulary import Vocabulary
    from dlrun.export.images import image_classifier
    from dlrun.export.metadata import describe
    from dlrun.export.text import language_model
    from dlrun.reproducibility import set_determinism
    from dlrun.weights import load_weights

    config, data, tree = saved.config, saved.payload["data"], saved.payload["config"]
    set_determinism(deterministic=False, threads=config.trainer.threads)
    # The layout in memory is a matter of training; files hold the usual one.
    plain = replace(config, trainer=replace(config.trainer, channels_last=False))

    def ready(**arguments: Any) -> tuple[str, nn.Module, Callable[[], nn.Module]]:
        fresh = partial(build_model, plain, arguments, torch.device("cpu"))
        net = fresh()
        load_weights(net, weights)
        return config.model.name, net, fresh

    options = {key: tree["model"][key] for key in config.model.params if key in tree["model"]}
    metadata = describe(tree, config.model.name, options, saved.payload["state"]["step"])
    if "vocabulary" in data:
        _refuse(asked, "input", "is for images, and the model reads text")
        vocabulary = Vocabulary.from_state(data["vocabulary"])
        parts = ready(vocabulary_size=len(vocabulary))
        return language_model(*parts, vocabulary, steps=asked.steps or 1, scores=asked.scores, metadata=metadata)
    if "target" in data:
        raise UserError(
            f"model {config.model.name!r} writes one sequence from another, symbol by symbol: it cannot be exported"
        )
    if "per_token" in data:
        _refuse(asked, "input", "is for images, and the model reads sequences")
        return _sequence_reader(saved, asked, ready, metadata)
    _refuse(asked, "steps", "is for models of text, and this one reads images")
    classes, (channels, height, width) = data["classes"], data["input_shape"]
    shape = (channels, height, width)
    several = asked.scores == "probabilities" and config.task.name == "multilabel_classification"
    return image_classifier(
        *ready(input_shape=shape, num_classes=len(classes)),
        Statistics.from_state(data["statistics"]),
        shape,
        classes,
        given=asked.given or "pixels",
        scores="label_probabilities" if several else asked.scores,
        metadata=metadata,
    )


def _sequence_reader(
    saved: Saved,
    asked: _Asked,
    ready: Callable[..., tuple[str, nn.Module, Callable[[], nn.Module]]],
    metadata: Mapping[str, str],
) -> Exportable:
    from dlrun.data.vocabulary import Vocabulary
    from dlrun.export.sequences import sequence_reader

    data = saved.payload["data"]
    if asked.steps is None and any(chosen.graph for chosen in asked.formats):
        raise UserError(
            "a graph reads sequences of one length, without padding: give their number of tokens with steps=N"
        )
    vocabulary, labels, per_token = Vocabulary.from_state(data["tokens"]), data["labels"], bool(data["per_token"])
    counts = {"token_count": len(vocabulary), "tag_count" if per_token else "class_count": len(labels)}
    return sequence_reader(
        *ready(**counts),
        vocabulary,
        labels,
        per_token=per_token,
        steps=asked.steps or 1,
        scores=asked.scores,
        metadata=metadata,
    )


def _refuse(asked: _Asked, key: str, why: str) -> None:
    value = asked.given if key == "input" else asked.steps
    if value is not None:
        raise UserError(f"{key}={value}: {why}; leave it out")


def _plain(saved: Saved, kind: str, subject: Exportable, written: Sequence[Written]) -> dict[str, Any]:
    """What ``--json`` prints; docs/export.md lists the keys."""
    from dlrun.export.check import BATCHES

    def ports(found: Sequence[Port]) -> list[dict[str, Any]]:
        return [{"name": port.name, "dtype": _type(port), "shape": list(port.shape)} for port in found]

    graph = any(one.target.format.graph for one in written)
    return {
        "checkpoint": _shown(saved.path),
        "step": saved.payload["state"]["step"],
        "weights": kind or "raw",
        "model": subject.model,
        "inputs": ports(subject.inputs) if graph else None,
        "outputs": ports(subject.outputs) if graph else None,
        "metadata": dict(subject.metadata if graph else subject.of_weights),
        "checked_batches": list(BATCHES),
        "files": [
            {
                "format": one.target.format.name,
                "path": _shown(one.target.path),
                "bytes": one.size,
                "replaced": one.target.replaces,
                "difference": one.agreement.difference,
                "relative_difference": one.agreement.relative,
            }
            for one in written
        ],
    }


def _print(saved: Saved, kind: str, subject: Exportable, written: Sequence[Written]) -> None:
    from dlrun.summary_text import size

    log.info(
        "checkpoint  %s (step %d%s)", _shown(saved.path), saved.payload["state"]["step"], kind and f", {kind} weights"
    )
    if any(one.target.format.graph for one in written):
        for label, ports in (("input", subject.inputs), ("output", subject.outputs)):
            for port in ports:
                sides = "x".join(str(side) for side in port.shape)
                log.info("%-12s%s: %s %s, %s", label, port.name, _type(port), sides, port.meaning)
    log.info("")
    log.info("  %-12s  %9s  %10s  %8s  %s", "format", "size", "difference", "relative", "file")
    for one in written:
        agreement, target = one.agreement, one.target
        log.info(
            "  %-12s  %9s  %10s  %8s  %s",
            target.format.name,
            size(one.size),
            f"{agreement.difference:.1e}" if agreement.difference else "0",
            f"{agreement.relative:.0e}" if agreement.relative else "0",
            _shown(target.path) + (" (replaced)" if target.replaces else ""),
        )
    log.info("")
    log.info("checked     read again and compared with PyTorch on batches of 1 and of 5 random inputs")


def _type(port: Port) -> str:
    return str(port.dtype).removeprefix("torch.")


def _shown(path: Path) -> str:
    return display_path(path.absolute())
