"""Starting from weights, freezing, heads, learning rates of parts, cached features, and the models of libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from helpers import Dlrun
from PIL import Image
from running import config, equal, make_fit
from safetensors.torch import save_file
from torch import nn

from dlrun import assembly, checkpoint
from dlrun.config.load import load_config
from dlrun.errors import CheckpointError, UserError
from dlrun.models.from_torchvision import _named
from dlrun.registry import MODELS
from dlrun.train.fit import Callback, Fit
from dlrun.train.loop import train
from dlrun.transfer import Head, find_module, freeze, learning_rate_factors, start_from
from dlrun.weights import Weights, read_weights

CONV = ("model=resnet", "model.depth=8", "model.width=0.25", "data.samples=64", "trainer.epochs=1")


def weights_file(root: Path, *words: str) -> Path:
    """A checkpoint of a small net trained on ten synthetic classes."""
    fit = make_fit(root / "first", *CONV, "callbacks.progress=null", "callbacks.tensorboard=null", *words)
    train(fit)
    return fit.run.checkpoints / "last.pt"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights_file(tmp_path_factory.mktemp("trained"))


def fit_from(root: Path, weights: Path | str, *words: str) -> Fit:
    return make_fit(root, *CONV, f"model.weights={weights}", *words, callbacks={})


def state_of(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = checkpoint.load(path)["model"]
    return state


def is_head(name: str) -> bool:
    return name.startswith("head.")


@pytest.fixture
def dlrun(capsys: pytest.CaptureFixture[str]) -> Dlrun:
    return Dlrun(capsys)


# ---- Weights


def test_the_same_classes_keep_the_head(trained: Path, tmp_path: Path) -> None:
    fit = fit_from(tmp_path, trained)
    assert equal(dict(fit.model.state_dict()), dict(state_of(trained)))
    assert "head kept" in fit.origin


@pytest.mark.parametrize("words", [("data.classes=4",), ("model.head=new",)])
def test_other_classes_and_head_new_replace_the_head(trained: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    fit = fit_from(tmp_path, trained, *words)
    theirs, own = state_of(trained), fit.model.state_dict()
    assert all(torch.equal(own[name], theirs[name]) for name in theirs if not is_head(name))
    assert own["head.weight"].shape != theirs["head.weight"].shape or not equal(
        own["head.weight"], theirs["head.weight"]
    )
    assert "new head: head" in fit.origin


def test_a_run_folder_means_its_best_checkpoint(trained: Path, tmp_path: Path) -> None:
    fit = fit_from(tmp_path, trained.parent.parent)
    assert fit.origin.startswith(str(trained.parent / "best.pt"))


def test_classes_of_other_names_get_a_new_head(trained: Path, tmp_path: Path) -> None:
    payload = checkpoint.load(trained)
    payload["data"]["classes"][0] = "something else"
    checkpoint.save(tmp_path / "renamed.pt", {k: v for k, v in payload.items() if k not in ("format", "version")})
    assert "new head" in fit_from(tmp_path / "auto", tmp_path / "renamed.pt").origin
    assert "head kept" in fit_from(tmp_path / "keep", tmp_path / "renamed.pt", "model.head=keep").origin


def test_the_head_of_another_size_cannot_be_kept(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"weights of .*last\.pt do not fit the model: head\.weight: \(10, 16\) there, \(4, 16\) in",
    ):
        fit_from(tmp_path, trained, "data.classes=4", "model.head=keep")


@pytest.mark.parametrize("form", ["plain.pt", "wrapped.pth", "parallel.pt", "own.safetensors"])
def test_state_dicts_of_all_kinds_are_read(trained: Path, tmp_path: Path, form: str) -> None:
    state = state_of(trained)
    path = tmp_path / form
    if form == "own.safetensors":
        save_file(state, path)
    else:
        content: Any = {f"module.{k}": v for k, v in state.items()} if form == "parallel.pt" else state
        torch.save({"state_dict": content, "epoch": 3} if form == "wrapped.pth" else content, path)
    assert equal(dict(fit_from(tmp_path, path).model.state_dict()), dict(state))


def test_counters_that_old_files_lack_are_no_misfit(trained: Path, tmp_path: Path) -> None:
    state = {k: v for k, v in state_of(trained).items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pt")
    fit_from(tmp_path, tmp_path / "old.pt")


def test_weights_that_are_not_finite_are_damaged(trained: Path, tmp_path: Path) -> None:
    state = state_of(trained)
    state["head.bias"][1] = float("nan")
    torch.save(state, tmp_path / "nan.pt")
    with pytest.raises(CheckpointError, match=r"nan\.pt are damaged: head\.bias holds NaN"):
        fit_from(tmp_path, tmp_path / "nan.pt")


def test_a_sparse_tensor_is_named(trained: Path, tmp_path: Path) -> None:
    state = state_of(trained)
    torch.save({**state, "head.weight": state["head.weight"].to_sparse()}, tmp_path / "sparse.pt")
    with pytest.raises(CheckpointError, match=r"hold head\.weight as a sparse tensor"):
        fit_from(tmp_path, tmp_path / "sparse.pt")


def test_a_second_claim_on_a_name_is_a_misfit(trained: Path, tmp_path: Path) -> None:
    state = state_of(trained)
    torch.save({**state, "module.head.weight": torch.zeros_like(state["head.weight"])}, tmp_path / "two.pt")
    with pytest.raises(CheckpointError, match=r"unexpected module\.head\.weight"):
        fit_from(tmp_path, tmp_path / "two.pt")


def test_another_net_is_refused_with_the_first_names(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"do not fit the model: .*and \d+ more"):
        fit_from(tmp_path, trained, "model.depth=14")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"nonsense", "is not a file of weights"),
        ({"epoch": 3}, "holds no state dict"),
        ([1, 2], "holds no state dict"),
        (None, "cannot be read: No such file"),
    ],
)
def test_files_without_weights_are_named(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "x.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        fit_from(tmp_path, path)


def test_a_file_that_could_run_code_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(CheckpointError, match=r"refused.*could run code"):
        fit_from(tmp_path, tmp_path / "module.pt")


def test_a_name_needs_a_library(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model 'resnet' has no weights by name.*\./DEFAULT"):
        fit_from(tmp_path, "DEFAULT")


@pytest.mark.parametrize("head", ["keep", "new"])
def test_a_head_without_weights_has_no_effect_and_is_refused(tmp_path: Path, head: str) -> None:
    with pytest.raises(UserError, match=f"model.head={head} has no effect without model.weights"):
        make_fit(tmp_path, *CONV, f"model.head={head}", callbacks={})


def test_a_relative_path_belongs_to_its_file(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "my.yaml").write_text("model: {name: resnet, weights: ../first/last.pt}\n")
    monkeypatch.chdir(tmp_path)
    found = load_config("here/my.yaml", [])[0]
    assert found.model.weights == str(tmp_path / "first" / "last.pt")
    assert load_config("here/my.yaml", ["model.weights=DEFAULT"])[0].model.weights == "DEFAULT"


@pytest.mark.parametrize("channels", [1, 2, 3, 6])
def test_the_first_convolution_takes_other_channels(channels: int) -> None:
    def net(channels: int) -> nn.Module:
        made: nn.Module = MODELS.build(
            "resnet", MODELS.check("resnet", {"depth": 8})[0], input_shape=(channels, 16, 16), num_classes=3
        )
        return made.eval()

    colour, other = net(3), net(channels)
    head = Head(("head.weight", "head.bias"))
    start_from(other, Weights("colour", colour.state_dict()), head, "keep", ())
    grey = torch.randn(5, 1, 16, 16)
    if channels in (1, 3, 6):
        # Equal channels must give what they gave before.
        torch.testing.assert_close(other(grey.expand(-1, channels, -1, -1)), colour(grey.expand(-1, 3, -1, -1)))
    first = next(key for key, value in other.state_dict().items() if value.dim() == 4)
    assert other.state_dict()[first].shape[1] == channels


# ---- Normalisation as the weights had it


def test_images_are_normalised_as_for_the_weights(trained: Path, tmp_path: Path) -> None:
    fit = fit_from(tmp_path, trained, "data.normalize=weights", "data.samples=40", "data.split_seed=3")
    stored = checkpoint.load(trained)["data"]["statistics"]
    assert torch.equal(fit.feed.statistics.mean, stored["mean"])
    assert torch.equal(fit.feed.statistics.std, stored["std"])


def test_weights_that_tell_no_statistics_are_refused_for_them(trained: Path, tmp_path: Path) -> None:
    torch.save(state_of(trained), tmp_path / "bare.pt")
    with pytest.raises(UserError, match="does not tell what its images were normalised with"):
        fit_from(tmp_path, tmp_path / "bare.pt", "data.normalize=weights")
    with pytest.raises(UserError, match="there are no weights"):
        make_fit(tmp_path, *CONV, "data.normalize=weights", callbacks={})


# ---- The head is found


@pytest.mark.parametrize("name", ["resnet", "googlenet", "squeezenet", "linear", "mlp", "nin", "convnet", "airbench"])
def test_the_head_is_what_depends_on_the_classes(name: str) -> None:
    def net(classes: int) -> nn.Module:
        with torch.device("meta"):
            made: nn.Module = MODELS.build(
                name, MODELS.check(name, {})[0], input_shape=(3, 64, 64), num_classes=classes
            )
            return made

    seven = net(7)
    head = Head.between(seven, net(8))
    for key, value in seven.named_parameters():
        owner = seven.get_submodule(key.rpartition(".")[0])
        assert (key in head) == (7 in next(owner.parameters()).shape[:1]), (key, value.shape)


def test_a_model_that_knows_no_classes_has_no_head() -> None:
    with pytest.raises(UserError, match="nothing in it depends on the number of classes"):
        Head.between(nn.Linear(2, 3), nn.Linear(2, 3))


# ---- Freezing


class Watch(Callback):
    """Remembers the weights before training, and which modules train."""

    def fit_start(self, fit: Fit) -> None:
        self.before = {key: value.clone() for key, value in fit.model.state_dict().items()}

    def step_end(self, fit: Fit) -> None:
        self.training = {name for name, module in fit.model.named_modules() if name and module.training}


@pytest.mark.parametrize("until", ["stem", "features.stage2", "stage1", "all_but_head"])
def test_what_is_frozen_does_not_change(trained: Path, tmp_path: Path, until: str) -> None:
    watch = Watch()
    fit = make_fit(
        tmp_path,
        *CONV,
        f"model.weights={trained}",
        "data.classes=4",
        f"model.freeze={until}",
        callbacks={"watch": watch},
    )
    train(fit)
    parts = ["features.stem", "features.stage1", "features.stage2", "features.stage3", "head"]
    last = parts.index("features.stage3" if until == "all_but_head" else f"features.{until.removeprefix('features.')}")
    frozen = tuple(f"{part}." for part in parts[: last + 1])
    for key, value in fit.model.state_dict().items():
        # Batch norm's statistics too: they are of the training that the weights come from.
        assert equal(value, watch.before[key]) == key.startswith(frozen), key
    assert not [name for name in watch.training if f"{name}.".startswith(frozen)]
    assert "head" in watch.training
    # Evaluation puts it back as it was.
    assert {name for name, module in fit.model.named_modules() if name and module.training} == watch.training


def test_dropout_before_the_head_stays_active() -> None:
    net = torchvision.models.alexnet(num_classes=5)
    frozen = freeze(net, "all_but_head", Head(("classifier.6.weight", "classifier.6.bias")))
    assert net.features in frozen
    assert net.get_submodule("classifier.4") in frozen
    assert net.classifier not in frozen
    assert net.get_submodule("classifier.6") not in frozen


def test_modules_are_found_by_the_end_of_their_name(trained: Path, tmp_path: Path) -> None:
    net = fit_from(tmp_path, trained).model
    assert find_module(net, "stage2", "x") == "features.stage2"
    with pytest.raises(UserError, match=r"model\.freeze: the model has no module 'stage22'; did you mean stage2"):
        find_module(net, "stage22", "model.freeze")
    with pytest.raises(UserError, match="not unique"):
        find_module(net, "0", "model.freeze")


def test_nothing_left_to_train_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no trainable parameters: model\.freeze=head leaves none"):
        make_fit(tmp_path, *CONV, "model.freeze=head", callbacks={})


def test_the_summary_counts_what_is_trained(dlrun: Dlrun) -> None:
    words = ("summary", "model=resnet", "model.depth=8", "input=3x32x32", "classes=10", "--json")
    plain, probe = (json.loads(dlrun(*words, *more).out) for more in ((), ("model.freeze=all_but_head",)))
    assert plain["trainable"] == plain["parameters"] == probe["parameters"]
    assert probe["trainable"] == 64 * 10 + 10
    assert probe["memory"]["gradients"] == 4 * 650
    assert probe["memory"]["activations"] < plain["memory"]["activations"] / 10


def test_models_of_libraries_are_summarised_by_their_name(dlrun: Dlrun) -> None:
    done = dlrun("summary", "torchvision/resnet18", "resnet", "input=3x224x224", "classes=1000", "--json")
    assert done.code == 0, done.err
    theirs, own = json.loads(done.out)
    assert theirs["parameters"] == own["parameters"] == 11_689_512
    assert theirs["multiply_adds"] == own["multiply_adds"]


# ---- Learning rates of parts


def test_the_most_specific_name_has_the_say() -> None:
    net = nn.ModuleDict({"a": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "b": nn.Linear(2, 2)})
    head = Head(("b.weight", "b.bias"))
    factors = learning_rate_factors(net, {"body": 0.1, "a.1": 0.5, "head": 2.0}, head)
    assert factors == {
        "a.0.weight": 0.1,
        "a.0.bias": 0.1,
        "a.1.weight": 0.5,
        "a.1.bias": 0.5,
        "b.weight": 2.0,
        "b.bias": 2.0,
    }


def test_parts_learn_at_their_own_rate_along_the_schedule(tmp_path: Path) -> None:
    class Rates(Callback):
        def __init__(self) -> None:
            self.seen: list[list[float]] = []

        def step_end(self, fit: Fit) -> None:
            self.seen.append([group["lr"] for group in fit.optimizer.param_groups])

    rates = Rates()
    words = ("optimizer.lr=0.2", "optimizer.lr_factors={stage1: 0.5, head: 4}", "schedule=step")
    fit = make_fit(tmp_path, *CONV, *words, callbacks={"rates": rates})
    names = {id(parameter): name for name, parameter in fit.model.named_parameters()}
    expected = {"stage1": 0.1, "head": 0.8}
    for group, base in zip(fit.optimizer.param_groups, fit.base_lrs, strict=True):
        for parameter in group["params"]:
            part = next((p for p in expected if p in names[id(parameter)].split(".")), None)
            assert base == pytest.approx(expected.get(part or "", 0.2))
    train(fit)
    for seen in rates.seen:
        assert [lr / seen[0] for lr in seen] == pytest.approx([base / 0.2 for base in fit.base_lrs])
    assert fit.base_lrs[0] == 0.2


def test_a_rate_for_an_unknown_module_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"optimizer\.lr_factors: the model has no module 'stge1'; did you mean stage1"):
        make_fit(tmp_path, *CONV, "optimizer.lr_factors={stge1: 0.5}", callbacks={})


@pytest.mark.parametrize("factors", ["{stem: 5}", "{stage1: 2, features.stem.0: 5}"])
def test_a_rate_for_what_is_frozen_is_an_error(tmp_path: Path, factors: str) -> None:
    with pytest.raises(UserError, match=r"optimizer\.lr_factors: '(features\.)?stem(\.0)?' is frozen"):
        make_fit(tmp_path, *CONV, "model.freeze=stem", f"optimizer.lr_factors={factors}", callbacks={})


def test_the_factors_of_a_recipe_can_be_left_out() -> None:
    words = ["model.weights=x.pt", "data.root=data"]
    assert load_config("finetune", words)[0].optimizer.lr_factors == {"body": 0.1}
    assert load_config("finetune", [*words, "optimizer.lr_factors=null"])[0].optimizer.lr_factors is None


def test_the_rate_that_is_told_is_that_without_a_factor(tmp_path: Path) -> None:
    class Told(Callback):
        def __init__(self) -> None:
            self.seen: list[float] = []

        def log(self, fit: Fit, metrics: Any) -> None:
            self.seen.append(metrics["lr"])

    told = Told()
    words = ("optimizer.lr=0.2", "optimizer.lr_factors={head: 10, body: 0.1}", "schedule=constant")
    train(make_fit(tmp_path, *CONV, *words, callbacks={"told": told}))
    assert told.seen
    assert told.seen == pytest.approx([0.2] * len(told.seen))


# ---- A linear probe on cached features

PROBE = ("model.freeze=all_but_head", "data.classes=4", "trainer.epochs=2", "optimizer.lr=0.5")


def test_cached_features_give_the_same_training(trained: Path, tmp_path: Path) -> None:
    plain = fit_from(tmp_path / "plain", trained, *PROBE)
    cached = fit_from(tmp_path / "cached", trained, *PROBE, "model.cache_features=true")
    train(plain)
    train(cached)
    assert plain.state.metrics.keys() == cached.state.metrics.keys()
    for name, value in plain.state.metrics.items():
        assert cached.state.metrics[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
    theirs = cached.model.state_dict()
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-3, atol=1e-4)


def test_the_frozen_part_runs_once_per_image(trained: Path, tmp_path: Path) -> None:
    fit = fit_from(tmp_path, trained, *PROBE, "model.cache_features=true")
    calls: list[int] = []
    fit.model.get_submodule("features").register_forward_hook(lambda *_: calls.append(1))
    train(fit)
    assert not calls


def test_dropout_before_the_head_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = ("model=torchvision/mobilenet_v3_small", "data.size=32", "model.freeze=all_but_head")
    make_fit(tmp_path, *words, "model.cache_features=true", callbacks={})
    assert "the dropout before the head does nothing" in caplog.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model.freeze=stem",), "all else must be frozen"),
        (("augment=crop_flip",), "nothing to augment"),
        (("model=googlenet", "model.width=0.1"), "auxiliary"),
    ],
)
def test_features_that_cannot_be_cached_are_refused(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    own = CONV if not any(word.startswith("model=") for word in words) else CONV[3:]
    with pytest.raises(UserError, match=message):
        make_fit(tmp_path, *own, "model.freeze=all_but_head", "model.cache_features=true", *words, callbacks={})


def test_a_truncated_file_is_named(trained: Path, tmp_path: Path) -> None:
    torch.save(state_of(trained), tmp_path / "whole.pt")
    (tmp_path / "part.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:3000])
    with pytest.raises(CheckpointError, match="is truncated or not a file of weights"):
        fit_from(tmp_path, tmp_path / "part.pt")


def test_a_probe_resumes_exactly_without_its_weights(trained: Path, tmp_path: Path, dlrun: Dlrun) -> None:
    """The weights may be gone: the checkpoint holds the whole model, and what the images were normalised with."""
    copy = tmp_path / "weights.pt"
    words = ("train", *CONV, "device=cpu", "data=synthetic", *PROBE, f"model.weights={copy}", "trainer.threads=1")
    words += ("model.cache_features=true", "data.normalize=weights", "data.batch_size=8", "schedule=constant")

    def run(root: str, *more: str) -> int:
        copy.write_bytes(trained.read_bytes())
        return dlrun(*words, f"run.root={tmp_path / root}", *more).code

    assert run("whole", "trainer.epochs=4") == 0
    assert run("parts", "trainer.epochs=2") == 0
    copy.unlink()
    (folder,) = (tmp_path / "parts").iterdir()
    resumed = dlrun("train", f"resume={folder}", "trainer.epochs=4")
    assert resumed.code == 0, resumed.err
    (whole,) = (tmp_path / "whole").iterdir()
    last = [checkpoint.load(path / "checkpoints" / "last.pt") for path in (whole, folder)]
    assert equal(last[0]["model"], last[1]["model"])
    assert equal(last[0]["optimizer"], last[1]["optimizer"])
    done = dlrun("eval", f"checkpoint={folder}", "split=val")
    assert done.code == 0, done.err


# ---- Libraries

LIGHT_TORCHVISION = ["alexnet", "googlenet", "inception_v3", "mobilenet_v3_small", "regnet_y_400mf", "squeezenet1_1"]


@pytest.mark.parametrize("name", LIGHT_TORCHVISION)
def test_models_of_torchvision(name: str) -> None:
    chosen = load_config(None, ["data=synthetic", f"model=torchvision/{name}", "data.size=80", "data.channels=1"])[0]
    assert (chosen.model.name, chosen.model.params) == ("torchvision", {"architecture": name})
    net = assembly.build_model(chosen, {"input_shape": (1, 80, 80), "num_classes": 7}, torch.device("cpu"))
    with torch.no_grad():
        assert net.eval()(torch.randn(2, 1, 80, 80)).shape == (2, 7)


@pytest.mark.slow
@pytest.mark.parametrize("name", torchvision.models.list_models(module=torchvision.models))
def test_every_model_of_torchvision(name: str) -> None:
    if name.startswith(("regnet", "vit_h")):
        pytest.skip("takes many gigabytes without meta tensors")
    with torch.device("meta"):
        net: nn.Module = MODELS.build("torchvision", {"architecture": name}, input_shape=(3, 224, 224), num_classes=7)
        reference = (
            torchvision.models.get_model(name, num_classes=7, init_weights=False)
            if name
            in (
                "googlenet",
                "inception_v3",
            )
            else torchvision.models.get_model(name, num_classes=7)
        )
    shapes = {key: value.shape for key, value in reference.state_dict().items()}
    assert {key: value.shape for key, value in net.state_dict().items()} == shapes


def test_weights_by_name_come_from_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = torchvision.models.squeezenet1_1()
    asked = []

    def fetched(url: str, **_: Any) -> dict[str, torch.Tensor]:
        asked.append(url)
        state: dict[str, torch.Tensor] = theirs.state_dict()
        return state

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetched)
    words = ["data=synthetic", "model=torchvision/squeezenet1_1", "model.weights=DEFAULT", "data.size=64"]
    chosen = load_config(None, [*words, "data.channels=3", "data.classes=10", "data.normalize=weights"])[0]
    prepared = assembly.prepare(chosen)
    assert prepared.feed.statistics.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert "squeezenet1_1" in asked[0]
    weights = prepared.weights
    assert weights is not None
    assert weights.classes is not None
    assert len(weights.classes) == 1000
    assert equal(dict(weights.state), dict(theirs.state_dict()))


def test_weights_that_cannot_be_fetched_are_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(url: str, **_: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    chosen = config("model=torchvision/squeezenet1_1", "model.weights=IMAGENET1K_V1")
    with pytest.raises(UserError, match=r"IMAGENET1K_V1: the weights cannot be fetched: no network; with"):
        read_weights(chosen.model)
    with pytest.raises(ValueError, match=r"no such weights of resnet50; did you mean IMAGENET1K_V[12]"):
        _named("IMAGENET1K_V3", architecture="resnet50")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("torchvision/resnet51", "torchvision has no model 'resnet51'; did you mean resnet50"),
        ("timm/resnet51x", "timm has no model 'resnet51x'; did you mean"),
        ("torchvision/alexnet", "alexnet cannot take images of 3x16x16"),
        ("timm/vgg11", "vgg11 cannot take images of 3x16x16"),
    ],
)
def test_models_that_libraries_refuse(tmp_path: Path, model: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_fit(tmp_path, f"model={model}", "data.size=16", callbacks={})


def test_a_model_of_timm_trains_with_weights_from_a_file(tmp_path: Path) -> None:
    import timm

    theirs = timm.create_model("test_efficientnet", num_classes=3, in_chans=3)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    words = ("model=timm/test_efficientnet", "data.channels=1", "data.size=32", "data.normalize=weights")
    fit = make_fit(tmp_path, *words, f"model.weights={tmp_path / 'theirs.pth'}", "trainer.epochs=1", callbacks={})
    expected = torch.tensor(theirs.pretrained_cfg["mean"]).mean()
    assert fit.feed.statistics.mean.flatten().tolist() == pytest.approx([expected.item()])
    stem = theirs.conv_stem.weight.sum(1, keepdim=True)
    torch.testing.assert_close(fit.model.state_dict()["conv_stem.weight"], stem)
    train(fit)
    assert fit.state.epoch == 1


def test_timm_is_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(UserError, match=r"needs the package timm: pip install 'dlrun\[timm\]'"):
        make_fit(tmp_path, "model=timm/test_efficientnet", callbacks={})


def test_a_slash_name_works_wherever_a_name_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("model: torchvision/vgg11\n")
    Path("b.yaml").write_text("model: {name: torchvision/vgg11, freeze: features}\n")
    Path("c.yaml").write_text("defaults:\n  - override /model: torchvision/vgg11\n")
    found = [load_config(name, [])[0].model for name in ("a.yaml", "b.yaml", "c.yaml")]
    assert [model.name for model in found] == ["torchvision"] * 3
    assert {model.params["architecture"] for model in found} == {"vgg11"}
    assert found[1].freeze == "features"
    again = load_config("b.yaml", ["model=torchvision/vgg13"])[0].model
    assert (again.params["architecture"], again.freeze) == ("vgg13", "features")


def test_a_folder_of_photos_starts_from_a_checkpoint(trained: Path, tmp_path: Path, dlrun: Dlrun) -> None:
    """Images of different sizes, other classes than those of the weights."""
    colours = {"red": (200, 30, 30), "green": (30, 200, 30)}
    for name, colour in colours.items():
        (tmp_path / "photos" / "train" / name).mkdir(parents=True)
        for i in range(12):
            image = Image.new("RGB", (20 + 3 * i, 31 - i), tuple(min(255, c + 4 * i) for c in colour))
            image.save(tmp_path / "photos" / "train" / name / f"{i}.png")
    words = ("model=resnet", "model.depth=8", "model.width=0.25", f"model.weights={trained}", "device=cpu")
    photos = ("data=image_folder", f"data.root={tmp_path / 'photos'}", "data.size=16", "data.batch_size=8")
    rates = ("optimizer.lr_factors={body: 0.1}", "optimizer.lr=0.2", "trainer.epochs=6", "augment=none")
    done = dlrun("train", *words, *photos, *rates, f"run.root={tmp_path / 'runs'}", "schedule.warmup=0ep")
    assert done.code == 0, done.err
    assert "new head: head" in done.out + done.err
