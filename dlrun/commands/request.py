"""What a command is asked for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """A parsed command line.

    Attributes:
        words: plain words (the kind and name of list and show, the models of summary).
        overrides: ``key=value`` words without the reserved ones.
        reserved: the command's own keys, such as config and resume.
        print_config: show the configuration and start nothing.
        json: print for programs.
    """

    words: tuple[str, ...]
    overrides: tuple[str, ...]
    reserved: dict[str, str]
    print_config: bool = False
    json: bool = False
