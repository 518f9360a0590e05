"""A sweep goes on from any folder, and whatever became of the files that it was begun with."""

from __future__ import annotations

import logging
import os
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from sweeping import TINY, lasting_rows, the_sweep

from dlrun.cli import main
from dlrun.config.search import load_search
from dlrun.runfolder import RunFolder
from dlrun.sweep import changes
from dlrun.sweep import folder as folders

BASE = """\
data: {name: synthetic, samples: 60, batch_size: 16}
model: {name: mlp, hidden: [8]}
trainer: {epochs: 1, threads: 1}
schedule: {warmup: 0ep}
"""
MINE = """\
defaults: [../common/base]
optimizer: {name: "choice(adam, gentle)", lr: "log(1e-3, 1)"}
callbacks: {checkpoint: {top_k: 2}}
sweep: {jobs: 0, seed: 3}
"""
GENTLE = "name: sgd\nlr: 0.001\nmomentum: 0.5\n"


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that names another one, and an option of a group beside it; a sweep of one trial is begun with it."""
    home = tmp_path / "home"
    for name, text in (("my/my.yaml", MINE), ("common/base.yaml", BASE), ("my/optimizer/gentle.yaml", GENTLE)):
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(home)
    assert main(["sweep", "config=my/my.yaml", "sweep.trials=1", "run.root=./here"]) == 0
    return home


def _at_once(home: Path) -> list[dict[str, str]]:
    """The same sweep in one go."""
    os.chdir(home)
    assert main(["sweep", "config=my/my.yaml", "sweep.trials=6", "run.root=./here", "sweep.root=whole"]) == 0
    (whole,) = (home / "whole").iterdir()
    return lasting_rows(whole)


def test_from_another_folder(mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _at_once(mine)
    assert {row["optimizer"] for row in whole} == {"adam", "gentle"}
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    # A file of the name of the recipe or of the file in question is another one.
    Path("my").mkdir()
    Path("my/my.yaml").write_text("nonsense: [")
    assert main(["sweep", f"resume={the_sweep(mine)}", "sweep.trials=6"]) == 0
    assert lasting_rows(the_sweep(mine)) == whole
    best = yaml.safe_load((the_sweep(mine) / "best.yaml").read_text())
    assert best["run"]["root"] == str(mine / "here")
    # And once more from a third one.
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", f"resume={the_sweep(mine)}"]) == 0
    assert lasting_rows(the_sweep(mine)) == whole


def test_after_the_files_were_changed(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = _at_once(mine)
    (mine / "my" / "my.yaml").write_text(MINE.replace("top_k: 2", "top_k: 1").replace("1e-3", "1e-2"))
    (mine / "my" / "optimizer" / "gentle.yaml").write_text(GENTLE.replace("0.5", "0.9"))
    capsys.readouterr()
    assert main(["sweep", f"resume={the_sweep(mine)}", "sweep.trials=6"]) == 0
    out = capsys.readouterr().out
    assert "my/my.yaml was changed since the sweep began, which goes on with its copy of it" in out
    assert "my/optimizer/gentle.yaml was changed" in out
    assert "base.yaml" not in out
    assert lasting_rows(the_sweep(mine)) == whole


def test_after_the_files_were_deleted(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = _at_once(mine)
    shutil.rmtree(mine / "my")
    shutil.rmtree(mine / "common")
    moved = mine / "moved"
    the_sweep(mine).rename(moved)
    capsys.readouterr()
    assert main(["sweep", f"resume={moved}", "sweep.trials=6"]) == 0
    assert "my/my.yaml is gone since the sweep began" in capsys.readouterr().out
    assert lasting_rows(moved) == whole


def test_extending_takes_the_files_as_they_are(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (mine / "my" / "my.yaml").write_text(MINE.replace("1e-3, 1", "10, 20"))
    assert main(["sweep", f"resume={the_sweep(mine)}", "sweep.trials=3", "extend=true"]) == 0
    rows = lasting_rows(the_sweep(mine))
    assert [float(row["optimizer.lr"]) >= 10 for row in rows] == [False, True, True]
    # From now on it is this one.
    (mine / "my" / "my.yaml").unlink()
    assert main(["sweep", f"resume={the_sweep(mine)}", "sweep.trials=4"]) == 0
    assert float(lasting_rows(the_sweep(mine))[3]["optimizer.lr"]) >= 10


def test_what_is_wrong_names_the_users_file(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", f"resume={the_sweep(mine)}", "optimizer.lr=lg(1, 2)"]) == 2
    assert "/files/" not in capsys.readouterr().err
    assert main(["sweep", f"resume={the_sweep(mine)}", "--print-config"]) == 0
    out = capsys.readouterr().out
    assert "# my/my.yaml:3" in out
    assert "/files/" not in out


def test_a_recipe_is_that_of_dlrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["model=mlp", "model.hidden=[8]", "trainer.epochs=1", "trainer.limit_batches=3", "schedule.warmup=0ep"]
    assert main(["sweep", "config=digits", *words, "optimizer.lr=log(1e-3, 1)", "sweep.trials=1", "sweep.jobs=0"]) == 0
    (tmp_path / "digits.yaml").write_text("seed: 7\n")
    assert main(["sweep", f"resume={the_sweep(tmp_path)}", "sweep.trials=2"]) == 0
    assert len(lasting_rows(the_sweep(tmp_path))) == 2


def test_a_password_in_a_file_is_kept_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text(
        "data: synthetic\nmodel: mlp\noptimizer: {lr: 'log(1e-3, 1)'}\nsweep: {storage: 'postgresql://ann:word@db/x'}\n"
    )
    search = load_search("my.yaml", [])
    folder = RunFolder(tmp_path / "sweep")
    folder.path.mkdir()
    folders.write(folder, search, 1)
    copies = list((folder.path / "files").rglob("*.yaml"))
    assert [path.read_text() for path in copies] == [Path("my.yaml").read_text()]
    for path in (*copies, folder.path / "sweep.yaml"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_changed_plug_in_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "nets"
    package.mkdir()
    files = [tmp_path / "my_net.py", package / "__init__.py", package / "blocks.py"]
    for file in files:
        file.write_text("x = 1\n")
    search = replace(
        load_search(None, [*TINY, "optimizer.lr=log(1e-3, 1)"]), plugins=(*map(str, files[:2]), "installed")
    )
    sweep = folders.create(search)
    folders.write(sweep, search, threads=1)

    def told() -> list[str]:
        caplog.clear()
        changes.tell_changed_plugins(folders.read(sweep.path), search)
        return [record.getMessage() for record in caplog.records]

    monkeypatch.setattr(logging.getLogger("dlrun"), "propagate", True)
    assert told() == []
    for file, name in zip(files, ("my_net.py", "nets/__init__.py", "nets/__init__.py"), strict=True):
        file.write_text("x = 2\n")
        assert f"plug-in {name} was changed since the sweep was last started" in "\n".join(told())
        folders.write(sweep, search, threads=1)
        assert told() == []
