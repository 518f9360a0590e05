"""The process that those of a pool are forked from. Imports no torch itself."""

from __future__ import annotations

import multiprocessing
import signal
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext


def warm_up() -> ForkServerContext:
    """Start the process that those of the pool are forked from; it imports torch while the caller goes on."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dlrun.sweep.warm"])
    # It would unblock what is blocked below.
    resource_tracker.ensure_running()
    # A Ctrl-C of the terminal reaches it too, and would end it in the middle of an import. It inherits the mask.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context
