"""The ResNet family: figures of the papers, agreement with torchvision, and what each option does."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
import torchvision
from test_models import CLASSES, IMAGENET, SMALL, assert_same_outputs, build, build_meta, count, layers, output_shapes
from test_zoo import multiply_adds
from torch import nn
from torch.nn import functional as F

from dlrun.errors import UserError
from dlrun.models.blocks import ACTIVATIONS, DropPath, SqueezeExcite
from dlrun.models.residual import PreActivation, Residual

TINY: dict[str, Any] = {"depth": 11, "bottleneck": True, "width": 0.5}
"""Three bottlenecks of 8, 16, 32 channels: the smallest net that every option but a basic block applies to."""
NORMS = {
    "batch": nn.BatchNorm2d,
    "group": nn.GroupNorm,
    "layer": nn.GroupNorm,
    "instance": nn.InstanceNorm2d,
    "none": None,
}


# ---- Golden figures


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        # torchvision's resnext50_32x4d, resnext101_32x8d, resnext101_64x4d, wide_resnet50_2, wide_resnet101_2.
        ({"depth": 50, "groups": 32, "base_width": 4}, 25_028_904),
        ({"depth": 101, "groups": 32, "base_width": 8}, 88_791_336),
        ({"depth": 101, "groups": 64, "base_width": 4}, 83_455_272),
        ({"depth": 50, "base_width": 128}, 68_883_240),
        ({"depth": 101, "base_width": 128}, 126_886_696),
        # timm's resnetv2_50.
        ({"depth": 50, "pre_activation": True}, 25_549_352),
        # 2 C^2 / 16 weights and C / 16 + C biases more in each of 3, 4, 6, 3 blocks of 256, 512, 1024, 2048 channels.
        ({"depth": 50, "squeeze_excite": 16}, 28_088_024),
    ],
)
def test_imagenet_counts(params: dict[str, Any], expected: int) -> None:
    assert count(build_meta("resnet", IMAGENET, 1000, **params)) == expected


@pytest.mark.parametrize(
    ("params", "millions", "digits"),
    [
        # Zagoruyko and Komodakis 2016, tables 4 and 5.
        ({"depth": 28, "width": 10}, 36.5, 1),
        ({"depth": 40, "width": 4}, 8.9, 1),
        ({"depth": 16, "width": 8}, 11.0, 1),
        ({"depth": 22, "width": 8}, 17.2, 1),
        # He et al. 2016b, table 2.
        ({"depth": 110, "pre_activation": True}, 1.7, 1),
        ({"depth": 164, "bottleneck": True, "pre_activation": True}, 1.7, 1),
        # Xie et al. 2017, table 7.
        ({"depth": 29, "bottleneck": True, "width": 4, "groups": 8, "shortcut": "B"}, 34.4, 1),
    ],
)
def test_small_counts(params: dict[str, Any], millions: float, digits: int) -> None:
    assert round(count(build_meta("resnet", SMALL, **params)) / 1e6, digits) == millions


def test_the_order_of_layers_does_not_change_the_count() -> None:
    assert count(build_meta("resnet", SMALL, depth=110, pre_activation=True)) == 1_727_962


@pytest.mark.parametrize(
    ("params", "weights"),
    [
        ({"groups": 32, "base_width": 4}, "ResNeXt50_32X4D_Weights"),
        ({"base_width": 128}, "Wide_ResNet50_2_Weights"),
    ],
)
def test_multiply_adds_are_those_that_torchvision_states(params: dict[str, Any], weights: str) -> None:
    stated = getattr(torchvision.models, weights).DEFAULT.meta["_ops"]
    net = build_meta("resnet", IMAGENET, 1000, depth=50, **params)
    assert multiply_adds(net, IMAGENET) / 1e9 == pytest.approx(stated, abs=6e-4)


def test_wide_resnet_stages() -> None:
    net = build_meta("resnet", SMALL, depth=28, width=10)
    shapes = output_shapes(net, PreActivation, SMALL)
    assert [shapes[i] for i in (0, 4, 8)] == [(160, 32, 32), (320, 16, 16), (640, 8, 8)]
    convs = layers(net, nn.Conv2d)
    assert len(convs) == 28
    assert convs[0].out_channels == 16
    # Three projections; the rest is 3x3.
    assert [conv.kernel_size for conv in convs].count((1, 1)) == 3
    # 5.2 billion in table 5.
    assert round(multiply_adds(net, SMALL) / 1e9, 1) == 5.2
    dropping = layers(build_meta("resnet", SMALL, depth=28, width=10, dropout=0.3), nn.Dropout)
    assert [layer.p for layer in dropping] == [0.3] * 12


def test_resnext_groups_act_on_the_3x3_convolutions() -> None:
    convs = layers(build_meta("resnet", IMAGENET, depth=50, groups=32, base_width=4), nn.Conv2d)
    assert {conv.groups for conv in convs if conv.kernel_size == (3, 3)} == {32}
    assert {conv.groups for conv in convs if conv.kernel_size != (3, 3)} == {1}
    assert [conv.out_channels for conv in convs[1:4]] == [128, 128, 256]


def test_bottlenecks_on_small_images() -> None:
    net = build_meta("resnet", SMALL, depth=164, bottleneck=True)
    assert len(layers(net, nn.Conv2d)) + 1 == 164
    shapes = output_shapes(net, Residual, SMALL)
    assert [shapes[i] for i in (0, 18, 36)] == [(64, 32, 32), (128, 16, 16), (256, 8, 8)]


# ---- Agreement with torchvision


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("resnext50_32x4d", {"groups": 32, "base_width": 4}),
        ("wide_resnet50_2", {"base_width": 128}),
    ],
)
def test_agrees_with_torchvision(name: str, params: dict[str, Any]) -> None:
    reference = getattr(torchvision.models, name)(num_classes=CLASSES)
    ours = build_meta("resnet", (3, 72, 80), depth=50, **params)
    assert_same_outputs(ours, reference, torch.randn(2, 3, 72, 80))


def test_squeeze_excite_agrees_with_torchvision() -> None:
    ours, reference = SqueezeExcite(12, 4), torchvision.ops.SqueezeExcitation(12, 3)
    values = [value.reshape(own.shape) for own, value in zip(ours.parameters(), reference.parameters(), strict=True)]
    ours.load_state_dict(dict(zip(ours.state_dict(), values, strict=True)))
    x = torch.randn(2, 12, 5, 4)
    torch.testing.assert_close(ours(x), reference(x))


# ---- Pre-activation


def test_pre_activation_blocks() -> None:
    net = build("resnet", (3, 8, 8), depth=8, pre_activation=True, shortcut="B").eval()
    first, second, _ = layers(net, PreActivation)
    # The stem's activation serves the first block; the others have their own, which a projection sees too.
    assert isinstance(first.before, nn.Identity)
    x = torch.randn(2, 16, 8, 8)
    kept = x.clone()
    torch.testing.assert_close(first(x), x + first.body(x))
    active = F.relu(second.before[0](x))
    torch.testing.assert_close(second(x), second.body(active) + second.shortcut(active))
    assert [type(layer).__name__ for layer in second.body] == ["Conv2d", "BatchNorm2d", "ReLU", "Conv2d"]
    assert [type(layer).__name__ for layer in second.shortcut] == ["Conv2d"]
    assert [type(layer).__name__ for layer in net.get_submodule("features.last")] == ["BatchNorm2d", "ReLU"]
    assert torch.equal(x, kept)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_block_leaves_its_input_to_its_shortcut(activation: str) -> None:
    for norm in NORMS:
        block = layers(
            build("resnet", (3, 8, 8), depth=14, pre_activation=True, norm=norm, activation=activation), PreActivation
        )[1]
        x = torch.randn(2, 16, 8, 8)
        kept = x.clone()
        torch.testing.assert_close(block(x) - block.body(block.before(x)), x, atol=1e-5, rtol=1e-5)
        assert torch.equal(x, kept)


# ---- Stochastic depth


def test_survival_decays_linearly() -> None:
    drops = layers(build_meta("resnet", SMALL, depth=110, stochastic_depth=0.5), DropPath)
    assert [1 - drop.rate for drop in drops] == pytest.approx([1 - number / 54 * 0.5 for number in range(1, 55)])
    # Section 3 of the paper: about 40 of 54 blocks remain on average.
    assert round(sum(1 - drop.rate for drop in drops)) == 40
    assert not layers(build_meta("resnet", SMALL, depth=110), DropPath)


@pytest.mark.parametrize("pre_activation", [False, True])
def test_stochastic_depth_leaves_out_bodies_of_single_samples(pre_activation: bool) -> None:
    net = build("resnet", (3, 8, 8), depth=20, width=0.25, stochastic_depth=0.6, pre_activation=pre_activation)
    shares, scales = [], []

    def watch(_module: nn.Module, args: tuple[torch.Tensor], out: torch.Tensor) -> None:
        kept = out.flatten(1).any(1)
        shares.append(kept.float().mean().item())
        scales.append((out[kept].sum() / args[0][kept].sum()).item())

    drops = layers(net, DropPath)
    for drop in drops:
        drop.register_forward_hook(watch)
    with torch.no_grad():
        net.train()(torch.randn(3000, 3, 8, 8))
    survival = [1 - number / 9 * 0.6 for number in range(1, 10)]
    assert shares == pytest.approx(survival, abs=0.03)
    assert scales == pytest.approx([1 / value for value in survival], rel=1e-3)
    # In evaluation it is the net without.
    plain = build("resnet", (3, 8, 8), depth=20, width=0.25, pre_activation=pre_activation)
    plain.load_state_dict(net.state_dict())
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(plain.eval()(x), net.eval()(x))


def test_a_dropped_body_leaves_the_shortcut() -> None:
    block = layers(build("resnet", (3, 8, 8), depth=8, stochastic_depth=0.5), Residual)[0].train()
    block.body[-1].rate = 1 - 1e-9
    x = torch.rand(4, 16, 8, 8)
    assert torch.equal(block(x), x)


# ---- Every combination trains


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_combination_trains_a_step(activation: str, norm: str) -> None:
    x, labels = torch.randn(12, 3, 6, 5), torch.arange(12) % CLASSES
    for pre_activation, squeeze_excite, groups, stochastic_depth in product(
        (False, True), (None, 2), (1, 2), (0.0, 0.3)
    ):
        params = {
            "pre_activation": pre_activation,
            "squeeze_excite": squeeze_excite,
            "groups": groups,
            "stochastic_depth": stochastic_depth,
        }
        net = build("resnet", (3, 6, 5), **TINY, activation=activation, norm=norm, **params)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        loss = F.cross_entropy(net(x), labels)
        assert loss.item() == pytest.approx(math.log(CLASSES), rel=0.1), params
        loss.backward()
        silent = [
            key
            for key, value in net.named_parameters()
            if value.grad is None or not value.grad.isfinite().all() or not value.grad.count_nonzero()
        ]
        assert not silent, params
        optimizer.step()
        assert F.cross_entropy(net(x), labels).isfinite(), params


@pytest.mark.parametrize(
    "params",
    [
        {"depth": 110},
        {"depth": 110, "pre_activation": True},
        {"depth": 110, "norm": "none"},
        {"depth": 110, "norm": "group", "stochastic_depth": 0.5},
        {"depth": 56, "plain": True},
        {"depth": 164, "bottleneck": True, "pre_activation": True, "squeeze_excite": 8},
        {"depth": 40, "width": 2, "dropout": 0.3},
        {"depth": 50, "groups": 32, "base_width": 4, "width": 0.25},
    ],
)
def test_deep_nets_train_a_step(params: dict[str, Any]) -> None:
    net = build("resnet", (3, 8, 8), **params)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    x, labels = torch.randn(20, 3, 8, 8), torch.arange(20) % CLASSES
    loss = F.cross_entropy(net(x), labels)
    assert loss.item() == pytest.approx(math.log(CLASSES), rel=0.1)
    loss.backward()
    assert all(value.grad is not None and bool(value.grad.isfinite().all()) for value in net.parameters())
    optimizer.step()
    assert F.cross_entropy(net(x), labels).isfinite()


# ---- Options act, or are refused


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("pre_activation", [False, True])
def test_norms_stand_where_batch_norm_does(norm: str, pre_activation: bool) -> None:
    batch = build_meta("resnet", SMALL, depth=20, pre_activation=pre_activation)
    net = build_meta("resnet", SMALL, depth=20, pre_activation=pre_activation, norm=norm)
    kind = NORMS[norm]
    assert len(layers(net, kind)) == len(layers(batch, nn.BatchNorm2d)) if kind else len(layers(net, nn.Conv2d)) == 19
    others = tuple(other for other in NORMS.values() if other not in (None, kind))
    assert not [layer for layer in net.modules() if isinstance(layer, others)]
    assert {conv.bias is not None for conv in layers(net, nn.Conv2d)} == {norm == "none"}
    if norm in ("group", "layer"):
        assert {layer.num_groups for layer in layers(net, nn.GroupNorm)} == {8 if norm == "group" else 1}


def test_norm_groups() -> None:
    assert {layer.num_groups for layer in layers(build_meta("resnet", SMALL, norm="group"), nn.GroupNorm)} == {32}
    net = build_meta("resnet", SMALL, norm="group", norm_groups=4)
    assert {layer.num_groups for layer in layers(net, nn.GroupNorm)} == {4}


def test_activation_is_everywhere() -> None:
    relus = len(layers(build_meta("resnet", SMALL, depth=50), nn.ReLU))
    net = build_meta("resnet", SMALL, depth=50, activation="leaky_relu", negative_slope=0.1)
    assert not layers(net, nn.ReLU)
    assert [layer.negative_slope for layer in layers(net, nn.LeakyReLU)] == [0.1] * relus


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("pre_activation", [False, True])
def test_zero_init_residual_makes_each_block_its_shortcut(norm: str, pre_activation: bool) -> None:
    net = build(
        "resnet",
        (3, 8, 8),
        depth=8,
        norm=norm,
        pre_activation=pre_activation,
        squeeze_excite=4,
        zero_init_residual=True,
    )
    block = layers(net, (PreActivation, Residual))[0]
    x = torch.rand(2, 16, 8, 8)
    assert torch.equal(block(x), x)
    # Not for ever: what is zero is moved by the first step.
    F.cross_entropy(net(torch.randn(4, 3, 8, 8)), torch.arange(4)).backward()
    last = [layer for layer in block.body if hasattr(layer, "weight")][-1]
    assert not last.weight.any()
    assert last.weight.grad.any()


def test_bodies_without_norm_start_scaled_by_their_number() -> None:
    for depth, blocks in ((20, 9), (110, 54)):
        body = layers(build("resnet", (3, 8, 8), depth=depth, norm="none"), Residual)[-1].body
        assert body[0].weight.std().item() == pytest.approx((2 / 576) ** 0.5, rel=0.03)
        assert body[2].weight.std().item() == pytest.approx((2 / 576 / blocks) ** 0.5, rel=0.03)


def test_squeeze_excite_stands_at_the_end_of_each_body() -> None:
    for params in ({"depth": 18}, {"depth": 50}, {"depth": 20, "pre_activation": True}):
        blocks = layers(build_meta("resnet", SMALL, squeeze_excite=16, **params), (Residual, PreActivation))
        assert all(isinstance(block.body[-1], SqueezeExcite) for block in blocks)
    # The squeeze of 16 channels keeps one unit.
    assert layers(blocks[0], nn.Linear)[0].out_features == 1


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"groups": 2}, "groups=2 .*basic blocks of depth=18"),
        ({"depth": 20, "base_width": 4}, "base_width=4 .*basic blocks"),
        ({"depth": 50, "bottleneck": False}, "bottleneck=false .*depth=50"),
        ({"bottleneck": True}, "bottleneck=true .*depth=18"),
        ({"depth": 111, "bottleneck": True}, "such as 110 or 119"),
        ({"depth": 30, "bottleneck": True}, "such as 29 or 38"),
        ({"depth": 4}, "such as 8 or 14"),
        ({"depth": 28, "form": "imagenet"}, "form=imagenet"),
        ({"plain": True, "pre_activation": True}, "pre_activation=true"),
        ({"plain": True, "stochastic_depth": 0.5}, "stochastic_depth=0.5"),
        ({"norm_groups": 4}, "norm_groups=4 .*norm=batch"),
        ({"norm": "layer", "norm_groups": 4}, "norm_groups=4 .*norm=layer"),
        ({"norm": "group", "norm_groups": 7}, "norm_groups=7 does not divide"),
        ({"norm": "group", "width": 0.3}, "norm_groups=32 does not divide"),
        ({"negative_slope": 0.1}, "negative_slope=0.1"),
    ],
)
def test_options_without_effect_are_refused(params: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build_meta("resnet", SMALL, **params)


@pytest.mark.parametrize(
    ("params", "largest"), [({"depth": 20}, 4), ({"form": "small"}, 8), ({"form": "imagenet"}, 32)]
)
def test_instance_norm_refuses_single_pixels(params: dict[str, Any], largest: int) -> None:
    with pytest.raises(UserError, match=f"more than {largest} pixels"):
        build_meta("resnet", (1, largest, largest), norm="instance", **params)
    shape = (1, 1, largest + 1)
    assert build_meta("resnet", shape, norm="instance", **params)(torch.empty(1, *shape, device="meta")).shape == (
        1,
        10,
    )


def test_wide_plain_nets_are_not_pre_activated() -> None:
    net = build_meta("resnet", SMALL, depth=16, width=2, plain=True)
    assert not layers(net, (Residual, PreActivation))
    assert "last" not in dict(net.get_submodule("features").named_children())
