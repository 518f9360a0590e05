"""``dlrun export``: a checkpoint as a file that runs without dlrun, and is never called good unchecked."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from helpers import Dlrun, Done, compose_faster, forgetting_plugins
from hypothesis import given, settings
from hypothesis import strategies as st
from running import make_fit
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dlrun import assembly
from dlrun.checkpoint import load
from dlrun.data.image_feed import ImageFeed
from dlrun.data.source import ImageData
from dlrun.data.statistics import Statistics
from dlrun.data.vocabulary import Vocabulary
from dlrun.errors import ExportError, UserError
from dlrun.export.files import targets, write
from dlrun.export.formats import FORMATS, Format
from dlrun.export.images import image_classifier
from dlrun.export.subject import Exportable, Port, example_inputs
from dlrun.export.text import language_model
from dlrun.train.evaluate import predict
from dlrun.train.fit import Fit
from dlrun.train.loop import train

ROOT = Path(__file__).resolve().parent.parent
SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2", "safetensors": ".safetensors"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Fit:
    fit = make_fit(
        tmp_path_factory.mktemp("runs"),
        "data=digits",
        "model=lenet5",
        "trainer.epochs=2",
        "optimizer.lr=0.02",
        "trainer.channels_last=true",
    )
    train(fit)
    return fit


@pytest.fixture
def run(trained: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the trained run, in the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained.run.path, tmp_path / "run")
    (tmp_path / "run/config.yaml").write_text("")
    return Path("run")


@pytest.fixture
def dlrun(capsys: pytest.CaptureFixture[str]) -> Dlrun:
    return Dlrun(capsys)


def exported(done: Done) -> dict[str, Any]:
    """What ``--json`` gave, and nothing else."""
    assert (done.code, done.err) == (0, "")
    result: dict[str, Any] = json.loads(done.out)
    return result


def refused(done: Done) -> str:
    """The one message of a refused command."""
    assert (done.code, done.out) == (2, ""), done.text
    (line,) = done.err.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def left(folder: Path) -> list[str]:
    """The files of a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())


# ---- What is written


@pytest.fixture(scope="module")
def files(trained: Fit, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The run in every format."""
    from dlrun.cli import main

    place = tmp_path_factory.mktemp("files")
    formats = f"[{','.join(FORMATS)}]"
    assert main(["export", f"checkpoint={trained.run.path}", f"format={formats}", f"output={place}"]) == 0
    assert left(place) == ["best.onnx", "best.pt2", "best.safetensors"]
    return {name: place / f"best{suffix}" for name, suffix in SUFFIXES.items()}


@pytest.fixture(scope="module")
def truth(trained: Fit) -> tuple[Tensor, Tensor]:
    """Test images (N, 1, 8, 8) uint8 and the scores (N, 10) that dlrun's own evaluation gives them."""
    model = assembly.build_model(trained.config, trained.feed.arguments, torch.device("cpu"))
    model.load_state_dict(load(trained.run.checkpoints / "best.pt")["model"])
    loader = trained.feed.eval_loader("test")
    assert loader is not None
    scores, labels = predict(model, loader, trained.task, "fp32", torch.device("cpu"))
    assert (scores.argmax(1) == labels).float().mean() > 0.5
    data = assembly.build_data(trained.config)
    assert isinstance(data, ImageData)
    assert data.test is not None
    return data.test.read(range(len(labels))), scores


def statistics_of(fit: Fit) -> Statistics:
    assert isinstance(fit.feed, ImageFeed)
    return fit.feed.statistics


def test_onnx_takes_pixels_and_gives_the_scores_of_eval(files: dict[str, Path], truth: tuple[Tensor, Tensor]) -> None:
    session = onnxruntime.InferenceSession(str(files["onnx"]), providers=["CPUExecutionProvider"])
    (images,), (scores,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["batch", 1, 8, 8])
    assert (scores.name, scores.type, scores.shape) == ("scores", "tensor(float)", ["batch", 10])
    pixels, expected = truth
    for count in (1, 2, len(pixels)):
        (found,) = session.run(None, {"images": pixels[:count].numpy()})
        np.testing.assert_allclose(found, expected[:count].numpy(), rtol=1e-4, atol=1e-4)
    with pytest.raises(Exception, match=r"tensor\(float\)"):
        # Pixels scaled to 0..1, the usual mistake, are no uint8.
        session.run(None, {"images": (pixels / 255).numpy()})


def test_torch_export_takes_pixels_and_gives_the_scores_of_eval(
    files: dict[str, Path], truth: tuple[Tensor, Tensor]
) -> None:
    program = torch.export.load(files["torch_export"])
    # Trained in the layout channels_last, which is no business of the file.
    assert all(value.is_contiguous() for value in program.state_dict.values())
    module = program.module()
    pixels, expected = truth
    for count in (1, 2, len(pixels)):
        torch.testing.assert_close(module(pixels[:count]), expected[:count], rtol=1e-5, atol=1e-5)


def test_safetensors_holds_the_weights_of_the_checkpoint(files: dict[str, Path], trained: Fit) -> None:
    weights = load(trained.run.checkpoints / "best.pt")["model"]
    found = load_file(files["safetensors"])
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], value) for name, value in weights.items())


def metadata_of(path: Path) -> dict[str, str]:
    """Read without dlrun."""
    if path.suffix == ".onnx":
        return {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    if path.suffix == ".pt2":
        extra: dict[str, Any] = {"dlrun.json": ""}
        torch.export.load(path, extra_files=extra)
        content: dict[str, str] = json.loads(extra["dlrun.json"])
        return content
    with safe_open(path, framework="pt") as file:
        found: dict[str, str] = file.metadata()
        return found


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_says_what_it_is(files: dict[str, Path], trained: Fit, name: str) -> None:
    found = metadata_of(files[name])
    statistics = json.loads(found["statistics"])
    assert statistics["kind"] == statistics_of(trained).kind
    for key in ("mean", "std"):
        assert torch.equal(torch.tensor(statistics[key]), getattr(statistics_of(trained), key))
    assert json.loads(found["classes"]) == list(trained.feed.outputs)
    assert json.loads(found["input_shape"]) == [1, 8, 8]
    assert (found["dlrun"], found["model"], found["scores"]) == ("0.1.0", "lenet5", "logits")
    assert found["input"] == ("normalized" if name == "safetensors" else "pixels")
    assert json.loads(found["model_options"])["pool"] == trained.config.model.params["pool"]
    assert int(found["step"]) == load(trained.run.checkpoints / "best.pt")["state"]["step"]
    assert trained.run.path.name.endswith(f"_{found['config_sha256'][:6]}")


@pytest.mark.parametrize("name", FORMATS)
def test_no_path_of_this_machine_is_in_a_file(files: dict[str, Path], trained: Fit, name: str) -> None:
    content = files[name].read_bytes()
    for text in (str(ROOT), "site-packages", str(trained.run.path.parent), "lenet5.py"):
        assert text.encode() not in content


@pytest.mark.parametrize("name", ["onnx", "torch_export"])
def test_normalized_input_and_probabilities(
    run: Path, dlrun: Dlrun, trained: Fit, truth: tuple[Tensor, Tensor], name: str
) -> None:
    words = ("input=normalized", "output_scores=probabilities", f"format={name}", "--json")
    report = exported(dlrun("export", "checkpoint=run", *words))
    assert (report["metadata"]["input"], report["metadata"]["scores"]) == ("normalized", "probabilities")
    path = Path(report["files"][0]["path"])
    assert (metadata_of(path)["input"], metadata_of(path)["scores"]) == ("normalized", "probabilities")
    images = statistics_of(trained).normalize(truth[0][:7])
    if name == "onnx":
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    else:
        found = torch.export.load(path).module()(images)
    torch.testing.assert_close(found, truth[1][:7].softmax(1), rtol=1e-4, atol=1e-5)


def examples_of_the_page() -> list[str]:
    found: list[str] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.S)
    return found


def test_the_example_of_the_page_needs_no_dlrun(
    files: dict[str, Path], truth: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    np.save(tmp_path / "images.npy", truth[0].numpy())
    code = examples_of_the_page()[0] + "assert not any(name in sys.modules for name in ('dlrun', 'torch'))\n"
    words = [sys.executable, "-c", code, str(files["onnx"])]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    count = len(truth[0])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"lenet5 pixels [1, 8, 8] ({count}, 1, 8, 8) ({count}, 10)",
        str([str(label) for label in truth[1].argmax(1)[:10].tolist()]),
    ]


def test_the_example_of_the_page_for_pytorch(
    files: dict[str, Path],
    truth: tuple[Tensor, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("images.npy", truth[0].numpy())
    monkeypatch.setattr(sys, "argv", ["serve_torch.py", str(files["torch_export"])])
    exec(examples_of_the_page()[1], {})
    labels = truth[1].argmax(1)[:10].tolist()
    assert capsys.readouterr().out == f"lenet5 pixels ({len(truth[0])}, 10) {labels}\n"


# ---- What is said


def test_the_report(run: Path, dlrun: Dlrun) -> None:
    done = dlrun("export", "checkpoint=run", "format=torch_export")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].startswith("checkpoint  run/checkpoints/best.pt (step ")
    assert lines[1] == "input       images: uint8 batchx1x8x8, pixels 0..255, normalised inside"
    assert lines[2] == "output      scores: float32 batchx10, logits"
    assert lines[5].split()[0] == "torch_export"
    assert lines[5].endswith("  run/export/best.pt2")
    assert left(run / "export") == ["best.pt2"]
    assert "run/export/best.pt2 (replaced)" in dlrun("export", "checkpoint=run", "format=torch_export").out


def test_weights_alone_have_no_input(run: Path, dlrun: Dlrun) -> None:
    out = dlrun("export", "checkpoint=run/checkpoints/last.pt", "format=safetensors").out
    assert "input " not in out
    assert left(run / "export") == ["last.safetensors"]


def test_json(run: Path, dlrun: Dlrun) -> None:
    report = exported(dlrun("export", "checkpoint=run", "format=[torch_export,safetensors]", "--json"))
    assert {key: report[key] for key in ("checkpoint", "model", "inputs", "outputs")} == {
        "checkpoint": "run/checkpoints/best.pt",
        "model": "lenet5",
        "inputs": [{"name": "images", "dtype": "uint8", "shape": ["batch", 1, 8, 8]}],
        "outputs": [{"name": "scores", "dtype": "float32", "shape": ["batch", 10]}],
    }
    assert report["metadata"] == metadata_of(Path("run/export/best.pt2"))
    assert report["checked_batches"] == [1, 5]
    assert [(file["format"], file["path"], file["replaced"]) for file in report["files"]] == [
        ("torch_export", "run/export/best.pt2", False),
        ("safetensors", "run/export/best.safetensors", False),
    ]
    for file in report["files"]:
        assert file["bytes"] == Path(file["path"]).stat().st_size
        assert 0 <= file["difference"] < 1e-4
        assert 0 <= file["relative_difference"] < 1e-4


def test_the_page_names_every_key_of_the_json_and_of_the_metadata(
    run: Path, dlrun: Dlrun, files: dict[str, Path]
) -> None:
    page = (ROOT / "docs" / "export.md").read_text()
    report = exported(dlrun("export", "checkpoint=run", "format=safetensors", "--json"))
    inside = [f"files[].{key}" for key in report["files"][0]]
    for key in [*report.keys() - {"files"}, *inside, *metadata_of(files["onnx"]), "vocabulary", "steps"]:
        assert f"| `{key}` |" in page, key


# ---- Where files go


def test_output_is_a_file_or_a_folder(run: Path, dlrun: Dlrun) -> None:
    weights = ("export", "checkpoint=run", "format=safetensors", "--json")
    for word, wanted in (
        ("net.safetensors", "net.safetensors"),
        ("a/b", "a/b/best.safetensors"),
        ("a/c/", "a/c/best.safetensors"),
    ):
        (file,) = exported(dlrun(*weights, f"output={word}"))["files"]
        assert file["path"] == wanted
        assert Path(wanted).is_file()
    Path("v1.2").mkdir()
    assert exported(dlrun(*weights, "output=v1.2"))["files"][0]["path"] == "v1.2/best.safetensors"
    assert not (run / "export").exists()


def make_stranger(path: Path) -> None:
    """A valid file of the format, written by somebody else."""
    if path.suffix == ".onnx":
        value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
        node = onnx.helper.make_node("Identity", ["x"], ["y"])
        graph = onnx.helper.make_graph(
            [node], "g", [value], [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])]
        )
        onnx.save(onnx.helper.make_model(graph), path)
    elif path.suffix == ".pt2":
        torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), path)
    else:
        save_file({"weight": torch.zeros(2)}, path)


@pytest.mark.parametrize("kind", ["stranger", "text", "empty", "folder", "dangling link"])
@pytest.mark.parametrize("name", FORMATS)
def test_what_dlrun_did_not_write_is_never_replaced(run: Path, dlrun: Dlrun, name: str, kind: str) -> None:
    path = run / "export" / f"best{SUFFIXES[name]}"
    path.parent.mkdir()
    if kind == "stranger":
        make_stranger(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    else:
        path.write_text("my notes\n" * 3 if kind == "text" else "")
    before = path.read_bytes() if path.is_file() else None
    message = refused(dlrun("export", "checkpoint=run", f"format={name}"))
    assert message == f"{path} exists and is not an export of dlrun; remove it, or give another place with output="
    assert (path.read_bytes() if path.is_file() else None) == before
    assert left(path.parent) == [path.name]


def test_a_place_that_cannot_be_written(run: Path, dlrun: Dlrun) -> None:
    Path("notes").write_text("a file\n")
    message = refused(dlrun("export", "checkpoint=run", "format=safetensors", "output=notes/x/net.safetensors"))
    assert message == ("notes/x/net.safetensors cannot be written: Not a directory; give another place with output=")
    assert left(Path()) == ["notes", "run"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(run: Path, dlrun: Dlrun) -> None:
    Path("shut").mkdir(mode=0o500)
    message = refused(dlrun("export", "checkpoint=run", "format=safetensors", "output=shut/x"))
    assert message.startswith("shut/x/best.safetensors cannot be written: Permission denied")


def test_a_full_disk_leaves_nothing(run: Path, dlrun: Dlrun, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dlrun.export.files.os.fsync", full)
    message = refused(dlrun("export", "checkpoint=run", "format=safetensors"))
    assert message.startswith("run/export/best.safetensors cannot be written: No space left on device")
    assert not (run / "export").exists()


# ---- Text


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """A language model that read a little."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "book.txt").write_text("".join(f"{i} green bottles hanging on the wall.\n" for i in range(60)))
    words = ("model=rnn", "model.hidden_size=8", "task=language_modeling", "data=text", f"data.path={folder}/book.txt")
    fed = ("data.sequence_length=8", "data.batch_size=5", "data.eval_batch_size=3", "trainer.epochs=1")
    fit = make_fit(folder / "runs", *words, *fed, "callbacks.checkpoint={monitor: val/loss, mode: min}")
    train(fit)
    return fit


@pytest.fixture
def reading(reader: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(reader.run.path, tmp_path / "run")
    (tmp_path / "run/config.yaml").write_text("")
    return Path("run")


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 3])
def test_a_language_model_reads_a_text_in_chunks(reader: Fit, reading: Path, dlrun: Dlrun, steps: int) -> None:
    report = exported(dlrun("export", "checkpoint=run", f"steps={steps}", "--json"))
    symbols = reader.feed.arguments["vocabulary_size"]
    state = [{"name": f"state_{i}", "dtype": "float32", "shape": [2, "batch", 8]} for i in range(2)]
    assert report["inputs"] == [{"name": "tokens", "dtype": "int64", "shape": ["batch", steps]}, *state]
    assert report["outputs"] == [
        {"name": "scores", "dtype": "float32", "shape": ["batch", steps, symbols]},
        *({**port, "name": f"next_{port['name']}"} for port in state),
    ]
    path = Path(report["files"][0]["path"])
    vocabulary = json.loads(metadata_of(path)["vocabulary"])
    assert (vocabulary["level"], tuple(vocabulary["symbols"])) == ("character", reader.feed.outputs)

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [(port.name, port.shape) for port in session.get_inputs()][1:] == [
        (port["name"], port["shape"]) for port in state
    ]
    text = np.random.default_rng(0).integers(symbols, size=(4, 9))
    carried = [np.zeros((2, 4, 8), np.float32)] * 2
    found = []
    for begin in range(0, 9, steps):
        chunk = {"tokens": text[:, begin : begin + steps], "state_0": carried[0], "state_1": carried[1]}
        scores, *carried = session.run(["scores", "next_state_0", "next_state_1"], chunk)
        found.append(scores)
    net = assembly.build_model(reader.config, reader.feed.arguments, torch.device("cpu")).eval()
    net.load_state_dict(load(reader.run.checkpoints / "best.pt")["model"])
    with torch.no_grad():
        expected, _ = net(torch.from_numpy(text), None)
    np.testing.assert_allclose(np.concatenate(found, 1), expected.numpy(), rtol=1e-4, atol=1e-5)


def test_a_language_model_in_the_other_formats(reading: Path, dlrun: Dlrun) -> None:
    words = ("format=[torch_export,safetensors]", "output_scores=probabilities")
    done = dlrun("export", "checkpoint=run", *words)
    assert (done.code, done.err) == (0, "")
    assert "input       tokens: int64 batchx1, numbers of " in done.out
    assert "input       state_0: float32 2xbatchx8, zeros where a text begins" in done.out
    module = torch.export.load("run/export/best.pt2").module()
    with torch.no_grad():
        scores, *_ = module(torch.zeros(3, 1, dtype=torch.int64), *[torch.zeros(2, 3, 8)] * 2)
    torch.testing.assert_close(scores.sum(-1), torch.ones(3, 1))


def test_options_for_the_other_kind_of_data_are_refused(reading: Path, dlrun: Dlrun) -> None:
    words = ("export", "checkpoint=run", "format=torch_export")
    message = "input=pixels: is for images, and the model reads text; leave it out"
    assert refused(dlrun(*words, "input=pixels")) == message
    assert not (reading / "export").exists()


@pytest.mark.parametrize("carries", [True, False])
def test_a_text_begins_with_zeros_or_without_a_state(carries: bool) -> None:
    class Counting(nn.Embedding):
        def forward(self, tokens: Tensor, state: Any = None) -> Any:
            begin = torch.ones(1, len(tokens), 5) if state is None else state[0]
            logits = super().forward(tokens) + begin[0, :, None]
            return (logits, (begin + 1,)) if carries else logits

    def make() -> Exportable:
        vocabulary = Vocabulary("character", tuple("abcde"))
        return language_model(
            "net",
            Counting(5, 5),
            partial(Counting, 5, 5),
            vocabulary,
            steps=2,
            scores="logits",
            metadata={"dlrun": "0"},
        )

    if carries:
        with pytest.raises(ExportError, match="begin with another state than zeros"):
            make()
    else:
        assert [port.name for port in (*make().inputs, *make().outputs)] == ["tokens", "scores"]


# ---- A file that is not good


def subject(net: nn.Module | None = None, **options: Any) -> Exportable:
    """A small classifier of 1x4x4 images."""

    def fresh() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    statistics = Statistics("mean_image", torch.rand(1, 4, 4), torch.full((1, 1, 1), 0.3))
    chosen = {"given": "pixels", "scores": "logits", **options}
    return image_classifier(
        "net", net or fresh(), fresh, statistics, (1, 4, 4), "abc", metadata={"dlrun": "0"}, **chosen
    )


def changed(good: Format, **parts: Any) -> Format:
    return replace(good, **parts)


def encode_other_weights(good: Format, one: Exportable, program: Any) -> bytes:
    """A file whose weights are slightly off."""
    bias = one.net.get_submodule("4").get_parameter("bias")
    bias[1] += 1e-2
    try:
        return good.encode(one, program)
    finally:
        bias[1] -= 1e-2


@pytest.mark.parametrize("name", FORMATS)
def test_other_scores_than_those_of_pytorch_leave_no_file(tmp_path: Path, name: str) -> None:
    good = FORMATS[name]
    one, place = subject(), tmp_path / "new" / "folder"
    wrong = changed(good, encode=partial(encode_other_weights, good))
    words = "4.bias was not written" if name == "safetensors" else "differ from PyTorch's by up to 0.01, "
    with pytest.raises(ExportError, match=f"the {name} file failed its check and was removed.*{words}"):
        write(one, targets([wrong], None, place, "net"))
    assert left(tmp_path) == []


def test_a_failure_keeps_the_older_export_and_writes_no_other(tmp_path: Path) -> None:
    formats = [FORMATS["torch_export"], FORMATS["safetensors"]]
    write(subject(), targets(formats, None, tmp_path, "net"))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    wrong = changed(formats[1], encode=partial(encode_other_weights, formats[1]))
    with pytest.raises(ExportError):
        write(subject(), targets([formats[0], wrong], None, tmp_path, "net"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", FORMATS)
def test_a_torn_file_is_noticed(tmp_path: Path, files: dict[str, Path], name: str) -> None:
    torn = changed(FORMATS[name], encode=lambda one, program: files[name].read_bytes()[:-40])
    with pytest.raises(ExportError, match="failed its check and was removed: it does not run: "):
        write(subject(), targets([torn], None, tmp_path, "net"))
    assert left(tmp_path) == []


@pytest.mark.parametrize("kind", ["channel", "mean_image", "none"])
def test_the_normalisation_in_the_graph_is_that_of_training(kind: Any) -> None:
    mean = torch.rand(2, 4, 4) if kind == "mean_image" else torch.rand(2, 1, 1)
    statistics = Statistics(kind, mean, 0.1 + torch.rand(2, 1, 1))
    net = nn.Identity()
    one = image_classifier(
        "net", net, nn.Identity, statistics, (2, 4, 4), "ab", given="pixels", scores="logits", metadata={"dlrun": "0"}
    )
    (images,) = example_inputs(one.inputs, {"batch": 9}, seed=1)
    assert torch.equal(one.module(images), statistics.normalize(images))
    assert torch.equal(one.reference(net, (images,))[0], statistics.normalize(images))


def test_a_network_that_draws_random_numbers_is_refused(tmp_path: Path) -> None:
    class Drawing(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.flatten(1)) + torch.rand(3)

    with pytest.raises(ExportError, match="gives other scores each time it is run"):
        write(subject(Drawing(16, 3)), targets([FORMATS["torch_export"]], None, tmp_path, "net"))
    assert left(tmp_path) == []


def test_a_network_that_gives_nan_is_refused(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    net.get_parameter("1.bias").data[0] = float("nan")
    with pytest.raises(ExportError, match="gives NaN or infinite scores"):
        write(subject(net), targets([FORMATS["torch_export"]], None, tmp_path, "net"))
    assert left(tmp_path) == []


# ---- What a graph holds


def test_what_evaluation_does_not_use_is_left_out(tmp_path: Path) -> None:
    class WithHead(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
            self.auxiliary = nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self[0](x)
            scores: Tensor = self[3](self[2](self[1](x)))
            return scores + self.auxiliary(x) if self.training else scores

    formats = [FORMATS["torch_export"], FORMATS["onnx"]]
    write(subject(WithHead()), targets(formats, None, tmp_path, "net"))
    program = torch.export.load(tmp_path / "net.pt2")
    kept = {"net.1.weight", "net.1.bias", "net.2.weight", "net.2.bias", "net.2.running_mean", "net.2.running_var"}
    assert program.state_dict.keys() == {*kept, "offset", "scale"}
    # Its last argument says whether it drops anything.
    assert [node.args[2] for node in program.graph.nodes if "dropout" in str(node.target)] == [False]
    graph = onnx.load(tmp_path / "net.onnx").graph
    assert not [tensor.name for tensor in graph.initializer if "auxiliary" in tensor.name]
    assert not {"Dropout", "BatchNormalization"} & {node.op_type for node in graph.node}


@settings(max_examples=25)
@given(
    sides=st.lists(st.sampled_from(["batch", "time", 1, 2, 3]), min_size=1, max_size=4),
    below=st.integers(1, 256),
    batch=st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_example_inputs_are_of_the_port(sides: list[int | str], below: int, batch: int, seed: int) -> None:
    sizes = {"batch": batch, "time": 5}
    ports = (Port("a", tuple(sides), torch.uint8, below), Port("b", tuple(sides), torch.float32))
    whole, real = example_inputs(ports, sizes, seed)
    shape = tuple(sizes[side] if isinstance(side, str) else side for side in sides)
    assert (whole.shape, whole.dtype, real.shape, real.dtype) == (shape, torch.uint8, shape, torch.float32)
    assert int(whole.max()) < below
    assert all(map(torch.equal, example_inputs(ports, sizes, seed), (whole, real)))


# ---- Wrong input


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "dlrun export needs checkpoint=PATH, a checkpoint file or a run folder"),
        (
            ("checkpoint=nowhere",),
            "checkpoint nowhere: no such file; give a checkpoint file or a run folder",
        ),
        (("checkpoint=run", "output="), "output=: give a file or a folder, or leave it out"),
        (("checkpoint=run", "format=onx"), "format=onx: unknown format; did you mean onnx?"),
        (("checkpoint=run", "format=[]"), "format=[]: an empty entry in the list"),
        (("checkpoint=run", "format=[onnx,onnx]"), "format=[onnx,onnx]: onnx is given twice"),
        (("checkpoint=run", "input=pixel"), "input=pixel: must be pixels or normalized"),
        (("checkpoint=run", "steps=0"), "steps=0: must be a whole number >= 1"),
        (
            ("checkpoint=run", "steps=2"),
            "steps=2: is for models of text, and this one reads images; leave it out",
        ),
        (("checkpoint=run", "output_scores=softmax"), "output_scores=softmax: must be logits or probabilities"),
        (
            ("checkpoint=run", "format=safetensors", "input=normalized"),
            "input=normalized: format=safetensors holds weights and no graph; leave it out",
        ),
        (
            ("checkpoint=run", "output=net.pt"),
            "output=net.pt: a file of format onnx ends in .onnx",
        ),
        (
            ("checkpoint=run", "output=net.onnx", "format=[onnx,safetensors]"),
            "output=net.onnx: several formats need a folder; they write one file each (.onnx, .safetensors)",
        ),
        (
            ("checkpoint=run", "run.onnx"),
            "dlrun export: 'run.onnx' is not of the form key=value; did you mean checkpoint=run.onnx?",
        ),
    ],
)
def test_wrong_words(run: Path, dlrun: Dlrun, words: tuple[str, ...], message: str) -> None:
    assert refused(dlrun("export", *words)) == message
    assert not (run / "export").exists()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("device=cuda", "device: was 'cpu', now 'cuda'; an export is made of the checkpoint alone, on the CPU"),
        ("data.batch_size=7", "data.batch_size: was 64, now 7; an export is made of the checkpoint alone"),
        ("fromat=onnx", "override fromat=onnx: fromat: unknown key"),
    ],
)
def test_an_export_depends_on_the_checkpoint_alone(run: Path, dlrun: Dlrun, word: str, message: str) -> None:
    done = dlrun("export", "checkpoint=run", word)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: 1 problem in the configuration:\n  - {message}")


@pytest.mark.parametrize(
    ("chosen", "missing", "message"),
    [
        ("onnx", ["onnxruntime"], "format=onnx: onnxruntime is not installed; run: pip install 'dlrun[export]'"),
        (
            "[onnx,safetensors]",
            ["onnxscript", "safetensors"],
            "format=onnx and safetensors: onnxscript, safetensors are not installed; run: pip install 'dlrun[export]'",
        ),
    ],
)
def test_missing_packages(
    run: Path, dlrun: Dlrun, monkeypatch: pytest.MonkeyPatch, chosen: str, missing: list[str], message: str
) -> None:
    for package in missing:
        monkeypatch.setitem(sys.modules, package, None)
    assert refused(dlrun("export", "checkpoint=run", f"format={chosen}")) == message
    assert exported(dlrun("export", "checkpoint=run", "format=torch_export", "--json"))["files"]


# ---- Plug-ins

PLUGIN = """\
import torch
from torch import nn

from dlrun.registry import MODELS


class Net(nn.Module):
    def __init__(self, inputs, classes, kind):
        super().__init__()
        self.linear = nn.Linear(inputs, classes)
        self.kind = kind

    def forward(self, x):
        x = self.linear(x.flatten(1))
        if self.training or self.kind == "fine":
            return x
        if self.kind == "values":
            if x.sum() > 0:
                return x
            return -x
        if self.kind == "size":
            return x.view(2, 3) if x.shape[0] == 2 else x
        return x * torch.linalg.svdvals(x[:, :, None] * torch.ones(3, 3))


@MODELS.register
def my_net(input_shape, num_classes, *, kind: str = "fine"):
    return Net(input_shape[0] * input_shape[1] * input_shape[2], num_classes, kind)
"""


@pytest.fixture
def plugged(tmp_path: Path, dlrun: Dlrun, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Trains the plug-in of a kind and gives its run folder."""
    monkeypatch.chdir(tmp_path)
    compose_faster(monkeypatch)
    (tmp_path / "my_net.py").write_text(PLUGIN)

    def make(kind: str) -> Path:
        words = ("data=synthetic", "data.samples=60", "data.classes=3", "data.size=4", "data.batch_size=16")
        quiet = ("callbacks.tensorboard=null", "trainer.epochs=1", "device=cpu", "augment=none", "trainer.threads=1")
        done = dlrun(
            "train", *words, *quiet, "schedule.warmup=0ep", "plugins=[my_net]", "model=my_net", f"model.kind={kind}"
        )
        assert done.code == 0, done.text
        (path,) = (tmp_path / "runs").iterdir()
        return path

    with forgetting_plugins():
        yield make


def test_a_plugin_model(plugged: Any, dlrun: Dlrun) -> None:
    run = plugged("fine")
    done = dlrun("export", f"checkpoint={run}", "format=[torch_export,safetensors]", "--json")
    report = exported(done)
    assert report["model"] == "my_net"
    assert left(run / "export") == ["best.pt2", "best.safetensors"]


@pytest.mark.parametrize(
    ("kind", "chosen", "message"),
    [
        (
            "values",
            "onnx",
            "model 'my_net' cannot be written as a graph: its forward needs the value of a tensor in Python (if, "
            "int(), item() ...) (FOLDER/my_net.py:18: if x.sum() > 0:); change its forward, or export its weights "
            "alone with format=safetensors",
        ),
        (
            "size",
            "torch_export",
            "model 'my_net' cannot be written as a graph: its forward works for one size of the axis 'batch' only, or "
            "chooses its way by that size; change its forward, or export its weights alone with format=safetensors",
        ),
        (
            "svd",
            "onnx",
            "model 'my_net' cannot be written as ONNX: ONNX has no operation for aten._linalg_svd; use "
            "format=torch_export, or another operation in the model",
        ),
    ],
)
def test_a_plugin_that_is_no_graph(
    plugged: Any, dlrun: Dlrun, tmp_path: Path, kind: str, chosen: str, message: str
) -> None:
    run = plugged(kind)
    assert refused(dlrun("export", f"checkpoint={run}", f"format={chosen}")) == message.replace("FOLDER", str(tmp_path))
    assert not (run / "export").exists()
    other = "torch_export" if kind == "svd" else "safetensors"
    assert exported(dlrun("export", f"checkpoint={run}", f"format={other}", "--json"))["files"]


@pytest.mark.slow
def test_in_a_process_of_its_own_nothing_else_is_printed(plugged: Any, tmp_path: Path) -> None:
    from helpers import dlrun_process

    run = plugged("fine")
    done = dlrun_process("export", f"checkpoint={run}", "--json", cwd=tmp_path)
    # The plug-in is told before it is imported, where it does not mix with the data.
    assert (done.code, done.err) == (0, f"plug-in {tmp_path}/my_net.py\n")
    assert json.loads(done.out)["files"][0]["format"] == "onnx"


def test_help_shows_every_key(dlrun: Dlrun) -> None:
    done = dlrun("export", "--help")
    assert done.code == 0
    for word in ("checkpoint=", "format=", "output=", "input=", "output_scores=", "steps=", "--json", *FORMATS):
        assert word in done.out


def test_targets_need_the_suffix_of_their_format(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ends in \.pt2"):
        targets([FORMATS["torch_export"]], str(tmp_path / "net.onnx"), tmp_path, "net")
