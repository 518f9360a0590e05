"""``dlrun summary``: what a model costs, or how several compare, without data and without training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dlrun.commands.request import Request
from dlrun.config.compose import compose
from dlrun.config.files import recipes
from dlrun.config.groups import split_variant
from dlrun.config.load import load_config, load_plugins
from dlrun.config.schema import Config
from dlrun.errors import EXIT_DONE, UserError, did_you_mean
from dlrun.registry import MODELS

if TYPE_CHECKING:
    from dlrun.summary_text import Subject


_COUNTED = ("num_classes", "vocabulary_size", "target_size", "class_count", "tag_count")
"""Arguments that are the number of scores of a head."""


@dataclass(frozen=True)
class _Asked:
    """One model to summarise: its name for the user, and the configuration it stands in."""

    name: str
    config: Config


def summary(request: Request) -> int:
    """Print one model layer by layer, or several in one table.

    Raises:
        UserError: if a name, the configuration, ``input=`` or ``classes=`` are wrong, or the model cannot take the
            images.
    """
    # torch is imported after the configuration is known to be right.
    shape = _input_shape(request.reserved.get("input"))
    classes = request.whole("classes")
    asked = _asked(request)
    from dlrun.summary_text import comparison, table, to_plain

    subjects = [_summarise(one, shape, classes) for one in asked]
    if request.json:
        plain = [to_plain(subject) for subject in subjects]
        print(json.dumps(plain[0] if len(plain) == 1 else plain, indent=2))
    else:
        print(table(subjects[0]) if len(subjects) == 1 else comparison(subjects))
    return EXIT_DONE


def _input_shape(word: str | None) -> tuple[int, int, int] | None:
    if word is None:
        return None
    sides = word.split("x")
    if len(sides) != 3 or not all(side.isascii() and side.isdecimal() and int(side) > 0 for side in sides):
        raise UserError(f"input={word}: must be channels x height x width, such as input=3x224x224")
    channels, height, width = (int(side) for side in sides)
    return channels, height, width


def _asked(request: Request) -> list[_Asked]:
    given = request.reserved.get("config")
    if not request.words:
        config, composed = load_config(given, request.overrides, places_needed=False)
        return [_Asked(composed.name if given else config.model.name, config)]
    plugins = [word for word in request.overrides if word.startswith("plugins=")]
    if given or plugins:
        # Their models can be named too.
        load_plugins(compose(given, plugins))
    return [_Asked(word, _config_of(word, given, request.overrides)) for word in request.words]


def _config_of(word: str, given: str | None, overrides: Sequence[str]) -> Config:
    """What a plain word means: a model with its own defaults in the default recipe or in config=; a recipe; a file."""
    if word in MODELS or split_variant("model", word) is not None:
        # What a recipe says of its own model is dropped where another is chosen: so one is, first.
        other = next(name for name in MODELS.names() if name != word)
        return load_config(given, [f"model={other}", f"model={word}", *overrides], places_needed=False)[0]
    if given is not None:
        raise UserError(
            f"unknown model {word!r}; {did_you_mean(word, MODELS.names())} (beside config= only models can be named)"
        )
    if word not in recipes() and not word.endswith((".yaml", ".yml")) and "/" not in word:
        known = [*MODELS.names(), *recipes()]
        raise UserError(f"there is no model and no recipe {word!r}; {did_you_mean(word, known)}")
    return load_config(word, overrides, places_needed=False)[0]


@dataclass(frozen=True)
class _Sample:
    """What the model is run on, what it is built with, and what its scores are of, where the shape does not tell."""

    shape: tuple[int, ...]
    classes: int
    arguments: Mapping[str, Any]
    scored: str | None = None


def _summarise(asked: _Asked, shape: tuple[int, int, int] | None, classes: int | None) -> Subject:
    import torch

    from dlrun.assembly import build_model, build_optimizer, find_head
    from dlrun.data.batch_sizes import batch_sizes
    from dlrun.summary import summarise
    from dlrun.summary_text import Subject
    from dlrun.transfer import freeze

    config = asked.config
    sample = _sample(config, shape, classes)
    # Each micro-batch keeps its own activations only.
    batch = -(-batch_sizes(config).largest // config.trainer.accumulate)

    def count(device: str) -> Subject:
        with torch.device(device):
            model = build_model(config, sample.arguments, torch.device(device))
        counted = next(name for name in _COUNTED if name in sample.arguments)
        head = find_head(config, model, sample.arguments, counted)
        freeze(model, config.model.freeze, head)
        optimizer = build_optimizer(config, model, head) if device == "meta" else None
        result = summarise(model, sample.shape, batch, optimizer)
        return Subject(asked.name, config.model.name, sample.classes, config.trainer.precision, result, sample.scored)

    try:
        return count("meta")
    except RuntimeError:
        # The model computes with values, in its constructor or on its way: let it.
        return count("cpu")


def _sample(config: Config, shape: tuple[int, int, int] | None, classes: int | None) -> _Sample:
    """What was given, and for the rest what the data tell: images without being read."""
    from dlrun.data.shape import TextShape, shape_of

    if shape is None or classes is None:
        known = shape_of(config.data.name, config.data.params)
        if isinstance(known, TextShape) and shape is None:
            if known.labelled:
                return _labelled_sample(config, known.sequence_length, classes)
            return _text_sample(config, known.sequence_length, classes or known.vocabulary)
        if known is None and shape is None:
            raise UserError(
                f"data {config.data.name!r} cannot tell the shape of its images without reading them; "
                "give it with input=CxHxW, and classes=K"
            )
        found = classes if classes is not None or known is None or isinstance(known, TextShape) else known.classes
        if found is None:
            raise UserError(
                f"data {config.data.name!r} cannot tell the number of classes here; give it with classes=K, or set "
                "data.root to the folder of the data"
            )
        if shape is None:
            assert known is not None
            assert not isinstance(known, TextShape)
            shape = known.input_shape
        classes = found
    return _Sample(shape, classes, {"input_shape": shape, "num_classes": classes})


def _text_sample(config: Config, steps: int, vocabulary: int | None) -> _Sample:
    """A chunk of text; the vocabulary takes reading, unless it was given with classes=."""
    import torch

    from dlrun.assembly import build_feed

    if vocabulary is None:
        feed = build_feed(config, torch.device("cpu"))
        return _Sample((steps,), feed.arguments[feed.counted], feed.arguments)
    # Pairs have two of them.
    sizes = dict.fromkeys(("vocabulary_size", "source_size", "target_size"), vocabulary)
    return _Sample((steps,), vocabulary, sizes)


def _labelled_sample(config: Config, steps: int, classes: int | None) -> _Sample:
    """The longest of some labelled sequences; their tokens take reading."""
    import torch

    from dlrun.assembly import build_feed

    feed = build_feed(config, torch.device("cpu"))
    arguments = {**feed.arguments, **({} if classes is None else {feed.counted: classes})}
    return _Sample((steps,), arguments[feed.counted], arguments, scored="tags" if feed.classes is None else "classes")
