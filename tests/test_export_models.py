"""The contract of export that every registered model keeps: it becomes a file, and the file computes the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from helpers import IMAGE_MODELS
from test_models import build
from torch.nn import functional as F

from dlrun.data.statistics import Statistics
from dlrun.data.vocabulary import Vocabulary
from dlrun.export.check import Agreement
from dlrun.export.files import targets, write
from dlrun.export.formats import FORMATS
from dlrun.export.images import image_classifier
from dlrun.export.subject import Exportable
from dlrun.export.text import language_model
from dlrun.models.layers import FractionalMaxPool, fractional_out
from dlrun.models.rnn import CellName
from dlrun.registry import MODELS

SHAPE = (3, 16, 12)
LIGHT: dict[str, dict[str, Any]] = {
    "alexnet": {"width": 0.1},
    "densenet": {"depth": 22, "growth": 2},
    "fractalnet": {"width": 0.1},
    "googlenet": {"width": 0.1},
    "nasnet": {"cells": 1, "filters": 4},
    "resnet": {"depth": 8},
    "vgg": {"width": 0.1},
    "zfnet": {"width": 0.1},
}
"""Options that leave a model of many layers few of each kind."""
LONG = ("fractalnet", "googlenet", "mobilenet", "nasnet", "timm", "torchvision")
"""Their graphs take seconds even so."""
STATISTICS = Statistics(
    "channel", torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.25]).view(3, 1, 1)
)


def exportable(name: str, **params: Any) -> Exportable:
    """A network as it is after a training: its running statistics are not those it began with."""
    fresh = partial(build, name, SHAPE, **params)
    net = fresh().train()
    with torch.no_grad():
        net(torch.randn(8, *SHAPE))
    return image_classifier(
        name,
        net,
        fresh,
        STATISTICS,
        SHAPE,
        [str(i) for i in range(10)],
        given="pixels",
        scores="logits",
        metadata={"dlrun": "0"},
    )


def round_trip(place: Path, format_name: str, name: str, **params: Any) -> Agreement:
    """Write, read again, compare; what comes back has passed the check."""
    (written,) = write(exportable(name, **params), targets([FORMATS[format_name]], None, place, name))
    assert [path.name for path in place.iterdir()] == [f"{name}{FORMATS[format_name].suffix}"]
    return written.agreement


def names(kept: Callable[[str], bool]) -> list[Any]:
    """Every registered model; those that are not kept run in the long tests only."""
    return [name if kept(name) else pytest.param(name, marks=pytest.mark.slow) for name in IMAGE_MODELS]


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_every_model_as_safetensors(name: str, tmp_path: Path) -> None:
    assert round_trip(tmp_path, "safetensors", name, **LIGHT.get(name, {})).difference == 0


@pytest.mark.parametrize("name", names(lambda name: name not in LONG))
def test_every_model_as_torch_export(name: str, tmp_path: Path) -> None:
    assert round_trip(tmp_path, "torch_export", name, **LIGHT.get(name, {})).relative <= 1e-6


@pytest.mark.parametrize("name", names(lambda name: name in ("convnet", "resnet")))
def test_every_model_as_onnx(name: str, tmp_path: Path) -> None:
    # A tenth of what is allowed.
    assert round_trip(tmp_path, "onnx", name, **LIGHT.get(name, {})).relative <= 1e-5


@pytest.mark.parametrize("side", [4, 5, 13])
def test_fractional_pooling_as_onnx(side: int, tmp_path: Path) -> None:
    net = FractionalMaxPool()
    x = torch.randn(2, 3, side, side + 3)
    # No export format has torch's layer, so evaluation is said in other operations.
    size = fractional_out((side, side + 3))
    expected = F.fractional_max_pool2d(x, 2, output_size=size, _random_samples=torch.full((2, 3, 2), 0.5))
    assert torch.equal(net.eval()(x), expected)
    if side == 13:
        assert round_trip(tmp_path, "onnx", "convnet", pool="fractional").relative <= 1e-5


def round_trip_of_text(place: Path, format_name: str, cell: str) -> Agreement:
    values, problems = MODELS.check("rnn", {"cell": cell, "hidden_size": 6})
    assert not problems
    fresh = partial(MODELS.build, "rnn", values, vocabulary_size=9)
    vocabulary = Vocabulary("character", tuple("abcdefghi"))
    one = language_model("rnn", fresh(), fresh, vocabulary, steps=2, scores="logits", metadata={"dlrun": "0"})
    (written,) = write(one, targets([FORMATS[format_name]], None, place, "rnn"))
    return written.agreement


@pytest.mark.parametrize(
    "cell",
    # The library's kernel, and steps that are taken one by one; the others in the long tests only.
    [c if c in ("lstm", "mut3") else pytest.param(c, marks=pytest.mark.slow) for c in get_args(CellName)],
)
def test_every_cell_as_torch_export(cell: str, tmp_path: Path) -> None:
    assert round_trip_of_text(tmp_path, "torch_export", cell).relative <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("cell", get_args(CellName))
def test_every_cell_as_onnx(cell: str, tmp_path: Path) -> None:
    assert round_trip_of_text(tmp_path, "onnx", cell).relative <= 1e-5


def test_tied_weights_as_safetensors(tmp_path: Path) -> None:
    values, problems = MODELS.check("rnn", {"tied": True, "hidden_size": 6})
    assert not problems
    fresh = partial(MODELS.build, "rnn", values, vocabulary_size=3)
    vocabulary = Vocabulary("character", tuple("abc"))
    one = language_model("rnn", fresh(), fresh, vocabulary, steps=1, scores="logits", metadata={"dlrun": "0"})
    (written,) = write(one, targets([FORMATS["safetensors"]], None, tmp_path, "rnn"))
    assert written.agreement.difference == 0
