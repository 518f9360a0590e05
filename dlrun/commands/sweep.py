"""``dlrun sweep``: check the space, run the trials, say what they say."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from dlrun.addresses import masked
from dlrun.commands.request import Request
from dlrun.config.compose import compose
from dlrun.config.explain import explain
from dlrun.config.schema import Config
from dlrun.config.search import Search, load_search
from dlrun.config.sources import KeyPath
from dlrun.errors import EXIT_DONE, EXIT_FAILURE, EXIT_RESUMABLE, ConfigError, UserError, did_you_mean
from dlrun.logs import start_console, start_file, stop_file
from dlrun.runfolder import RunFolder
from dlrun.sweep.check import check_sweep
from dlrun.sweep.doubts import doubts
from dlrun.sweep.launcher import read_launcher
from dlrun.sweep.record import REPEATABLE
from dlrun.units import Duration

if TYPE_CHECKING:
    from dlrun.sweep.conduct import Conductor

log = logging.getLogger("dlrun")

_GRACE_SECONDS = 60.0
"""Time that trials have to save themselves when that of the sweep is over."""


def sweep(request: Request) -> int:
    """Search, or go on with a search.

    Returns:
        0 when all trials are done, 1 when the sweep was ended because trials failed or none of them ended with a
        score, 75 when it was stopped by a signal and can be resumed.

    Raises:
        UserError: for wrong input.
    """
    start_console()
    resume = request.reserved.get("resume")
    if resume is not None and "config" in request.reserved:
        raise ConfigError(["resume= and config= exclude each other: a resumed sweep has its own configuration"])
    if resume is None:
        for word in ("extend", "retry"):
            if word in request.reserved:
                raise ConfigError([f"{word}= is about a sweep that was begun: say which one, with resume=SWEEP_FOLDER"])
        search = load_search(request.reserved.get("config"), request.overrides)
        folder, threads = None, None
    else:
        search, folder, threads = _resumed(_to_resume(resume, request), request)
    check_sweep(search)
    again = _repeated(request.reserved.get("retry"))
    if request.print_config:
        print(masked(_explained(search)))
        return EXIT_DONE
    for warning in doubts(search):
        log.warning("%s", warning)
    return _sweep(search, folder, threads, extend=request.reserved.get("extend") == "true", retry=again)


def _repeated(text: str | None) -> tuple[str, ...]:
    """The statuses of the trials that are to be run again."""
    statuses = () if text is None else tuple(text.strip("[]").replace(" ", "").split(","))
    for status in statuses:
        if status not in REPEATABLE:
            raise UserError(f"retry={text}: {did_you_mean(status, REPEATABLE)}; several with commas between them")
    return statuses


def _sweep(
    search: Search, folder: RunFolder | None, threads: int | None, *, extend: bool, retry: tuple[str, ...]
) -> int:
    # torch is imported here: a mistake in the space was told before. A pool's first process does so at the same time.
    if search.settings.jobs and search.settings.launcher == "local":
        from dlrun.sweep.warming import warm_up

        warm_up()
    from dlrun.sweep import folder as folders
    from dlrun.sweep import results
    from dlrun.sweep.conduct import Conductor
    from dlrun.sweep.page import LivePage
    from dlrun.sweep.screen import Screen, shown
    from dlrun.sweep.start import check_start

    check_start(search)
    if threads is None:
        threads = _threads(search)
    if folder is None:
        folder = folders.create(search)
    folders.lock(folder)
    folders.write(folder, search, threads)
    handler = start_file(folder.path / "log.txt")
    try:
        log.info("sweep       %s", shown(folder.path))
        screen = Screen(search.settings.metric, search.settings.mode, shown(folder.path))
        conductor = Conductor(search, folder, threads, screen, extend=extend, retry=retry)
        screen.also = LivePage(search, folder, conductor.outcome).refresh
        with _stopping(conductor, search.settings.max_time):
            try:
                outcome = conductor.run()
            finally:
                conductor.over = True
                screen.end()
                results.write(search, folder, conductor.outcome)
            results.report(search, folder, outcome)
    finally:
        stop_file(handler)
        folder.unlock()
    if outcome.stopped and outcome.resumable:
        return EXIT_RESUMABLE
    ended_by_failures = bool(outcome.stopped) and results.failures(outcome.records) > 0
    return EXIT_FAILURE if ended_by_failures or not outcome.best(search.settings.mode) else EXIT_DONE


def _to_resume(resume: str, request: Request) -> Path:
    """The folder that ``resume=`` names."""
    from dlrun.sweep import folder as folders

    if resume != "auto":
        return Path(resume).expanduser()
    tree = compose(None, [word for word in request.overrides if word.startswith("sweep.root=")]).tree
    path = folders.newest(Path(str(tree["sweep"]["root"])).expanduser())
    log.info("resume      %s", path)
    return path


def _resumed(path: Path, request: Request) -> tuple[Search, RunFolder, int]:
    """The search of a folder, with the words that were added."""
    from dlrun.sweep import changes
    from dlrun.sweep import folder as folders

    extend = request.reserved.get("extend", "false")
    if extend not in ("true", "false"):
        raise UserError(f"extend={extend}: must be true or false")
    saved = folders.read(path)
    path = path.resolve()
    origin = saved.origin(path, anew=extend == "true")
    if origin.copies is not None:
        changes.tell_changed_files(path)
    search = load_search(saved.config, [*saved.overrides, *request.overrides], origin)
    changed = changes.changes(saved, search)
    if any(change.startswith(changes.SCORE) for change in changed):
        listed = "\n".join(f"  - {change}" for change in changed[:20] if change.startswith(changes.SCORE))
        raise UserError(
            f"resume={path}: what a score is cannot be changed, for those of the trials before could not be compared "
            f"with the new ones; start a new sweep:\n{listed}"
        )
    if changed and extend == "false":
        listed = "\n".join(f"  - {change}" for change in changed[:20])
        raise UserError(
            f"resume={path}: this would be another search:\n{listed}\nStart a new "
            "sweep, or say extend=true to run the trials that are missing in the new space (those that are done stay)"
        )
    changes.tell_changed_plugins(saved, search)
    if search.settings.storage is None:
        folders.tell_lost_journal(path)
    return search, RunFolder(path), search.settings.threads or saved.threads


def _middle(search: Search) -> Config:
    """The trial in the middle of all axes."""
    return search.trial({axis.key: axis.distribution.at(0.5) for axis in search.space if axis.when is None})


def _threads(search: Search) -> int:
    from dlrun.sweep.conduct import automatic_jobs, cores

    settings = search.settings
    if settings.threads is not None:
        return settings.threads
    chosen = search.composed.tree["trainer"].get("threads")
    if isinstance(chosen, int):
        return chosen
    launcher = read_launcher(settings)
    if launcher is not None:
        return launcher.cpus
    jobs = automatic_jobs(search) if settings.jobs is None else max(1, settings.jobs)
    return max(1, cores() // jobs)


@contextmanager
def _stopping(conductor: Conductor, max_time: Duration | None) -> Iterator[None]:
    """While inside, signals and the end of the time stop the sweep after the trials have saved themselves; a second
    signal at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if conductor.over:
            log.warning("%s: the results are being written", name)
            return
        if not conductor.outcome.stopped:
            log.warning("%s: the trials save themselves; a second signal ends at once", name)
        conductor.stop(f"received {name}")

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, handle) for number in numbers}
    alarm = None
    if max_time is not None:
        alarm = threading.Timer(max_time.seconds, _end, [conductor, max_time])
        alarm.daemon = True
        alarm.start()
    try:
        yield
    finally:
        if alarm is not None:
            alarm.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(conductor: Conductor, max_time: Duration) -> None:
    """Let the trials save themselves; after a while those end that hang."""
    if conductor.over or conductor.outcome.stopped:
        return
    conductor.outcome.stopped, conductor.outcome.resumable = f"sweep.max_time={max_time} is over", True
    log.info("sweep.max_time=%s is over: the trials save themselves", max_time)
    # The main thread hears it, and so does a trial in this process.
    os.kill(os.getpid(), signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_SECONDS
    while not conductor.over:
        if time.monotonic() > deadline:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        time.sleep(_GRACE_SECONDS / 100)


def _explained(search: Search) -> str:
    """The configuration of the trials, with the axes in the place of their values, and that of the search."""
    from dlrun.sweep.folder import describe

    described = json.loads(json.dumps(describe(search), default=str))
    space: dict[str, str] = described["space"]
    tree = _middle(search).to_tree()
    for key, text in space.items():
        *parents, last = key.split(".")
        node: Any = tree
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if isinstance(node, dict) and last in node and not isinstance(node[last], dict):
            node[last] = text

    def where(path: KeyPath) -> str:
        key = path[2] if path[:2] == ("sweep", "space") and len(path) > 2 else ".".join(path)
        return search.origins.get(key) or search.composed.provenance.where(path)

    return explain({**tree, "sweep": {"space": space, **described["settings"]}}, where)
