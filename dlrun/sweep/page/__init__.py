"""``report.html`` of a sweep: one file that needs nothing else, drawn by its own script from the data in it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from html import escape
from importlib import resources
from string import Template

from dlrun.config.search import Search
from dlrun.runfolder import RunFolder, finite
from dlrun.sweep.outcome import Outcome
from dlrun.sweep.page import text
from dlrun.sweep.page.commands import commands
from dlrun.sweep.page.data import chart_data
from dlrun.sweep.screen import shown

log = logging.getLogger("dlrun")

PAGE = "report.html"
_SCRIPTS = ("base.js", "charts.js", "main.js")
_EVERY = 4.0
"""Seconds between two writings while the sweep runs."""
_SHARE = 0.01
"""Of the time that the page may take from a running sweep."""


def page(search: Search, name: str, path: str, outcome: Outcome, *, running: bool = False) -> str:
    """The page of a sweep; the same outcome gives the same text.

    Args:
        search: what was searched.
        name: of the sweep.
        path: of its folder, as the user would type it.
        outcome: what it found so far.
        running: whether it goes on.
    """
    settings = search.settings
    charts = ""
    if outcome.records:
        charts = Template(_resources("charts.html")).substitute(
            metric=escape(settings.metric),
            trials=text.trials(search, outcome),
            data=_embedded(chart_data(search, outcome)),
            script=_resources(*_SCRIPTS),
        )
    return Template(_resources("page.html")).substitute(
        name=escape(name),
        style=_resources("page.css"),
        head=text.head(search, name, outcome, running=running),
        commands=text.commands(commands(search, path, outcome, running=running)),
        confirmed=text.confirmed(search, outcome),
        stages=text.stages(outcome, settings.mode),
        charts=charts,
    )


class LivePage:
    """The page of a running sweep, written again when trials are over: every few seconds, and rarer if that is slow.

    Args:
        search: what is searched.
        folder: of the sweep.
        outcome: what is found, as it grows.
        clock: seconds that never go back.
    """

    def __init__(
        self, search: Search, folder: RunFolder, outcome: Outcome, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._search, self._folder, self._outcome, self._clock = search, folder, outcome, clock
        self._due = clock() + _EVERY
        self._told = self._failed = False

    def refresh(self) -> None:
        """Write the page if it is time; what cannot be written is told once."""
        began = self._clock()
        if began < self._due or self._failed:
            return
        try:
            write_page(self._search, self._folder, self._outcome, running=True)
        except Exception as error:
            # Whatever it is: a picture must not cost a sweep.
            self._failed = True
            reason = error.strerror if isinstance(error, OSError) else repr(error)
            log.warning("%s cannot be written: %s; the sweep goes on", self._folder.path / PAGE, reason)
            return
        if not self._told:
            self._told = True
            log.info("page        %s/%s, written again every few seconds", shown(self._folder.path), PAGE)
        ended = self._clock()
        self._due = ended + max(_EVERY, (ended - began) / _SHARE)


def write_page(search: Search, folder: RunFolder, outcome: Outcome, *, running: bool = False) -> None:
    """Write the page into the sweep's folder.

    Raises:
        OSError: if it cannot be written.
    """
    path = folder.path
    folder.write_text(PAGE, page(search, path.name, shown(path), outcome, running=running))


def _embedded(tree: object) -> str:
    """JSON that no value can break out of: neither ``</script>`` nor ``<!--`` can stand in it."""
    plain = json.dumps(finite(tree), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return plain.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _resources(*names: str) -> str:
    folder = resources.files(__package__)
    return "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)
