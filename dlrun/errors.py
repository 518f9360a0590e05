"""The errors a user can cause, and the exit codes of the command line.

Everything that is the user's to mend derives from :class:`UserError`; the command line prints its text without a
traceback and exits with :data:`EXIT_USER_ERROR`. Any other exception is a defect of dlrun or of user code.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

EXIT_DONE = 0
"""The command did what was asked."""
EXIT_FAILURE = 1
"""Something failed that is not the user's input: a defect, a lost device, an exception in user code."""
EXIT_USER_ERROR = 2
"""The input was wrong; the message says what, where and what to do."""
EXIT_RESUMABLE = 75
"""Stopped by a signal after a checkpoint (EX_TEMPFAIL of sysexits.h): the printed resume command goes on."""

EXIT_INTERRUPTED = 130
"""Interrupted before there was anything to resume (128 + SIGINT)."""


class UserError(Exception):
    """Wrong input: one message that says what is wrong, where, and what to do."""


class ConfigError(UserError):
    """Every problem found in a configuration, reported at once.

    Args:
        problems: one line (or paragraph) per problem, in the order of the configuration.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        head = "1 problem in the configuration" if count == 1 else f"{count} problems in the configuration"
        super().__init__(f"{head}:\n" + "\n".join(f"  - {problem}" for problem in self.problems))


class DataError(UserError):
    """The data are missing, damaged, or do not fit the experiment."""


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, foreign, too new, or unsafe to open."""


class ExportError(UserError):
    """A network cannot be written in a format, or its file does not compute what PyTorch computes."""


class NonFiniteError(UserError):
    """The loss became NaN or infinite; the message names the steps and what to try.

    Attributes:
        first: the first step, counted from 1, whose loss was not finite.
    """

    def __init__(self, message: str, first: int) -> None:
        super().__init__(message)
        self.first = first


_LISTED = 60
"""Names that a message lists at most."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Suggest the nearest known name, or list the known ones if none is near.

    Args:
        word: what the user wrote.
        known: the names that would have been right.

    Returns:
        A sentence fragment that starts with ``did you mean`` or ``known:``; empty if nothing is known.
    """
    names = sorted(known)
    near = get_close_matches(word, names, n=2, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(near) + "?"
    more = f", ... ({len(names)} in all)" if len(names) > _LISTED else ""
    return f"known: {', '.join(names[:_LISTED])}{more}" if names else ""
