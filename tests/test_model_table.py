"""The published nets and what they cost: the table of models in README.md is written by this file.

It counts with one pass of torch's flop counter on the meta device, which takes a tenth of a whole summary's time;
test_summary.py holds the two equal for every model, and here one row is checked against the command's own figures.
``DLRUN_UPDATE_DOCS=1 python -m pytest tests/test_model_table.py`` writes it anew.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import Dlrun, compose_faster
from test_models import FORMED, count
from test_zoo import multiply_adds
from torch import nn

from dlrun.config.files import recipes
from dlrun.config.load import load_config
from dlrun.errors import ConfigError
from dlrun.registry import MODELS
from dlrun.summary_text import short

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
BEGIN, END = "<!-- models: begin -->\n", "<!-- models: end -->\n"
UPDATE = os.environ.get("DLRUN_UPDATE_DOCS") == "1"
HEAD = """\
What the papers' nets cost, as `dlrun summary OPTIONS input=... classes=...` counts them (1000 classes for images of 224
pixels and more, else 10); multiply-adds are of one image, forward. GoogLeNet's parameters are with the auxiliary heads
that only training has: 7.0M without. `tests/test_model_table.py` writes this table.

| model | paper | options | input | parameters | multiply-adds | recipe |
|---|---|---|---|--:|--:|---|
"""
LARGE, CIFAR, DIGITS = "3x224x224", "3x32x32", "1x28x28"


@dataclass(frozen=True)
class Net:
    """One line: what the net is called, who published it, what makes it, and the (C, H, W) of its images."""

    title: str
    paper: str
    options: str
    input: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = (int(side) for side in self.input.split("x"))
        return channels, height, width

    @property
    def model(self) -> dict[str, Any]:
        """The options as the tree ``model`` of a configuration."""
        words = [word.removeprefix("model").removeprefix(".").split("=") for word in self.options.split()]
        return {key or "name": yaml.safe_load(value) for key, value in words}

    @property
    def classes(self) -> int:
        """K, of the data with such images."""
        return 1000 if min(self.shape[1:]) >= 224 else 10

    def build(self, model: dict[str, Any]) -> nn.Module:
        """Build a model on the meta device for such images and classes."""
        params = {key: value for key, value in model.items() if key != "name"}
        values, problems = MODELS.check(model["name"], params)
        assert not problems
        with torch.device("meta"):
            net: nn.Module = MODELS.build(model["name"], values, input_shape=self.shape, num_classes=self.classes)
        return net

    def row(self) -> str:
        """The line of the table."""
        net = self.build(self.model)
        # Whatever options say so: a recipe trains this net if it builds the same layers for such images.
        recipes_of_family = [(name, model) for name, model in recipe_models() if model["name"] == self.model["name"]]
        structure = repr(net) if recipes_of_family else ""
        fitting = [f"`{name}`" for name, model in recipes_of_family if repr(self.build(model)) == structure]
        cells = (
            self.title,
            self.paper,
            f"`{self.options}`",
            self.input,
            f"{count(net):,}",
            short(multiply_adds(net, self.shape)),
            ", ".join(fitting) or "-",
        )
        return f"| {' | '.join(cells)} |"


@functools.cache
def recipe_models() -> list[tuple[str, dict[str, Any]]]:
    """Each recipe that trains a net from the start, with its tree ``model``."""
    found = []
    for name in recipes():
        with suppress(ConfigError):  # It goes on from weights that it does not name.
            model = load_config(name, [], places_needed=False)[0].model
            if model.weights is None:
                found.append((name, {"name": model.name, **model.params}))
    return found


NETS = (
    Net("linear classifier", "Bishop 2006, 4.3.4", "model=linear", DIGITS),
    Net("multilayer perceptron, 256-256", "Rumelhart et al. 1986", "model=mlp", DIGITS),
    Net("LeNet-5", "LeCun et al. 1998", "model=lenet5", "1x32x32"),
    Net("AlexNet, two groups", "Krizhevsky et al. 2012", "model=alexnet model.groups=2", "3x227x227"),
    Net("AlexNet, one tower", "as in CaffeNet", "model=alexnet", "3x227x227"),
    Net("AlexNet, later version", "Krizhevsky 2014", "model=alexnet model.version=2014", LARGE),
    Net("ZFNet", "Zeiler and Fergus 2014", "model=zfnet", LARGE),
    Net("NiN, ImageNet", "Lin et al. 2014", "model=nin", LARGE),
    Net("NiN, CIFAR-10", "Lin et al. 2014", "model=nin", CIFAR),
    Net("VGG-16", "Simonyan and Zisserman 2015", "model=vgg", LARGE),
    Net("VGG-19", "Simonyan and Zisserman 2015", "model=vgg model.depth=19", LARGE),
    Net("GoogLeNet", "Szegedy et al. 2015", "model=googlenet model.norm=none", LARGE),
    Net("GoogLeNet, batch norm", "Ioffe and Szegedy 2015", "model=googlenet", LARGE),
    *(
        Net(f"ResNet-{depth}", "He et al. 2016", f"model=resnet model.depth={depth}", LARGE)
        for depth in (18, 34, 50, 101, 152)
    ),
    Net("ResNet-8, 8x8 digits", "He et al. 2016", "model=resnet model.depth=8", "1x8x8"),
    *(
        Net(f"ResNet-{depth}, CIFAR-10", "He et al. 2016", f"model=resnet model.depth={depth}", CIFAR)
        for depth in (20, 56, 110)
    ),
    Net("plain net of 56 layers", "He et al. 2016", "model=resnet model.depth=56 model.plain=true", CIFAR),
    Net(
        "pre-activation ResNet-164",
        "He et al. 2016b",
        "model=resnet model.depth=164 model.bottleneck=true model.pre_activation=true",
        CIFAR,
    ),
    Net("WRN-28-10", "Zagoruyko and Komodakis 2016", "model=resnet model.depth=28 model.width=10", CIFAR),
    Net(
        "ResNeXt-50 32x4d",
        "Xie et al. 2017",
        "model=resnet model.depth=50 model.groups=32 model.base_width=4",
        LARGE,
    ),
    Net("SE-ResNet-50", "Hu et al. 2018", "model=resnet model.depth=50 model.squeeze_excite=16", LARGE),
    *(
        Net(f"DenseNet-{depth}", "Huang et al. 2017", f"model=densenet model.depth={depth}", LARGE)
        for depth in (121, 161, 169, 201)
    ),
    Net("DenseNet-BC-100, k = 12", "Huang et al. 2017", "model=densenet model.depth=100", CIFAR),
    Net("FractalNet-20", "Larsson et al. 2017", "model=fractalnet", CIFAR),
    Net("SqueezeNet 1.0", "Iandola et al. 2016", "model=squeezenet", LARGE),
    Net("SqueezeNet 1.1", "Iandola et al. 2016", "model=squeezenet model.version=v1.1", LARGE),
    Net("MobileNet", "Howard et al. 2017", "model=mobilenet model.version=1", LARGE),
    Net("MobileNetV2", "Sandler et al. 2018", "model=mobilenet", LARGE),
    Net("NASNet-A (4 @ 1056)", "Zoph et al. 2018", "model=nasnet", LARGE),
    Net("airbench", "Jordan 2024", "model=airbench", CIFAR),
    Net("airbench, narrower", "after Jordan 2024", "model=airbench model.widths=[64,128,256]", CIFAR),
)


def section() -> str:
    """What the README has between the marks."""
    text = README.read_text(encoding="utf-8")
    return text[text.index(BEGIN) + len(BEGIN) : text.index(END)]


@pytest.fixture(scope="module")
def rows() -> Iterator[dict[str, str]]:
    """Lines by the name of the net; written to the README if that is asked for."""
    collected: dict[str, str] = {}
    yield collected
    if UPDATE and len(collected) == len(NETS):
        table = HEAD + "".join(f"{row}\n" for row in collected.values())
        README.write_text(README.read_text().replace(f"{BEGIN}{section()}{END}", f"{BEGIN}{table}{END}"))


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.title)
def test_the_row_is_what_the_summary_counts(net: Net, rows: dict[str, str]) -> None:
    rows[net.title] = row = net.row()
    if not UPDATE:
        assert row in section().splitlines(), "run with DLRUN_UPDATE_DOCS=1 and look at the difference"


@pytest.mark.skipif(UPDATE, reason="the table is being written")
def test_the_table_has_these_nets_and_no_others() -> None:
    text = section()
    assert text.startswith(HEAD)
    assert [line.split(" | ")[0] for line in text.removeprefix(HEAD).splitlines()] == [f"| {net.title}" for net in NETS]


def test_every_family_with_a_form_of_its_paper_has_a_row() -> None:
    assert {net.model["name"] for net in NETS} >= set(FORMED)


def test_the_command_gives_the_same_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    compose_faster(monkeypatch)
    net = next(net for net in NETS if net.title == "SqueezeNet 1.1")
    words = (*net.options.split(), f"input={net.input}", f"classes={net.classes}", "--json")
    plain = json.loads(Dlrun(capsys)("summary", *words).out)
    cells = net.row().split(" | ")
    assert cells[4:6] == [f"{plain['parameters']:,}", short(plain["multiply_adds"])]
