"""Wrong inputs and the exact message each gets: docs/wrong_inputs.md and a table in README.md are written by this file.

``DLRUN_UPDATE_DOCS=1 python -m pytest tests/test_wrong_inputs.py`` writes both anew.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Dlrun, Done, compose_faster, forgetting_plugins
from PIL import Image

from dlrun import checkpoint
from dlrun.cli import main
from dlrun.runfolder import RunFolder
from dlrun.train.step import TrainStep

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "wrong_inputs.md"
README = ROOT / "README.md"
BEGIN, END = "<!-- wrong inputs -->\n", "<!-- /wrong inputs -->\n"
UPDATE = os.environ.get("DLRUN_UPDATE_DOCS") == "1"
HEAD = """\
# Wrong inputs and what dlrun says

Written by `tests/test_wrong_inputs.py`: every message below is what the command really printed (`FOLDER` stands for the
current folder, `RUN` for the name of a run folder), and a test fails when one changes. No case shows a traceback
(`--debug` does). Exit codes: 0 done, 2 the input was wrong, 75 stopped and resumable.

All cases start from this `my.yaml` unless they say otherwise:

```yaml
MY_YAML```

| Wrong input | What was done | Exit | Message |
|---|---|--:|---|
"""
README_HEAD = """\
Twenty wrong inputs, some in several forms, and the message each really gets (`FOLDER` and `RUN` stand for folders).
[The whole list](docs/wrong_inputs.md) has more, and what was typed; `tests/test_wrong_inputs.py` writes both.

| Wrong input | Message |
|---|---|
"""
MY_YAML = """\
model: {name: mlp, hidden: [8]}
data: {name: synthetic, samples: 60, classes: 3, batch_size: 16}
trainer: {epochs: 2, threads: 1}
callbacks: {tensorboard: null}
device: cpu
"""
RUN = r"\d{8}-\d{6}_[\w.-]+?_[0-9a-f]{6}"


@dataclass(frozen=True)
class Row:
    """One line of the document."""

    title: str
    done: str
    code: int
    message: str

    def __str__(self) -> str:
        cells = (self.title, self.done, str(self.code), "<br>".join(code(line) for line in self.message.splitlines()))
        return f"| {' | '.join(cells)} |"

    @property
    def short(self) -> str:
        """The line of the README: what is wrong, and the message without the heading of a list of problems."""
        lines = [line.removeprefix("  - ") for line in self.message.splitlines() if "in the configuration:" not in line]
        return f"| {self.title} | {'<br>'.join(code(line) for line in lines)} |"


def code(text: str) -> str:
    """Text as code in a cell of a Markdown table."""
    text = text.replace("|", "\\|")
    indent = len(text) - len(text.lstrip())
    return "&nbsp;" * indent + (f"`` {text.strip()} ``" if "`" in text else f"`{text.strip()}`")


class Box:
    """What a case works with: an empty current folder with ``my.yaml``, a finished run, and dlrun."""

    def __init__(self, folder: Path, run: Path, dlrun: Dlrun, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.patch = monkeypatch
        self._finished = run
        self._dlrun = dlrun
        self.file("my.yaml", MY_YAML)

    def file(self, name: str, text: str) -> Path:
        """Write a text file."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def finished_run(self) -> Path:
        """A copy of a finished run, as ``runs/x``."""
        return Path(shutil.copytree(self._finished, self.folder / "runs" / "x"))

    def images(self, name: str, classes: dict[str, int]) -> Path:
        """A folder of class folders with small JPEG files."""
        random = np.random.default_rng(0)
        for label, count in classes.items():
            (self.folder / name / label).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 255, (10, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(self.folder / name / label / f"{i:03}.jpg")
        return self.folder / name

    def row(
        self,
        title: str,
        *words: str,
        exit_code: int = 2,
        before: str = "",
        shown: Callable[[Done], str] = lambda done: done.err,
    ) -> Row:
        """Run a command and keep what it said.

        Args:
            title: what is wrong.
            words: after ``dlrun``.
            exit_code: wanted.
            before: what was done before, in Markdown.
            shown: the part of the output that is shown.
        """
        done = self._dlrun(*words)
        assert done.code == exit_code, done.text
        assert "Traceback" not in done.text
        assert "defect of dlrun" not in done.text
        text = shown(done).strip("\n")
        text = re.sub(RUN, "RUN", text.replace(str(self.folder), "FOLDER"))
        text = re.sub(r"pid \d+", "pid N", text)
        command = " ".join(["dlrun", *(f"'{w}'" if re.search(r"[ \[{$]", w) else w for w in words)])
        return Row(title, f"{before}{': ' if before else ''}{code(command)}", exit_code, text)


CASES: list[Callable[[Box], Row]] = []


def case(function: Callable[[Box], Row]) -> Callable[[Box], Row]:
    CASES.append(function)
    return function


# The configuration.


@case
def misspelt_in_a_file(box: Box) -> Row:
    box.file("my.yaml", MY_YAML + "optimizer:\n  name: sgd\n  weigth_decay: 0.1\n")
    return box.row(
        "misspelt key in a file",
        "train",
        "config=my.yaml",
        before="`my.yaml` with `weigth_decay: 0.1` below `optimizer:`",
    )


@case
def misspelt_on_the_line(box: Box) -> Row:
    return box.row("misspelt key on the line", "train", "config=my.yaml", "trainer.epocs=3")


@case
def misspelt_in_a_group(box: Box) -> Row:
    box.file("model/tiny.yaml", "name: resnet\ndepht: 8\n")
    return box.row(
        "misspelt key in an option of a group",
        "train",
        "config=my.yaml",
        "model=tiny",
        before="`model/tiny.yaml` with `depht: 8`",
    )


@case
def wrong_place(box: Box) -> Row:
    return box.row("key at the wrong place", "train", "config=my.yaml", "lr=0.1")


@case
def wrong_type(box: Box) -> Row:
    return box.row("wrong type", "train", "config=my.yaml", "trainer.epochs=many")


@case
def out_of_range(box: Box) -> Row:
    return box.row("out of range", "train", "config=my.yaml", "optimizer.lr=-0.1")


@case
def unknown_component(box: Box) -> Row:
    return box.row("unknown component", "train", "config=my.yaml", "model=resnt")


@case
def option_of_another_component(box: Box) -> Row:
    return box.row(
        "option of another component", "train", "config=my.yaml", "optimizer=adamw", "optimizer.momentum=0.9"
    )


@case
def missing_value(box: Box) -> Row:
    return box.row("missing required value", "train", "config=my.yaml", "data=cifar10")


@case
def broken_interpolation(box: Box) -> Row:
    box.file("my.yaml", MY_YAML + "run:\n  name: net_${modle.name}\nseed: ${data.split_sed}\n")
    return box.row(
        "broken interpolation",
        "train",
        "config=my.yaml",
        before="`my.yaml` with `name: net_${modle.name}` and `seed: ${data.split_sed}`",
    )


@case
def several_at_once(box: Box) -> Row:
    return box.row(
        "several at once",
        "train",
        "config=my.yaml",
        "sed=1",
        "model.hidden=[8,-1]",
        "schedule=cosin",
        "device=gpu",
    )


@case
def not_yaml(box: Box) -> Row:
    box.file("my.yaml", MY_YAML + "seed: [1\n")
    return box.row("not YAML", "train", "config=my.yaml", before="`my.yaml` with `seed: [1` as its last line")


@case
def key_twice(box: Box) -> Row:
    box.file("my.yaml", MY_YAML + "device: cuda\n")
    return box.row("a key twice", "train", "config=my.yaml", before="`my.yaml` with a second `device:`")


@case
def unknown_recipe(box: Box) -> Row:
    return box.row("unknown recipe or file", "train", "config=digts")


@case
def several_values(box: Box) -> Row:
    return box.row("several values for one key", "train", "config=my.yaml", "optimizer.lr=0.1,0.2")


@case
def forgotten_key(box: Box) -> Row:
    return box.row("a word that is not key=value", "train", "my.yaml")


@case
def broken_plugin(box: Box) -> Row:
    box.file("my_net.py", "import torch\n\nnet = torch.nn.Linaer(3, 3)\n")
    return box.row(
        "plug-in that fails",
        "train",
        "config=my.yaml",
        "plugins=[my_net]",
        before="`my_net.py` with `torch.nn.Linaer(3, 3)` in line 3",
    )


# The data.


@case
def missing_data(box: Box) -> Row:
    return box.row("missing data folder", "train", "config=my.yaml", "data=image_folder", "data.root=photos")


@case
def empty_class(box: Box) -> Row:
    box.images("photos", {"cat": 5, "dog": 5, "eel": 0})
    return box.row(
        "empty class folder",
        "train",
        "config=my.yaml",
        "data=image_folder",
        "data.root=photos",
        before="`photos/eel/` is empty",
    )


@case
def corrupt_image(box: Box) -> Row:
    bad = box.images("photos", {"cat": 30, "dog": 30}) / "dog" / "007.jpg"
    bad.write_bytes(bytes(100) + bad.read_bytes()[100:])
    return box.row(
        "one corrupt JPEG among many",
        "train",
        "config=my.yaml",
        "data=image_folder",
        "data.root=photos",
        before="the first 100 bytes of one of 60 files are zeros",
    )


@case
def corrupt_image_skipped(box: Box) -> Row:
    bad = box.images("photos", {"cat": 30, "dog": 30}) / "dog" / "007.jpg"
    bad.write_bytes(bytes(100) + bad.read_bytes()[100:])
    return box.row(
        "the same, to go on without it",
        "train",
        "config=my.yaml",
        "data=image_folder",
        "data.root=photos",
        "data.on_error=skip",
        exit_code=0,
    )


@case
def batch_too_large(box: Box) -> Row:
    return box.row("batch larger than the data", "train", "config=my.yaml", "data.batch_size=1000")


@case
def images_too_small(box: Box) -> Row:
    return box.row("images too small for the network", "train", "config=my.yaml", "model=lenet5", "data.size=2")


# Training.


@case
def unknown_metric(box: Box) -> Row:
    return box.row(
        "metric that does not exist",
        "train",
        "config=my.yaml",
        "callbacks.checkpoint={monitor: val/acuracy, mode: max}",
    )


@case
def metric_without_its_mode(box: Box) -> Row:
    return box.row(
        "another metric without its mode", "train", "config=my.yaml", "callbacks.checkpoint.monitor=val/loss"
    )


@case
def warmup_too_long(box: Box) -> Row:
    return box.row("warmup longer than the training", "train", "config=my.yaml", "schedule.warmup=5ep")


@case
def no_cuda(box: Box) -> Row:
    box.patch.setattr(torch.cuda, "device_count", lambda: 0)
    box.patch.setattr(torch.version, "cuda", "13.0")
    return box.row("CUDA asked for and absent", "train", "config=my.yaml", "device=cuda")


@case
def unwritable_run_folder(box: Box) -> Row:
    box.file("notes.txt", "a file, where the folder of all runs should be\n")
    row = box.row(
        "unwritable run folder",
        "train",
        "config=my.yaml",
        "run.root=notes.txt/runs",
        before="`notes.txt` is a file",
    )
    assert not (box.folder / "runs").exists()
    return row


@case
def full_disk(box: Box) -> Row:
    usage = namedtuple("usage", "total used free")
    frees = iter([10**12])
    box.patch.setattr(checkpoint.shutil, "disk_usage", lambda folder: usage(10**12, 0, next(frees, 0)))
    row = box.row(
        "full disk",
        "train",
        "config=my.yaml",
        exit_code=0,
        before="the disk is full after the checkpoint of the first epoch",
    )
    (run,) = (box.folder / "runs").iterdir()
    # The checkpoint of the first epoch is still there, and whole; the training went on to its end.
    assert checkpoint.load(run / "checkpoints" / "last.pt")["state"]["step"] == 3
    assert (run / "results.json").is_file()
    assert not list((run / "checkpoints").glob(".*"))
    return row


@case
def diverged(box: Box) -> Row:
    row = box.row("NaN loss", "train", "config=my.yaml", "optimizer.lr=1e30")
    (run,) = (box.folder / "runs").iterdir()
    assert not list((run / "checkpoints").iterdir())
    return row


@case
def two_runs_in_one_folder(box: Box) -> Row:
    run = box.finished_run()
    other = RunFolder(run)
    other.lock()
    try:
        return box.row(
            "two runs in one folder", "train", "resume=runs/x", before="another process is training in `runs/x`"
        )
    finally:
        other.unlock()


@case
def interrupted(box: Box) -> Row:
    real, steps = TrainStep.__call__, iter(range(100))

    def step(self: TrainStep, *args: Any, **kwargs: Any) -> Any:
        if next(steps) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, *args, **kwargs)

    box.patch.setattr(TrainStep, "__call__", step)

    def shown(done: Done) -> str:
        return done.err + "\n".join(line for line in done.out.splitlines() if line.startswith(("stopped", "go on")))

    row = box.row("Ctrl-C", "train", "config=my.yaml", exit_code=75, before="Ctrl-C in the fifth step", shown=shown)
    (run,) = (box.folder / "runs").iterdir()
    box.patch.undo()
    box.patch.chdir(box.folder)
    assert main(["train", f"resume={run}"]) == 0
    return row


@case
def changed_at_resume(box: Box) -> Row:
    box.finished_run()
    return box.row("a resumed run with another rate", "train", "resume=runs/x", "optimizer.lr=0.5")


@case
def no_run(box: Box) -> Row:
    return box.row("nothing to resume", "train", "resume=runs/x")


# Checkpoints.


@case
def other_classes(box: Box) -> Row:
    box.finished_run()
    return box.row("eval on data with other classes", "eval", "checkpoint=runs/x", "data.classes=4")


@case
def other_data(box: Box) -> Row:
    box.finished_run()
    return box.row("eval with another data set", "eval", "checkpoint=runs/x", "data=cifar10", "data.root=/data")


@case
def missing_checkpoint(box: Box) -> Row:
    return box.row("missing checkpoint", "eval", "checkpoint=runs/x/best.pt")


@case
def empty_run_folder(box: Box) -> Row:
    (box.folder / "runs" / "x" / "checkpoints").mkdir(parents=True)
    return box.row("run without a checkpoint", "eval", "checkpoint=runs/x")


@case
def truncated_checkpoint(box: Box) -> Row:
    path = box.finished_run() / "checkpoints" / "best.pt"
    data = path.read_bytes()
    # Not through a hard link into last.pt.
    path.unlink()
    path.write_bytes(data[: len(data) // 2])
    return box.row(
        "truncated checkpoint",
        "eval",
        "checkpoint=runs/x",
        before="the second half of `runs/x/checkpoints/best.pt` is gone",
    )


@case
def damaged_checkpoint(box: Box) -> Row:
    path = box.finished_run() / "checkpoints" / "best.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)
    return box.row("damaged checkpoint", "eval", "checkpoint=runs/x", before="one bit of the file is flipped")


@case
def damaged_at_resume(box: Box) -> Row:
    path = box.finished_run() / "checkpoints" / "last.pt"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:1000])
    return box.row(
        "damaged newest checkpoint at resume",
        "train",
        "resume=runs/x",
        exit_code=0,
        before="`last.pt` is cut off",
    )


@case
def foreign_checkpoint(box: Box) -> Row:
    torch.save({"model": {}, "epoch": 3}, box.folder / "other.pt")
    return box.row(
        "foreign checkpoint",
        "eval",
        "checkpoint=other.pt",
        before="`other.pt` was written by `torch.save` in another program",
    )


@case
def not_a_checkpoint(box: Box) -> Row:
    box.file("notes.txt", "not a checkpoint\n" * 20)
    return box.row("a file that is no checkpoint", "eval", "checkpoint=notes.txt")


@case
def future_checkpoint(box: Box) -> Row:
    box.patch.setattr(checkpoint, "VERSION", 7)
    box.patch.setattr(checkpoint, "__version__", "9.1.0")
    checkpoint.save(box.folder / "new.pt", {"model": {}})
    box.patch.setattr(checkpoint, "VERSION", 1)
    box.patch.setattr(checkpoint, "__version__", "0.1.0")
    return box.row("checkpoint of a future version", "eval", "checkpoint=new.pt")


class Bomb:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("ran",))


@case
def checkpoint_with_code(box: Box) -> Row:
    torch.save({"format": checkpoint.FORMAT, "version": 1, "model": Bomb()}, box.folder / "evil.pt")
    row = box.row("checkpoint with code in it", "eval", "checkpoint=evil.pt", before="its pickle calls `os.mkdir`")
    assert not (box.folder / "ran").exists()
    return row


# Export.


@case
def unknown_format(box: Box) -> Row:
    box.finished_run()
    return box.row("unknown format", "export", "checkpoint=runs/x", "format=onx")


@case
def over_another_file(box: Box) -> Row:
    box.finished_run()
    path = box.file("net.safetensors", "somebody's weights\n")
    row = box.row(
        "export over a file of another program",
        "export",
        "checkpoint=runs/x",
        "format=safetensors",
        "output=net.safetensors",
    )
    assert path.read_text() == "somebody's weights\n"
    return row


@case
def missing_package(box: Box) -> Row:
    box.finished_run()
    box.patch.setitem(sys.modules, "onnxruntime", None)
    return box.row("export without its packages", "export", "checkpoint=runs/x", before="onnxruntime is not installed")


NO_GRAPH = """\
from torch import nn

from dlrun.registry import MODELS


class Net(nn.Sequential):
    def forward(self, x):
        x = super().forward(x)
        if x.sum() > 0:
            return x
        return -x


@MODELS.register
def my_net(input_shape, num_classes):
    return Net(nn.Flatten(), nn.Linear(input_shape[0] * input_shape[1] * input_shape[2], num_classes))
"""


@case
def no_graph(box: Box) -> Row:
    box.file("my_net.py", NO_GRAPH)
    box.file("my.yaml", MY_YAML.replace("{name: mlp, hidden: [8]}", "{name: my_net}") + "plugins: [my_net]\n")
    assert main(["train", "config=my.yaml", "run.root=runs"]) == 0
    (run,) = (box.folder / "runs").iterdir()
    run.rename(box.folder / "runs" / "x")
    return box.row(
        "export of a model that is no graph",
        "export",
        "checkpoint=runs/x",
        "format=torch_export",
        before="a model of the user's own with `if x.sum() > 0` in its `forward`",
    )


USUAL = [
    misspelt_in_a_file,
    misspelt_on_the_line,
    misspelt_in_a_group,
    wrong_type,
    out_of_range,
    unknown_component,
    option_of_another_component,
    missing_value,
    broken_interpolation,
    missing_data,
    empty_class,
    corrupt_image,
    corrupt_image_skipped,
    other_classes,
    truncated_checkpoint,
    foreign_checkpoint,
    future_checkpoint,
    checkpoint_with_code,
    unwritable_run_folder,
    full_disk,
    no_cuda,
    batch_too_large,
    diverged,
    two_runs_in_one_folder,
    interrupted,
]
"""The cases of the README's table: twenty inputs, of which some come in several forms."""


def readme_section() -> str:
    """What stands between the markers."""
    _, begin, rest = README.read_text().partition(BEGIN)
    section, end, _ = rest.partition(END)
    assert begin, f"README.md has no line {BEGIN}"
    assert end, f"README.md has no line {END}"
    return section


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has ended; copy it."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "my.yaml").write_text(MY_YAML)
    assert main(["train", f"config={folder}/my.yaml", f"run.root={folder}/runs"]) == 0
    (run,) = (folder / "runs").iterdir()
    return run


@pytest.fixture(scope="module")
def rows() -> Iterator[dict[str, Row]]:
    """Rows as the cases give them, by the name of the case; written to the documents if that is asked for."""
    collected: dict[str, Row] = {}
    yield collected
    if UPDATE and len(collected) == len(CASES):
        DOCUMENT.parent.mkdir(exist_ok=True)
        DOCUMENT.write_text(HEAD.replace("MY_YAML", MY_YAML) + "".join(f"{row}\n" for row in collected.values()))
        table = README_HEAD + "".join(f"{collected[usual.__name__].short}\n" for usual in USUAL)
        old = f"{BEGIN}{readme_section()}{END}"
        README.write_text(README.read_text().replace(old, f"{BEGIN}{table}{END}"))


@pytest.fixture
def box(
    tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Box]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    compose_faster(monkeypatch)
    with forgetting_plugins():
        yield Box(tmp_path, finished, Dlrun(capsys), monkeypatch)


@pytest.mark.parametrize("function", CASES, ids=lambda function: function.__name__)
def test_the_message_is_the_documented_one(function: Callable[[Box], Row], box: Box, rows: dict[str, Row]) -> None:
    row = function(box)
    rows[function.__name__] = row
    if not UPDATE:
        documented = {line.split(" | ")[0]: line for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")}
        assert str(row) == documented.get(f"| {row.title}"), "run with DLRUN_UPDATE_DOCS=1 and look at the difference"
        assert (row.short in readme_section().splitlines()) == (function in USUAL), "the same for README.md"


@pytest.mark.skipif(UPDATE, reason="the document is being written")
def test_the_document_has_these_cases_and_no_others() -> None:
    assert len(CASES) >= 20
    text = DOCUMENT.read_text()
    assert text.startswith(HEAD.replace("MY_YAML", MY_YAML))
    lines = text.splitlines()
    assert len([line for line in lines if line.startswith("| ")]) == len(CASES) + 1


@pytest.mark.skipif(UPDATE, reason="the document is being written")
def test_the_readme_has_the_usual_cases_and_no_others() -> None:
    section = readme_section()
    assert section.startswith(README_HEAD)
    assert len(section.removeprefix(README_HEAD).splitlines()) == len(USUAL)
