"""From files and overrides to a checked configuration: what wins, what is refused, and what the messages say."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import Dlrun, compose_faster, experiments, forgetting_plugins
from hypothesis import given, settings
from hypothesis import strategies as st

from dlrun.config.compose import compose, compose_saved
from dlrun.config.explain import explain
from dlrun.config.files import RECIPES, recipes
from dlrun.config.groups import default_options, groups, options
from dlrun.config.load import finish, load_config
from dlrun.config.overrides import parse_overrides
from dlrun.config.schema import Config, component_groups
from dlrun.config.sources import read_yaml
from dlrun.errors import ConfigError
from dlrun.registry import AUGMENTATIONS, REGISTRIES
from dlrun.signatures import REQUIRED
from dlrun.types import Duration


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test runs in an empty folder of its own."""
    monkeypatch.chdir(tmp_path)
    compose_faster(monkeypatch)
    with forgetting_plugins():
        yield


def file(path: str, text: str) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")
    return path


def load(config: str | None = None, *overrides: str) -> Config:
    return load_config(config, overrides)[0]


def problems(config: str | None = None, *overrides: str) -> Sequence[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(config, overrides)
    return caught.value.problems


def problem(config: str | None = None, *overrides: str) -> str:
    (only,) = problems(config, *overrides)
    return only


# Which value wins.


def test_an_empty_file_gives_the_defaults() -> None:
    config = load(file("my.yaml", ""))
    assert config.model.name == default_options()["model"]
    assert config.trainer.epochs == 20
    assert config.augment == ()


def test_without_a_config_the_digits_recipe_is_taken() -> None:
    assert dataclasses.replace(load()) == load("digits")
    assert compose(None, []).name == "digits"
    file("digits.yaml", "seed: 7")
    assert (load().seed, load("digits").seed) == (0, 7)


@pytest.mark.parametrize("word", ["data=synthetic", "data.name=synthetic", "data={name: synthetic}"])
def test_without_a_config_the_recipe_does_not_leak_into_other_data(word: str) -> None:
    assert load(None, word, "model=vgg") == load(file("empty.yaml", ""), "data=synthetic", "model=vgg")
    assert load(None, word).trainer.threads is None
    assert compose(None, [word]).name == "synthetic"
    assert load(None, "data=digits", "seed=3") == load("digits", "seed=3")
    assert compose(None, ["data=digits"]).name == "digits"
    assert load("digits", word).trainer.threads == 1


def test_each_layer_wins_over_the_one_before() -> None:
    file("base.yaml", "trainer: {epochs: 2, log_every: 2, eval_every: 2ep, accumulate: 2}")
    mine = file("my.yaml", "defaults: [base]\ntrainer: {epochs: 3, log_every: 3, accumulate: 3}")
    epochs = [
        load(file("empty.yaml", "")).trainer,
        load("base").trainer,
        load(mine).trainer,
        load(mine, "debug=fast").trainer,
        load(mine, "debug=fast", "trainer.epochs=5").trainer,
    ]
    assert [t.epochs for t in epochs] == [20, 2, 3, 1, 5]
    assert [t.log_every for t in epochs] == [50, 2, 3, 1, 1]
    assert [t.accumulate for t in epochs] == [1, 2, 3, 3, 3]
    assert epochs[2].eval_every == Duration(2, "ep")


def test_the_last_of_two_equal_overrides_wins() -> None:
    assert load(None, "seed=1", "seed=2").seed == 2


def test_zero_false_and_empty_are_values() -> None:
    config = load(file("my.yaml", "seed: 3\nrun: {name: x}"), "seed=0", "data.workers=0", "run.name=''", "augment=[]")
    assert (config.seed, config.data.workers, config.run.name, config.augment) == (0, 0, "", ())


# Choosing components.


OTHERS = [
    (group, name, other)
    for group in component_groups()
    for name in REGISTRIES[group].names()
    for other in REGISTRIES[group].names()[:2]
    if name != other
]


def needed(config: str) -> list[str]:
    """Overrides for the required values that a recipe leaves to the user."""
    text = (RECIPES / f"{config}.yaml").read_text(encoding="utf-8") if config in recipes() else ""
    weights = ["model.weights=w.pt"] if "weights: ???" in text else []
    # Those of text have a corpus on every machine, and the dates are generated.
    rootless = config in ("digits", "date_format", "syntax", "which_module") or config.startswith(
        ("char_", "long_memory")
    )
    return [] if rootless else ["data.root=data", *weights]


def own_option(group: str, name: str) -> dict[str, Any]:
    """A valid value for every option of a component: its default, or some path."""
    return {o.name: "data" if repr(o.default) == "???" else o.default for o in REGISTRIES[group].entry(name).options}


def is_required(group: str, name: str, key: str) -> bool:
    return any(o.name == key and o.default is REQUIRED for o in REGISTRIES[group].entry(name).options)


@pytest.mark.parametrize(("group", "name", "other"), OTHERS)
def test_swapping_by_group_and_by_name_is_the_same_and_nothing_leaks(group: str, name: str, other: str) -> None:
    section = {"name": other, **own_option(group, other)}
    plain = {
        k: str(v) if isinstance(v, Duration) else list(v) if isinstance(v, tuple) else v for k, v in section.items()
    }
    mine = file("my.yaml", yaml.safe_dump({group: plain}))
    root = [f"{group}.{key}={value}" for key, value in own_option(group, name).items() if is_required(group, name, key)]
    by_group = load(mine, f"{group}={name}", *root)
    by_name = load(mine, f"{group}.name={name}", *root)
    in_file = load(file("other.yaml", yaml.safe_dump({"defaults": ["my"], group: {"name": name}})), *root)
    by_defaults = load(file("third.yaml", yaml.safe_dump({"defaults": ["my", {f"override /{group}": name}]})), *root)
    assert by_group == by_name == in_file == by_defaults
    assert getattr(by_group, group) == getattr(load(file("empty.yaml", ""), f"{group}={name}", *root), group)


def test_an_element_of_a_list_is_set_alone() -> None:
    assert load("digits", "optimizer=adam", "optimizer.betas.0=0.5").optimizer.params["betas"] == (0.5, 0.999)
    mine = file("my.yaml", "optimizer: {name: adam, betas: {1: 0.9}}\nmodel: {name: mlp, hidden: [8, 9]}")
    chosen = load(mine, "model.hidden.1=4")
    assert (chosen.optimizer.params["betas"], chosen.model.params["hidden"]) == ((0.9, 0.9), (8, 4))
    augmented = load("digits", "augment=[{name: random_crop, padding: 2}]", "augment.0.padding=1")
    assert augmented.augment[0].params["padding"] == 1
    with pytest.raises(ConfigError, match=r"optimizer.betas"):
        load("digits", "optimizer=adam", "optimizer.betas.2=0.5")


def test_the_same_component_again_keeps_its_options() -> None:
    mine = file("my.yaml", "optimizer: {name: sgd, momentum: 0.5}")
    assert load(mine, "optimizer=sgd").optimizer.params["momentum"] == 0.5


def test_options_of_a_file_without_a_name_belong_to_the_default_component() -> None:
    mine = file("my.yaml", "optimizer: {momentum: 0.5}")
    assert load(mine).optimizer.params["momentum"] == 0.5
    assert load(mine, "optimizer=sgd").optimizer.params["momentum"] == 0.5
    assert "momentum" not in load(mine, "optimizer=adamw").optimizer.params


def test_options_common_to_the_group_survive_a_swap() -> None:
    mine = file("my.yaml", "data: {name: synthetic, noise: 0.1, batch_size: 7}\nschedule: {name: step, warmup: 3ep}")
    config = load(mine, "data=digits", "schedule=cosine")
    assert config.data.batch_size == 7
    assert config.schedule.warmup == Duration(3, "ep")


@pytest.mark.parametrize("order", [1, -1])
def test_what_is_typed_counts_before_and_after_the_choice(order: int) -> None:
    words = ["optimizer.lr=0.007", "optimizer=adamw"][::order]
    config = load(None, *words)
    assert (config.optimizer.name, config.optimizer.params["lr"]) == ("adamw", 0.007)


def test_a_second_choice_on_the_line_replaces_the_first_with_its_options() -> None:
    config = load(None, "optimizer={name: sgd, momentum: 0.5}", "optimizer=adamw")
    assert config.optimizer == load(None, "optimizer=adamw").optimizer


def test_a_component_in_one_word() -> None:
    assert load(file("my.yaml", "model: vgg")).model == load(file("b.yaml", "model: {name: vgg}")).model


@pytest.mark.parametrize("name", options("augment"))
def test_every_list_of_augmentations_is_valid(name: str) -> None:
    config = load(None, f"augment={name}")
    assert bool(config.augment) == (name != "none")
    for augmentation in config.augment:
        # What the data must tell is not at hand; the others also check what their types cannot say.
        if not AUGMENTATIONS.entry(augmentation.name).needs:
            AUGMENTATIONS.build(augmentation.name, augmentation.params)


def test_augment_by_group_and_by_list() -> None:
    mine = file("my.yaml", "augment: [{name: random_crop, padding: 2}, horizontal_flip]")
    assert [a.name for a in load(mine).augment] == ["random_crop", "horizontal_flip"]
    assert load(mine).augment[0].params["padding"] == 2
    assert load(mine, "augment=none").augment == ()
    assert load(mine, "augment=crop_flip").augment[0].params["padding"] == 4
    assert load(mine, "augment=[horizontal_flip]", "augment=crop_flip") == load(mine, "augment=crop_flip")
    assert [a.name for a in load(mine, "augment=crop_flip", "augment=[horizontal_flip]").augment] == ["horizontal_flip"]
    assert load(mine, "debug=overfit").augment == ()
    assert load(mine, "debug=overfit", "augment=crop_flip") == load(mine, "augment=crop_flip", "debug=overfit")
    assert len(load(mine, "debug=overfit", "augment=crop_flip").augment) == 2


def test_debug_modes_hold_whatever_component_is_chosen() -> None:
    config = load(None, "debug=overfit", "optimizer=adamw")
    assert config.optimizer.params["weight_decay"] == 0.0
    assert config.data.batch_size == 20


def test_overfit_switches_off_what_keeps_the_loss_from_zero() -> None:
    mine = file("my.yaml", "loss: {name: cross_entropy, label_smoothing: 0.2}\nmodel: {name: mlp, dropout: 0.5}")
    config = load(mine, "debug=overfit")
    assert (config.loss.params["label_smoothing"], config.model.params["dropout"]) == (0.0, 0.0)
    assert load(mine, "debug=overfit", "model.dropout=0.1").model.params["dropout"] == 0.1
    assert "dropout" not in load(mine, "debug=overfit", "model=linear").model.params
    net = load(mine, "debug=overfit", "model=convnet").model.params
    assert [net[key] for key in ("dropout", "conv_dropout", "drop_connect")] == [0.0] * 3


def test_debug_modes_leave_out_what_a_component_of_a_plugin_lacks() -> None:
    file(
        "mine.py",
        "from dlrun.registry import LOSSES, MODELS, OPTIMIZERS\n"
        "@OPTIMIZERS.register\ndef plain(params, *, lr: float = 0.1):\n    ...\n"
        "@LOSSES.register\ndef margin():\n    ...\n"
        "@MODELS.register\ndef net(num_classes, *, dropout: float = 0.5):\n    ...\n",
    )
    mine = file("my.yaml", "plugins: [mine]\noptimizer: {name: plain}\nloss: {name: margin}\nmodel: {name: net}\n")
    config = load(mine, "debug=overfit")
    assert dict(config.optimizer.params) == {"lr": 0.1}
    assert dict(config.loss.params) == {}
    assert dict(config.model.params) == {"dropout": 0.0}
    # What the user says is checked as ever.
    assert problem(mine, "debug=overfit", "optimizer.weight_decay=1").startswith(
        "override optimizer.weight_decay=1: optimizer.weight_decay: unknown key: optimizer 'plain' has no option"
    )


def test_a_debug_mode_with_components_that_do_not_exist() -> None:
    assert problem(None, "debug=overfit", "model=resnt").endswith("unknown model 'resnt'; did you mean resnet?")
    assert problem(None, "debug=overfit", "model.name=[1]").endswith("model.name: must be a text, got [1]")


def test_a_debug_mode_in_a_file_can_be_switched_off() -> None:
    mine = file("my.yaml", "debug: fast")
    assert load(mine).trainer.limit_batches == 3
    assert load(mine, "debug=null").trainer.limit_batches is None
    assert load(mine, "debug=nan").trainer.limit_batches is None


@pytest.mark.parametrize("mode", options("debug"))
@pytest.mark.parametrize("recipe", experiments())
def test_every_recipe_is_valid_with_every_debug_mode(recipe: str, mode: str) -> None:
    load(recipe, f"debug={mode}", *needed(recipe))


# Callbacks.

BARE = "data=synthetic"
"""Without a config, and with other data than the default recipe's: the bare defaults."""


@pytest.mark.parametrize(
    ("text", "on"), [("null", False), ("false", False), ("true", True), ("{}", True), ("{patience: 3}", True)]
)
def test_callbacks_are_switched(text: str, on: bool) -> None:
    config = load(file("plain.yaml", "seed: 0"), f"callbacks.early_stopping={text}")
    assert ("early_stopping" in config.callbacks) is on
    if on:
        assert config.callbacks["early_stopping"].params["patience"] == (3 if "3" in text else 10)
    assert load(file("my.yaml", f"callbacks: {{early_stopping: {text}}}")).callbacks == config.callbacks


def test_a_tilde_switches_a_callback_off() -> None:
    assert "tensorboard" not in load(None, "~callbacks.tensorboard").callbacks


def test_one_option_of_a_callback_switches_it_on() -> None:
    assert load(None, "callbacks.early_stopping.patience=5").callbacks["early_stopping"].params["mode"] == "min"


def test_callbacks_keep_the_order_of_the_defaults() -> None:
    assert list(load(None, "callbacks.max_time.limit=1h").callbacks) == [
        "progress",
        "metrics_jsonl",
        "tensorboard",
        "max_time",
        "checkpoint",
    ]


def test_another_metric_needs_its_mode() -> None:
    assert problem(None, BARE, "callbacks.checkpoint.monitor=val/loss") == (
        "override callbacks.checkpoint.monitor=val/loss: callbacks.checkpoint.monitor: is now val/loss, but mode is "
        "still the max of val/accuracy; say callbacks.checkpoint.mode=min or max too"
    )
    assert problem(None, "callbacks.early_stopping.monitor=val/accuracy") == (
        "override callbacks.early_stopping.monitor=val/accuracy: callbacks.early_stopping.monitor: is now "
        "val/accuracy, but mode is still the min of val/loss; say callbacks.early_stopping.mode=min or max too"
    )
    assert problem(file("my.yaml", "callbacks:\n  checkpoint:\n    monitor: train/loss\n")) == (
        "my.yaml:3: callbacks.checkpoint.monitor: is now train/loss, but mode is still the max of val/accuracy; say "
        "callbacks.checkpoint.mode=min or max too"
    )


@pytest.mark.parametrize(
    "words",
    [
        ["callbacks.checkpoint.monitor=val/loss", "callbacks.checkpoint.mode=min"],
        ["callbacks.checkpoint.mode=min", "callbacks.checkpoint.monitor=val/loss"],
        ["callbacks.checkpoint={monitor: val/loss, mode: max}"],
        ["callbacks.checkpoint.monitor=val/accuracy"],
        ["callbacks.checkpoint.mode=min"],
        ["callbacks.early_stopping={monitor: val/loss}"],
        ["callbacks.checkpoint.monitor=val/loss", "callbacks.checkpoint=null"],
    ],
)
def test_a_metric_with_its_mode_is_taken(words: list[str]) -> None:
    load(None, BARE, *words)


def test_the_mode_may_be_said_above_the_metric_but_not_below() -> None:
    mine = file("my.yaml", "callbacks: {checkpoint: {monitor: val/loss}, early_stopping: {mode: max}}")
    assert load(mine, "callbacks.checkpoint.mode=min").callbacks["checkpoint"].params["monitor"] == "val/loss"
    assert problem(mine, "callbacks.checkpoint.mode=min", "callbacks.early_stopping.monitor=val/accuracy").endswith(
        "mode is still the max of val/loss; say callbacks.early_stopping.mode=min or max too"
    )
    assert load(mine, "callbacks.checkpoint.monitor=val/accuracy").callbacks["checkpoint"].params["mode"] == "max"
    both = file("both.yaml", "defaults: [my]\ncallbacks: {checkpoint: {mode: min}}")
    assert load(both).callbacks["checkpoint"].params["mode"] == "min"
    # Off and on again starts from the callback's own defaults.
    off = file("off.yaml", "defaults: [both]\ncallbacks: {checkpoint: true}")
    assert load(off).callbacks["checkpoint"].params["monitor"] == "val/accuracy"


def test_another_metric_needs_its_mode_in_a_saved_tree_and_in_a_plugin() -> None:
    tree = load(None, BARE).to_tree()
    with pytest.raises(ConfigError, match=r"is now val/loss, but mode is still the max of val/accuracy"):
        finish(compose_saved(tree, "saved", Path.cwd(), ["callbacks.checkpoint.monitor=val/loss"]))
    finish(compose_saved(tree, "saved", Path.cwd(), ["callbacks.checkpoint={monitor: val/loss, mode: min}"]))
    file(
        "mine.py",
        "from dlrun.registry import CALLBACKS\nfrom dlrun.train.fit import Callback\n"
        "from dlrun.types import Mode\n"
        "@CALLBACKS.register\nclass watch(Callback):\n"
        "    def __init__(self, monitor: str, mode: Mode = 'min'):\n        ...\n"
        "@CALLBACKS.register\nclass look(Callback):\n"
        "    def __init__(self, monitor: str = 'a', mode: Mode = 'min'):\n        ...\n",
    )
    assert load(None, "plugins=[mine]", "callbacks.watch.monitor=x").callbacks["watch"].params["mode"] == "min"
    assert "mode is still the min of a" in problem(None, "plugins=[mine]", "callbacks.look.monitor=x")


def test_a_callback_is_null_or_options() -> None:
    assert problem(None, "callbacks.tensorboard=3").endswith("must be options, true, or null (off), got 3")
    assert "did you mean tensorboard?" in problem(None, "callbacks.tensorbord=null")


# Hydra: defaults lists, groups of the user, the syntax of overrides.


@pytest.mark.parametrize(
    "entry",
    ["model: vgg", "/model: vgg", "override /model: vgg", "override model: vgg", "optional model: vgg"],
)
def test_a_defaults_list_chooses_components(entry: str) -> None:
    config = load(file("my.yaml", f"defaults:\n  - {entry}\n  - _self_\nmodel: {{depth: 11}}"))
    assert (config.model.name, config.model.params["depth"]) == ("vgg", 11)


def test_a_defaults_list_names_other_files_and_recipes() -> None:
    file("parts/base.yaml", "seed: 5\ndata: {name: cifar10, root: here}")
    config = load(file("my.yaml", "defaults: [digits, parts/base, _self_]\nseed: 6"))
    assert (config.seed, config.data.batch_size) == (6, 64)
    assert config.data.params["root"] == Path.cwd() / "parts" / "here"


def test_self_first_lets_the_named_file_win() -> None:
    file("base.yaml", "seed: 5")
    assert load(file("my.yaml", "defaults: [_self_, base]\nseed: 6")).seed == 5
    assert load(file("my.yaml", "defaults: [base]\nseed: 6")).seed == 6


def test_defaults_lists_that_are_wrong() -> None:
    assert (
        problem(file("a.yaml", "seed: 1\ndefaults: model"))
        == "a.yaml:2: `defaults:` must be a list, as in Hydra, got 'model'"
    )
    assert problems(file("a.yaml", "defaults:\n  - modle: vgg\n  - [x]\n  - model: null\nseed: -1")) == (
        "a.yaml:2: unknown config group 'modle'; did you mean model?",
        "a.yaml:3: an entry of `defaults:` is a name or one `group: option`, got ['x']",
        "a.yaml:5: seed: must be a whole number >= 0 and < 9.22337e+18, got -1",
    )
    assert problem(file("a.yaml", "defaults:\n  - nowhere")).startswith(
        "a.yaml:2: there is no recipe and no file 'nowhere'"
    )
    file("b.yaml", "defaults: [a]")
    assert problem(file("a.yaml", "defaults: [b]")) == "b.yaml:1: 'a' leads back to itself"


def test_the_users_own_option_of_a_group() -> None:
    file("here/model/tiny.yaml", "name: resnet\ndepth: 8\n")
    file("here/data/small.yaml", "name: synthetic\nsamples: 60\nbatch_size: 4\n")
    file("here/trainer/long.yaml", "epochs: 200\n")
    file("here/augment/flip.yaml", "# @package _global_\naugment: [horizontal_flip]\n")
    mine = file("here/my.yaml", "model: {name: resnet, depth: 20}\ntrainer: {log_every: 7}\naugment: [random_crop]")
    config, composed = load_config(mine, ["model=tiny", "data=small", "trainer=long", "augment=flip", "debug=fast"])
    assert (config.model.name, config.model.params["depth"]) == ("resnet", 8)
    assert (config.data.name, config.data.params["samples"], config.data.batch_size) == ("synthetic", 60, 4)
    assert config.data.workers == load(None).data.workers
    assert (config.trainer.epochs, config.trainer.limit_batches) == (1, 3)
    assert [a.name for a in config.augment] == ["horizontal_flip"]
    assert composed.provenance.where(("model", "depth")) == "here/model/tiny.yaml:2"
    assert composed.provenance.where(("data", "workers")).startswith("configs/data/synthetic.yaml:")
    assert load(mine, "trainer=long").trainer.epochs == 200
    in_file = file("here/second.yaml", "model: tiny\ndata: small\n")
    assert load(in_file).model == config.model


def test_own_options_lie_beside_any_file_of_the_chain() -> None:
    file("base/model/tiny.yaml", "name: resnet\ndepth: 8\n")
    file("base/optimizer/slow.yaml", "name: sgd\nlr: 0.001\n")
    file("base/base.yaml", "model: tiny\nseed: 5\n")
    file("here/optimizer/slow.yaml", "name: sgd\nlr: 0.002\n")
    mine = file("here/my.yaml", "defaults: [../base/base]\ntrainer: {epochs: 3}\n")
    config, composed = load_config(mine, ["optimizer=slow"])
    assert (config.seed, config.model.params["depth"]) == (5, 8)
    assert composed.provenance.where(("model", "depth")) == "base/model/tiny.yaml:2"
    # The folder of the last file goes first.
    assert config.optimizer.params["lr"] == 0.002
    assert load("base/base.yaml", "optimizer=slow").optimizer.params["lr"] == 0.001
    file("base/model/vgg.yaml", "name: vgg\n")
    assert "base/model/vgg.yaml has the name of an option of dlrun" in problem(mine, "model=vgg")


def test_a_file_that_is_overruled_by_its_base_gives_the_name_all_the_same() -> None:
    file("base.yaml", "seed: 5")
    assert compose(file("my.yaml", "defaults: [_self_, base]"), []).name == "my"


@pytest.mark.parametrize("header", ["# @package _global_\n", "\n#@package _global_\n", "# @x y\n# @package _global_\n"])
def test_an_own_option_may_be_global(header: str) -> None:
    file("augment/flip.yaml", header + "# Left for right.\naugment: [horizontal_flip]\n")
    assert [a.name for a in load(file("my.yaml", "augment: flip")).augment] == ["horizontal_flip"]


def test_a_header_below_another_comment_is_none_for_hydra() -> None:
    file("augment/flip.yaml", "# Left for right.\n# @package _global_\naugment: [horizontal_flip]\n")
    assert problem(file("my.yaml", "augment: flip")) == (
        "augment/flip.yaml:2: `# @package _global_` has no effect below another comment; move it up"
    )


def test_an_own_option_with_the_name_of_a_built_in_one_is_refused() -> None:
    file("model/vgg.yaml", "name: vgg\ndepth: 11\n")
    mine = file("my.yaml", "seed: 1\nmodel: vgg\n")
    assert problem(mine) == "my.yaml:2: model/vgg.yaml has the name of an option of dlrun; give it another name"


def test_a_mistake_in_an_own_option_names_its_line() -> None:
    file("model/tiny.yaml", "name: resnet\ndepht: 8\n")
    assert problem(file("my.yaml", "model: tiny")) == (
        "model/tiny.yaml:2: model.depht: unknown key: model 'resnet' has no option 'depht'; did you mean depth?"
    )


@pytest.mark.parametrize(
    ("word", "path", "value"),
    [
        ("seed=3", ("seed",), 3),
        ("+seed=3", ("seed",), 3),
        ("++seed=3", ("seed",), 3),
        ("a.b=[1,'2',\"3\"]", ("a", "b"), [1, "2", "3"]),
        ("a={b: {c: 1.5}, d: null}", ("a",), {"b": {"c": 1.5}, "d": None}),
        ("a='x, y'", ("a",), "x, y"),
        ("a=true", ("a",), True),
        ("a='true'", ("a",), "true"),
        ("a=1e-3", ("a",), 1e-3),
        ("a=", ("a",), ""),
        ("~a.b", ("a", "b"), None),
        ("a/b=c", ("a", "b"), "c"),
        ("a=10ep", ("a",), "10ep"),
        ("a=${b.c}", ("a",), "${b.c}"),
        ("a=~/data/x", ("a",), "~/data/x"),
    ],
)
def test_overrides_in_hydras_syntax(word: str, path: tuple[str, ...], value: object) -> None:
    ((layer,), wrong) = parse_overrides([word])
    assert wrong == []
    node: Any = layer.tree
    for key in path:
        node = node[key]
    assert node == value
    assert type(node) is type(value)


@pytest.mark.parametrize("word", ["optimizer.lr=0.1,0.2", "model=vgg,resnet", "seed=range(1,5)"])
def test_a_choice_of_several_values_is_for_sweeps(word: str) -> None:
    key = word.split("=")[0]
    where = f"override {word!r}: is a choice between several values, but one run takes one"
    assert problem(None, word).startswith(where)
    assert f"{key}=[...]" in problem(None, word)


def test_what_is_not_an_override_says_how_to_quote() -> None:
    assert problem(None, "data.root=/a=b").startswith("override 'data.root=/a=b': is not key=value in Hydra's syntax (")
    assert """write "data.root='/a=b'" with both kinds of quotes""" in problem(None, "data.root=/a=b")
    assert load(None, "data=cifar10", "data.root='/a=b'").data.params["root"] == Path("/a=b")


def test_a_key_with_a_plus_must_exist_all_the_same() -> None:
    assert "did you mean lr?" in problem(None, "+optimizer.lrr=1")


def test_the_greatest_seed_and_device() -> None:
    config = load(None, f"seed={2**63 - 1}", f"data.split_seed={2**63 - 1}", "device=cuda:99")
    assert (config.seed, config.data.split_seed, config.device) == (2**63 - 1, 2**63 - 1, "cuda:99")


# Paths.


def test_relative_paths_belong_to_the_file_that_holds_them() -> None:
    mine = file("elsewhere/my.yaml", "data: {name: cifar10, root: ../images}\nrun: {root: out}")
    config = load(mine)
    here = Path.cwd()
    assert (config.data.params["root"], config.run.root) == (here / "images", here / "elsewhere" / "out")
    assert load(mine, "data.root=images").data.params["root"] == here / "images"
    assert load(mine, "data.root=/images").data.params["root"] == Path("/images")
    assert load(mine, "data.root=~/images").data.params["root"] == Path.home() / "images"
    assert load(None).run.root == here / "runs"


def test_relative_paths_in_a_recipe_belong_to_the_current_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    file("recipes/own.yaml", "data: {name: cifar10, root: images}")
    monkeypatch.setattr("dlrun.config.files.RECIPES", Path.cwd() / "recipes")
    config, composed = load_config("own", [])
    assert config.data.params["root"] == Path.cwd() / "images"
    assert composed.provenance.where(("data", "root")) == "recipes/own.yaml:1"


# Interpolations.


def test_interpolations_resolve() -> None:
    mine = file("my.yaml", "seed: 7\ndata: {split_seed: '${seed}'}\nrun: {name: 's${seed}_${model.name}'}")
    config = load(mine, "trainer.log_every=${seed}")
    assert (config.data.split_seed, config.run.name, config.trainer.log_every) == (7, "s7_resnet", 7)


def test_broken_interpolations_are_named_with_key_expression_and_place() -> None:
    mine = file("my.yaml", "model:\n  name: resnet\n  depth: ${model.depht}\nrun:\n  name: ${a\nseed: ${seed}\n")
    assert problems(mine, "trainer.epochs=${nowhere}") == (
        "my.yaml:5: run.name: the interpolation '${a' is not complete: no viable alternative at input '${a'",
        "my.yaml:6: seed: the interpolation '${seed}' does not resolve: Recursive interpolation detected",
        "my.yaml:3: model.depth: the interpolation '${model.depht}' does not resolve: there is no model.depht; "
        "did you mean model.depth or model.weights?",
        "override trainer.epochs=${nowhere}: trainer.epochs: the interpolation '${nowhere}' does not resolve: there is "
        "no nowhere; write the whole path of a key, such as ${optimizer.lr}",
    )


def test_a_broken_interpolation_in_a_list() -> None:
    assert problem(None, "model=mlp", "model.hidden=[8,${x.y}]").startswith(
        "override model.hidden=[8,${x.y}]: model.hidden.1"
    )


def test_an_interpolation_with_a_wrong_value_shows_the_value() -> None:
    assert problem(None, "trainer.epochs=${model.name}") == (
        "override trainer.epochs=${model.name}: trainer.epochs: must be a whole number >= 1, got 'resnet'"
    )


# What is refused.


def test_all_problems_are_listed_at_once_with_their_places() -> None:
    mine = file(
        "my.yaml",
        "sed: 1\n"
        "model:\n  name: resnt\n"
        "optimizer:\n  name: sgd\n  lr: -1\n  weigth_decay: 0.1\n"
        "data:\n  name: cifar10\n  batch_size: 2.5\n"
        "trainer.epochs: 3\n"
        "augment:\n  - name: random_crop\n    pading: 3\n  - 7\n"
        "trainer: 5\n"
        "epochs: 5\n",
    )
    assert problems(mine, "schedule=cosin", "callbacks.checkpoint.mode=big", "optimizer.lr=fast", "device=gpu") == (
        "my.yaml:1: sed: unknown key; did you mean seed or seeds?",
        "my.yaml:11: trainer.epochs: unknown key; in a file, write it nested: `trainer:` and below it, indented, "
        "`epochs:`",
        "my.yaml:17: epochs: unknown key; did you mean trainer.epochs?",
        "my.yaml:3: model.name: unknown model 'resnt'; did you mean resnet?",
        "my.yaml:10: data.batch_size: must be a whole number >= 1, got 2.5",
        "configs/data/cifar10.yaml:3: data.root: missing required value: a path; set it in your file, or with "
        "data.root=...",
        "my.yaml:14: augment.0.pading: unknown key: augment 'random_crop' has no option 'pading'; did you mean "
        "padding?",
        "my.yaml:15: augment.1: must be the name of an augmentation or {name: ..., option: ...}, got 7",
        "override optimizer.lr=fast: optimizer.lr: must be a number > 0, got 'fast'",
        "my.yaml:7: optimizer.weigth_decay: unknown key: optimizer 'sgd' has no option 'weigth_decay'; "
        "did you mean weight_decay or layer_decay?",
        "override schedule=cosin: schedule.name: unknown schedule 'cosin'; did you mean cosine or chain?",
        "override callbacks.checkpoint.mode=big: callbacks.checkpoint.mode: must be one of min, max, got 'big'",
        "my.yaml:16: trainer: must be a section with `name: value` lines below it, got 5",
        "override device=gpu: device: must be auto, cpu, cuda or cuda:N, got 'gpu'",
    )


def test_one_problem_is_counted_in_the_singular() -> None:
    with pytest.raises(ConfigError, match=r"^1 problem in the configuration:\n  - override sed=1: sed: unknown key"):
        load(None, "sed=1")


def test_unknown_options_of_groups_and_other_problems_together() -> None:
    assert problems(None, "augment=foo", "debug=fats", "trainer=x", "seed=-1", "a=1,2") == (
        "override 'a=1,2': is a choice between several values, but one run takes one; for a list write a=[...], for a "
        "text with a comma put it in quotes, to search among them dlrun sweep a='choice(a, b)'",
        f"override augment=foo: config group 'augment' has no option 'foo'; known: {', '.join(options('augment'))}",
        "override debug=fats: config group 'debug' has no option 'fats'; did you mean fast?",
        "override trainer=x: config group 'trainer' has no option 'x'; known: default",
        "override seed=-1: seed: must be a whole number >= 0 and < 9.22337e+18, got -1",
    )


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model=null", "model: must be a section with `name: value` lines below it, got None"),
        ("model.name=3", "model.name: must be a text, got 3"),
        ("model.name=???", "model.name: missing required value: a text; set it in your file, or with model.name=..."),
        ("seed=true", "seed: must be a whole number >= 0 and < 9.22337e+18, got True"),
        ("seed=null", "seed: must be a whole number >= 0 and < 9.22337e+18, got None"),
        (f"seed={2**63}", f"seed: must be a whole number >= 0 and < 9.22337e+18, got {2**63}"),
        ("data.split_seed=99999999999999999999999", "data.split_seed: must be a whole number >= 0 and < 9.22337e+18"),
        ("device=cuda:100", "device: must be auto, cpu, cuda or cuda:N, got 'cuda:100'"),
        ("device=cuda:007", "device: must be auto, cpu, cuda or cuda:N, got 'cuda:007'"),
        ('device="cpu\n"', "device: must be auto, cpu, cuda or cuda:N, got 'cpu\\n'"),
        ("trainer.eval_every=0ep", "trainer.eval_every: must be a duration"),
        ("plugins=my_net", "plugins: must be a list, each a text, got 'my_net'"),
        ("augment=null", "augment: must be a list of augmentations, each {name: ..., option: ...}, got None"),
        ("callbacks=[]", "callbacks: must map names of callbacks to their options, got []"),
        ("debug={a: 1}", "debug: must be the name of a debug mode: fast, nan, overfit, got {'a': 1}"),
        ("model.num_classes=3", "model.num_classes: is set by dlrun itself for every model; remove it"),
        ("optimizer.lr=.inf", "optimizer.lr: must be a number > 0, got '.inf'"),
        ("optimizer.lr=inf", "optimizer.lr: must be a number > 0, got inf"),
        ("optimizer.lr=nan", "optimizer.lr: must be a number > 0, got nan"),
        ("data.val_fraction=1", "data.val_fraction: must be a number >= 0 and < 1, got 1"),
        ("hydra.verbose=true", "hydra: unknown key; known: "),
        ("lr=3", "lr: unknown key; did you mean optimizer.lr?"),
        ("task.x=1", "task.x: unknown key: task 'classification' has no option 'x'; known: name"),
    ],
)
def test_a_wrong_value_on_the_line(word: str, message: str) -> None:
    assert problem(None, word).startswith(f"override {word}: {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"seed: 1\nmodel: [resnet\n", "my.yaml:3: is not valid YAML: expected ',' or ']', but got '<stream end>'"),
        (b"seed: 1\n\tx: 2\n", "my.yaml:2: is not valid YAML: found character '\\t' that cannot start any token"),
        (b"seed: 1\nrun:\n  name: a\n  name: b\n", "my.yaml:4: is not valid YAML: found duplicate key name"),
        (b"a: 1\n---\nb: 2\n", "my.yaml:2: is not valid YAML: but found another document"),
        (b"seed: !!python/object:os.system 1\n", "my.yaml:1: is not valid YAML: could not determine a constructor"),
        (b"- seed\n", "my.yaml: must hold `key: value` lines, but holds a list"),
        (b"just text\n", "my.yaml: must hold `key: value` lines, but holds a str"),
        (b"seed: 1\nx: \xff\n", "my.yaml: is not a text file in UTF-8 (byte 11)"),
        (b"seed: \x00\n", "my.yaml: is not valid YAML: "),
        (b"seed: !!set {a}\n", "my.yaml:1: seed: a set is not a value that a configuration can hold"),
        (b"1: 2\n", "my.yaml:1: 1: unknown key; known: "),
    ],
)
def test_files_that_are_no_configuration(content: bytes, message: str) -> None:
    Path("my.yaml").write_bytes(content)
    assert problem("my.yaml").startswith(message)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("digts", "config=digts: there is no recipe and no file 'digts' (looked in FOLDER); did you mean digits?"),
        ("no.yaml", "config=no.yaml: there is no file 'no.yaml' (looked in FOLDER)"),
        ("a/b", "config=a/b: there is no file 'a/b' (looked in FOLDER)"),
        ("", "config= is empty; give the name of a recipe or the path of a YAML file"),
        (".", "config=.: '.' is a folder without a config.yaml; give a YAML file or a run folder"),
        ("/", "config=/: '/' is a folder without a config.yaml; give a YAML file or a run folder"),
    ],
)
def test_a_config_that_is_not_there(config: str, message: str) -> None:
    assert problem(config).replace(str(Path.cwd()), "FOLDER") == message


def test_a_file_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    file("my.yaml", "seed: 1")

    def refuse(*args: object, **kwargs: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(ConfigError, match="mine: cannot be read: Permission denied"):
        read_yaml(Path("my.yaml"), "mine")


def test_a_file_that_is_gone() -> None:
    with pytest.raises(ConfigError, match="mine: no such file"):
        read_yaml(Path("nowhere.yaml"), "mine")


text_values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
trees = st.recursive(
    text_values, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
)


@settings(max_examples=60)
@given(section=st.sampled_from([*Config.__dataclass_fields__, "debug", "defaults", "x"]), value=trees)
def test_no_tree_of_yaml_makes_more_than_a_config_error(section: str, value: object) -> None:
    Path("any.yaml").write_text(yaml.safe_dump({section: value}, allow_unicode=True), encoding="utf-8")
    with suppress(ConfigError):
        load("any.yaml")


# What becomes of it.


@pytest.mark.parametrize("recipe", experiments())
def test_a_saved_configuration_reads_back_as_itself(recipe: str) -> None:
    config = load(
        recipe,
        *needed(recipe),
        "callbacks.early_stopping={}",
        "callbacks.tensorboard=null",
        "trainer.clip_norm=0.123456789",
    )
    tree = config.to_tree()
    file("runs/20260102_x/config.yaml", yaml.safe_dump(tree, sort_keys=False))
    assert load("runs/20260102_x") == config
    assert load("runs/20260102_x/config.yaml") == config
    assert compose("runs/20260102_x", []).name == "20260102_x"
    saved, _ = read_yaml(Path("runs/20260102_x/config.yaml"), "saved")
    assert finish(compose_saved(saved, "saved", Path.cwd(), [])) == config
    changed = finish(compose_saved(saved, "saved", Path.cwd(), ["seed=9"]))
    assert changed == dataclasses.replace(config, seed=9)


def saved_problems(*overrides: str, config: str | None = None) -> Sequence[str]:
    tree = load(config).to_tree()
    with pytest.raises(ConfigError) as caught:
        finish(compose_saved(tree, "saved", Path.cwd(), overrides))
    return caught.value.problems


@pytest.mark.parametrize("words", [["data=cifar10", "data.root=/x"], ["data.name=cifar10"], ["data={name: cifar10}"]])
def test_a_component_of_a_saved_tree_cannot_be_exchanged(words: list[str]) -> None:
    assert saved_problems(*words) == (
        f"override {words[0]}: data: the saved configuration has 'digits', which cannot be exchanged; set single "
        "values, such as data.workers=...",
    )


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model=vgg", "model: the saved configuration has 'resnet', which cannot be exchanged; start a new run to"),
        ("augment=none", "augment: the saved configuration has values here, and a whole option cannot replace them; "),
        ("trainer=default", "set single values, such as trainer.threads=..."),
        ("callbacks=default", "set single values, such as callbacks.progress=null"),
        ("debug=fast", "debug: a debug mode is for new runs, not for a saved configuration"),
    ],
)
def test_options_of_groups_mean_nothing_to_a_saved_tree(word: str, message: str) -> None:
    (found,) = saved_problems(word)
    assert found.startswith(f"override {word}: ")
    assert message in found


def test_the_component_of_a_saved_tree_may_be_named_again() -> None:
    config = load(None)
    words = ["model=resnet", "data.name=digits", "optimizer={name: sgd, lr: 0.3}", "debug=null"]
    again = finish(compose_saved(config.to_tree(), "saved", Path.cwd(), words))
    assert again.optimizer.params["lr"] == 0.3
    assert (again.model, again.data) == (config.model, config.data)
    mine = file("my.yaml", "data: {name: cifar10, root: here}")
    assert saved_problems("data=digits", config=mine)[0].endswith("such as data.root=...")


def test_every_component_reads_back_as_itself() -> None:
    for group in component_groups():
        for name in REGISTRIES[group].names():
            required = [key for key in own_option(group, name) if is_required(group, name, key)]
            words = [f"{group}={name}", *(f"{group}.{key}=data" for key in required)]
            config = load(None, *words)
            file("c.yaml", yaml.safe_dump(config.to_tree()))
            assert load("c.yaml") == config


def test_the_configuration_cannot_be_changed() -> None:
    config = load(None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.model.name = "vgg"  # type: ignore[misc]


def test_print_config_shows_every_value_with_its_origin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file("here/my.yaml", "seed: 4\ndata:\n  name: cifar10\n  root: images\nmodel: {name: vgg, depth: 11}\n")
    done = Dlrun(capsys)(
        "train", "config=here/my.yaml", "optimizer=adamw", "data.workers=0", "debug=fast", "--print-config"
    )
    assert done.code == 0
    lines = [line.split("#") for line in done.out.splitlines()]
    shown = {line[0].strip(): line[1].strip() for line in lines if len(line) == 2}
    assert shown["seed: 4"] == "here/my.yaml:1"
    assert shown[f"root: {tmp_path}/here/images"] == "here/my.yaml:4"
    assert shown["depth: 11"] == "here/my.yaml:5"
    assert shown["workers: 0"] == "override data.workers=0"
    assert shown["name: adamw"] == "override optimizer=adamw"
    assert shown["epochs: 1"].startswith("configs/debug/fast.yaml:")
    assert shown["batch_size: 128"].startswith("configs/data/cifar10.yaml:")
    assert shown["device: auto"].startswith("configs/config.yaml:")
    assert not Path("runs").exists()
    # What is printed is a configuration.
    assert load(file("printed.yaml", done.out)) == load(
        "here/my.yaml", "optimizer=adamw", "data.workers=0", "debug=fast"
    )


def test_explain_names_the_default_of_an_option_that_no_file_lists() -> None:
    config, composed = load_config(None, [BARE, "callbacks.early_stopping.patience=5"])
    lines = explain(config.to_tree(), composed.provenance.where).splitlines()
    (monitor,) = [line for line in lines if "monitor: val/loss" in line]
    assert monitor.endswith("# default")


def test_every_group_has_a_section_or_a_meaning() -> None:
    assert set(groups()) <= {*Config.__dataclass_fields__, "debug", "sweep"}
