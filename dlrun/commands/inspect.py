"""``dlrun inspect cells``: what the units of a recurrent language model follow in a text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.commands.language_model import SavedLanguageModel, load_language_model
from dlrun.commands.request import Request
from dlrun.commands.saved import home
from dlrun.config.sources import display_path
from dlrun.errors import EXIT_DONE, DataError, UserError, did_you_mean
from dlrun.logs import log, start_console

if TYPE_CHECKING:
    from torch import Tensor

    from dlrun.cell_page import Line
    from dlrun.data.vocabulary import Text
    from dlrun.inspection import Found, Saturation

_LENGTH, _SHOWN = 10_000, 1_500
"""Tokens that are read, and of these the ones that are shown, if no numbers are given."""
_CELL = re.compile(r"\s*(\d+):(\d+)\s*")


def inspect(request: Request) -> int:
    """Write a page, and tell the gist of it.

    Raises:
        UserError: if a word is wrong, the checkpoint cannot be used or holds no recurrent language model, the text
            cannot be read, or the page cannot be written.
    """
    start_console(stdout_is_data=request.json)
    what = request.words[0] if request.words else ""
    if what != "cells":
        known = did_you_mean(what, ["cells"]) if what else "dlrun inspect cells checkpoint=PATH"
        raise UserError(f"dlrun inspect needs what to look at; {known}")
    if not request.reserved.get("checkpoint"):
        raise UserError("dlrun inspect cells needs checkpoint=PATH, a checkpoint file or a run folder")
    if "text" in request.reserved and "file" in request.reserved:
        raise UserError("text= and file= exclude each other")
    cells = _cells(request.reserved.get("cells"))
    length, shown = request.whole("length", 20) or _LENGTH, request.whole("show") or _SHOWN
    subject = load_language_model(request, "inspect cells")
    text, source = _text(subject, request)
    from dlrun.cell_page import page

    tokens = subject.vocabulary.encode(text)[:length].long()
    if len(tokens) < 2:
        raise UserError(f"{source}: there is hardly any text to read; give more")
    pieces = _pieces(subject, text, tokens)
    lines, gates, kind = _look(subject, tokens, pieces, cells)
    name = display_path(subject.saved.path.absolute())
    unknown = subject.vocabulary.unknown(tokens)
    facts = f"{len(tokens):,} tokens of {source}" + (f", {unknown:,} of them unknown to the model" if unknown else "")
    output = Path(request.reserved.get("output") or _default_output(subject.saved.path)).expanduser()
    html = page(
        f"Units of {name}", f"{facts}; the first {min(shown, len(pieces)):,} shown.", pieces[:shown], lines, gates, kind
    )
    try:
        output.write_text(html, encoding="utf-8")
    except OSError as error:
        raise UserError(f"output={output}: cannot be written: {error.strerror}; choose another place") from None
    if request.json:
        print(json.dumps(_plain(name, source, len(tokens), lines, gates, output), indent=2))
    else:
        about = f"checkpoint  {name}{subject.kind and f', {subject.kind} weights'}\ntext        {facts}\n"
        _print(about, lines, gates, output)
    return EXIT_DONE


def _print(about: str, lines: list[Line], gates: list[Saturation], output: Path) -> None:
    """What the units tell and how the gates stand, for people."""
    from dlrun.cell_page import told

    log.info("%s", about)
    log.info("  %-8s  %s", "unit", "tells")
    for line in lines:
        log.info("  %-8s  %s", line.name, told(line.found))
    if gates:
        log.info("\n  %-5s  %-9s  %6s  %6s", "layer", "gate", "shut", "open")
    for gate in gates:
        shares = (100 * side.mean() for side in (gate.left, gate.right))
        log.info("  %-5d  %-9s  %5.1f%%  %5.1f%%", gate.layer, gate.gate, *shares)
    log.info("\nwritten     %s", display_path(output.absolute()))


def _cells(word: str | None) -> list[tuple[int, int]]:
    """The units of ``cells=[1:17,0:3]``; none if they are to be chosen."""
    if word is None:
        return []
    matches = [_CELL.fullmatch(part) for part in word.removeprefix("[").removesuffix("]").split(",")]
    if not all(matches):
        raise UserError(f"cells={word}: must be layer:unit, from 0, such as cells=[1:17,0:3]")
    return list(dict.fromkeys((int(match[1]), int(match[2])) for match in matches if match))


def _text(subject: SavedLanguageModel, request: Request) -> tuple[Text, str]:
    """What is to be read, and where it comes from."""
    from dlrun.assembly import build_data
    from dlrun.data.lines import without_mark

    binary = subject.vocabulary.level == "byte"
    if "text" in request.reserved:
        # What is no UTF-8 on the command line comes as surrogates.
        raw = request.reserved["text"].encode("utf-8", "surrogateescape")
        try:
            return (raw if binary else raw.decode("utf-8")), "text="
        except UnicodeDecodeError as error:
            raise UserError(f"text=: is not UTF-8 text (byte at offset {error.start})") from None
    if "file" in request.reserved:
        path = Path(request.reserved["file"]).expanduser()
        try:
            data = path.read_bytes()
            return (data if binary else without_mark(data).decode("utf-8")), path.name
        except OSError as error:
            raise UserError(f"file={path}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            offset = error.start + len(data) - len(without_mark(data))
            raise UserError(f"file={path}: is not UTF-8 text (byte at offset {offset})") from None
    try:
        splits = build_data(subject.saved.config)
    except DataError as error:
        raise UserError(f"{error}; or give what to read with text=... or file=...") from None
    if splits.val:
        return splits.val, f"the validation text ({splits.source})"
    return splits.train, f"the training text ({splits.source})"


def _pieces(subject: SavedLanguageModel, text: Text, tokens: Tensor) -> list[str]:
    """The text of each token as it stands there, also of those that the vocabulary lacks."""
    from dlrun.data.vocabulary import words

    if subject.vocabulary.level == "character" and isinstance(text, str):
        return list(text[: len(tokens)])
    if subject.vocabulary.level == "word" and isinstance(text, str):
        return words(text)[: len(tokens)]
    pieces = list(subject.vocabulary.pieces(tokens.tolist()))
    return [*pieces[: len(tokens) - 1], "".join(pieces[len(tokens) - 1 :])]


def _look(
    subject: SavedLanguageModel, tokens: Tensor, pieces: list[str], cells: list[tuple[int, int]]
) -> tuple[list[Line], list[Saturation], str]:
    """Let the model read, and choose what to show of it."""
    from dlrun.cell_page import Line
    from dlrun.inspection import activations, at_tokens, best_feature, describe, features, most_informative, saturation

    seen = _run(subject, tokens)
    values = activations(seen)
    for layer, unit in cells:
        if layer >= len(values) or unit >= values[layer].shape[1]:
            sizes = ", ".join(f"{number}:0 to {number}:{block.shape[1] - 1}" for number, block in enumerate(values))
            raise UserError(f"cells: there is no unit {layer}:{unit}; the model has {sizes}")
    known = {name: at_tokens(series, pieces) for name, series in features("".join(pieces)).items()}
    told = describe(values, known)
    chosen: list[tuple[int, int, Found | None]]
    if cells:
        chosen = [(layer, unit, best_feature(told, layer, unit)) for layer, unit in cells]
    else:
        # A text without any feature still has units to look at.
        chosen = [(row.layer, row.unit, row) for row in most_informative(told)] or [(0, 0, None)]
    lines = [Line(f"{layer}:{unit}", found, values[layer][:, unit]) for layer, unit, found in chosen]
    return lines, saturation(seen), "tanh of the cell state" if "cell" in seen[0] else "the hidden state"


def _run(subject: SavedLanguageModel, tokens: Tensor) -> list[dict[str, Tensor]]:
    """Gates and states of the recurrent layers on one text."""
    import torch
    from torch import nn

    from dlrun.models.recurrent import Recurrent

    layers = [module for module in subject.model.modules() if isinstance(module, Recurrent)]
    if len(layers) != 1:
        what = (
            f"{len(layers)} stacks of recurrent layers, and dlrun inspect cells reads a model with one"
            if layers
            else "no recurrent layers of dlrun (models.recurrent), so there are no cells to inspect"
        )
        raise UserError(f"checkpoint {subject.saved.path}: model {subject.saved.config.model.name!r} has {what}")
    inputs: list[Tensor] = []

    def keep(_: nn.Module, given: tuple[Any, ...]) -> None:
        inputs.append(given[0])

    handle = layers[0].register_forward_pre_hook(keep)
    try:
        with torch.inference_mode():
            subject.model(tokens[None].to(subject.device), None)
            return layers[0].gates(inputs[0])
    finally:
        handle.remove()


def _default_output(path: Path) -> Path:
    return home(path) / f"cells_{path.stem}.html"


def _plain(
    name: str, source: str, tokens: int, lines: list[Line], gates: list[Saturation], output: Path
) -> dict[str, Any]:
    return {
        "checkpoint": name,
        "text": source,
        "tokens": tokens,
        "cells": [
            {
                "cell": line.name,
                "feature": None if line.found is None else line.found.feature,
                "auc": None if line.found is None else line.found.auc,
                "correlation": None if line.found is None else line.found.correlation,
            }
            for line in lines
        ],
        "gates": [
            {"layer": g.layer, "gate": g.gate, "shut": float(g.left.mean()), "open": float(g.right.mean())}
            for g in gates
        ],
        "page": str(output),
    }
