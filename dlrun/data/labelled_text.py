"""Texts with a class each: lines of a file, files of a folder, or lines of Python's standard library."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from dlrun.data.lines import read_lines
from dlrun.data.sequences import MODULES, Labelled, SequenceData, library_source, split
from dlrun.data.shape import TextShape, tells_shape
from dlrun.errors import DataError
from dlrun.registry import DATASETS
from dlrun.types import Fraction, Path, PositiveInt

_SHORTEST = 12
"""Characters of a line of source, without the space around it, that says something."""


@DATASETS.register
def labelled_text(
    split_seed: int,
    val_fraction: float,
    *,
    path: Path | None = None,
    level: Literal["character", "word"] = "character",
    max_length: PositiveInt = 400,
    min_count: PositiveInt = 1,
    test_fraction: Fraction = 0.1,
) -> SequenceData:
    """Texts with a class each, for sequence_classification; by default lines of Python, and the module they are from.

    Held out is the text itself: equal texts are in one split.

    Args:
        path: file in UTF-8 with label<TAB>text in each line; or a folder: of files with one text in each line, whose
            names are the classes, or of folders with one text in each file; null: lines of ten modules of the standard
            library (from 12 characters on, without indentation and without what two of them have in common).
        level: token: character, or word (with the space before it; all else by itself).
        max_length: of longer texts, only so many tokens are read, >= 1.
        min_count: tokens that occur less often in the training texts are unknown ones, >= 1.
        test_fraction: share of the texts for the test split, 0..1; 1 for dlrun eval on other texts.

    Raises:
        DataError: if a file cannot be read, or a line has no label or no text, with its number.
    """
    found = _texts(path)
    tokens = [text if level == "character" else _words(text) for _, text in found]
    cut = sum(len(one) > max_length for one in tokens)
    samples = [Labelled(one[:max_length], (label,)) for one, (label, _) in zip(tokens, found, strict=True)]
    return split(
        samples,
        val_fraction,
        test_fraction,
        split_seed,
        per_token=False,
        level=level,
        min_count=min_count,
        source="lines of Python's standard library" if path is None else path.name,
        cut=cut,
    )


@tells_shape(labelled_text)
def _shape(
    path: Path | None, level: Literal["character", "word"], max_length: int, min_count: int, test_fraction: Fraction
) -> TextShape:
    # Texts are short beside images: they are read.
    longest = max(len(text if level == "character" else _words(text)) for _, text in _texts(path))
    return TextShape(min(longest, max_length), None, labelled=True)


def _words(text: str) -> tuple[str, ...]:
    from dlrun.data.vocabulary import words

    return tuple(words(text))


def _texts(path: Path | None) -> list[tuple[str, str]]:
    """Label and text of each sample, at least one."""
    if path is None:
        return list(_library())
    found = list(_folder(path) if path.is_dir() else _file(path))
    if not found:
        raise DataError(f"data.path: there is no text in {path}; write label<TAB>text in each line")
    return found


def _file(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(read_lines(path), start=1):
        label, tab, text = line.partition("\t")
        if not (label and tab and text):
            what = "no tab" if not tab else "no label" if not label else "no text"
            raise DataError(f"{path}:{number}: must be label<TAB>text, both not empty, but has {what}")
        yield label, text


def _folder(folder: Path) -> Iterator[tuple[str, str]]:
    inside = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    folders, files = ([entry for entry in inside if entry.is_dir() == kind] for kind in (True, False))
    if folders and files:
        raise DataError(
            f"data.path: {folder} has both folders and files ({folders[0].name}, {files[0].name}); give a folder for "
            "each class with one text in each file, or a file for each class with one text in each line"
        )
    for file in files:
        yield from ((file.stem, line) for line in read_lines(file) if line.strip())
    for one in folders:
        for file in sorted(entry for entry in one.rglob("*") if entry.is_file()):
            text = "\n".join(read_lines(file))
            if not text:
                raise DataError(f"data.path: {file} is empty; remove it")
            yield one.name, text


def _library() -> Iterator[tuple[str, str]]:
    lines = {module: {line.strip() for line in library_source(module).splitlines()} for module in MODULES}
    for module, own in lines.items():
        others = set().union(*(lines[other] for other in MODULES if other != module))
        yield from ((module, line) for line in sorted(own - others) if len(line) >= _SHORTEST)
