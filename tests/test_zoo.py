"""The wider model zoo: golden figures, agreement with torchvision, and what each family's options do."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torchvision
from test_models import CLASSES, IMAGENET, SMALL, build, build_meta, count, kinds, layers, output_shapes
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from dlrun.errors import UserError
from dlrun.models.blocks import DropPath, Stack, window_out
from dlrun.models.fractalnet import Fractal, Join
from dlrun.models.googlenet import EPS, GridAverage, inception, naive_inception
from dlrun.models.layers import DropConnect, FractionalMaxPool, Maxout
from dlrun.models.mobilenet import Inverted
from dlrun.models.nasnet import Cell, Normal, Reduction
from dlrun.models.options import PIECES
from dlrun.models.squeezenet import Bypass
from dlrun.tasks.base import WithAuxiliary
from dlrun.tasks.classification import classification


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def multiply_adds(net: nn.Module, shape: tuple[int, int, int]) -> int:
    """Of one image through convolutions and linear layers, counted without data."""
    with FlopCounterMode(display=False) as counter:
        net.eval()(torch.empty(1, *shape, device="meta"))
    return counter.get_total_flops() // 2


def assert_agrees(ours: nn.Module, reference: nn.Module, x: Tensor, gain: float = 1.0) -> None:
    """Compare outputs with weights and statistics drawn at random, copied by order."""
    copied = {}
    for (key, own), value in zip(ours.state_dict().items(), reference.state_dict().values(), strict=True):
        if value.ndim > 1:
            value.uniform_(-1, 1).mul_(gain * (3 / value[0].numel()) ** 0.5)
        elif value.ndim == 1:
            value.uniform_(-0.5, 0.5) if key.endswith("bias") else value.uniform_(0.5, 1.5)
        # A 1x1 convolution of theirs may be a linear layer of ours.
        copied[key] = value.reshape(own.shape)
    ours.load_state_dict(copied, assign=True)
    with torch.no_grad():
        expected = reference.eval()(x)
        assert expected.std() > 0.1
        torch.testing.assert_close(ours.eval()(x), expected, rtol=1e-5, atol=1e-5)


# ---- Golden figures


@pytest.mark.parametrize(
    ("name", "params", "reference", "expected"),
    [
        ("googlenet", {}, "googlenet", 13_004_888),
        ("googlenet", {"auxiliary_weight": 0}, None, 6_624_904),
        ("densenet", {"depth": 121}, "densenet121", 7_978_856),
        ("densenet", {"depth": 161}, "densenet161", 28_681_000),
        ("densenet", {"depth": 169}, "densenet169", 14_149_480),
        ("densenet", {"depth": 201}, "densenet201", 20_013_928),
        ("squeezenet", {"version": "v1.0"}, "squeezenet1_0", 1_248_424),
        ("squeezenet", {"version": "v1.1"}, "squeezenet1_1", 1_235_496),
        ("mobilenet", {"version": 2}, "mobilenet_v2", 3_504_872),
        # The papers round to 4.2M and 5.3M.
        ("mobilenet", {"version": 1}, None, 4_231_976),
        ("nasnet", {}, None, 5_289_978),
    ],
)
def test_imagenet_counts(name: str, params: dict[str, Any], reference: str | None, expected: int) -> None:
    if reference is not None:
        # Without a choice torchvision warns of GoogLeNet's slow initialisation.
        given = {"init_weights": False} if reference == "googlenet" else {}
        with torch.device("meta"):
            assert count(getattr(torchvision.models, reference)(**given)) == expected
    assert count(build_meta(name, IMAGENET, 1000, **params)) == expected


@pytest.mark.parametrize(
    ("name", "params", "weights"),
    [
        ("googlenet", {}, "GoogLeNet_Weights"),
        ("densenet", {"depth": 121}, "DenseNet121_Weights"),
        ("squeezenet", {"version": "v1.0"}, "SqueezeNet1_0_Weights"),
        ("squeezenet", {"version": "v1.1"}, "SqueezeNet1_1_Weights"),
        ("mobilenet", {}, "MobileNet_V2_Weights"),
    ],
)
def test_multiply_adds_are_those_that_torchvision_states(name: str, params: dict[str, Any], weights: str) -> None:
    stated = getattr(torchvision.models, weights).DEFAULT.meta["_ops"]
    assert multiply_adds(build_meta(name, IMAGENET, 1000, **params), IMAGENET) / 1e9 == pytest.approx(stated, abs=6e-4)


def test_multiply_adds_of_the_papers_for_phones() -> None:
    # NASNet-A (4 @ 1056): 564M.
    assert round(multiply_adds(build_meta("nasnet", IMAGENET, 1000), IMAGENET) / 1e6) == 564
    # MobileNet, tables 4 and 6: 569M; with width 0.5 149M, and 1.3M parameters.
    assert multiply_adds(build_meta("mobilenet", IMAGENET, 1000, version=1), IMAGENET) / 1e6 == pytest.approx(
        569, abs=1
    )
    half = build_meta("mobilenet", IMAGENET, 1000, version=1, width=0.5)
    assert multiply_adds(half, IMAGENET) / 1e6 == pytest.approx(149, abs=1)
    assert count(half) / 1e6 == pytest.approx(1.3, abs=0.05)


@pytest.mark.parametrize(
    ("name", "params", "millions", "digits"),
    [
        # The papers' tables for CIFAR-10.
        ("densenet", {"depth": 40, "bottleneck": False}, 1.0, 1),
        ("densenet", {"depth": 100, "bottleneck": False}, 7.0, 1),
        ("densenet", {"depth": 100, "bottleneck": False, "growth": 24}, 27.2, 1),
        ("densenet", {"depth": 100}, 0.8, 1),
        ("densenet", {"depth": 250, "growth": 24}, 15.3, 1),
        ("densenet", {"depth": 190, "growth": 40}, 25.6, 1),
        ("nin", {}, 0.97, 2),
        ("nasnet", {}, 3.3, 1),
        # 3 3x3 convolutions from c_in and 4 from c_out in each of 5 blocks; their norms; the head.
        ("fractalnet", {}, (9 * 3 * 64 * 3 + 9 * 4 * 64**2 + 33_546_240 + 14 * 1472 + 5130) / 1e6, 6),
    ],
)
def test_small_counts(name: str, params: dict[str, Any], millions: float, digits: int) -> None:
    assert round(count(build_meta(name, SMALL, **params)) / 1e6, digits) == round(millions, digits)


def test_zfnet_figures() -> None:
    net = build_meta("zfnet", IMAGENET, 1000)
    assert output_shapes(net, nn.Conv2d, IMAGENET) == [
        (96, 110, 110),
        (256, 26, 26),
        (512, 13, 13),
        (1024, 13, 13),
        (512, 13, 13),
    ]
    assert output_shapes(net, nn.MaxPool2d, IMAGENET) == [(96, 55, 55), (256, 13, 13), (512, 6, 6)]
    assert count(layers(net, nn.Conv2d)[0]) == 96 * (7 * 7 * 3 + 1)
    figure = build_meta("zfnet", IMAGENET, 1000, channels=[384, 384, 256])
    # AlexNet with 7x7 in place of 11x11.
    assert count(figure) == 62_378_344 - 96 * 3 * (11 * 11 - 7 * 7)
    assert "LocalResponseNorm" not in kinds(build_meta("zfnet", SMALL))


def test_inception_figures() -> None:
    x = torch.empty(1, 256, 28, 28, device="meta")
    with torch.device("meta"):
        naive, reduced = naive_inception(256, (128, 192, 96)), inception(256, (128, 64, 192, 64, 96, 64))
    assert naive(x).shape[1:] == (672, 28, 28)
    assert reduced(x).shape[1:] == (480, 28, 28)
    assert round(multiply_adds(naive, (256, 28, 28)) / 1e6) == 854
    # The lecture's 358M counts the 3x3 convolution from 64 to 192 channels (87M) twice.
    found = multiply_adds(reduced, (256, 28, 28)) / 1e6
    assert round(found) == 271
    assert round(found + 28 * 28 * 192 * 9 * 64 / 1e6) == 358


def test_googlenet_figures() -> None:
    modules = output_shapes(build_meta("googlenet", IMAGENET).eval(), Stack, IMAGENET)
    expected = [(256, 28), (480, 28), *[(512, 14)] * 3, (528, 14), (832, 14), (832, 7), (1024, 7)]
    assert [shape[:2] for shape in modules] == expected
    paper = build_meta("googlenet", IMAGENET, 1000, norm="none")
    assert [shape[:2] for shape in output_shapes(paper.eval(), Stack, IMAGENET)] == expected
    # What table 1 of the paper sums up to, with biases.
    assert count(build_meta("googlenet", IMAGENET, 1000, norm="none", auxiliary_weight=0)) == 6_998_552
    assert [
        layer.kernel_size for layer in layers(paper.get_submodule("features.inception3a.branches.2"), nn.Conv2d)
    ] == [
        (1, 1),
        (5, 5),
    ]
    # 22 layers with weights on the longest path: 3 in the stem, 2 in each of the 9 modules, 1 in the head.
    assert len(layers(paper.get_submodule("features.stem"), nn.Conv2d)) + 2 * len(modules) + 1 == 22


def test_googlenet_naive_costs_more() -> None:
    net, naive = (build_meta("googlenet", SMALL, naive=naive) for naive in (False, True))
    assert multiply_adds(naive, SMALL) > 5 * multiply_adds(net, SMALL)
    assert output_shapes(naive.eval(), Stack, SMALL)[0] == (192 + 64 + 128 + 32, 32, 32)


def test_squeezenet_is_a_fiftieth_of_alexnet() -> None:
    small, large = (count(build_meta(name, IMAGENET, 1000)) for name in ("squeezenet", "alexnet"))
    assert round(large / small) == 50


def test_densenet_stages() -> None:
    shapes = [shape[:2] for shape in output_shapes(build_meta("densenet", IMAGENET), nn.AvgPool2d, IMAGENET)]
    assert shapes == [(128, 28), (256, 14), (512, 7)]
    net = build_meta("densenet", SMALL, depth=40, bottleneck=False)
    assert [shape[:2] for shape in output_shapes(net, nn.AvgPool2d, SMALL)] == [(160, 16), (304, 8)]
    assert len(layers(net, nn.Conv2d)) + len(layers(net, nn.Linear)) == 40
    assert len(layers(build_meta("densenet", SMALL, depth=100), nn.Conv2d)) + 1 == 100


def test_fractalnet_figures() -> None:
    net = build_meta("fractalnet", SMALL)
    # 20 layers: the deepest column has 4 convolutions in each of 5 blocks.
    assert len(layers(net, nn.Conv2d)) == 5 * 7
    assert output_shapes(net, nn.MaxPool2d, SMALL) == [(64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2), (512, 1, 1)]
    assert [layer.p for layer in layers(net, nn.Dropout)] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    # The imagenet form of 4 columns and 4 blocks: 34 layers.
    assert len(layers(build_meta("fractalnet", IMAGENET), nn.Conv2d)) == 1 + 4 * 15


def test_mobilenet_stages() -> None:
    assert output_shapes(build_meta("mobilenet", IMAGENET), Inverted, IMAGENET)[-1] == (160, 7, 7)
    assert output_shapes(build_meta("mobilenet", SMALL), Inverted, SMALL)[-1] == (160, 4, 4)
    assert output_shapes(build_meta("mobilenet", SMALL, version=1), nn.Conv2d, SMALL)[-1] == (1024, 4, 4)


def test_nasnet_stages() -> None:
    net = build_meta("nasnet", SMALL)
    shapes = output_shapes(net, Cell, SMALL)
    assert [shapes[i] for i in (0, 6, 7, 13, 19)] == [
        (192, 32, 32),
        (256, 16, 16),
        (384, 16, 16),
        (512, 8, 8),
        (768, 8, 8),
    ]
    assert len(layers(net, Normal)) == 18
    assert len(layers(net, Reduction)) == 2
    large = output_shapes(build_meta("nasnet", IMAGENET), Cell, IMAGENET)
    assert large[-1] == (1056, 7, 7)
    rates = [cell.drop.rate for cell in layers(net, Cell)]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(0.2)


def test_nin_head_is_the_last_mlpconv_layer() -> None:
    net = build("nin", (3, 12, 12), dropout=0).eval()
    maps = net.get_submodule("features")[:-1](x := torch.randn(2, 3, 12, 12))
    head = net.get_submodule("head")
    expected = F.conv2d(maps, head.weight[:, :, None, None], head.bias).mean((2, 3))
    torch.testing.assert_close(net(x), expected)


def test_linear_is_a_matrix() -> None:
    net = build("linear", (3, 4, 5))
    x = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(net(x), x.flatten(1) @ net.head.weight.T + net.head.bias)
    assert count(build("linear", (3, 32, 32), bias=False)) == 30_720
    assert count(build("linear", (3, 32, 32))) == 30_730


# ---- Agreement with torchvision


@pytest.mark.parametrize("depth", [121, 169])
def test_densenet_agrees_with_torchvision(depth: int) -> None:
    reference = getattr(torchvision.models, f"densenet{depth}")(num_classes=CLASSES)
    assert_agrees(build_meta("densenet", (3, 96, 80), depth=depth), reference, torch.randn(2, 3, 96, 80))


@pytest.mark.parametrize("version", ["v1.0", "v1.1"])
def test_squeezenet_agrees_with_torchvision(version: str) -> None:
    reference = getattr(torchvision.models, f"squeezenet{version[1:].replace('.', '_')}")(num_classes=CLASSES)
    ours = build_meta("squeezenet", (3, 96, 81), version=version)
    assert_agrees(ours, reference, torch.randn(2, 3, 96, 81), gain=1.4)


def test_mobilenet_agrees_with_torchvision() -> None:
    for width in (1.0, 0.35):
        reference = torchvision.models.mobilenet_v2(num_classes=CLASSES, width_mult=width)
        assert_agrees(build_meta("mobilenet", (3, 96, 80), width=width), reference, torch.randn(2, 3, 96, 80))


def test_googlenet_agrees_with_torchvision() -> None:
    reference = torchvision.models.googlenet(num_classes=CLASSES, init_weights=False)
    ours = build_meta("googlenet", (3, 119, 96))
    assert_agrees(ours, reference, x := torch.randn(2, 3, 119, 96))
    for net in (ours, reference):
        for layer in layers(net, nn.Dropout):
            layer.p = 0.0
    with torch.no_grad():
        got, expected = ours.train()(x), reference.train()(x)
    torch.testing.assert_close(got.logits, expected.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got.auxiliary, (expected.aux_logits1, expected.aux_logits2), rtol=1e-5, atol=1e-5)
    assert all(layer.eps == EPS for layer in layers(ours, nn.BatchNorm2d))


@pytest.mark.parametrize("size", [(14, 14), (2, 3), (1, 9), (4, 4)])
def test_grid_average_is_that_of_torch(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size)
    torch.testing.assert_close(GridAverage(4)(x), nn.AdaptiveAvgPool2d(4)(x))


def test_ceil_windows_are_those_of_torch() -> None:
    for side in range(2, 20):
        pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        assert window_out("p", (side, 9), 3, stride=2, ceil=True, remedy="") == tuple(
            pool(torch.zeros(1, side, 9)).shape[1:]
        )


# ---- Auxiliary heads


def test_auxiliary_losses_are_weighted_and_only_the_last_head_is_scored() -> None:
    net = build("googlenet", (3, 8, 8), width=0.1, auxiliary_weight=0.25, dropout=0)
    x, labels = torch.randn(6, 3, 8, 8), torch.arange(6)
    task = classification(F.cross_entropy, CLASSES)
    out = net.train()(x)
    assert isinstance(out, WithAuxiliary)
    step = task.forward(net, (x, labels))
    heads = [F.cross_entropy(scores, labels) for scores in (out.logits, *out.auxiliary)]
    torch.testing.assert_close(step.loss, heads[0] + 0.25 * heads[1] + 0.25 * heads[2])
    torch.testing.assert_close(step.outputs, out.logits)
    net.eval()
    step = task.forward(net, (x, labels))
    torch.testing.assert_close(step.loss, F.cross_entropy(net(x), labels))
    # Without heads it is the same net: evaluation needs none of their weights.
    plain = build("googlenet", (3, 8, 8), width=0.1, auxiliary_weight=0)
    assert list(plain.state_dict()) == [key for key in net.state_dict() if not key.startswith("auxiliary")]
    plain.load_state_dict(net.state_dict(), strict=False)
    torch.testing.assert_close(plain.eval()(x), net(x))


def test_task_takes_the_loss_of_a_plain_tensor_as_it_is() -> None:
    scores, labels = torch.randn(5, CLASSES), torch.arange(5)
    step = classification(F.cross_entropy, CLASSES).forward(nn.Identity(), (scores, labels))
    assert step.outputs is scores
    assert torch.equal(step.loss, F.cross_entropy(scores, labels))


def test_auxiliary_heads_drop_and_are_dropped_together() -> None:
    assert [layer.p for layer in layers(build_meta("googlenet", SMALL), nn.Dropout)] == [0.4, 0.7, 0.7]
    assert not layers(build_meta("googlenet", SMALL, dropout=0), nn.Dropout)


# ---- Drop-path


def test_drop_path_keeps_the_mean_and_drops_whole_samples() -> None:
    drop = DropPath(0.3)
    x = torch.ones(20_000, 2, 1, 3)
    out = drop.train()(x)
    values = out.flatten(1)
    assert torch.equal(values, values[:, :1].expand(-1, 6))
    assert values.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert out.mean().item() == pytest.approx(1, abs=0.02)
    assert drop.eval()(x) is x
    assert DropPath(0.0).train()(x) is x


def test_local_sampling_drops_paths_apart_and_keeps_one() -> None:
    weights = Join(0.3).weights(2, torch.full((40_000,), -1))
    kept = weights > 0
    torch.testing.assert_close(weights.sum(0), torch.ones(40_000))
    both = kept.all(0).float().mean().item()
    assert both == pytest.approx(0.7**2, abs=0.01)
    # Alone: the other is dropped (0.21), or both would be and the draw takes this one (0.045).
    alone = (kept & (kept.sum(0) == 1)).float().mean(1)
    assert alone.tolist() == pytest.approx([0.255, 0.255], abs=0.01)


def test_global_sampling_keeps_one_column() -> None:
    fractal = Fractal(3, 4, 4, 0.15).train()
    for layer in layers(fractal, nn.BatchNorm2d):
        layer.eval()
    x = torch.randn(3, 4, 5, 5)
    inner = fractal.deep
    columns = {
        2: fractal.shallow(x),
        1: inner[1].shallow(inner[0].shallow(x)),
        0: inner[1].deep[1].shallow(inner[1].deep[0].shallow(inner[0].deep[1].shallow(inner[0].deep[0].shallow(x)))),
    }
    torch.testing.assert_close(
        fractal(x, torch.tensor([2, 1, 0])), torch.stack([columns[c][i] for i, c in enumerate((2, 1, 0))])
    )


def test_without_drop_path_a_fractal_is_the_mean_of_its_paths() -> None:
    fractal = Fractal(3, 4, 4, 0.15).eval()
    x = torch.randn(2, 4, 5, 5)
    first, second = fractal.deep
    middle = (first.shallow(x) + first.deep[1](first.deep[0](x, None), None)) / 2
    deep = second.deep[1](second.deep[0](middle, None), None)
    torch.testing.assert_close(fractal(x, None), (fractal.shallow(x) + second.shallow(middle) + deep) / 3)


def test_shares_of_global_and_local_sampling() -> None:
    features = build("fractalnet", (1, 8, 8), width=0.05, columns=4, global_share=0.8).get_submodule("features")
    shares = torch.bincount(features.draw_columns(torch.empty(20_000)) + 1, minlength=5) / 20_000
    assert shares.tolist() == pytest.approx([0.2] * 5, abs=0.015)
    net = build("fractalnet", (1, 8, 8), width=0.05, drop_path=0, dropout=0).train()
    x = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(net(x), net(x))


@pytest.mark.parametrize(
    ("name", "params"), [("fractalnet", {"columns": 5}), ("densenet", {"depth": 100, "growth": 4})]
)
def test_deep_nets_train_a_step(name: str, params: dict[str, Any]) -> None:
    shape = (3, 8, 8)
    net = build(name, shape, **({"width": 0.1} if name == "fractalnet" else {}), **params)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x, labels = torch.randn(20, *shape), torch.arange(20) % CLASSES
    before = F.cross_entropy(net(x), labels)
    before.backward()
    assert before.item() == pytest.approx(math.log(CLASSES), rel=0.1)
    optimizer.step()
    assert F.cross_entropy(net(x), labels).isfinite()


# ---- Options act, or are refused


def test_squeezenet_bypass() -> None:
    net = build_meta("squeezenet", SMALL, bypass=True)
    assert [shape[0] for shape in output_shapes(net, Bypass, SMALL)] == [128, 256, 384, 512]
    assert count(net) == count(build_meta("squeezenet", SMALL))


def test_densenet_options() -> None:
    plain = build_meta("densenet", SMALL, depth=22, bottleneck=False, compression=0.5, dropout=0.2)
    assert [conv.kernel_size[0] for conv in layers(plain, nn.Conv2d)] == [3] * 7 + [1] + [3] * 6 + [1] + [3] * 6
    assert plain.get_submodule("features.transition1")[2].out_channels == (16 + 6 * 12) // 2
    assert len(layers(plain, nn.Dropout)) == 18
    assert layers(build_meta("densenet", SMALL, depth=22, growth=5), nn.Conv2d)[0].out_channels == 10


def test_nin_options() -> None:
    assert "BatchNorm2d" in kinds(build_meta("nin", SMALL, norm="batch"))
    assert len(layers(build_meta("nin", SMALL), nn.Dropout)) == 2
    assert len(layers(build_meta("nin", IMAGENET), nn.Dropout)) == 1
    assert not layers(build_meta("nin", SMALL, dropout=0), nn.Dropout)


def test_convnet_pattern() -> None:
    net = build_meta(
        "convnet", SMALL, channels=[8, 16], convs=2, hidden=[32, 24], pool_after=[2], dropout=0.5, conv_dropout=0.1
    )
    conv = ["Conv2d", "BatchNorm2d", "ReLU"] * 2
    fc = ["Sequential", "Linear", "BatchNorm1d", "ReLU", "Dropout"]
    assert kinds(net) == [
        *("Sequential", "Sequential", *conv, "Dropout2d"),
        *("Sequential", *conv, "MaxPool2d", "Dropout2d"),
        *("Flatten", *fc, *fc),
    ]
    assert layers(net, nn.Linear)[0].in_features == 16 * 16 * 16
    assert [layer.out_features for layer in layers(net, nn.Linear)] == [32, 24, CLASSES]
    assert layers(build_meta("convnet", SMALL, average=True), nn.Linear)[0].in_features == 128
    linear = build_meta("convnet", SMALL, channels=[], hidden=[])
    assert count(linear) == 3072 * 10 + 10


@pytest.mark.parametrize(
    ("norm", "conv", "hidden"),
    [
        ("batch", "BatchNorm2d", "BatchNorm1d"),
        ("group", "GroupNorm", "GroupNorm"),
        ("layer", "GroupNorm", "GroupNorm"),
        ("instance", "InstanceNorm2d", None),
        ("none", None, None),
    ],
)
@pytest.mark.parametrize("pool", ["max", "average", "strided", "fractional", "none"])
def test_convnet_norms_and_pools_train(norm: str, conv: str | None, hidden: str | None, pool: str) -> None:
    net = build("convnet", (1, 9, 8), channels=[4, 8], convs=1, hidden=[8], norm=norm, pool=pool)
    stages = net.get_submodule("features")
    assert [type(layer).__name__ for layer in stages.stage1[1:2]] == [conv or "ReLU"]
    assert [type(layer).__name__ for layer in stages.hidden1[1:2]] == [hidden or "ReLU"]
    F.cross_entropy(net(torch.randn(12, 1, 9, 8)), torch.arange(12) % CLASSES).backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in net.parameters())
    x = torch.randn(3, 1, 9, 8)
    with torch.no_grad():
        assert torch.equal(net.eval()(x), net(x))


def test_layer_norm_is_over_the_whole_sample() -> None:
    norm = layers(build("convnet", (1, 8, 8), norm="layer", channels=[6], convs=1, hidden=[]), nn.GroupNorm)[0]
    x = torch.randn(2, 6, 4, 4)
    torch.testing.assert_close(norm(x), F.layer_norm(x, x.shape[1:]))


@pytest.mark.parametrize(
    "activation", ["relu", "leaky_relu", "prelu", "elu", "gelu", "silu", "tanh", "sigmoid", "maxout"]
)
def test_convnet_activations(activation: str) -> None:
    net = build("convnet", (1, 8, 8), channels=[4], convs=2, hidden=[6], activation=activation, pool="strided")
    net(torch.randn(4, 1, 8, 8)).sum().backward()
    assert all(value.grad is not None for value in net.parameters())
    assert net.get_submodule("head").in_features == 6
    factor = PIECES if activation == "maxout" else 1
    assert [conv.out_channels for conv in layers(net, nn.Conv2d)] == [4 * factor] * 3


def test_maxout_takes_the_larger_neighbour() -> None:
    x = torch.tensor([[1.0, 3.0, -2.0, -5.0]])
    assert Maxout(2)(x).tolist() == [[3.0, -2.0]]
    assert Maxout(2)(x[:, :, None, None]).shape == (1, 2, 1, 1)


def test_fractional_pool() -> None:
    pool = FractionalMaxPool()
    x = torch.randn(2, 3, 10, 7)
    assert pool(x).shape == (2, 3, 7, 4)
    assert not torch.equal(pool(x), pool(x))
    pool.eval()
    assert torch.equal(pool(x), pool(x))


def test_drop_connect() -> None:
    layer = DropConnect(1000, 50, 0.5)
    x = torch.randn(4, 1000)
    torch.testing.assert_close(layer.eval()(x), F.linear(x, layer.weight, layer.bias))
    means = torch.stack([layer.train()(x) for _ in range(200)]).mean(0)
    torch.testing.assert_close(means, layer.eval()(x), atol=0.3, rtol=0)
    net = build("convnet", (1, 8, 8), drop_connect=0.5)
    assert [type(layer).__name__ for layer in layers(net, nn.Linear)] == ["DropConnect", "Linear"]


@pytest.mark.parametrize(
    ("name", "params", "words"),
    [
        ("densenet", {"depth": 41}, "such as 40 or 46"),
        ("densenet", {"depth": 3, "bottleneck": False}, "such as 7 or 10"),
        ("densenet", {"depth": 40, "form": "imagenet"}, "form=imagenet"),
        ("fractalnet", {"channels": []}, "at least one block"),
        ("nasnet", {"form": "imagenet", "filters": 30}, "multiple of 4.*try 32"),
        ("convnet", {"pool_after": [4]}, "stage 4"),
        ("convnet", {"pool_after": [1], "pool": "none"}, r"pool_after=\[1\]"),
        ("convnet", {"channels": [12], "norm": "group", "norm_groups": 8}, "norm_groups=8 does not divide 12"),
        ("convnet", {"hidden": [], "dropout": 0.5}, "dropout=0.5"),
        ("convnet", {"hidden": [], "drop_connect": 0.5}, "drop_connect=0.5"),
        ("convnet", {"channels": [], "conv_dropout": 0.5}, "conv_dropout=0.5"),
        ("convnet", {"channels": [], "average": True}, "average=true"),
        ("convnet", {"negative_slope": 0.1}, "negative_slope=0.1"),
        ("convnet", {"activation": "maxout", "negative_slope": 0.1}, "negative_slope=0.1"),
        ("convnet", {"channels": [4] * 6}, "too small.*pool6 only 1x1"),
        ("convnet", {"channels": [4] * 6, "norm": "instance"}, "norm=instance"),
    ],
)
def test_options_that_cannot_be_are_refused(name: str, params: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build_meta(name, SMALL, **params)


@pytest.mark.parametrize("name", ["googlenet", "mobilenet", "nin", "squeezenet", "zfnet", "fractalnet"])
def test_width_scales_the_parameters(name: str) -> None:
    base = count(build_meta(name, SMALL))
    # mobilenet's last convolution stays as wide as it is.
    assert count(build_meta(name, SMALL, width=0.5)) == pytest.approx(base / 4, rel=0.35)
    assert build_meta(name, SMALL, width=0.01)(torch.empty(2, *SMALL, device="meta")) is not None
