"""Parameter groups: what is decayed, and at which rate each layer learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from running import config, make_fit
from torch import nn

from dlrun.assembly import build_optimizer
from dlrun.config.schema import RegularizationConfig
from dlrun.errors import CheckpointError, ConfigError, UserError
from dlrun.optim.groups import can_fuse, hidden_matrices, layer_depths, parameter_groups
from dlrun.optim.regularization import Regularizer

# Which parameters are decayed


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.layer_norm = nn.LayerNorm(2)
        self.head = nn.Linear(2, 3)
        self.frozen = nn.Linear(2, 2)
        self.frozen.requires_grad_(False)


def test_weights_are_decayed_norms_and_biases_are_not() -> None:
    net = Net()
    decayed, others = parameter_groups(net, decay_norms_and_biases=False)
    assert [id(p) for p in decayed["params"]] == [id(net.conv.weight), id(net.head.weight)]
    assert "weight_decay" not in decayed
    assert others["weight_decay"] == 0
    assert {id(p) for p in others["params"]} == {
        *(id(p) for p in (net.conv.bias, net.head.bias)),
        *(id(p) for part in (net.norm, net.layer_norm) for p in part.parameters()),
    }


def test_on_request_all_are_decayed() -> None:
    net = Net()
    (group,) = parameter_groups(net, decay_norms_and_biases=True)
    assert {id(p) for p in group["params"]} == {id(p) for p in net.parameters() if p.requires_grad}


def test_groups_without_parameters_are_left_out() -> None:
    assert len(parameter_groups(nn.Linear(2, 2, bias=False), decay_norms_and_biases=False)) == 1
    assert parameter_groups(nn.Flatten(), decay_norms_and_biases=False) == []
    with pytest.raises(UserError, match="no trainable parameters"):
        build_optimizer(config(), nn.Flatten())


def test_fusing_needs_floating_point_parameters_on_a_device_that_can() -> None:
    assert can_fuse(nn.Linear(2, 2))
    assert not can_fuse(nn.Linear(2, 2, device="meta"))


class Roles(nn.Module):
    """A weight of every form, and what only looks like one."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 4)
        self.position_embeddings = nn.Embedding(6, 4)
        self.one_output = nn.Linear(4, 1)
        self.one_channel = nn.Conv2d(1, 1, 3)
        self.cell = nn.LSTM(1, 2)
        self.attention = nn.MultiheadAttention(4, 2)
        self.matrix = nn.Parameter(torch.zeros(4, 1))
        self.kernel = nn.Parameter(torch.zeros(2, 3, 3))
        self.norm = nn.LayerNorm([2, 3])
        self.class_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.pos_embed = nn.Parameter(torch.zeros(7, 4))
        self.rel_pos_h = nn.Parameter(torch.zeros(7, 4))
        self.relative_position_bias_table = nn.Parameter(torch.zeros(7, 4))
        self.layer_scale = nn.Parameter(torch.zeros(4, 1, 1))
        self.queries = nn.Parameter(torch.zeros(1, 3, 4))
        self.bias = nn.Parameter(torch.zeros(1, 4, 1, 1))


WEIGHTS = {
    *("words.weight", "one_output.weight", "one_channel.weight", "cell.weight_ih_l0", "cell.weight_hh_l0"),
    *("attention.in_proj_weight", "attention.out_proj.weight", "matrix", "kernel"),
}


def decayed_names(model: nn.Module) -> set[str]:
    groups = parameter_groups(model, decay_norms_and_biases=False)
    decayed = {id(p) for group in groups if "weight_decay" not in group for p in group["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in decayed}


def test_a_weight_is_told_by_its_module_its_name_and_its_shape() -> None:
    assert decayed_names(Roles()) == WEIGHTS


@pytest.mark.parametrize(
    ("name", "spared"),
    [
        ("convnext_tiny", {"layer_scale"}),
        ("swin_t", {"relative_position_bias_table"}),
        ("vit_b_32", {"class_token", "pos_embedding"}),
    ],
)
def test_scales_tokens_and_tables_of_known_nets_are_no_weights(name: str, spared: set[str]) -> None:
    with torch.device("meta"):
        model = getattr(torchvision.models, name)()
    tables = {path for path, parameter in model.named_parameters() if parameter.ndim >= 2}
    found = decayed_names(model)
    assert {path.rpartition(".")[2] for path in tables - found} == spared
    assert found < tables
    weights = {id(parameter) for path, parameter in model.named_parameters() if path in found}
    assert {id(parameter) for parameter in hidden_matrices(model)} < weights


def test_penalties_and_limits_are_about_weights() -> None:
    model = Roles()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 2.0)
    regularizer = Regularizer(model, RegularizationConfig(l2=1.0, max_norm=0.5), 0)
    weights = [parameter for name, parameter in model.named_parameters() if name in WEIGHTS]
    assert float(regularizer.loss()) == pytest.approx(sum(4.0 * weight.numel() for weight in weights))
    regularizer.limit_norms()
    changed = {name for name, parameter in model.named_parameters() if not bool((parameter == 2).all())}
    # The rows of an embedding are no units.
    assert changed == WEIGHTS - {"words.weight"}


def test_a_weight_that_is_shared_is_one() -> None:
    model = nn.ModuleDict({"positions": nn.Embedding(3, 4), "head": nn.Linear(4, 3, bias=False)})
    model["head"].weight = model["positions"].weight
    assert decayed_names(model) == {"positions.weight"}
    assert decayed_names(nn.ModuleDict({"positions": nn.Embedding(3, 4)})) == set()


def test_a_checkpoint_with_other_groups_is_told(tmp_path: Path) -> None:
    payload = make_fit(tmp_path, "optimizer.decay_norms_and_biases=true", callbacks={}).payload()
    with pytest.raises(CheckpointError, match="the optimizer's groups of parameters are not those of the checkpoint"):
        make_fit(tmp_path, callbacks={}).resume(payload)


# Rates of layers


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4))


class Encoder(nn.Module):
    """Holds a stack of blocks, and a table beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(1, 5, 4))
        self.blocks = nn.ModuleList([Block(), Block()])
        self.norm = nn.LayerNorm(4)


class Staged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 4))
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
        self.stage = nn.Sequential(Block(), Block())
        self.encoder = Encoder()
        self.heads = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))


def by_depth(depths: dict[str, int]) -> dict[int, set[str]]:
    """Depth -> the leading parts of the names."""
    found: dict[int, set[str]] = {}
    for name, depth in depths.items():
        found.setdefault(depth, set()).add(name.rpartition(".")[0] or name)
    return found


def test_layers_are_the_blocks_of_the_stages() -> None:
    assert by_depth(layer_depths(Staged())) == {
        6: {"stem.0", "stem.1", "token", "encoder"},
        5: {"stage.0.body.0", "stage.0.body.1", "stage.0.body.2"},
        4: {"stage.1.body.0", "stage.1.body.1", "stage.1.body.2"},
        3: {"encoder.blocks.0.body.0", "encoder.blocks.0.body.1", "encoder.blocks.0.body.2"},
        2: {"encoder.blocks.1.body.0", "encoder.blocks.1.body.1", "encoder.blocks.1.body.2", "encoder.norm"},
        1: {"heads.0"},
        0: {"heads.2"},
    }


def test_all_parts_of_a_head_have_the_whole_rate() -> None:
    depths = layer_depths(Staged(), ["heads.0.weight", "heads.2.weight", "heads.2.bias"])
    assert {depths[name] for name in depths if name.startswith("heads")} == {0}
    assert depths["encoder.norm.weight"] == 1
    # An embedding depends on the vocabulary as the last layer does, but it is the first.
    net = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9))
    assert layer_depths(net, ["0.weight", "2.weight"]) == {
        "0.weight": 2,
        "1.weight": 1,
        "1.bias": 1,
        "2.weight": 0,
        "2.bias": 0,
    }


def test_a_model_around_a_model_and_one_of_a_single_layer() -> None:
    assert layer_depths(nn.ModuleDict({"net": Staged()})) == {
        f"net.{name}": depth for name, depth in layer_depths(Staged()).items()
    }
    assert layer_depths(nn.Linear(2, 2)) == {"weight": 0, "bias": 0}
    assert layer_depths(nn.Flatten()) == {}


WORDS = ("model={name: mlp, hidden: [16, 16]}",)


def rates(fit_optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, tuple[float, float]]:
    """Parameter -> its rate and decay."""
    found = {
        id(p): (group["lr"], group["weight_decay"]) for group in fit_optimizer.param_groups for p in group["params"]
    }
    return {name: found[id(p)] for name, p in model.named_parameters()}


def test_rates_of_layers_multiply_with_those_of_parts_and_keep_the_decay_rule(tmp_path: Path) -> None:
    words = (*WORDS, "optimizer.layer_decay=0.75", "optimizer.lr_factors={head: 10, features.1: 2}", "optimizer.lr=0.1")
    fit = make_fit(tmp_path, *words, callbacks={})
    assert rates(fit.optimizer, fit.model) == {
        "features.1.weight": (pytest.approx(0.1 * 2 * 0.75**2), 5e-4),
        "features.1.bias": (pytest.approx(0.1 * 2 * 0.75**2), 0.0),
        "features.3.weight": (pytest.approx(0.1 * 0.75), 5e-4),
        "features.3.bias": (pytest.approx(0.1 * 0.75), 0.0),
        "head.weight": (pytest.approx(1.0), 5e-4),
        "head.bias": (pytest.approx(1.0), 0.0),
    }
    # The rate that is logged is that of a parameter without any factor.
    assert fit.lr == pytest.approx(0.1)


def test_a_decay_of_one_changes_nothing(tmp_path: Path) -> None:
    plain, same = (make_fit(tmp_path, *WORDS, *words, callbacks={}) for words in ((), ("optimizer.layer_decay=1",)))
    assert rates(plain.optimizer, plain.model) == rates(same.optimizer, same.model)
    assert len(same.optimizer.param_groups) == 2


def test_frozen_layers_count_as_layers_and_are_in_no_group(tmp_path: Path) -> None:
    words = (*WORDS, "optimizer.layer_decay=0.5", "model.freeze=features.1", "optimizer.lr=0.1")
    fit = make_fit(tmp_path, *words, callbacks={})
    assert sorted({group["lr"] for group in fit.optimizer.param_groups}) == pytest.approx([0.05, 0.1])
    assert sum(len(group["params"]) for group in fit.optimizer.param_groups) == 4


@pytest.mark.parametrize("value", ["0", "1.5", "-0.5"])
def test_a_decay_out_of_range_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=r"optimizer.layer_decay: must be a number > 0 and <= 1"):
        config(f"optimizer.layer_decay={value}")
