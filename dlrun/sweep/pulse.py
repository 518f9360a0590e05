"""Signs of life of processes that share the trials of a sweep.

Each writes a number that grows. Whoever looks measures, with its own clock, for how long it has seen the same number:
the clocks of two machines are never compared.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

log = logging.getLogger("dlrun")

BEAT_SECONDS = 20.0
"""Time between two signs of life."""
DEAD_AFTER = 180.0
"""Time without a new one after which a process is taken for dead; many beats, for a network may fail for a while."""


class Pulse:
    """A thread that gives signs of life and watches for those of others.

    Args:
        beat: writes a sign of life; its argument grows.
        look: what others have written, by the name of their signs.
    """

    def __init__(self, beat: Callable[[int], None], look: Callable[[], Mapping[str, Any]]) -> None:
        self._beat, self._look = beat, look
        self._seen: dict[str, tuple[Any, float]] = {}
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._told = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; the first sign of life is written before this returns."""
        self._beat(0)
        self._thread = threading.Thread(target=self._run, name="dlrun-pulse", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def dead(self, name: str, sign: Any) -> bool:
        """Whether a sign has not changed for :data:`DEAD_AFTER` seconds.

        Args:
            name: of the sign.
            sign: what it is now.
        """
        now = time.monotonic()
        with self._lock:
            before = self._seen.get(name)
            if before is None or before[0] != sign:
                self._seen[name] = (sign, now)
                return False
            return now - before[1] > DEAD_AFTER

    def _run(self) -> None:
        count = 0
        while not self._end.wait(BEAT_SECONDS):
            count += 1
            try:
                self._beat(count)
                for name, sign in self._look().items():
                    self.dead(name, sign)
            except Exception as error:
                # The trials go on: a database that is back in time has missed nothing.
                if not self._told:
                    log.warning("no sign of life can be given: %s", " ".join(str(error).split())[:200])
                self._told = True
            else:
                self._told = False
