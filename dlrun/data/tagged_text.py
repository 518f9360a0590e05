"""Sequences whose tokens have a tag each: two columns of a file, or the statements of Python's standard library."""

from __future__ import annotations

import io
import keyword
import token
import tokenize
from collections.abc import Iterator

from dlrun.data.lines import read_lines
from dlrun.data.sequences import MODULES, Labelled, SequenceData, library_source, split
from dlrun.data.shape import TextShape, tells_shape
from dlrun.errors import DataError
from dlrun.registry import DATASETS
from dlrun.types import Fraction, Path, PositiveInt

_LONGEST = 200
"""Characters of a statement that is taken; most docstrings are longer."""


@DATASETS.register
def tagged_text(
    split_seed: int,
    val_fraction: float,
    *,
    path: Path | None = None,
    min_count: PositiveInt = 1,
    test_fraction: Fraction = 0.1,
) -> SequenceData:
    """Sequences with a tag for each token, for sequence_labeling; by default the characters of Python's own sources.

    Held out is the sequence itself: equal sequences are in one split.

    Args:
        path: file in UTF-8 with token<TAB>tag in each line and an empty line between sequences (columns may also be
            separated by spaces; of more than two, the first and the last count: CoNLL); null: statements and comments
            of ten modules of the standard library up to 200 characters, each character tagged by Python's tokenizer:
            name, keyword, number, string, comment, operator or space.
        min_count: tokens that occur less often in the training sequences are unknown ones, >= 1.
        test_fraction: share of the sequences for the test split, 0..1; 1 for dlrun eval on other sequences.

    Raises:
        DataError: if the file cannot be read, or a line has no tag, with its number.
    """
    return split(
        _sequences(path),
        val_fraction,
        test_fraction,
        split_seed,
        per_token=True,
        level="character" if path is None else "word",
        min_count=min_count,
        source="statements of Python's standard library" if path is None else path.name,
    )


@tells_shape(tagged_text)
def _shape(path: Path | None, min_count: int, test_fraction: Fraction) -> TextShape:
    return TextShape(max(len(one.tokens) for one in _sequences(path)), None, labelled=True)


def _sequences(path: Path | None) -> list[Labelled]:
    """At least one."""
    if path is None:
        return list({one.tokens: one for module in MODULES for one in highlighted(library_source(module))}.values())
    found = list(_columns(path))
    if not found:
        raise DataError(f"data.path: there is no sequence in {path}; write token<TAB>tag in each line")
    return found


def _columns(path: Path) -> Iterator[Labelled]:
    tokens: list[str] = []
    tags: list[str] = []
    for number, line in enumerate([*read_lines(path), ""], start=1):
        if line.strip():
            columns = line.split("\t") if "\t" in line else line.split()
            if len(columns) < 2 or not columns[0] or not columns[-1]:
                raise DataError(f"{path}:{number}: must be token<TAB>tag, both not empty, or an empty line")
            tokens.append(columns[0])
            tags.append(columns[-1])
        elif tokens:
            yield Labelled(tuple(tokens), tuple(tags))
            tokens, tags = [], []


def highlighted(source: str) -> Iterator[Labelled]:
    """The statements and lines of comment of a Python source, and what each of their characters is part of.

    Args:
        source: a module that Python can tokenize.

    Yields:
        Those with at most 200 characters, without the indentation in front; line breaks within one are spaces.
    """
    lines = source.splitlines(keepends=True)
    begin: tuple[int, int] | None = None
    parts: list[tokenize.TokenInfo] = []
    for part in tokenize.generate_tokens(io.StringIO(source).readline):
        if part.type in (token.INDENT, token.DEDENT, token.ENDMARKER):
            continue
        ends = part.type == token.NEWLINE or (part.type == token.NL and all(p.type == token.COMMENT for p in parts))
        if not ends:
            parts.append(part)
            begin = part.start if begin is None else begin
            continue
        if begin is not None:
            one = _one(lines, begin, part.start, parts)
            if len(one.tokens) <= _LONGEST:
                yield one
        begin, parts = None, []


def _one(lines: list[str], begin: tuple[int, int], end: tuple[int, int], parts: list[tokenize.TokenInfo]) -> Labelled:
    rows = lines[begin[0] - 1 : end[0]]
    starts = [0]
    for row in rows:
        starts.append(starts[-1] + len(row))

    def place(position: tuple[int, int]) -> int:
        return starts[position[0] - begin[0]] + position[1] - begin[1]

    text = "".join(rows)[begin[1] : place(end) + begin[1]]
    tags = ["space"] * len(text)
    for part in parts:
        first, last = place(part.start), place(part.end)
        tags[first:last] = [_kind(part)] * (last - first)
    return Labelled(text.replace("\n", " "), tuple(tags[: len(text)]))


def _kind(part: tokenize.TokenInfo) -> str:
    if part.type == token.NAME:
        return "keyword" if keyword.iskeyword(part.string) else "name"
    # From Python 3.12 on, f-strings come in parts.
    if "STRING" in token.tok_name[part.type]:
        return "string"
    named = {token.NUMBER: "number", token.OP: "operator", token.COMMENT: "comment", token.NL: "space"}
    return named.get(part.type, "space")
