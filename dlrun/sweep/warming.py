"""The process that those of a pool are forked from. Imports no torch itself."""

from __future__ import annotations

import multiprocessing
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext


def warm_up() -> ForkServerContext:
    """Start the process that those of the pool are forked from; it imports torch while the caller goes on."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dlrun.sweep.warm"])
    forkserver.ensure_running()
    return context
