"""``dlrun export``: a checkpoint as a file that runs without dlrun, checked before it is called good."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from dlrun.commands.request import Request
from dlrun.commands.saved import Saved, find_checkpoint, home, listed, load_saved
from dlrun.config.rerun import EXPORT_MAY_CHANGE
from dlrun.config.sources import display_path
from dlrun.errors import EXIT_DONE, UserError, did_you_mean
from dlrun.logs import log, start_console

if TYPE_CHECKING:
    from dlrun.export.files import Written
    from dlrun.export.formats import Format
    from dlrun.export.subject import Exportable, Input, Scores

_CHECKPOINT_ALONE = "an export is made of the checkpoint alone, on the CPU; leave it out"


@dataclass(frozen=True)
class _Asked:
    """What the command line asks for, apart from the checkpoint."""

    formats: tuple[Format, ...]
    given: Input
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
    path = find_checkpoint(word)
    saved = load_saved(path, request.overrides, EXPORT_MAY_CHANGE, _CHECKPOINT_ALONE)
    from dlrun.export.files import targets, write

    chosen = targets(asked.formats, request.reserved.get("output"), home(path) / "export", path.stem)
    subject = _subject(saved, asked)
    written = write(subject, chosen)
    if request.json:
        print(json.dumps(_plain(saved, subject, written), indent=2))
    else:
        _print(saved, subject, written)
    return EXIT_DONE


def _asked(words: Mapping[str, str]) -> _Asked:
    from dlrun.export.formats import FORMATS, need_packages
    from dlrun.export.subject import Input, Scores

    names = listed("format", words.get("format", next(iter(FORMATS))))
    for name in names:
        if name not in FORMATS:
            raise UserError(f"format={name}: unknown format; {did_you_mean(name, FORMATS)}")
        if names.count(name) > 1:
            raise UserError(f"format={words['format']}: {name} is given twice")
    formats = tuple(FORMATS[name] for name in names)
    graph = any(chosen.graph for chosen in formats)
    given: Input = _one_of("input", words.get("input", "pixels" if graph else "normalized"), get_args(Input))
    scores: Scores = _one_of("output_scores", words.get("output_scores", "logits"), get_args(Scores))
    for key in ("input", "output_scores"):
        if key in words and not graph:
            raise UserError(f"{key}={words[key]}: format=safetensors holds weights and no graph; leave it out")
    need_packages(formats)
    return _Asked(formats, given, scores)


def _one_of(key: str, word: str, known: Sequence[str]) -> Any:
    if word not in known:
        raise UserError(f"{key}={word}: must be {' or '.join(known)}")
    return word


def _subject(saved: Saved, asked: _Asked) -> Exportable:
    import torch

    from dlrun.build import build_model
    from dlrun.data.statistics import Statistics
    from dlrun.export.metadata import describe
    from dlrun.export.subject import image_classifier
    from dlrun.reproducibility import set_determinism
    from dlrun.train.fit import load_weights

    config, data = saved.config, saved.payload["data"]
    set_determinism(deterministic=False, threads=config.trainer.threads)
    classes, (channels, height, width) = data["classes"], data["input_shape"]
    shape = (channels, height, width)
    # The layout in memory is a matter of training; files hold the usual one.
    plain = replace(config, trainer=replace(config.trainer, channels_last=False))
    fresh = partial(build_model, plain, shape, len(classes), torch.device("cpu"))
    net = fresh()
    load_weights(net, saved.payload["model"])
    statistics = Statistics.from_state(data["statistics"])
    metadata = describe(
        saved.payload["config"],
        step=saved.payload["state"]["step"],
        classes=classes,
        input_shape=shape,
        statistics=statistics,
        given=asked.given,
        scores=asked.scores,
    )
    return image_classifier(
        config.model.name,
        net,
        fresh,
        statistics,
        shape,
        given=asked.given,
        scores=asked.scores,
        metadata=metadata,
    )


def _plain(saved: Saved, subject: Exportable, written: Sequence[Written]) -> dict[str, Any]:
    """What ``--json`` prints; docs/export.md lists the keys."""
    from dlrun.export.check import BATCHES

    return {
        "checkpoint": _shown(saved.path),
        "step": saved.payload["state"]["step"],
        "model": subject.model,
        "classes": list(saved.payload["data"]["classes"]),
        "input_shape": list(saved.payload["data"]["input_shape"]),
        "input": subject.metadata["input"],
        "scores": subject.metadata["scores"],
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


def _print(saved: Saved, subject: Exportable, written: Sequence[Written]) -> None:
    from dlrun.summary_text import size

    log.info("checkpoint  %s (step %d)", _shown(saved.path), saved.payload["state"]["step"])
    graphs = [one.target.format.name for one in written if one.target.format.graph]
    if graphs:
        (port,) = subject.inputs
        kind = "pixels 0..255, normalised inside" if subject.metadata["input"] == "pixels" else "normalised images"
        sides = "x".join(str(side) for side in port.shape)
        log.info("input       %s: %s %s, %s", port.name, str(port.dtype).removeprefix("torch."), sides, kind)
        classes = len(saved.payload["data"]["classes"])
        log.info("output      %s: float32 batchx%d, %s", subject.outputs[0], classes, subject.metadata["scores"])
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
    log.info("checked     read again and compared with PyTorch on 1 and on 5 random images")


def _shown(path: Path) -> str:
    return display_path(path.absolute())
