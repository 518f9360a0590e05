"""Signals become requests to stop; a second one ends the process at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from dlrun.train.fit import log
from dlrun.train.state import State

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@contextmanager
def stop_on_signal(*states: State) -> Iterator[None]:
    """While inside, SIGINT, SIGTERM and SIGUSR1 request a stop of all ``states`` after the current step.

    A second signal restores the system's own handling and is raised again, which ends the process.
    """
    seen = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        name = signal.Signals(number).name
        if seen:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        seen = True
        for state in states:
            state.request_stop("signal", f"received {name}")
        log.warning("%s: finishing the step and saving a checkpoint; a second signal ends at once", name)

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
