"""Users outside of the repository: their own YAML file, their own components, in a folder of their own."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import TINY, Dlrun, compose_faster, dlrun_process, forgetting_plugins

MY_NET = """\
from torch import nn
from dlrun.registry import MODELS

@MODELS.register
def my_net(input_shape, num_classes, *, hidden: int = 16):
    \"\"\"My own network.\"\"\"
    c, h, w = input_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, hidden), nn.ReLU(), nn.Linear(hidden, num_classes))
"""
MY_YAML = """\
plugins: [my_net]
model: {name: my_net, hidden: 8}
data: {name: synthetic, samples: 60, classes: 3, batch_size: 16}
"""
COUNTER = """\
from dlrun.registry import CALLBACKS
from dlrun.train.fit import Callback

@CALLBACKS.register
class count_epochs(Callback):
    \"\"\"Count the epochs.\"\"\"

    def epoch_end(self, fit):
        with (fit.run.path / "epochs.txt").open("a") as file:
            file.write(f"{fit.state.epoch}\\n")
"""
INVERT = """\
from dlrun.registry import AUGMENTATIONS
from dlrun.types import Fraction

@AUGMENTATIONS.register
class negative_of_mine:
    \"\"\"Black for white.\"\"\"

    def __init__(self, p: Fraction = 1.0):
        self.p = p

    def __call__(self, images, generator):
        assert images.ndim == 4
        return 255 - images
"""


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    compose_faster(monkeypatch)
    with forgetting_plugins():
        yield


@pytest.fixture
def dlrun(capsys: pytest.CaptureFixture[str]) -> Dlrun:
    return Dlrun(capsys)


def the_run(root: Path) -> Path:
    (run,) = (root / "runs").iterdir()
    return run


@pytest.mark.slow
def test_a_model_of_ones_own_trains_resumes_and_is_evaluated_from_anywhere(tmp_path: Path, dlrun: Dlrun) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    (home / "my.yaml").write_text(MY_YAML)
    (home / "my_net.py").write_text(MY_NET)
    done = dlrun_process("train", "config=my.yaml", "debug=fast", "device=cpu", "callbacks.tensorboard=null", cwd=home)
    assert done.code == 0, done.text
    assert "my_net" in done.out
    assert {path.name for path in home.iterdir()} <= {"my.yaml", "my_net.py", "runs", "__pycache__"}
    run = the_run(home)
    assert str(home / "my_net.py") in (run / "config.yaml").read_text()

    done = dlrun_process("eval", f"checkpoint={run}", cwd=elsewhere)
    assert done.code == 0, done.text
    assert json.loads((run / "eval_test_best.json").read_text())["split"] == "test"

    # The file moved: eval says so, and takes the new place.
    shutil.move(home / "my_net.py", elsewhere / "my_net.py")
    done = dlrun("eval", f"checkpoint={run}")
    assert done.code == 2
    assert f"plugins: there is no file {home}/my_net.py" in done.err
    done = dlrun("eval", f"checkpoint={run}", "plugins=[elsewhere/my_net.py]", "split=val")
    assert done.code == 0, done.text


def test_the_plugin_is_looked_for_beside_the_file_that_lists_it(dlrun: Dlrun) -> None:
    Path("home").mkdir()
    Path("home/my.yaml").write_text(MY_YAML)
    Path("home/my_net.py").write_text(MY_NET)
    done = dlrun("train", "config=home/my.yaml", "--print-config")
    assert done.code == 0, done.text
    assert "hidden: 8" in done.out
    done = dlrun("train", "plugins=[home/my_net.py]", "model=my_net", "model.hidden=4", "--print-config")
    assert "hidden: 4" in done.out


def test_options_of_a_plugin_are_checked_like_all_others(dlrun: Dlrun) -> None:
    Path("my.yaml").write_text(MY_YAML.replace("hidden: 8", "hiden: many"))
    Path("my_net.py").write_text(MY_NET)
    assert (
        "my.yaml:2: model.hiden: unknown key: model 'my_net' has no option 'hiden'; did you mean hidden?"
        in dlrun("train", "config=my.yaml").err
    )
    assert "model.hidden: must be a whole number, got 'x'" in dlrun("train", "config=my.yaml", "model={hidden: x}").err


def test_plugins_are_listed_and_shown(dlrun: Dlrun) -> None:
    Path("my.yaml").write_text(MY_YAML)
    Path("my_net.py").write_text(MY_NET)
    lines = dlrun("list", "models", "config=my.yaml").out.splitlines()
    assert ["my_net", "My", "own", "network."] in [line.split() for line in lines]
    assert "hidden  16  a whole number" in dlrun("show", "model", "my_net", "plugins=[my_net]").out


def test_a_callback_and_an_augmentation_of_ones_own(tmp_path: Path, dlrun: Dlrun) -> None:
    Path("counter.py").write_text(COUNTER)
    Path("tricks.py").write_text(INVERT)
    words = [word for word in TINY if not word.startswith(("augment", "trainer.epochs"))]
    done = dlrun(
        "train",
        *words,
        "trainer.epochs=2",
        "plugins=[counter, tricks]",
        "callbacks.count_epochs={}",
        "augment=[{name: negative_of_mine, p: 0.5}]",
    )
    assert done.code == 0, done.text
    run = the_run(tmp_path)
    assert (run / "epochs.txt").read_text() == "0\n1\n"
    # The run's own configuration is complete: the same experiment again.
    done = dlrun("train", f"config={run}", "run.root=again", "trainer.epochs=1")
    assert done.code == 0, done.text


def test_a_plugin_may_import_its_neighbours(dlrun: Dlrun) -> None:
    Path("my.yaml").write_text(MY_YAML)
    Path("neighbour_of_my_net.py").write_text("SIZE = 7\n")
    Path("my_net.py").write_text("from neighbour_of_my_net import SIZE\n" + MY_NET.replace("16", "SIZE"))
    before = list(sys.path)
    assert "hidden  7 " in dlrun("show", "model", "my_net", "config=my.yaml").out
    assert sys.path == [*before, str(Path.cwd())]


def test_a_plugin_may_import_its_neighbours_later(dlrun: Dlrun, tmp_path: Path) -> None:
    Path("home").mkdir()
    Path("home/my.yaml").write_text(MY_YAML + "trainer: {epochs: 1, threads: 1}\ncallbacks: {tensorboard: null}\n")
    Path("home/neighbour_of_my_net.py").write_text("SIZE = 7\n")
    Path("home/my_net.py").write_text(
        MY_NET.replace("    c, h, w", "    from neighbour_of_my_net import SIZE\n    c, h, w")
    )
    for _ in range(2):
        assert dlrun("train", "config=home/my.yaml", "device=cpu").code == 0
    assert sys.path.count(str(tmp_path / "home")) == 1


def test_the_folder_of_a_plugin_hides_nothing(dlrun: Dlrun) -> None:
    Path("my.yaml").write_text(MY_YAML)
    Path("colorsys.py").write_text("raise RuntimeError('the wrong one')\n")
    Path("my_net.py").write_text("import colorsys\n" + MY_NET)
    assert dlrun("show", "model", "my_net", "config=my.yaml").code == 0


TRAP = "from pathlib import Path\nPath('ran').touch()\n"


@pytest.fixture
def trained(dlrun: Dlrun) -> Path:
    """A run whose plug-in lies in ``home``."""
    Path("home").mkdir()
    Path("home/my.yaml").write_text(MY_YAML + "trainer: {epochs: 1, threads: 1}\ncallbacks: {tensorboard: null}\n")
    Path("home/my_net.py").write_text(MY_NET)
    done = dlrun("train", "config=home/my.yaml", "device=cpu", f"run.root={Path.cwd()}/runs")
    assert done.code == 0, done.text
    assert "plug-in" not in done.out
    return the_run(Path.cwd())


def renamed(run: Path, plugin: str) -> None:
    """Let a run folder and its checkpoints name another plug-in, as somebody might who gives them away."""
    from dlrun import checkpoint

    text = (run / "config.yaml").read_text()
    recorded = str(Path.cwd() / "home" / "my_net.py")
    assert recorded in text
    (run / "config.yaml").write_text(text.replace(recorded, plugin))
    for path in (run / "checkpoints").glob("*.pt"):
        payload = checkpoint.load(path)
        payload["config"]["plugins"] = [plugin]
        checkpoint.save(path, {k: v for k, v in payload.items() if k not in ("format", "version", "dlrun")})


@pytest.mark.parametrize(
    ("plugin", "file"), [("evil", "evil.py"), ("evil.part", "evil/part.py"), ("evil.py", "evil.py")]
)
def test_a_checkpoint_does_not_bring_its_own_code(plugin: str, file: str, trained: Path, dlrun: Dlrun) -> None:
    for folder in (trained, trained / "checkpoints", Path.cwd(), Path.cwd() / "home"):
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(TRAP)
        if "/" in file:
            (folder / "evil/__init__.py").write_text(TRAP)
    renamed(trained, plugin)
    # As `python -m dlrun` does; the folder of the plug-in that was imported in training is there already.
    sys.path[:0] = ["", str(Path.cwd())]
    wanted = "is not an absolute path; say where" if plugin.endswith(".py") else "there is no installed module"
    for words in (["eval", f"checkpoint={trained}"], ["train", f"resume={trained}"]):
        before = list(sys.path)
        done = dlrun(*words)
        assert done.code == 2, done.text
        assert wanted in done.err
        assert "plugins=[" in done.err
        assert sys.path == before
    assert not list(Path.cwd().rglob("ran"))
    # Naming it on the line is consent.
    done = dlrun("eval", f"checkpoint={trained}", f"plugins=[{plugin}, home/my_net.py]")
    assert done.code == 0, done.text
    assert Path("ran").exists()


def test_a_file_that_a_checkpoint_names_is_told_before_it_runs(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "home/my_net.py").write_text("print('it runs')\n" + MY_NET)
    done = dlrun_process("eval", f"checkpoint={trained}", cwd=tmp_path)
    assert done.code == 0, done.text
    assert done.out.startswith(f"plug-in {tmp_path}/home/my_net.py\nit runs\n")
    assert done.out.count("plug-in ") == 1


def test_an_installed_module_that_a_checkpoint_names(trained: Path, dlrun: Dlrun) -> None:
    renamed(trained, "dlrun.models.resnet")
    done = dlrun("eval", f"checkpoint={trained}", "plugins=[home/my_net.py, dlrun.models.resnet]")
    assert done.code == 0, done.text
    assert dlrun("eval", f"checkpoint={trained}").code == 0  # my_net is still registered in this process


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "my.yaml:1: plugins: there is no module 'my_net' in FOLDER or among the installed packages"),
        (
            "def f(:\n",
            "my.yaml:1: plugins: 'my_net' failed while it was imported: SyntaxError: invalid syntax "
            "(FOLDER/my_net.py:1)",
        ),
        (
            "import os\nos.nonsense\n",
            "my.yaml:1: plugins: 'my_net' failed while it was imported: AttributeError: module 'os' has no attribute "
            "'nonsense' (FOLDER/my_net.py:2)",
        ),
        (
            "import no_such_package\n",
            "my.yaml:1: plugins: 'my_net' failed while it was imported: ModuleNotFoundError: No module named "
            "'no_such_package' (FOLDER/my_net.py:1)",
        ),
        (
            MY_NET.replace("def my_net", "def resnet"),
            "my.yaml:1: plugins: 'my_net': the model 'resnet' of module my_net is already registered by module "
            "dlrun.models.resnet; give one of them another name",
        ),
        (
            MY_NET.replace("*, hidden: int = 16", "**kwargs"),
            "my.yaml:1: plugins: 'my_net': the model 'my_net' of module my_net takes *args or **kwargs: name its "
            "options one by one, so that a misspelt option is an error",
        ),
        (
            MY_NET.replace("hidden: int = 16", "hidden: int = None"),
            "my.yaml:1: plugins: 'my_net': option 'hidden' of the model 'my_net' of module my_net has a default that "
            "is not of its type: must be a whole number, got None",
        ),
        (
            "import sys\nsys.exit(3)\n",
            "my.yaml:1: plugins: 'my_net' failed while it was imported: SystemExit: 3 (FOLDER/my_net.py:2)",
        ),
    ],
)
def test_what_can_be_wrong_with_a_plugin(source: str | None, message: str, tmp_path: Path, dlrun: Dlrun) -> None:
    Path("my.yaml").write_text(MY_YAML)
    if source is not None:
        Path("my_net.py").write_text(source)
    done = dlrun("train", "config=my.yaml")
    assert done.code == 2, done.text
    assert done.err.replace(str(tmp_path), "FOLDER") == f"error: 1 problem in the configuration:\n  - {message}\n"


def test_a_plugin_file_that_is_not_there(tmp_path: Path, dlrun: Dlrun) -> None:
    assert (
        f"override plugins=[x/y.py]: plugins: there is no file {tmp_path}/x/y.py"
        in dlrun("train", "plugins=[x/y.py]").err
    )


def test_a_plugin_with_the_name_of_an_imported_module(tmp_path: Path, dlrun: Dlrun) -> None:
    Path("json.py").write_text("")
    assert (
        f"override plugins=[json]: plugins: {tmp_path}/json.py has the name of another module, json, that is already "
        "imported; rename it" in dlrun("train", "plugins=[json]").err
    )


def test_two_plugins_of_one_name(dlrun: Dlrun) -> None:
    for folder in ("a", "b"):
        Path(folder).mkdir()
        Path(folder, "my_net.py").write_text(MY_NET)
    done = dlrun("train", "plugins=[a/my_net.py, b/my_net.py]")
    assert done.code == 2
    assert "b/my_net.py has the name of another module, my_net, that is already imported; rename it" in done.err


def test_two_plugins_with_one_component(dlrun: Dlrun) -> None:
    Path("first.py").write_text(MY_NET)
    Path("second.py").write_text(MY_NET)
    done = dlrun("train", "plugins=[first, second]")
    assert "the model 'my_net' of module second is already registered by module first" in done.err


def test_other_problems_are_told_with_that_of_the_plugin(dlrun: Dlrun) -> None:
    done = dlrun("train", "plugins=[nowhere_to_be_found]", "seed=${nope}", "augment=foo")
    assert done.err.startswith("error: 3 problems in the configuration:")


def test_an_installed_module_is_recorded_by_its_name(dlrun: Dlrun) -> None:
    done = dlrun("train", "plugins=[dlrun.models.resnet]", "--print-config")
    assert done.code == 0, done.text
    assert 'plugins: ["dlrun.models.resnet"]' in done.out


def test_a_plugin_model_that_fails_is_not_called_wrong_input(tmp_path: Path, dlrun: Dlrun) -> None:
    Path("my.yaml").write_text(MY_YAML)
    Path("my_net.py").write_text(MY_NET.replace("c, h, w = input_shape", "raise KeyError('my mistake')"))
    done = dlrun("train", "config=my.yaml", "device=cpu")
    assert done.code == 1
    assert f"error: KeyError: 'my mistake' ({tmp_path}/my_net.py:7)" in done.err
    assert "--debug shows the traceback" in done.err
    assert "Traceback" not in done.text
    assert "Traceback" in dlrun("train", "config=my.yaml", "device=cpu", "--debug").err


def test_a_package_beside_the_file_is_a_plugin_too(dlrun: Dlrun, tmp_path: Path) -> None:
    Path("nets").mkdir()
    Path("nets/__init__.py").write_text("from nets import deep\n")
    Path("nets/deep.py").write_text(MY_NET)
    Path("my.yaml").write_text(MY_YAML.replace("plugins: [my_net]", "plugins: [nets]"))
    done = dlrun("train", "config=my.yaml", "--print-config")
    assert done.code == 0, done.text
    assert f"{tmp_path}/nets/__init__.py" in done.out
