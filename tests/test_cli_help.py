"""The help of the command line: every command is there, and says what it takes."""

from __future__ import annotations

import inspect

import pytest

from dlrun.cli import main
from dlrun.commands.request import Request
from dlrun.commands.table import COMMANDS


def test_the_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    listed = [line.split()[0] for line in out.split("commands:\n")[1].split("\n\n")[0].splitlines()]
    assert listed == list(COMMANDS)
    assert max(map(len, out.splitlines())) <= 120


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_names_its_keys_and_shows_how_to_call_it(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    command = COMMANDS[name]
    if name != "compare":  # whose two folders are plain words
        assert [key for key in command.reserved if f"{key}=" not in out] == []
    assert out.count(f"\n  dlrun {name}") >= 2 or name == "list"
    assert [flag for flag in command.flags if flag not in out] == []
    assert command.example.startswith(f"dlrun {name} ")
    parameters = inspect.signature(command.run).parameters.values()
    assert [parameter.annotation for parameter in parameters] in (["Request"], [Request])


def test_a_command_that_does_not_exist_is_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweap"]) == 2
    assert "did you mean sweep?" in capsys.readouterr().err
