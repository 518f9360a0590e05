"""The command line: ``dlrun COMMAND [key=value ...]``.

Nothing here imports torch or Hydra; a command does when it needs them.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import traceback
from collections.abc import Sequence

from dlrun import __version__
from dlrun.commands.request import Request
from dlrun.commands.table import COMMANDS, FLAGS, Command
from dlrun.errors import EXIT_DONE, EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_USER_ERROR, UserError, did_you_mean
from dlrun.interrupts import patient_interrupts

_USAGE = """\
usage: dlrun COMMAND [key=value ...] [--help] [--debug]

Describe an experiment in YAML; dlrun trains, watches, saves, resumes and evaluates it.
"""
_MORE = """\
`dlrun COMMAND --help` explains a command with examples. `dlrun --version` prints the version.

exit codes: 0 done; 1 something failed that is not the input; 2 the input was wrong (the message says what to do);
75 stopped by a signal or a time limit and resumable; 130 interrupted before the first step.
"""


def _help() -> str:
    width = max(len(name) for name in COMMANDS)
    purposes = max(len(command.purpose) for command in COMMANDS.values()) + 1
    lines = [
        f"  {name:<{width}}  {command.purpose + ':':<{purposes}}  {command.example}"
        for name, command in COMMANDS.items()
    ]
    return "\n".join([_USAGE, "commands:", *lines, "", _MORE])


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the words after ``dlrun``; None takes those of the process.

    Returns:
        The exit code, see :mod:`dlrun.errors`.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        with patient_interrupts():
            return _dispatch(words)
    except SystemExit as leave:
        # argparse has printed the help or its own message.
        return leave.code if isinstance(leave.code, int) else EXIT_FAILURE
    except UserError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        if debug:
            traceback.print_exc()
        resumed = next((word for word in words if word.startswith("resume=")), None)
        hint = (
            "there is nothing to resume" if resumed is None else f"go on with  dlrun {words[0]} {shlex.quote(resumed)}"
        )
        print(f"interrupted before the first step; {hint}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (head, less) has left: that is its right.
        sys.stderr.close()
        return EXIT_FAILURE
    except Exception as error:
        if debug:
            traceback.print_exc()
        frame = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split()) or "no message"
        print(
            f"error: {type(error).__name__}: {text} ({frame.filename}:{frame.lineno})\n"
            "This is a defect of dlrun or of your own code; --debug shows the traceback.",
            file=sys.stderr,
        )
        return EXIT_FAILURE


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help(), end="")
        return EXIT_DONE if words else EXIT_USER_ERROR
    if words[0] in ("--version", "-V"):
        print(f"dlrun {__version__}")
        return EXIT_DONE
    name, rest = words[0], words[1:]
    command = COMMANDS.get(name)
    if command is None:
        raise UserError(f"there is no command {name!r}; {did_you_mean(name, tuple(COMMANDS))} (dlrun --help)")
    # Parsed first: help is there without the imports of the command.
    request = _parse(name, command, rest)
    return command.run(request)


def _parse(name: str, command: Command, argv: list[str]) -> Request:
    """Take a command's words apart.

    Args:
        name: of the command.
        command: knows its words.
        argv: what follows it.

    Raises:
        UserError: for unknown flags, keys given twice, and too many plain words.
    """
    parser = argparse.ArgumentParser(
        prog=f"dlrun {name}",
        description=command.help,
        epilog=command.examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for word in command.words:
        parser.add_argument(word, nargs="?", help=argparse.SUPPRESS)
    shown = [word.upper() for word in command.words] + (["..."] if command.many else [])
    optional = [f"[{flag}]" for flag in ("--help", "--debug", *command.flags)]
    parser.usage = " ".join(["dlrun", name, *shown, "[key=value ...]", *optional])
    for flag in command.flags:
        parser.add_argument(flag, action="store_true", help=FLAGS[flag])
    parsed, unknown = parser.parse_known_args([word for word in argv if word.startswith("-")])
    if unknown:
        bare = unknown[0].lstrip("-")
        known = did_you_mean(unknown[0], [*command.flags, "--debug", "--help"])
        hint = f"write {bare} without the dashes" if "=" in bare else known
        raise UserError(f"dlrun {name}: unknown flag {unknown[0]!r}; {hint}")
    plain = [word for word in argv if not word.startswith("-")]
    names, own, overrides = _sorted_words(name, plain, command.reserved)
    if len(names) > len(command.words) and not command.many:
        extra = names[len(command.words)]
        raise UserError(
            f"dlrun {name}: {extra!r} is not of the form key=value; did you mean {command.reserved[0]}={extra}?"
        )
    return Request(
        tuple(names),
        tuple(overrides),
        own,
        print_config=bool(getattr(parsed, "print_config", False)),
        json=bool(getattr(parsed, "json", False)),
    )


def _sorted_words(
    command: str, plain: list[str], reserved: tuple[str, ...]
) -> tuple[list[str], dict[str, str], list[str]]:
    """Plain names, the command's own keys, and overrides."""
    own: dict[str, str] = {}
    names: list[str] = []
    overrides: list[str] = []
    for word in plain:
        key, equals, value = word.partition("=")
        if not equals and not word.startswith("~"):
            names.append(word)
        elif key in reserved:
            if key in own:
                raise UserError(f"dlrun {command}: {key}= is given twice")
            own[key] = value
        else:
            overrides.append(word)
    return names, own, overrides
