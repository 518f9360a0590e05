"""What a model costs: true to the real model, to the figures of the papers, and told well."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import EXAMPLES, IMAGE_MODELS, Dlrun, compose_faster, forgetting_plugins, write
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from dlrun.assembly import build_data
from dlrun.config.load import load_config
from dlrun.data.shape import DataShape, shape_of
from dlrun.errors import UserError
from dlrun.receptive import Window
from dlrun.registry import DATASETS, MODELS
from dlrun.summary import INPUT, Layer, Summary, summarise
from dlrun.summary_text import short, size

IMAGENET = (3, 224, 224)
SMALL = (3, 16, 12)
LIGHT: dict[str, dict[str, Any]] = {
    "nasnet": {"cells": 1, "filters": 4},
    "densenet": {"growth": 4},
    # Step by step: what happens inside of a library's kernel is hidden from counters on the CPU.
    "rnn": {"cell": "highway"},
}


def build(name: str, shape: tuple[int, int, int], classes: int = 10, device: str = "meta", **params: Any) -> nn.Module:
    values, problems = MODELS.check(name, {**EXAMPLES.get(name, {}), **params})
    assert not problems
    with torch.device(device):
        net: nn.Module = MODELS.build(name, values, input_shape=shape, num_classes=classes)
    return net


def summary_of(name: str, shape: tuple[int, int, int] = IMAGENET, classes: int = 1000, **params: Any) -> Summary:
    return summarise(build(name, shape, classes, **params), shape, 2)


def row(summary: Summary, name: str) -> Layer:
    return next(layer for layer in summary.layers if layer.name == name)


def of_kind(summary: Summary, kind: str) -> list[Layer]:
    return [layer for layer in summary.layers if layer.kind == kind]


# ---- True to the real model


def really_kept(net: nn.Module, x: Tensor) -> int:
    """Bytes that autograd holds after a real forward pass, and the images, without the model's own."""
    own = {value.untyped_storage().data_ptr() for value in [*net.parameters(), *net.buffers()]}
    held = {x.untyped_storage().data_ptr(): x}

    def keep(value: Tensor) -> Tensor:
        if value.untyped_storage().data_ptr() not in own:
            held[value.untyped_storage().data_ptr()] = value
        return value

    with saved_tensors_hooks(keep, lambda value: value):
        out = net.train()(x)
    assert out is not None
    return sum(value.untyped_storage().nbytes() for value in held.values())


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_totals_are_those_of_the_real_model(name: str) -> None:
    params = LIGHT.get(name, {})
    found = summarise(build(name, SMALL, **params), SMALL, 3)
    net = build(name, SMALL, device="cpu", **params)
    assert found.parameters == sum(value.numel() for value in net.parameters())
    assert found.trainable == sum(value.numel() for value in net.parameters() if value.requires_grad)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net.eval()(torch.randn(1, *SMALL))
    assert found.multiply_adds == counter.get_total_flops() // 2
    with FlopCounterMode(display=False) as counter:
        net.train()(torch.randn(3, *SMALL))
    assert found.training_multiply_adds == counter.get_total_flops() // 2 // 3
    assert found.memory.activations == really_kept(net, torch.randn(3, *SMALL))
    assert found.memory.input == 3 * 3 * 16 * 12 * 4
    assert found.memory.gradients == 4 * found.trainable


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_the_rows_add_up_to_the_totals(name: str) -> None:
    found = summarise(build(name, SMALL, **LIGHT.get(name, {})), SMALL, 3)
    assert sum(layer.parameters for layer in found.layers) == found.parameters
    assert sum(layer.multiply_adds for layer in found.layers if not layer.training_only) == found.multiply_adds
    assert sum(layer.memory for layer in found.layers) + found.memory.input == found.memory.activations
    assert sum(layer.activations for layer in found.layers) == found.activations
    assert len({layer.name for layer in found.layers}) == len(found.layers)
    assert all(layer.calls for layer in found.layers)


@pytest.mark.parametrize("name", ["googlenet", "fractalnet", "airbench"])
def test_the_device_changes_nothing_and_the_model_stays_as_it_is(name: str) -> None:
    net = build(name, SMALL, device="cpu").eval()
    net.get_submodule("head").train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    assert summarise(net, SMALL, 2).layers == summarise(build(name, SMALL), SMALL, 2).layers
    assert [path for path, module in net.named_modules() if module.training] == ["head"]
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_optimizer_state_is_counted() -> None:
    net = build("mlp", SMALL)
    weights = sum(value.numel() for value in net.parameters()) * 4

    def state(make: Any, **options: float) -> int | None:
        return summarise(net, SMALL, 1, make(net.parameters(), lr=0.1, **options)).memory.optimizer

    assert state(torch.optim.SGD) == 0
    assert state(torch.optim.SGD, momentum=0.9) == weights
    assert state(torch.optim.AdamW) == 2 * weights


# ---- Figures of the papers (REFERENCE.md, section 3)


def test_vgg16() -> None:
    found = summary_of("vgg")
    assert found.parameters == 138_357_544
    assert found.multiply_adds == 15_470_264_320
    # 13.5M values of convolutions, 1.5M of pools, and the hidden layers: 15.1M values, 60 MB. The 24M values (96 MB) of
    # the course material are not the sum of its own list, which is this one with the image: 15.2M.
    assert sum(layer.activations for layer in of_kind(found, "Conv2d")) == 13_547_520
    assert sum(layer.activations for layer in of_kind(found, "MaxPool2d")) == 1_530_368
    assert found.activations == 13_547_520 + 1_530_368 + 4 * 4096 + 1000
    assert found.activations * 4 == pytest.approx(60.4e6, rel=1e-3)
    assert row(found, "features.32").parameters == 102_764_544
    assert max(found.layers, key=lambda layer: layer.parameters).name == "features.32"
    assert max(found.layers, key=lambda layer: layer.memory).name == "features.0"
    assert found.warnings == ()


def test_alexnet_conv1() -> None:
    found = summary_of("alexnet", (3, 227, 227))
    first = found.layers[0]
    assert (first.output_shape, first.parameters) == ((96, 55, 55), 34_944)
    assert first.multiply_adds == 55 * 55 * 96 * 11 * 11 * 3
    assert found.warnings == ()


def test_convolution_of_the_course_material() -> None:
    # 10 filters of 5x5 on 32x32x3 with a border of 2.
    net = nn.Sequential(nn.Conv2d(3, 10, 5, padding=2))
    (layer,) = summarise(net, (3, 32, 32), 2).layers
    assert (layer.output_shape, layer.parameters, layer.activations) == ((10, 32, 32), 760, 10_240)
    assert layer.multiply_adds == 10_240 * 75


# ---- Receptive fields


@pytest.mark.parametrize(("kernels", "expected"), [([3], 3), ([3, 3], 5), ([3, 3, 3], 7), ([7], 7)])
def test_three_windows_of_3_see_as_much_as_one_of_7(kernels: list[int], expected: int) -> None:
    net = nn.Sequential(*(nn.Conv2d(3, 3, k, padding=k // 2) for k in kernels))
    assert summarise(net, (3, 32, 32), 2).layers[-1].receptive_field == (expected, expected)


@pytest.mark.parametrize(
    ("name", "params", "expected"),
    [
        # 7x7/2: 7, step 2; 3x3/2: 11, step 4; stages of steps 4, 8, 16, 32 with four 3x3 each:
        # 11 + 4 * 8 = 43; 43 + 8 + 3 * 16 = 99; 99 + 16 + 3 * 32 = 211; 211 + 32 + 3 * 64 = 435.
        ("resnet", {"depth": 18}, 435),
        ("vgg", {}, 212),
        ("alexnet", {}, 195),
        ("mobilenet", {}, 491),
        # torchvision-like nets of Araujo et al., table 1; DenseNet-121's blocks are 6, 12, 24, 16.
        ("densenet", {}, 2071),
    ],
)
def test_receptive_field_of_the_last_map(name: str, params: dict[str, Any], expected: int) -> None:
    placed = [layer.receptive_field for layer in summary_of(name, **params).layers if layer.receptive_field]
    assert placed[-1] == (expected, expected)


def test_branches_see_what_the_widest_sees() -> None:
    found = summary_of("googlenet", (3, 64, 64), form="small", window=5)
    # Stem 3x3; module 3a: 1x1, 3x3 and 5x5 side by side.
    assert row(found, "features.inception3a.branches.0.0").receptive_field == (3, 3)
    assert row(found, "features.inception3a").receptive_field == (7, 7)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 2)), min_size=1, max_size=4))
def test_receptive_field_is_where_the_gradient_reaches(windows: list[tuple[int, int, int]]) -> None:
    layers = [nn.Conv1d(1, 1, k, s, dilation=d, bias=False) for k, s, d in windows]
    for layer in layers:
        nn.init.ones_(layer.weight)
    (expected,) = summarise(nn.Sequential(*layers), (1, 600), 2).layers[-1].receptive_field or (0,)  # type: ignore[arg-type]
    x = torch.zeros(1, 1, 600, requires_grad=True)
    nn.Sequential(*layers)(x)[0, 0, 0].backward()
    assert x.grad is not None
    assert int(x.grad.flatten().nonzero().max()) + 1 == expected


@pytest.mark.parametrize(
    "params",
    [
        {"depth": 20, "pre_activation": True, "stochastic_depth": 0.5, "dropout": 0.3},
        {"depth": 18, "squeeze_excite": 4, "norm": "group", "norm_groups": 4},
        {"depth": 50, "groups": 4, "base_width": 8, "activation": "silu"},
        {"depth": 8, "init": "lsuv"},
        {"depth": 8, "init": "orthogonal", "plain": True},
    ],
)
def test_variants_of_resnet(params: dict[str, Any]) -> None:
    found = summarise(build("resnet", SMALL, **params), SMALL, 3)
    net = build("resnet", SMALL, device="cpu", **params)
    assert found.layers == summarise(net, SMALL, 3).layers
    assert found.memory.activations == really_kept(net, torch.randn(3, *SMALL))
    assert found.warnings == ()
    # Gates do not count: all variants of a depth see equally far.
    placed = [layer.receptive_field for layer in found.layers if layer.receptive_field]
    expected = {20: 81, 18: 109, 8: 25}
    assert params["depth"] not in expected or max(placed) == (expected[params["depth"]],) * 2


class Odd(nn.Module):
    """Functional work outside of layers: gates, strided slices, a map of positions apart, two results."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.gate = nn.Conv2d(4, 4, 1)
        self.after = nn.Conv2d(4, 4, 3, padding=1)
        self.apart = nn.Linear(4, 6)
        self.never = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        x = self.conv(x)
        x = x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()
        x = self.after(x[:, :, ::2, ::2])
        return self.apart(x.permute(0, 2, 3, 1)), {"pooled": x.amax((2, 3))}


def test_functional_code_counts() -> None:
    found = summarise(Odd(), (3, 8, 8), 2)
    assert row(found, "conv").receptive_field == (3, 3)
    assert row(found, "after").receptive_field == (7, 7)
    assert row(found, "apart").receptive_field == (7, 7)
    assert row(found, "apart").output_shape == (4, 4, 6)
    assert row(found, "never").output_shape is None
    assert found.layers[-1].name == "never"
    assert row(found, "(model)").memory > 0
    assert found.warnings == ("the forward pass does not use never.weight, never.bias",)


class Twice(nn.Module):
    """One layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(self.conv(x))
        return out


def test_a_shared_layer_counts_its_parameters_once_and_its_work_twice() -> None:
    (layer,) = summarise(Twice(), (3, 8, 8), 2).layers
    assert (layer.calls, layer.parameters, layer.multiply_adds) == (2, 84, 2 * 64 * 81)
    assert layer.receptive_field == (5, 5)


def test_auxiliary_heads_are_marked() -> None:
    found = summary_of("googlenet", (3, 32, 32))
    marked = [layer.name for layer in found.layers if layer.training_only]
    assert marked
    assert all(name.startswith("auxiliary.") for name in marked)
    assert found.training_multiply_adds > found.multiply_adds


# ---- Sizes that do not divide


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "padding", "dropped"),
    [
        (7, 3, 2, 0, 0),
        (8, 3, 2, 0, 1),
        (7, 3, 3, 0, 1),
        (227, 11, 4, 0, 0),
        (224, 11, 4, 0, 1),
        # Only zeros of the border are left over.
        (224, 7, 2, 3, 0),
        (56, 3, 2, 1, 0),
        # Windows smaller than their stride leave gaps everywhere.
        (56, 1, 2, 0, 0),
        (57, 1, 3, 0, 0),
    ],
)
def test_dropped_rows(side: int, kernel: int, stride: int, padding: int, dropped: int) -> None:
    window = Window((side,), (kernel,), (stride,), (padding,), (1,))
    assert window.dropped() == (dropped,)
    # The rows that really have no influence, without gaps: those behind the last window.
    x = torch.zeros(1, 1, side, requires_grad=True)
    nn.functional.conv1d(x, torch.ones(1, 1, kernel), stride=stride, padding=padding).sum().backward()
    assert x.grad is not None
    silent = x.grad.flatten() == 0
    behind = int(silent.flip(0).int().cumprod(0).sum())
    assert behind - max(0, stride - kernel) <= dropped <= behind


def test_dropped_rows_are_told() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 11, stride=4), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 27 * 27, 10))
    assert summarise(net, (3, 224, 224), 2).warnings == (
        "0: (W - F + 2P)/S + 1 = (224 - 11 + 0)/4 + 1 = 54.25 is not a whole number: it drops 1 row and 1 column at "
        "the end of its 224x224 input",
    )
    assert summarise(nn.MaxPool2d(2, ceil_mode=True), (3, 7, 7), 2).warnings == ()
    assert "it drops 1 row at the end of its 7x6 input" in summarise(nn.MaxPool2d(2), (3, 7, 6), 2).warnings[0]


# ---- The data tell their shape


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["data=digits"], DataShape((1, 8, 8), 10)),
        (["data=synthetic", "data.size=6", "data.classes=3", "data.channels=1"], DataShape((1, 6, 6), 3)),
    ],
)
def test_the_shape_told_is_the_shape_read(overrides: list[str], expected: DataShape) -> None:
    config, _ = load_config(None, overrides)
    assert shape_of(config.data.name, config.data.params) == expected
    data = build_data(config)
    assert (data.input_shape, len(data.classes)) == (expected.input_shape, expected.classes)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cifar10", DataShape((3, 32, 32), 10)),
        ("cifar100", DataShape((3, 32, 32), 100)),
        ("mnist", DataShape((1, 28, 28), 10)),
        ("fashion_mnist", DataShape((1, 28, 28), 10)),
    ],
)
def test_known_sets_need_no_files(name: str, expected: DataShape) -> None:
    config, _ = load_config(None, [f"data={name}"], places_needed=False)
    assert shape_of(name, config.data.params) == expected


def test_every_data_set_tells_its_shape() -> None:
    for name in DATASETS.names():
        config, _ = load_config(None, [f"data={name}"], places_needed=False)
        assert shape_of(name, config.data.params) is not None, name


@pytest.mark.parametrize("below", ["", "train/"])
def test_an_image_folder_counts_its_class_folders(below: str, tmp_path: Path) -> None:
    for name in ("ant", "bee", "cat"):
        (tmp_path / below / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / below / name / "a.png")
    config, _ = load_config(None, ["data=image_folder", f"data.root='{tmp_path}'", "data.size=20"])
    assert shape_of("image_folder", config.data.params) == DataShape((3, 20, 20), 3)


# ---- The command


@pytest.fixture
def dlrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Dlrun:
    monkeypatch.chdir(tmp_path)
    compose_faster(monkeypatch)
    return Dlrun(capsys)


def test_a_recipe_needs_no_data(dlrun: Dlrun) -> None:
    done = dlrun("summary", "config=cifar10_resnet20")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "cifar10_resnet20: model resnet, input 3x32x32, 10 classes, 128 images at once"
    assert re.fullmatch(r"layer +type +output +parameters +multiply-adds +memory +field", lines[2])
    assert any(line.startswith("parameters       269,722") for line in lines)
    for start in ("multiply-adds", "activations", "memory", "most parameters", "most memory"):
        assert any(line.startswith(f"{start}  ") for line in lines)
    assert all(len(line) <= 120 for line in lines)


def test_overrides_act(dlrun: Dlrun) -> None:
    words = ["model=mlp", "model.hidden=[5]", "data.batch_size=6", "trainer.accumulate=2", "trainer.precision=bf16"]
    done = dlrun("summary", *words)
    assert done.out.startswith("mlp: model mlp, input 1x8x8, 10 classes, 3 images at once\n")
    assert "parameters       385\n" in done.out
    assert "in fp32; bf16 takes about half for the activations" in done.out
    plain = json.loads(dlrun("summary", *words, "--json").out)
    assert (plain["parameters"], plain["batch_size"]) == (385, 3)


def test_json_has_the_documented_keys(dlrun: Dlrun) -> None:
    done = dlrun("summary", "model=vgg", "model.depth=19", "input=3x224x224", "classes=1000", "--json")
    assert (done.code, done.err) == (0, "")
    plain = json.loads(done.out)
    assert plain["parameters"] == 143_667_240
    assert (plain["input_shape"], plain["classes"]) == ([3, 224, 224], 1000)
    memory = plain["memory"]
    assert memory["total"] == sum(memory[key] for key in ("weights", "gradients", "optimizer", "activations"))
    document = (Path(__file__).resolve().parent.parent / "docs" / "summary.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `([\w.\[\]]+)` \|", document, flags=re.MULTILINE))
    found = {f"layers[].{key}" for key in plain["layers"][0]} | {f"memory.{key}" for key in memory}
    assert documented == found | set(plain) - {"layers", "memory"}


def test_the_document_shows_what_is_printed(dlrun: Dlrun) -> None:
    document = (Path(__file__).resolve().parent.parent / "docs" / "summary.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\n\$ dlrun (.+)\n((?:.*\n)*?)```$", document, flags=re.MULTILINE)
    assert len(blocks) == 2
    for words, shown in blocks:
        printed = dlrun(*words.split()).out.splitlines()
        assert [line for line in shown.splitlines() if line != "..." and line not in printed] == []


def test_several_models_are_compared_in_one_table(dlrun: Dlrun, tmp_path: Path) -> None:
    write(tmp_path, my_yaml="model: {name: resnet, depth: 50}\n")
    words = ["alexnet", "resnet", "my.yaml", "input=3x224x224", "classes=1000"]
    done = dlrun("summary", *words)
    assert (done.code, done.err) == (0, "")
    lines = [line.split() for line in done.out.splitlines()]
    assert lines[1][:4] == ["alexnet", "3x224x224", "64", "62,378,344"]
    # A model has its default options, not those that the default recipe gives to its own.
    assert lines[2][:4] == ["resnet", "3x224x224", "64", "11,689,512"]
    assert lines[3][:2] == ["my.yaml", "(resnet)"]
    assert lines[3][4] == "25,557,032"
    assert [one["name"] for one in json.loads(dlrun("summary", *words, "--json").out)] == words[:3]


def test_models_in_the_configuration_of_a_recipe(dlrun: Dlrun) -> None:
    done = dlrun("summary", "vgg", "mlp", "config=cifar10_resnet20", "data.batch_size=32")
    assert [line.split()[:3] for line in done.out.splitlines()[1:3]] == [
        ["vgg", "3x32x32", "32"],
        ["mlp", "3x32x32", "32"],
    ]


def test_a_plugin_that_computes_with_values(dlrun: Dlrun, tmp_path: Path) -> None:
    text = '''
import torch
from torch import nn
from dlrun.registry import MODELS

@MODELS.register
def picky(input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Needs the value of a number."""
    assert torch.ones(1).item() == 1
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
'''
    (tmp_path / "picky_net.py").write_text(text)
    with forgetting_plugins():
        done = dlrun("summary", "picky", "mlp", "plugins=[picky_net]")
        assert (done.code, done.err) == (0, "")
        assert done.out.splitlines()[1].split()[3] == "650"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["vg"], "there is no model and no recipe 'vg'; did you mean vgg?"),
        (["vgg", "cifar10_resnet"], "there is no model and no recipe 'cifar10_resnet'; did you mean cifar10_resnet20"),
        (["vgg", "nowhere.yaml"], "config=nowhere.yaml: there is no file 'nowhere.yaml'"),
        (["digits", "config=digits"], "unknown model 'digits'; known: "),
        (["model=resnt"], "override model=resnt: model.name: unknown model 'resnt'; did you mean resnet?"),
        (["input=224"], "input=224: must be channels x height x width, such as input=3x224x224"),
        (["input=3x0x4"], "input=3x0x4: must be channels x height x width"),
        (["classes=ten"], "classes=ten: must be a whole number >= 1"),
        (["inptu=3x4x4"], "override inptu=3x4x4: inptu: unknown key"),
        (["--jsn"], "dlrun summary: unknown flag '--jsn'; did you mean --json?"),
        (["config=cifar10_cpu"], "data 'image_folder' cannot tell the number of classes here; give it with classes=K"),
        (["alexnet", "model.form=imagenet"], "model 'alexnet': the image is too small"),
        (["vgg", "mlp", "model.depth=11"], "model 'mlp' has no option 'depth'"),
    ],
)
def test_wrong_words(words: list[str], message: str, dlrun: Dlrun) -> None:
    done = dlrun("summary", *words)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_a_wrong_word_imports_no_torch(tmp_path: Path) -> None:
    program = (
        "import sys; from dlrun.cli import main; assert main(['summary', 'vg']) == 2; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)


def test_data_that_cannot_tell(monkeypatch: pytest.MonkeyPatch, dlrun: Dlrun) -> None:
    monkeypatch.setattr("dlrun.data.shape._TELLERS", {})
    assert "give it with input=CxHxW, and classes=K" in dlrun("summary", "mlp").err
    assert dlrun("summary", "mlp", "input=1x4x4", "classes=2").code == 0
    with pytest.raises(UserError):
        shape_of("digtis", {})


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1000, "1.00K"), (34_944, "34.9K"), (999_600, "1.00M"), (15_470_264_320, "15.5G")],
)
def test_short_numbers(count: int, text: str) -> None:
    assert short(count) == text


def test_sizes() -> None:
    assert (size(760), size(96_000_000), size(10**16)) == ("760 B", "96.0 MB", "10000 TB")
    assert INPUT.startswith("(")
