"""The options that many models share: activation, norm, pool, dropout, in every family that has them."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from test_models import CLASSES, IMAGENET, SMALL, build, build_meta, count, kinds, layers, scores_of
from test_summary import really_kept
from test_zoo import assert_agrees
from torch import nn
from torch.nn import functional as F

from dlrun.errors import UserError
from dlrun.models.blocks import ACTIVATIONS, OWN_ACTIVATIONS, make_activation, own_groups
from dlrun.models.layers import DropConnect, FractionalMaxPool, Maxout, fractional_out, maxout_mean_square
from dlrun.models.options import Kit
from dlrun.registry import MODELS
from dlrun.summary import summarise

SHAPE = (3, 16, 12)
LIGHT: dict[str, dict[str, Any]] = {
    "densenet": {"depth": 10},
    "googlenet": {"width": 0.1},
    "mobilenet": {"version": 1, "width": 0.25},
    "resnet": {"depth": 8},
    "vgg": {"depth": 11, "width": 0.1},
    "nin": {"width": 0.1},
    "alexnet": {"width": 0.1},
    "zfnet": {"width": 0.1},
    "squeezenet": {"width": 0.25},
    "convnet": {"channels": [4, 8], "convs": 1, "hidden": [8]},
}
"""Options that make a model light."""

NORMS = {
    "batch": (nn.BatchNorm2d, nn.BatchNorm1d),
    "group": (nn.GroupNorm,),
    "layer": (nn.GroupNorm,),
    "instance": (nn.InstanceNorm2d,),
}
POOLS = {"max": nn.MaxPool2d, "average": nn.AvgPool2d, "fractional": FractionalMaxPool}
ANY_NORM = (nn.BatchNorm2d, nn.BatchNorm1d, nn.GroupNorm, nn.InstanceNorm2d)


def values_of(annotation: Any) -> list[str]:
    """The values of Literal[...], also of Literal[...] | None."""
    inner = [value for arg in get_args(annotation) for value in values_of(arg)]
    return inner or [value for value in get_args(annotation) if isinstance(value, str)]


CHOICES = [
    (name, option.name, value)
    for name in MODELS.names()
    for option in MODELS.entry(name).options
    if option.name in ("norm", "activation", "pool")
    for value in values_of(option.annotation)
]


def step(net: nn.Module, shape: tuple[int, int, int]) -> float:
    """Loss of a step forward and back; every trained parameter must get a finite gradient that is not zero."""
    loss = F.cross_entropy(scores_of(net.train(), torch.randn(24, *shape)), torch.arange(24) % CLASSES)
    loss.backward()
    for key, value in net.named_parameters():
        if value.requires_grad and not key.startswith("auxiliary"):
            assert value.grad is not None, key
            assert value.grad.isfinite().all(), key
            assert value.grad.count_nonzero(), key
    return loss.item()


# ---- In every family


def test_the_families_have_the_options() -> None:
    having = {
        option: {name for name, other, _ in CHOICES if other == option} for option in ("norm", "activation", "pool")
    }
    plain = {"lenet5", "alexnet", "zfnet", "vgg", "nin", "convnet", "squeezenet"}
    assert having["pool"] == plain
    assert having["norm"] >= plain | {"mlp", "resnet", "densenet", "mobilenet", "googlenet"}
    assert having["activation"] >= having["norm"] | {"airbench"}
    maxout = {name for name, _, value in CHOICES if value == "maxout"}
    assert maxout == plain - {"squeezenet"} | {"mlp"}


@pytest.mark.parametrize(("name", "option", "value"), CHOICES)
def test_every_value_makes_its_layers_and_runs(name: str, option: str, value: str) -> None:
    # auto is the small form, and the stems of larger ones have other pools.
    net = build_meta(name, SHAPE, **{**LIGHT.get(name, {}), option: value})
    assert scores_of(net, torch.empty(2, *SHAPE, device="meta")).shape == (2, CLASSES)
    features = net.get_submodule("features")
    if option == "norm":
        found = {type(layer) for layer in features.modules() if isinstance(layer, ANY_NORM)}
        assert found <= set(NORMS.get(value, ()))
        assert bool(found) == (value != "none")
    elif option == "pool":
        assert all(bool(layers(features, kind)) == (value == key) for key, kind in POOLS.items())
    else:
        kind = Maxout if value == "maxout" else type(make_activation(value))
        # The first activation of each family is the chosen one.
        known = {Maxout} | {type(make_activation(key)) for key in [*ACTIVATIONS, *OWN_ACTIVATIONS]}
        assert next(type(layer) for layer in features.modules() if type(layer) in known) is kind


TOGETHER: list[tuple[str, dict[str, Any]]] = [
    ("lenet5", {"activation": "maxout", "norm": "batch", "dropout": 0.3, "drop_connect": 0.3, "pool": "max"}),
    ("lenet5", {"norm": "instance", "pool": "fractional", "activation": "elu"}),
    ("lenet5", {"norm": "group", "pool": "strided", "activation": "prelu"}),
    ("alexnet", {"groups": 2, "activation": "maxout", "norm": "group", "pool": "strided", "width": 0.125}),
    ("alexnet", {"version": 2014, "pool": "fractional", "drop_connect": 0.5, "activation": "leaky_relu"}),
    ("alexnet", {"groups": 2, "norm": "none", "lrn": True, "pool": "average", "width": 0.125}),
    ("zfnet", {"activation": "maxout", "pool": "average", "drop_connect": 0.5}),
    ("zfnet", {"norm": "layer", "activation": "gelu", "pool": "fractional"}),
    ("vgg", {"activation": "maxout", "norm": "none"}),
    ("vgg", {"norm": "group", "pool": "strided", "activation": "silu"}),
    ("vgg", {"norm": "layer", "pool": "fractional", "dropout": 0.2}),
    ("nin", {"activation": "maxout", "norm": "none", "pool": "fractional"}),
    ("nin", {"norm": "instance", "pool": "strided"}),
    ("mlp", {"activation": "maxout", "pieces": 5, "norm": "layer", "drop_connect": 0.5, "dropout": 0.2}),
    ("mlp", {"hidden": [24, 16], "norm": "group", "norm_groups": 4}),
    ("convnet", {"activation": "maxout", "pieces": 3, "norm": "group", "pool": "fractional", "drop_connect": 0.5}),
    ("squeezenet", {"norm": "batch", "bypass": True, "activation": "leaky_relu", "pool": "strided"}),
    ("densenet", {"norm": "none", "activation": "elu"}),
    ("densenet", {"norm": "group", "activation": "gelu"}),
    ("mobilenet", {"norm": "none", "version": 2, "width": 0.35}),
    ("mobilenet", {"norm": "layer", "activation": "silu"}),
    ("googlenet", {"norm": "group", "activation": "silu"}),
]
together = pytest.mark.parametrize(("name", "params"), TOGETHER)


@together
def test_options_together_train(name: str, params: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net = build(name, SHAPE, **{**LIGHT.get(name, {}), **params})
    assert step(net, SHAPE) == pytest.approx(math.log(CLASSES), rel=0.1)
    x = torch.randn(3, *SHAPE)
    with torch.no_grad():
        scores = net.eval()(x)
        assert torch.equal(net(x), scores)
        torch.testing.assert_close(net(x[1:2]), scores[1:2], rtol=1e-4, atol=1e-4 * max(1.0, scores.abs().max().item()))
        # Drawn anew by the global generator, so a seed repeats them.
        torch.manual_seed(5)
        first = scores_of(net.train(), x)
        torch.manual_seed(5)
        assert torch.equal(scores_of(net, x), first)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("convnet", {"activation": "maxout", "pieces": 3, "pool": "fractional", "drop_connect": 0.5, "dropout": 0.5}),
        ("lenet5", {"activation": "maxout", "norm": "batch", "pool": "strided"}),
        ("nin", {"pool": "fractional", "norm": "group"}),
        ("mlp", {"activation": "maxout", "drop_connect": 0.5, "hidden": [8, 8]}),
    ],
)
def test_the_summary_is_true_to_the_options(name: str, params: dict[str, Any]) -> None:
    params = {**LIGHT.get(name, {}), **params}
    found = summarise(build_meta(name, SHAPE, **params), SHAPE, 3)
    net = build(name, SHAPE, **params)
    assert found.layers == summarise(net, SHAPE, 3).layers
    assert found.parameters == count(net)
    assert found.memory.activations == really_kept(net, torch.randn(3, *SHAPE))
    assert found.warnings == ()


@pytest.mark.parametrize("init", ["he", "xavier", "orthogonal", "lsuv", "default"])
def test_deep_maxout_nets_start_at_ln_of_the_classes(init: str) -> None:
    torch.manual_seed(0)
    net = build("vgg", SMALL, norm="none", activation="maxout", depth=19, width=0.1, init=init)
    images = torch.randn(40, *SMALL)
    if init == "lsuv":
        net.init_from_data(images)
    with torch.no_grad():
        loss = F.cross_entropy(net(images), torch.arange(40) % CLASSES)
    assert loss.item() == pytest.approx(math.log(CLASSES), rel=0.1)


# ---- AlexNet's forms


def test_alexnet_in_two_groups() -> None:
    net = build_meta("alexnet", IMAGENET, 1000, groups=2)
    assert count(net) == 60_965_224
    # Biases and, from figure 2 of the paper: 5x5x48, 3x3x256, 3x3x192 and 3x3x192 for each kernel.
    expected = [34_944, 256 * (5 * 5 * 48 + 1), 384 * (9 * 256 + 1), 384 * (9 * 192 + 1), 256 * (9 * 192 + 1)]
    assert [count(conv) for conv in layers(net, nn.Conv2d)] == expected
    assert [conv.groups for conv in layers(net, nn.Conv2d)] == [1, 2, 1, 2, 2]


def test_the_towers_of_alexnet_see_each_other_in_the_third_convolution_alone() -> None:
    net = build("alexnet", (3, 16, 16), groups=2, width=0.125, lrn=False, dropout=0).eval()
    convs = layers(net, nn.Conv2d)
    seen = []
    for conv in convs[1:]:
        x = torch.randn(1, conv.in_channels, 5, 5, requires_grad=True)
        conv(x)[:, : conv.out_channels // 2].sum().backward()
        assert x.grad is not None
        seen.append(bool(x.grad[:, conv.in_channels // 2 :].any()))
    assert seen == [False, True, False, False]


def test_alexnet_of_2014_is_that_of_torchvision() -> None:
    with torch.device("meta"):
        reference = torchvision.models.alexnet(num_classes=CLASSES)
    reference = reference.to_empty(device="cpu")
    ours = build_meta("alexnet", IMAGENET, version=2014)
    assert count(build_meta("alexnet", IMAGENET, 1000, version=2014)) == 61_100_840
    assert_agrees(ours, reference, torch.randn(1, *IMAGENET), gain=1.4)


def test_a_norm_takes_the_place_of_local_response_norm() -> None:
    for name in ("alexnet", "zfnet"):
        assert "LocalResponseNorm" not in kinds(build_meta(name, IMAGENET, norm="batch"))
        assert "LocalResponseNorm" in kinds(build_meta(name, IMAGENET, norm="batch", lrn=True))
    assert "LocalResponseNorm" not in kinds(build_meta("alexnet", IMAGENET, version=2014))


# ---- Single layers


@pytest.mark.parametrize("pieces", [2, 3, 5])
def test_mean_square_of_a_maxout(pieces: int) -> None:
    torch.manual_seed(0)
    drawn = torch.randn(400_000, pieces).amax(1).square().mean().item()
    assert maxout_mean_square(pieces) == pytest.approx(drawn, rel=0.01)


@pytest.mark.parametrize("pieces", [2, 4])
def test_ten_maxout_layers_keep_the_scale(pieces: int) -> None:
    torch.manual_seed(0)
    net = build("mlp", (1, 1, 300), hidden=[300] * 10, activation="maxout", pieces=pieces)
    assert [layer.out_features for layer in layers(net, nn.Linear)] == [300 * pieces] * 10 + [CLASSES]
    with torch.no_grad():
        out = net.get_submodule("features")(torch.randn(200, 1, 1, 300))
    # ReLU's scale would give 2^10 for two pieces.
    assert 0.5 < out.square().mean().item() < 2


def test_fractional_pool_is_that_of_torch_forward_and_back() -> None:
    for mode in (True, False):
        x = torch.randn(3, 4, 13, 9, requires_grad=True)
        torch.manual_seed(1)
        out = FractionalMaxPool().train(mode)(x)
        torch.manual_seed(1)
        places = torch.rand(3, 4, 2) if mode else torch.full((3, 4, 2), 0.5)
        expected = F.fractional_max_pool2d(x, 2, output_size=(9, 6), _random_samples=places)
        assert torch.equal(out, expected)
        weight = torch.randn_like(out)
        torch.testing.assert_close(
            *(torch.autograd.grad((result * weight).sum(), x)[0] for result in (out, expected)), rtol=1e-6, atol=1e-6
        )


@given(st.integers(2, 400), st.integers(2, 400))
def test_fractional_pools_of_every_size(height: int, width: int) -> None:
    size = fractional_out((height, width))
    assert size == (math.floor(height * 7 / 10), math.floor(width * 7 / 10))
    assert FractionalMaxPool()(torch.empty(1, 1, height, width, device="meta")).shape[2:] == size


def test_receptive_field_behind_a_fractional_pool() -> None:
    net = build_meta("convnet", (3, 20, 20), channels=[4, 4], convs=1, hidden=[], pool="fractional", pool_after=[1])
    found = {layer.name: layer for layer in summarise(net, (3, 20, 20), 2).layers}
    # 3x3: 3. Windows of 2x2, one step apart: 4. 3x3 of steps of 20/14: 4 + 2 * 20/14 = 6.86.
    fields = [found[f"features.{layer}"].receptive_field for layer in ("stage1.0", "stage1.3", "stage2.0")]
    assert fields == [(3, 3), (4, 4), (7, 7)]
    assert found["features.stage1.3"].output_shape == (4, 14, 14)


def test_drop_connect_drops_weights_and_keeps_their_mean() -> None:
    torch.manual_seed(0)
    layer = DropConnect(60, 40, 0.25).train()
    rows = layer(torch.eye(60)) - layer.bias
    share = (rows == 0).float().mean().item()
    assert share == pytest.approx(0.25, abs=0.03)
    kept = rows[rows != 0]
    torch.testing.assert_close(kept, (layer.weight.T / 0.75)[rows != 0])
    assert DropConnect(4, 3, 0.5, bias=False).bias is None


@pytest.mark.parametrize("name", ["lenet5", "mlp", "alexnet", "zfnet", "convnet"])
def test_drop_connect_stands_on_the_hidden_layers(name: str) -> None:
    net = build_meta(name, SMALL, drop_connect=0.4)
    found = [type(layer) for layer in layers(net, nn.Linear)]
    assert found == [DropConnect] * (len(found) - 1) + [nn.Linear]
    assert len(found) > 1
    assert {layer.rate for layer in layers(net, DropConnect)} == {0.4}


@given(st.integers(1, 3000))
def test_own_groups_divide_and_leave_pairs(channels: int) -> None:
    parts = own_groups(channels)
    assert channels % parts == 0
    assert parts <= 8
    assert channels < 2 or channels // parts >= 2
    larger = [p for p in range(parts + 1, 9) if channels % p == 0 and channels // p >= 2]
    assert not larger


def test_a_kit_refuses_what_has_no_effect() -> None:
    with pytest.raises(ValueError, match="norm_groups=4 has no effect with norm=batch"):
        Kit(norm="batch", norm_groups=4)
    with pytest.raises(ValueError, match="pieces=3 has no effect with activation=relu"):
        Kit(pieces=3)


@pytest.mark.parametrize(
    ("name", "shape", "params", "words"),
    [
        ("alexnet", IMAGENET, {"groups": 2, "version": 2014}, "groups=2 does not apply to version=2014"),
        ("alexnet", SMALL, {"groups": 2, "width": 0.01}, "width=0.01 .* of 1 channels, which groups=2 cannot halve"),
        ("alexnet", IMAGENET, {"pool": "fractional"}, "pool=fractional does not apply to form=imagenet"),
        ("zfnet", IMAGENET, {"pool": "fractional"}, "pool=fractional does not apply to form=imagenet"),
        ("vgg", IMAGENET, {"pool": "fractional"}, "pool=fractional does not apply to form=imagenet"),
        ("vgg", SMALL, {"drop_connect": 0.5}, "drop_connect=0.5 has no effect in the small form"),
        ("vgg", (3, 16, 16), {"norm": "instance"}, "norm=instance .* layer conv5 gives 1x1"),
        ("googlenet", (3, 4, 4), {"norm": "instance"}, "norm=instance .* layer inception5b gives 1x1"),
        ("mobilenet", (3, 8, 8), {"norm": "instance"}, "norm=instance .* gives 1x1"),
        ("densenet", (3, 4, 4), {"depth": 40, "norm": "instance"}, "norm=instance .* layer block3 gives 1x1"),
        ("squeezenet", (3, 4, 4), {"norm": "instance"}, "norm=instance .* gives 1x1"),
        ("lenet5", SMALL, {"activation": "maxout", "negative_slope": 0.1}, "negative_slope=0.1 has no effect"),
        ("lenet5", SMALL, {"norm": "group", "norm_groups": 4}, "norm_groups=4 does not divide 6 channels"),
        ("mlp", SMALL, {"pieces": 3}, "pieces=3 has no effect with activation=relu"),
        ("mlp", SMALL, {"norm_groups": 3}, "norm_groups=3 has no effect with norm=none"),
        ("mlp", SMALL, {"hidden": [8], "norm": "group", "norm_groups": 8}, "leaves one unit of 8 in each group"),
        ("mlp", SMALL, {"hidden": [], "drop_connect": 0.5}, "drop_connect=0.5 has no effect without hidden layers"),
        ("convnet", (1, 1, 4), {"pool": "fractional"}, "too small.*pool1 only 1x4"),
    ],
)
def test_options_that_do_not_go_together(
    name: str, shape: tuple[int, int, int], params: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        build_meta(name, shape, **params)


def test_strided_pools_have_the_size_of_the_pools_that_they_replace() -> None:
    for name in ("alexnet", "zfnet", "vgg", "lenet5"):
        nets = (build_meta(name, (3, 70, 81), pool=pool) for pool in ("max", "strided"))
        one, other = (layers(net, nn.Linear)[0].in_features for net in nets)
        assert one == other > 10


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(CHOICES), st.integers(1, 40), st.integers(1, 40), st.integers(1, 4))
def test_every_size_trains_or_is_refused_with_every_option(
    choice: tuple[str, str, str], height: int, width: int, channels: int
) -> None:
    name, option, value = choice
    shape = (channels, height, width)
    reason = ""
    try:
        net = build_meta(name, shape, **{**LIGHT.get(name, {}), option: value})
    except UserError as refusal:
        reason = str(refusal)
    if reason:
        assert "too small" in reason or "more than one pixel" in reason
    else:
        assert scores_of(net.train(), torch.empty(2, *shape, device="meta")).shape == (2, CLASSES)
