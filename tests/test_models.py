"""The models: golden figures of the papers, agreement with torchvision, a contract that every model keeps."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from functools import cache
from importlib import import_module
from typing import Any, get_args

import pytest
import torch
import torchvision
from helpers import EXAMPLES, IMAGE_MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from dlrun.errors import UserError
from dlrun.models.blocks import ACTIVATIONS, DropPath, window_out
from dlrun.models.fractalnet import Join
from dlrun.models.init import HEAD_GAIN, INITS
from dlrun.models.resnet import Residual
from dlrun.registry import MODELS
from dlrun.tasks.base import WithAuxiliary
from dlrun.tasks.classification import classification

IMAGENET = (3, 224, 224)
SMALL = (3, 32, 32)
SHAPES = [(1, 8, 8), (3, 16, 12)]
CLASSES = 10
LIGHT: dict[str, dict[str, Any]] = {"nasnet": {"cells": 1, "filters": 4}, "densenet": {"growth": 1}}
"""Options that make a slow model light without a change of what it does to the image's size."""


def has_option(name: str, option: str) -> bool:
    return any(known.name == option for known in MODELS.entry(name).options)


FORMED = [name for name in MODELS.names() if has_option(name, "form")]
"""The models with a form for large and for small images."""


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def build(name: str, shape: tuple[int, int, int] = SMALL, classes: int = CLASSES, **params: Any) -> nn.Module:
    values, problems = MODELS.check(name, {**EXAMPLES.get(name, {}), **params})
    assert not problems
    net: nn.Module = MODELS.build(name, values, input_shape=shape, num_classes=classes)
    return net


def build_meta(name: str, shape: tuple[int, int, int], classes: int = CLASSES, **params: Any) -> nn.Module:
    with torch.device("meta"):
        return build(name, shape, classes, **params)


@cache
def built(name: str, shape: tuple[int, int, int]) -> nn.Module:
    """A model with its default options; for tests that leave its weights alone."""
    return build(name, shape)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def scores_of(net: nn.Module, x: Tensor) -> Tensor:
    """The class scores that are measured: in training some models give those of auxiliary heads too."""
    out: Tensor | WithAuxiliary = net(x)
    return out.logits if isinstance(out, WithAuxiliary) else out


def layers(net: nn.Module, kind: type[nn.Module]) -> list[Any]:
    return [module for module in net.modules() if isinstance(module, kind)]


def output_shapes(net: nn.Module, kind: type[nn.Module], shape: tuple[int, int, int]) -> list[tuple[int, ...]]:
    """(C, H, W) after each layer of a kind, in order, computed without data."""
    found: list[tuple[int, ...]] = []
    for layer in layers(net, kind):
        layer.register_forward_hook(lambda _module, _args, out: found.append(tuple(out.shape[1:])))
    net(torch.empty(2, *shape, device="meta"))
    return found


# ---- Golden figures


def test_lenet5_figures() -> None:
    net = build_meta("lenet5", (1, 32, 32))
    assert output_shapes(net, nn.Conv2d, (1, 32, 32)) == [(6, 28, 28), (16, 10, 10)]
    assert output_shapes(net, nn.AvgPool2d, (1, 32, 32)) == [(6, 14, 14), (16, 5, 5)]
    # 156 + 2,416 + 48,120 + 10,164 + 850
    assert count(net) == 61_706


@pytest.mark.parametrize(("side", "maps"), [(28, [28, 14, 10, 5]), (8, [8, 4, 4, 2]), (12, [12, 6, 2, 1])])
def test_lenet5_pads_small_images(side: int, maps: list[int]) -> None:
    net = build_meta("lenet5", (1, side, side), pool="max")
    convs = output_shapes(net, nn.Conv2d, (1, side, side))
    pools = output_shapes(net, nn.MaxPool2d, (1, side, side))
    assert [convs[0][1], pools[0][1], convs[1][1], pools[1][1]] == maps


@pytest.mark.parametrize("side", [227, 224])
def test_alexnet_figures(side: int) -> None:
    shape = (3, side, side)
    net = build_meta("alexnet", shape, 1000)
    assert output_shapes(net, nn.Conv2d, shape) == [
        (96, 55, 55),
        (256, 27, 27),
        (384, 13, 13),
        (384, 13, 13),
        (256, 13, 13),
    ]
    assert output_shapes(net, nn.MaxPool2d, shape) == [(96, 27, 27), (256, 13, 13), (256, 6, 6)]
    assert count(layers(net, nn.Conv2d)[0]) == 34_944
    assert [count(layer) for layer in layers(net, nn.Linear)] == [37_752_832, 16_781_312, 4_097_000]
    assert count(net) == 62_378_344
    assert [layer.p for layer in layers(net, nn.Dropout)] == [0.5, 0.5]
    assert len(layers(net, nn.LocalResponseNorm)) == 2


def test_alexnet_conv1_is_unpadded_where_the_windows_tile_the_image() -> None:
    assert layers(build_meta("alexnet", (3, 227, 224)), nn.Conv2d)[0].padding == (0, 2)


def test_alexnet_normalises_by_the_formula_of_the_paper() -> None:
    norm = layers(build_meta("alexnet", IMAGENET), nn.LocalResponseNorm)[0]
    x = torch.randn(1, 7, 1, 1)
    # Channel 3 with its neighbours 1 to 5: b = a / (k + alpha sum a^2)^beta
    expected = x[0, 3] / (2 + 1e-4 * (x[0, 1:6] ** 2).sum()) ** 0.75
    torch.testing.assert_close(norm(x)[0, 3], expected)


@pytest.mark.parametrize(
    ("depth", "plain", "normed"),
    [
        (11, 132_863_336, 132_868_840),
        (13, 133_047_848, 133_053_736),
        (16, 138_357_544, 138_365_992),
        (19, 143_667_240, 143_678_248),
    ],
)
def test_vgg_counts(depth: int, plain: int, normed: int) -> None:
    assert count(build_meta("vgg", IMAGENET, 1000, depth=depth)) == plain
    net = build_meta("vgg", IMAGENET, 1000, depth=depth, norm="batch")
    # torchvision counts the biases in front of batch norm too.
    assert count(net) + sum(conv.out_channels for conv in layers(net, nn.Conv2d)) == normed


def test_vgg16_figures() -> None:
    net = build_meta("vgg", IMAGENET, 1000)
    assert layers(net, nn.Conv2d)[0].weight.numel() == 1_728
    assert layers(net, nn.Linear)[0].weight.numel() == 102_760_448
    assert [shape[1] for shape in output_shapes(net, nn.MaxPool2d, IMAGENET)] == [112, 56, 28, 14, 7]
    values = sum(math.prod(shape) for shape in output_shapes(net, nn.Conv2d, IMAGENET))
    assert 13e6 < values < 14e6


def test_vgg_small_skips_the_pools_below_one_pixel() -> None:
    net = build_meta("vgg", (1, 8, 8))
    assert [shape[1:] for shape in output_shapes(net, nn.MaxPool2d, (1, 8, 8))] == [(4, 4), (2, 2), (1, 1)]
    assert len(layers(net, nn.Linear)) == 1


@pytest.mark.parametrize(
    ("depth", "expected"),
    [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160), (152, 60_192_808)],
)
def test_resnet_counts(depth: int, expected: int) -> None:
    with torch.device("meta"):
        reference = getattr(torchvision.models, f"resnet{depth}")()
    assert count(reference) == expected
    assert count(build_meta("resnet", IMAGENET, 1000, depth=depth)) == expected


@pytest.mark.parametrize(
    ("depth", "expected"),
    [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018), (110, 1_727_962)],
)
def test_cifar_resnet_counts(depth: int, expected: int) -> None:
    net = build_meta("resnet", SMALL, depth=depth)
    assert count(net) == expected
    assert len(layers(net, nn.Conv2d)) + len(layers(net, nn.Linear)) == depth


def test_resnet_stages() -> None:
    net = build_meta("resnet", IMAGENET, depth=50)
    blocks = output_shapes(net, Residual, IMAGENET)
    assert [blocks[i] for i in (0, 3, 7, 13)] == [(256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7)]
    blocks = output_shapes(build_meta("resnet", SMALL, depth=20), Residual, SMALL)
    assert [blocks[i] for i in (0, 3, 6)] == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    blocks = output_shapes(build_meta("resnet", SMALL, depth=18), Residual, SMALL)
    assert [blocks[i] for i in (0, 2, 4, 6)] == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]


# ---- Agreement with torchvision


def assert_same_outputs(ours: nn.Module, reference: nn.Module, x: Tensor) -> None:
    """Compare with weights and running statistics drawn at random, copied by order."""
    # Our convolutions have no bias before batch norm; torchvision's own initialisation sets it to zero.
    idle = {
        f"{name}.bias"
        for name, layer in reference.named_modules()
        if isinstance(layer, nn.Conv2d) and layer.bias is not None
    }
    copied = []
    for key, value in reference.state_dict().items():
        if key in idle:
            value.zero_()
            continue
        copied.append(value)
        if value.ndim > 1:
            value.uniform_(-1, 1).mul_((3 / value[0].numel()) ** 0.5)
        elif value.ndim == 1:
            value.uniform_(-0.5, 0.5) if key.endswith("bias") else value.uniform_(0.5, 1.5)
    ours.load_state_dict(dict(zip(ours.state_dict(), copied, strict=True)), assign=True)
    with torch.no_grad():
        expected = reference.eval()(x)
        assert expected.std() > 0.1
        torch.testing.assert_close(ours.eval()(x), expected, rtol=1e-5, atol=1e-5)
        if not layers(ours, nn.Dropout):
            torch.testing.assert_close(ours.train()(x), reference.train()(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("depth", [18, 50])
def test_resnet_agrees_with_torchvision(depth: int) -> None:
    reference = getattr(torchvision.models, f"resnet{depth}")(num_classes=CLASSES)
    ours = build_meta("resnet", (3, 96, 80), depth=depth)
    assert_same_outputs(ours, reference, torch.randn(2, 3, 96, 80))


def test_vgg_agrees_with_torchvision() -> None:
    with torch.device("meta"):
        reference = torchvision.models.vgg11_bn(num_classes=CLASSES)
    # torchvision pools any image to 7x7; ours sizes the hidden layer to the image: they meet at 224 pixels.
    reference = reference.to_empty(device="cpu")
    for counter in (norm.num_batches_tracked for norm in layers(reference, nn.BatchNorm2d)):
        counter.zero_()
    ours = build_meta("vgg", IMAGENET, depth=11, norm="batch")
    assert_same_outputs(ours, reference, torch.randn(1, *IMAGENET))


# ---- The contract of every model


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_forward_and_backward(name: str, shape: tuple[int, int, int]) -> None:
    net = built(name, shape).train()
    # So many that drop-path, drawn for each sample, leaves no path without one.
    x = torch.randn(16, *shape)
    before = x.clone()
    output = classification(F.cross_entropy, CLASSES).forward(net, (x, torch.arange(16) % CLASSES))
    loss, scores = output.loss, output.outputs
    assert scores.shape == (16, CLASSES)
    assert scores.dtype == torch.float32
    assert torch.equal(x, before), "the input was changed in place"
    loss.backward()
    silent = [
        key
        for key, value in net.named_parameters()
        if value.requires_grad and (value.grad is None or not value.grad.count_nonzero())
    ]
    assert not silent
    assert all(bool(value.grad.isfinite().all()) for value in net.parameters() if value.grad is not None)
    net.zero_grad()


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_evaluation_is_per_sample_and_repeatable(name: str) -> None:
    net = built(name, SHAPES[1]).eval()
    x = torch.randn(3, *SHAPES[1])
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with torch.no_grad():
        scores = net(x)
        assert torch.equal(net(x), scores)
        # Untrained running statistics let the scores of deep nets grow: rounding is relative to them.
        atol = 1e-5 * max(1.0, scores.abs().max().item())
        torch.testing.assert_close(net(x[1:2]), scores[1:2], rtol=1e-5, atol=atol)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_training_mode_acts_on_dropout_drop_path_and_batch_norm_only(name: str) -> None:
    net = built(name, SHAPES[1]).train()
    x = torch.randn(3, *SHAPES[1])
    with torch.no_grad():
        differ = not torch.equal(scores_of(net, x), net.eval()(x))
    kinds = (nn.Dropout, nn.BatchNorm2d, DropPath, Join)
    assert differ == any(isinstance(layer, kinds) for layer in net.modules())


@pytest.mark.parametrize(
    ("name", "params"),
    [
        *((name, {}) for name in IMAGE_MODELS),
        *(
            pytest.param(name, {"init": init}, marks=pytest.mark.slow)
            for name in IMAGE_MODELS
            if has_option(name, "init")
            for init in INITS
        ),
    ],
)
def test_loss_at_initialisation_is_ln_of_the_classes(name: str, params: dict[str, Any]) -> None:
    net = build(name, SHAPES[1], **params)
    with torch.no_grad():
        loss = F.cross_entropy(scores_of(net, torch.randn(32, *SHAPES[1])), torch.arange(32) % CLASSES)
    assert loss.item() == pytest.approx(math.log(CLASSES), rel=0.1)


@pytest.mark.parametrize("params", [{"depth": 110}, {"depth": 110, "plain": True}, {"depth": 34}])
def test_loss_of_a_deep_resnet_at_initialisation(params: dict[str, Any]) -> None:
    net = build("resnet", (3, 8, 8), **params)
    with torch.no_grad():
        loss = F.cross_entropy(net(torch.randn(32, 3, 8, 8)), torch.arange(32) % CLASSES)
    assert loss.item() == pytest.approx(math.log(CLASSES), rel=0.1)


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_state_dict_round_trip(name: str) -> None:
    net = built(name, SHAPES[0]).eval()
    other = build_meta(name, SHAPES[0]).eval()
    other.load_state_dict({key: value.clone() for key, value in net.state_dict().items()}, assign=True)
    x = torch.randn(2, *SHAPES[0])
    with torch.no_grad():
        assert torch.equal(net(x), other(x))


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_same_seed_same_weights(name: str) -> None:
    first = build(name, SHAPES[0]).state_dict()
    torch.manual_seed(0)
    second = build(name, SHAPES[0]).state_dict()
    assert all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize("name", [name for name in IMAGE_MODELS if name not in EXAMPLES])
def test_head_is_the_last_linear_layer(name: str) -> None:
    net = build_meta(name, SMALL, 7)
    head = net.get_submodule("head")
    assert isinstance(head, nn.Linear)
    assert head.out_features == 7
    # Auxiliary heads are no part of the features, as evaluation does not need them.
    assert [key for key, _ in net.named_children() if key != "auxiliary"] == ["features", "head"]


@pytest.mark.parametrize("name", MODELS.names())
def test_documented(name: str) -> None:
    entry = MODELS.entry(name)
    assert entry.source
    assert "Raises:" in entry.doc
    assert [option.name for option in entry.options if not option.doc] == []


def test_listing_the_models_imports_no_torch() -> None:
    program = (
        "import sys, dlrun.models; from dlrun.registry import MODELS; "
        "print([MODELS.check(name, {})[1] for name in MODELS.names()]); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("alias", "table"),
    [
        ("Init", set(INITS)),
        ("Activation", set(ACTIVATIONS)),
        ("Nonlinearity", {*ACTIVATIONS, "maxout"}),
        ("Form", {"auto", "imagenet", "small"}),
    ],
)
def test_option_types_name_the_keys_of_their_table(alias: str, table: set[str]) -> None:
    modules = [import_module(MODELS.entry(name).module) for name in MODELS.names()]
    found = [set(get_args(getattr(module, alias))) for module in modules if hasattr(module, alias)]
    assert len(found) >= 2
    assert all(keys == table for keys in found)


# ---- Initialisation


@pytest.mark.parametrize(
    ("init", "variance"),
    [
        ("he", 2 / 300),
        ("xavier", 2 / 900),
        ("orthogonal", 2 / 600),
        ("small_gaussian", 1e-4),
        ("constant", 0),
        ("default", 1 / 900),
    ],
)
def test_variance_of_linear_weights(init: str, variance: float) -> None:
    layer = layers(build("mlp", (3, 10, 10), hidden=[600], init=init), nn.Linear)[0]
    assert layer.weight.var().item() == pytest.approx(variance, rel=0.03, abs=1e-12)
    assert bool(layer.bias.any()) == (init == "default")


@pytest.mark.parametrize(
    ("init", "variance"),
    [("he", 2 / 864), ("xavier", 2 / (864 + 1728)), ("orthogonal", 2 / 864), ("small_gaussian", 1e-4)],
)
def test_variance_of_convolution_weights(init: str, variance: float) -> None:
    conv = nn.Conv2d(96, 192, 3)
    INITS[init](conv)
    assert conv.weight.var().item() == pytest.approx(variance, rel=0.03)
    assert conv.bias is not None
    assert not conv.bias.any()


def test_orthogonal_rows_or_columns() -> None:
    wide, tall, conv = nn.Linear(8, 5), nn.Linear(5, 8), nn.Conv2d(3, 7, 3)
    for layer in (wide, tall, conv):
        INITS["orthogonal"](layer)
    torch.testing.assert_close(wide.weight @ wide.weight.T, 2 * torch.eye(5))
    torch.testing.assert_close(tall.weight.T @ tall.weight, 2 * torch.eye(5))
    rows = conv.weight.flatten(1)
    torch.testing.assert_close(rows @ rows.T, 2 * torch.eye(7))


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("mlp", {"hidden": [30] * 10}),
        ("vgg", {"width": 0.1, "norm": "none"}),
        ("resnet", {"depth": 20, "norm": "none"}),
        ("resnet", {"depth": 14, "pre_activation": True, "squeeze_excite": 4, "stochastic_depth": 0.5}),
        ("convnet", {"channels": [4], "hidden": [16], "drop_connect": 0.5, "activation": "tanh"}),
        ("googlenet", {"width": 0.1}),
        ("squeezenet", {"width": 0.1}),
        ("fractalnet", {"width": 0.05}),
        ("airbench", {}),
    ],
)
def test_lsuv_gives_every_layer_unit_variance(name: str, params: dict[str, Any]) -> None:
    net = build(name, SHAPES[1], init="lsuv", **params).train()
    images = 3 * torch.randn(64, *SHAPES[1])
    net.init_from_data(images)
    assert all(layer.training for layer in net.modules())
    features = net.get_submodule("features").eval()
    stds: list[float] = []
    for layer in features.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.weight.requires_grad:
            assert not layer._forward_hooks
            layer.register_forward_hook(lambda _module, _args, out: stds.append(out.std().item()))
    with torch.no_grad():
        features(images)
        assert stds == pytest.approx([1] * len(stds), rel=1e-3)
        loss = F.cross_entropy(net.eval()(images), torch.arange(64) % CLASSES)
    if name != "airbench":
        assert loss.item() == pytest.approx(math.log(CLASSES), rel=0.1)


def test_only_lsuv_asks_for_images() -> None:
    assert not hasattr(build("mlp"), "init_from_data")
    net = build("mlp", init="lsuv")
    twin = copy.deepcopy(net)
    before = [value.clone() for value in net.parameters()]
    twin.init_from_data(torch.randn(8, *SMALL))
    assert all(torch.equal(value, old) for value, old in zip(net.parameters(), before, strict=True))
    assert not torch.equal(twin.features[1].weight, net.features[1].weight)


@pytest.mark.parametrize("name", ["mlp", "lenet5", "resnet"])
def test_constant_breaks_no_symmetry(name: str) -> None:
    params: dict[str, Any] = {"depth": 8, "shortcut": "B"} if name == "resnet" else {}
    # In double precision, so that rounding does not break it either.
    net = build(name, (1, 8, 8), init="constant", **params).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x, labels = torch.randn(20, 1, 8, 8, dtype=torch.float64), torch.arange(20) % CLASSES
    for step in range(5):
        loss = F.cross_entropy(net(x), labels)
        if step == 0:
            assert loss.item() == pytest.approx(math.log(CLASSES))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    head = net.get_submodule("head").weight
    assert head[:, 0].std() > 0.001
    for layer in [*layers(net, nn.Conv2d), *layers(net, nn.Linear)[:-1]]:
        torch.testing.assert_close(layer.weight, layer.weight[:1].expand_as(layer.weight))


@pytest.mark.parametrize("init", [init for init in INITS if init != "constant"])
def test_head_and_norms_start_alike_under_every_name(init: str) -> None:
    net = build("resnet", (3, 8, 8), 1000, depth=8, width=4, init=init)
    head = layers(net, nn.Linear)[-1]
    assert head.weight.std().item() == pytest.approx(HEAD_GAIN / 16, rel=0.03)
    assert not head.bias.any()
    assert all(bool((norm.weight == 1).all()) and not norm.bias.any() for norm in layers(net, nn.BatchNorm2d))


@pytest.mark.parametrize(
    ("activation", "init", "first", "last"),
    [
        ("tanh", "xavier", 0.628, 0.228),
        ("relu", "he", 0.825, 0.84),
        ("relu", "xavier", 0.583, 0.026),
        ("relu", "orthogonal", 0.825, 0.84),
        ("tanh", "small_gaussian", 0.213, 0.0),
    ],
)
def test_scale_of_activations_through_ten_layers(activation: str, init: str, first: float, last: float) -> None:
    net = build("mlp", (1, 1, 500), hidden=[500] * 10, activation=activation, init=init)
    stds: list[float] = []
    for layer in layers(net, nn.Tanh if activation == "tanh" else nn.ReLU):
        layer.register_forward_hook(lambda _module, _args, out: stds.append(out.std().item()))
    with torch.no_grad():
        net(torch.randn(400, 1, 1, 500))
    assert stds[0] == pytest.approx(first, rel=0.03)
    assert stds[-1] == pytest.approx(last, rel=0.15, abs=5e-4)


# ---- Options act, or are refused


def kinds(net: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in net.get_submodule("features").modules()]


def test_mlp_options() -> None:
    net = build("mlp", hidden=[5, 4], activation="elu", norm="batch", dropout=0.25)
    block = ["Linear", "BatchNorm1d", "ELU", "Dropout"]
    assert kinds(net) == ["Sequential", "Flatten", *block, *block]
    assert count(build("mlp", hidden=[])) == 3072 * 10 + 10


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_differentiable_where_they_stand(activation: str) -> None:
    for net in (
        build("mlp", SHAPES[0], hidden=[6], activation=activation, norm="batch", dropout=0.5),
        build("lenet5", SHAPES[0], activation=activation),
    ):
        net(torch.randn(4, *SHAPES[0])).sum().backward()
        assert all(value.grad is not None for value in net.parameters())


def test_negative_slope() -> None:
    slopes = [layer.negative_slope for layer in layers(build("mlp", activation="leaky_relu"), nn.LeakyReLU)]
    assert slopes == [0.01, 0.01]
    net = build("lenet5", activation="leaky_relu", negative_slope=0.1)
    assert [layer.negative_slope for layer in layers(net, nn.LeakyReLU)] == [0.1] * 4
    net = build("mlp", activation="prelu", negative_slope=0.0)
    assert [layer.weight.item() for layer in layers(net, nn.PReLU)] == [0.0, 0.0]


@pytest.mark.parametrize(("name", "base"), [("lenet5", 62_006), ("alexnet", 8_974_730), ("vgg", 14_724_042)])
def test_width_scales_the_parameters(name: str, base: int) -> None:
    assert count(build_meta(name, SMALL)) == base
    assert count(build_meta(name, SMALL, width=0.5)) == pytest.approx(base / 4, rel=0.1)
    assert count(build_meta(name, SMALL, width=0.001)) < base / 100


def test_resnet_width() -> None:
    # A Wide ResNet's channels: 16 k, 32 k, 64 k.
    blocks = output_shapes(build_meta("resnet", SMALL, depth=8, width=10), Residual, SMALL)
    assert [shape[0] for shape in blocks] == [160, 320, 640]


@pytest.mark.parametrize("name", FORMED)
def test_auto_form_follows_the_image_size(name: str) -> None:
    def keys(side: int, form: str) -> str:
        # Windows too: the forms of some nets differ in strides alone.
        return repr(build_meta(name, (3, side, side), form=form, **LIGHT.get(name, {})))

    assert keys(64, "auto") == keys(64, "small") != keys(64, "imagenet")
    assert keys(65, "auto") == keys(65, "imagenet") != keys(65, "small")


def test_resnet_stem_of_the_forms() -> None:
    small = build_meta("resnet", SMALL)
    assert layers(small, nn.Conv2d)[0].kernel_size == (3, 3)
    assert not layers(small, nn.MaxPool2d)
    large = build_meta("resnet", SMALL, form="imagenet")
    assert layers(large, nn.Conv2d)[0].kernel_size == (7, 7)
    assert len(layers(large, nn.MaxPool2d)) == 1
    assert not layers(build_meta("resnet", IMAGENET, depth=20), nn.MaxPool2d)


def test_dropout_and_norm_options_of_the_forms() -> None:
    assert "LocalResponseNorm" not in kinds(build_meta("alexnet", SMALL))
    assert "LocalResponseNorm" in kinds(build_meta("alexnet", SMALL, lrn=True))
    assert "Dropout" not in kinds(build_meta("alexnet", SMALL, dropout=0))
    assert "Dropout" not in kinds(build_meta("vgg", SMALL))
    assert "Dropout" in kinds(build_meta("vgg", SMALL, dropout=0.1))
    assert "Dropout" not in kinds(build_meta("vgg", IMAGENET, dropout=0))
    assert "BatchNorm2d" in kinds(build_meta("vgg", SMALL))
    assert "BatchNorm2d" not in kinds(build_meta("vgg", SMALL, norm="none"))


def test_resnet_shortcuts() -> None:
    a, b = (build("resnet", (3, 8, 8), depth=8, shortcut=kind) for kind in "AB")
    # Two projections: 16 -> 32 and 32 -> 64 channels, each with a norm.
    assert count(b) - count(a) == 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    shortcut = layers(a, Residual)[1].shortcut
    x = torch.randn(2, 16, 8, 8)
    expected = torch.cat([x[:, :, ::2, ::2], torch.zeros(2, 16, 4, 4)], dim=1)
    assert torch.equal(shortcut(x), expected)
    assert build("resnet", (3, 8, 8), depth=50, shortcut="A", width=0.1)(torch.randn(2, 3, 8, 8)).shape == (
        2,
        10,
    )


def test_resnet_plain_has_the_layers_and_no_shortcuts() -> None:
    residual, plain = (build_meta("resnet", SMALL, depth=20, plain=plain) for plain in (False, True))
    assert not layers(plain, Residual)
    assert count(plain) == count(residual)


def test_zero_init_residual_makes_each_block_its_shortcut() -> None:
    net = build("resnet", (3, 8, 8), depth=8, zero_init_residual=True)
    block = layers(net, Residual)[0]
    x = torch.rand(2, 16, 8, 8)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize(
    ("name", "params", "words"),
    [
        ("mlp", {"hidden": [], "dropout": 0.5}, "dropout=0.5"),
        ("mlp", {"hidden": [], "norm": "batch"}, "norm=batch"),
        ("mlp", {"hidden": [], "activation": "tanh"}, "activation=tanh"),
        ("mlp", {"negative_slope": 0.1}, "negative_slope=0.1"),
        ("lenet5", {"negative_slope": 0.0}, "negative_slope=0"),
        ("resnet", {"depth": 21}, "such as 20 or 26"),
        ("resnet", {"depth": 1}, "such as 8 or 14"),
        ("resnet", {"depth": 20, "form": "imagenet"}, "form=imagenet"),
        ("resnet", {"plain": True, "shortcut": "B"}, "shortcut=B"),
        ("resnet", {"plain": True, "zero_init_residual": True}, "zero_init_residual"),
    ],
)
def test_options_without_effect_are_refused(name: str, params: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build_meta(name, SMALL, **params)


@pytest.mark.parametrize(
    ("name", "params", "smallest", "layer"),
    [
        ("lenet5", {}, 4, "pool2"),
        ("alexnet", {"form": "imagenet"}, 64, "pool5"),
        ("vgg", {"form": "imagenet"}, 32, "pool5"),
        ("mlp", {}, 1, None),
        ("alexnet", {"form": "small"}, 1, None),
        ("vgg", {"form": "small"}, 1, None),
        ("resnet", {"form": "small"}, 1, None),
        ("resnet", {"form": "imagenet"}, 1, None),
        ("linear", {}, 1, None),
        ("zfnet", {"form": "imagenet"}, 53, "pool5"),
        ("zfnet", {"form": "small"}, 1, None),
        ("nin", {"form": "imagenet"}, 39, "pool3"),
        ("nin", {"form": "small"}, 1, None),
        ("googlenet", {"form": "imagenet"}, 15, "pool3"),
        ("googlenet", {"form": "imagenet", "norm": "none"}, 31, "pool4"),
        ("googlenet", {"form": "small"}, 1, None),
        ("densenet", {"form": "imagenet"}, 29, "pool3"),
        ("densenet", {"form": "small"}, 1, None),
        ("densenet", {"depth": 40}, 1, None),
        ("fractalnet", {"form": "imagenet"}, 61, "pool4"),
        ("fractalnet", {"form": "small"}, 1, None),
        ("squeezenet", {"form": "imagenet"}, 21, "pool8"),
        ("squeezenet", {"form": "imagenet", "version": "v1.1"}, 17, "pool5"),
        ("squeezenet", {"form": "small"}, 1, None),
        ("mobilenet", {"form": "imagenet"}, 1, None),
        ("mobilenet", {"version": 1}, 1, None),
        ("nasnet", {"form": "imagenet", "cells": 1}, 1, None),
        ("nasnet", {"form": "small", "cells": 1}, 1, None),
        ("convnet", {"pool": "none"}, 1, None),
    ],
)
def test_smallest_image(name: str, params: dict[str, Any], smallest: int, layer: str | None) -> None:
    shape = (1, smallest, smallest)
    assert scores_of(build_meta(name, shape, **params), torch.empty(2, *shape, device="meta")).shape == (2, CLASSES)
    if layer is not None:
        with pytest.raises(UserError, match=rf"too small.*{layer}.*at least {smallest}x{smallest}"):
            build_meta(name, (1, smallest - 1, 2 * smallest), **params)


@pytest.mark.slow
@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_every_small_size_runs_or_is_refused(name: str) -> None:
    for height, width in [(1, 1), (2, 3), (4, 4), (5, 9), (11, 10), (13, 31), (28, 28), (33, 47), (66, 70)]:
        shape = (1, height, width)
        try:
            net = build_meta(name, shape, **LIGHT.get(name, {}))
        except UserError:
            continue
        assert scores_of(net, torch.empty(2, *shape, device="meta")).shape == (2, CLASSES)


def test_window_out_is_the_size_of_torch() -> None:
    layer = nn.Conv2d(1, 1, 5, stride=3, padding=(1, 2))
    x = torch.zeros(1, 1, 17, 12)
    assert window_out("conv", (17, 12), 5, stride=3, padding=(1, 2), remedy="") == tuple(layer(x).shape[2:])


def test_airbench_whitens_the_patches_of_the_training_images() -> None:
    net = build("airbench", (3, 32, 32))
    mix = torch.tensor([[1.0, 0.5, 0.2], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
    images = torch.einsum("ij,bjhw->bihw", mix, torch.randn(256, 3, 32, 32))
    net.init_from_data(images)
    first = net.features.stem[0]
    out = first(images).permute(1, 0, 2, 3).flatten(1)
    assert out.shape[0] == 24
    assert torch.allclose(out[:12] @ out[:12].T / out.shape[1], torch.eye(12), atol=0.02)
    assert torch.equal(first.weight[12:], -first.weight[:12])
    assert not first.weight.requires_grad
