"""``dlrun sample``: let a trained language model write; stdout holds the text alone."""

from __future__ import annotations

import io
import json
import secrets
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlrun.commands.language_model import SavedLanguageModel, load_language_model
from dlrun.commands.request import Request
from dlrun.errors import EXIT_DONE, EXIT_INTERRUPTED, UserError
from dlrun.logs import log, start_console

if TYPE_CHECKING:
    from torch import Tensor

_LENGTH = 500
"""Tokens that are written if no number is given."""
_SEED_BITS = 63


@dataclass(frozen=True)
class _Wish:
    """How to write."""

    prompt: str
    length: int
    samples: int
    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int


def sample(request: Request) -> int:
    """Write one text as it comes, or several one after the other.

    Raises:
        UserError: if an option is wrong, the checkpoint cannot be used or holds no language model, or the prompt has
            symbols that its vocabulary lacks.
    """
    start_console(stdout_is_data=True)
    if not request.reserved.get("checkpoint"):
        raise UserError("dlrun sample needs checkpoint=PATH, a checkpoint file or a run folder")
    wish = _wish(request)
    subject = load_language_model(request, "sample")
    from dlrun.sampling import start_tokens

    tokens = start_tokens(subject.vocabulary, wish.prompt)
    if subject.kind:
        log.info("weights     %s", subject.kind)
    if wish.temperature > 0:
        log.info("seed        %d", wish.seed)
    start, rows = time.perf_counter(), [list[int]() for _ in range(wish.samples)]
    code, written = EXIT_DONE, False
    try:
        first = subject.vocabulary.pieces(_first_of(_columns(subject, tokens, wish), rows))
        if request.json:
            for _ in first:
                pass
        else:
            written = True
            _show(wish.prompt, first)
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    seconds = time.perf_counter() - start
    texts = [wish.prompt + subject.vocabulary.decode(row) for row in rows]
    if request.json:
        print(json.dumps({"seed": wish.seed, "texts": texts}))
    else:
        _show_rest(texts, written)
    count = sum(map(len, rows))
    log.info(
        "written     %s %ss in %.1f s (%s/s)", f"{count:,}", subject.vocabulary.level, seconds, _rate(count, seconds)
    )
    return code


def _wish(request: Request) -> _Wish:
    seed = request.whole("seed", 0)
    if seed is not None and seed >= 2**_SEED_BITS:
        raise UserError(f"seed={seed}: must be less than 2**{_SEED_BITS}")
    temperature, top_p = request.number("temperature", 0, 100), request.number("top_p", 0, 1)
    if top_p == 0:
        raise UserError("top_p=0: must be greater than 0; temperature=0 takes the most probable token")
    return _Wish(
        request.reserved.get("prompt", ""),
        request.whole("length") or _LENGTH,
        request.whole("samples") or 1,
        1.0 if temperature is None else temperature,
        request.whole("top_k"),
        top_p,
        secrets.randbelow(2**31) if seed is None else seed,
    )


def _columns(subject: SavedLanguageModel, tokens: Tensor, wish: _Wish) -> Iterator[list[int]]:
    import torch

    from dlrun.data.vocabulary import UNKNOWN
    from dlrun.sampling import generate

    return generate(
        subject.model,
        tokens.expand(wish.samples, -1).to(subject.device),
        wish.length,
        generator=torch.Generator().manual_seed(wish.seed),
        temperature=wish.temperature,
        top_k=wish.top_k,
        top_p=wish.top_p,
        excluded=() if subject.vocabulary.level == "byte" else (UNKNOWN,),
        window=int(subject.saved.config.data.params["sequence_length"]),
    )


def _first_of(columns: Iterator[list[int]], rows: list[list[int]]) -> Iterator[int]:
    """Keep the tokens of every text, and pass those of the first one on."""
    for column in columns:
        for row, token in zip(rows, column, strict=True):
            row.append(token)
        yield column[0]


def _show(begin: str, pieces: Iterator[str]) -> None:
    """Write to stdout in UTF-8, each piece at once."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.encoding.lower() != "utf-8":
        sys.stdout.reconfigure(encoding="utf-8")
    # A prompt that is no UTF-8 is written as the bytes that it was given as.
    sys.stdout.write(begin.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
    sys.stdout.flush()
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()


def _show_rest(texts: list[str], written: bool) -> None:
    """All texts but the first, of which the end of the line may be missing if it was written."""
    _show("" if not written or texts[0].endswith("\n") else "\n", iter(()))
    for number, text in enumerate(texts[1:], 2):
        # On a terminal the numbers stand between the texts; in a file an empty line does.
        _show("\n", iter(()))
        log.info("text        %d of %d", number, len(texts))
        _show(text if text.endswith("\n") else f"{text}\n", iter(()))


def _rate(count: int, seconds: float) -> str:
    return f"{count / max(seconds, 1e-9):,.0f}"
