"""The command line: help, listings, exit codes, and what must not import torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import Dlrun, compose_faster, dlrun_process

from dlrun import __version__, cli
from dlrun.cli import main
from dlrun.config.files import recipes
from dlrun.registry import REGISTRIES

ENTRIES = [(kind, name) for kind, registry in REGISTRIES.items() for name in registry.names()]


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    compose_faster(monkeypatch)


@pytest.fixture
def dlrun(capsys: pytest.CaptureFixture[str]) -> Dlrun:
    return Dlrun(capsys)


@pytest.mark.parametrize("word", ["--help", "-h", "help"])
def test_help_names_the_commands_and_the_exit_codes(word: str, dlrun: Dlrun) -> None:
    done = dlrun(word)
    assert (done.code, done.err) == (0, "")
    for part in (
        "train",
        "eval",
        "summary",
        "list",
        "show",
        "0 done",
        "2 the input was wrong",
        "75 stopped by a signal",
    ):
        assert part in done.out


@pytest.mark.parametrize("command", ["train", "eval", "sample", "inspect", "summary", "list", "show"])
def test_every_command_has_help_with_examples(command: str, dlrun: Dlrun) -> None:
    done = dlrun(command, "--help")
    assert (done.code, done.err) == (0, "")
    assert f"usage: dlrun {command}" in done.out
    assert f"examples:\n  dlrun {command}" in done.out
    assert all(len(line) <= 120 for line in done.out.splitlines())


def test_without_a_word_the_help_is_shown_and_nothing_is_done(dlrun: Dlrun) -> None:
    done = dlrun()
    assert done.code == 2
    assert done.out.startswith("usage: dlrun COMMAND")


def test_help_says_what_is_trained_without_a_config(dlrun: Dlrun) -> None:
    text = " ".join(dlrun("train", "--help").out.split())
    assert "Without config=, it trains a small network on handwritten digits (the recipe digits)" in text
    assert "with data=NAME for other data, it starts from the plain defaults" in text


@pytest.mark.parametrize("word", ["--version", "-V"])
def test_version(word: str, dlrun: Dlrun) -> None:
    assert dlrun(word).out == f"dlrun {__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "there is no command 'trian'; did you mean train? (dlrun --help)"),
        (["train", "my.yaml"], "dlrun train: 'my.yaml' is not of the form key=value; did you mean config=my.yaml?"),
        (["eval", "runs/x"], "dlrun eval: 'runs/x' is not of the form key=value; did you mean checkpoint=runs/x?"),
        (["train", "--config=a"], "dlrun train: unknown flag '--config=a'; write config=a without the dashes"),
        (["train", "--print-confg"], "dlrun train: unknown flag '--print-confg'; did you mean --print-config?"),
        (["train", "config=a", "config=b"], "dlrun train: config= is given twice"),
        (["list", "models", "x"], "dlrun list: 'x' is not of the form key=value; did you mean config=x?"),
        (["list", "modles"], "there is no kind 'modles'; did you mean models?"),
        (["list", "models", "seed=1"], "'seed=1' means nothing here: list and show take config= and plugins= only"),
        (["show", "model", "resnt"], "unknown model 'resnt'; did you mean resnet?"),
        (["show", "recipe", "digts"], "there is no recipe 'digts'; did you mean digits?"),
        (["show", "debug", "fats"], "there is no debug 'fats'; did you mean fast?"),
        (["eval"], "dlrun eval needs checkpoint=PATH, a checkpoint file or a run folder"),
        (["eval", "checkpoint=[a,]"], "checkpoint=[a,]: an empty entry in the list"),
        (["eval", "checkpoint=a", "split=tset"], "split=tset: unknown split; did you mean test?"),
        (["eval", "checkpoint=no.pt"], "checkpoint no.pt: no such file; give a checkpoint file or a run folder"),
        (["train", "resume=nowhere"], "resume=nowhere: there is no such run folder"),
        (["train", "resume=."], "resume=.: is not a run folder (it has no config.yaml)"),
    ],
)
def test_wrong_words(words: list[str], message: str, dlrun: Dlrun) -> None:
    done = dlrun(*words)
    assert (done.code, done.out, done.err) == (2, "", f"error: {message}\n")


def test_show_without_a_name_lists_the_kinds(dlrun: Dlrun) -> None:
    done = dlrun("show", "model")
    assert done.code == 2
    assert "dlrun show needs a kind and a name" in done.err
    assert "optimizer" in done.err


def test_resume_and_config_exclude_each_other(dlrun: Dlrun) -> None:
    assert "resume= and config= exclude each other" in dlrun("train", "resume=a", "config=b").err


def test_resume_auto_without_a_run(tmp_path: Path, dlrun: Dlrun) -> None:
    assert dlrun("train", "resume=auto").err == f"error: resume=auto: there is no run in {tmp_path}/runs\n"


def test_list_shows_every_component_with_its_summary(dlrun: Dlrun) -> None:
    done = dlrun("list")
    assert done.code == 0
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    for kind, name in ENTRIES:
        assert f"{name} {REGISTRIES[kind].entry(name).summary}" in lines
    for recipe in recipes():
        assert any(line.startswith(f"{recipe} ") for line in lines), recipe
    assert any(line.startswith("overfit Can it learn at all?") for line in lines)


@pytest.mark.parametrize("kind", REGISTRIES)
def test_list_of_one_kind(kind: str, dlrun: Dlrun) -> None:
    done = dlrun("list", kind)
    assert [line.split()[0] for line in done.out.splitlines()] == REGISTRIES[kind].names()


@pytest.mark.parametrize(
    "word", ["models", "optimizers", "schedules", "losses", "augmentations", "recipes", "callbacks"]
)
def test_kinds_in_the_plural(word: str, dlrun: Dlrun) -> None:
    assert dlrun("list", word).code == 0


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_show_of_every_component(kind: str, name: str, dlrun: Dlrun) -> None:
    entry = REGISTRIES[kind].entry(name)
    done = dlrun("show", kind, name)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{kind} {name}: {entry.summary}")
    assert entry.source in done.out
    for option in entry.options:
        assert f"  {option.name} " in done.out
        assert option.wanted in done.out
    assert f"defined in {entry.module} (line {entry.line})" in done.out


def test_show_of_a_recipe_and_a_debug_mode(dlrun: Dlrun) -> None:
    assert "model:" in dlrun("show", "recipe", "digits").out
    assert "limit_batches: 3" in dlrun("show", "debug", "fast").out


def test_debug_shows_the_traceback_of_an_error(dlrun: Dlrun) -> None:
    assert "Traceback" not in dlrun("train", "sed=1").err
    assert "Traceback" in dlrun("train", "sed=1", "--debug").err


def test_a_defect_is_told_in_two_lines_and_exits_with_1(dlrun: Dlrun, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*words: object) -> None:
        raise RuntimeError("something\n  odd")

    monkeypatch.setattr("dlrun.commands.listing.list_components", broken)
    done = dlrun("list")
    assert done.code == 1
    assert done.err.startswith("error: RuntimeError: something odd (")
    assert "This is a defect of dlrun or of your own code; --debug shows the traceback." in done.err


def test_an_interrupt_before_the_first_step(dlrun: Dlrun, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*words: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dlrun.commands.listing.list_components", interrupted)
    done = dlrun("list")
    assert (done.code, done.err) == (130, "interrupted before the first step; there is nothing to resume\n")


def test_python_dash_m(tmp_path: Path) -> None:
    done = dlrun_process("--version", cwd=tmp_path)
    assert (done.code, done.out, done.err) == (0, f"dlrun {__version__}\n", "")
    done = dlrun_process("nonsense", cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: there is no command 'nonsense'")


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m dlrun list | head -1",
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("models")
    assert "Traceback" not in done.stderr


QUICK = [
    ["--help"],
    ["--version"],
    ["train", "--help"],
    ["list"],
    ["list", "models"],
    ["show", "model", "resnet"],
    ["show", "callbacks", "checkpoint"],
    ["show", "schedule", "chain", "optimizer.lr_scaling=linear", "data.batch_growth=2"],
    ["nonsense"],
    ["train", "sed=1"],
    ["train", "optimizer.lrr=1"],
    ["train", "config=nowhere"],
    ["train", "config=no_yaml"],
    ["train", "model=resnt"],
    ["train", "resume=nowhere"],
    ["eval"],
    ["sample"],
    ["sample", "--help"],
    ["sample", "checkpoint=a", "top_k=0"],
    ["inspect", "cells"],
    ["inspect", "cells", "checkpoint=a", "cells=3"],
    ["train", "--print-config"],
]


def test_an_interrupted_command_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(words: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_dispatch", interrupt)
    assert main(["sweep", "resume=a sweep"]) == 130
    assert "go on with  dlrun sweep 'resume=a sweep'" in capsys.readouterr().err
    assert main(["train"]) == 130
    assert "there is nothing to resume" in capsys.readouterr().err


def test_an_interrupt_waits_until_torch_is_there(tmp_path: Path) -> None:
    """In the middle of its import, C++ would abort the process."""
    code = (
        "import os, signal, sys, types\n"
        "from dlrun.interrupts import patient_interrupts\n"
        "torch = sys.modules['torch'] = types.ModuleType('torch')\n"
        "torch.__spec__ = types.SimpleNamespace(_initializing=True)\n"
        "passed = False\n"
        "try:\n"
        "    with patient_interrupts():\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        passed = True\n"
        "        torch.__spec__._initializing = False\n"
        "        signal.pause()\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', passed)\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout == "interrupted True\n", done.stderr


def test_quick_answers_do_not_import_torch(tmp_path: Path) -> None:
    (tmp_path / "no_yaml").write_text("a: [")
    code = (
        "import sys\n"
        "from dlrun.cli import main\n"
        f"for words in {QUICK!r}:\n"
        "    code = main(words)\n"
        "    found = {'torch', 'torchvision', 'sklearn', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "    assert code in (0, 2), (words, code)\n"
        "    assert not found, f'{words} imports {found}'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_does_not_import_hydra(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom dlrun.cli import main\nmain(['--help']); main(['train', '--help']); main(['--version'])\n"
        "assert not {'hydra', 'omegaconf', 'yaml'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
