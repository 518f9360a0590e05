"""``dlrun train folds=5`` and ``dlrun train seeds=5``: several runs of one experiment, and a table of them."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from dlrun.commands.request import Request
from dlrun.config.rerun import SERIES_MAY_CHANGE, refuse_changes
from dlrun.config.schema import Config
from dlrun.config.sources import display_path, read_yaml
from dlrun.errors import EXIT_DONE, EXIT_FAILURE, EXIT_RESUMABLE, EXIT_USER_ERROR, UserError
from dlrun.logs import log, only_progress, start_file, stop_file
from dlrun.members import SUMMARY, TABLE, Member, Outcome, outcome_of, spreads, summary, write_table
from dlrun.runfolder import RunFolder, create_run_folder
from dlrun.train.state import State
from dlrun.yaml_text import as_yaml

Kind = Literal["folds", "seeds"]


def members_of(config: Config) -> list[Member]:
    """The runs of a cross-validation, or of several seeds, of a configuration that asks for them."""
    if config.folds is not None:
        folds = [(f"fold_{i}", f"fold {i} of {config.folds}", {"fold": i}) for i in range(1, config.folds + 1)]
        return [_member(config, *fold) for fold in folds]
    return [_member(config, f"seed_{seed}", f"seed {seed}", {"seed": seed, "seeds": None}) for seed in config.all_seeds]


def _member(config: Config, name: str, label: str, changes: Mapping[str, Any]) -> Member:
    run = replace(config.run, name=name)
    words = tuple(f"{key}={'null' if value is None else value}" for key, value in changes.items())
    return Member(name, label, replace(config, run=run, **changes), words)


@dataclass
class _Series:
    """The set while it runs.

    Attributes:
        config: what its runs have in common.
        name: of the configuration, for the folder.
        request: what was typed.
        folder: its folder; None until the first run has proved that it can start.
        resumed: whether the folder was there before.
        whole: hears the signals, also between two runs.
    """

    config: Config
    name: str
    request: Request
    folder: RunFolder | None
    resumed: bool = False
    whole: State = field(default_factory=State)
    _log_file: logging.Handler | None = None

    def open(self) -> RunFolder:
        """The folder, which is made on the first call, locked and with a log."""
        if self.folder is None:
            kind, count = _size(self.config)
            self.folder = create_run_folder(self.config.run.root, f"{self.name}_{kind}{count}", self.config.to_tree())
            words = [*(f"{key}={value}" for key, value in self.request.reserved.items()), *self.request.overrides]
            try:
                (self.folder.path / "checkpoints").rmdir()
                self.folder.write_text("overrides.txt", "".join(f"{word}\n" for word in words))
                # Last: a folder with a config.yaml can be resumed.
                self.folder.write_text("config.yaml", as_yaml(self.config.to_tree()))
            except OSError as error:
                raise UserError(f"folder {self.folder.path}: cannot be written: {error.strerror}") from None
        if self._log_file is None:
            self.folder.lock()
            self._log_file = start_file(self.folder.path / "log.txt")
            log.info("folder      %s", shown(self.folder))
        return self.folder

    def close(self) -> None:
        if self._log_file is not None:
            stop_file(self._log_file)
        if self.folder is not None:
            self.folder.unlock()

    def open_member(self, name: str) -> RunFolder:
        """The folder of one run; what a process left of it that was killed before it began is used again."""
        path = self.open().path / name
        try:
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"run folder {path}: cannot be made: {error.strerror}") from None
        return RunFolder(path)


def shown(folder: RunFolder) -> str:
    """A folder as the user would type it."""
    return display_path(folder.path)


def _size(config: Config) -> tuple[Kind, int]:
    if config.folds is not None:
        return "folds", config.folds
    return "seeds", len(config.all_seeds)


def train_series(config: Config, name: str, folder: RunFolder | None, request: Request) -> int:
    """Train all runs of a cross-validation or of several seeds, or what is left of them.

    A run that fails is told at once, and the others go on. Runs that are done stay as they are; one that was stopped
    goes on from its checkpoint; and seeds that were added are trained.

    Args:
        config: asks for several runs.
        name: of the configuration, for the folder.
        folder: of the set, to go on with it; None for a new one.
        request: what was typed.

    Returns:
        0 when all are done; 75 when they were stopped and can be resumed; 2 or 1 when a run failed, by its own fault or
        that of the input.

    Raises:
        UserError: for wrong input, as long as nothing has begun.
    """
    from dlrun.assembly import read_data
    from dlrun.train.signals import stop_on_signal

    if folder is not None:
        saved, _ = read_yaml(folder.path / "config.yaml", str(folder.path))
        why = f"runs that are done were made with it; start new ones (dlrun train config={folder.path} ...)"
        refuse_changes({"folds": None, "fold": None, "seeds": None, **saved}, config.to_tree(), SERIES_MAY_CHANGE, why)
    series = _Series(config, config.run.name or name, request, folder, resumed=folder is not None)
    started = time.time()
    try:
        if folder is not None:
            series.open()
            if request.overrides:
                folder.write_text("config.yaml", as_yaml(config.to_tree()))
        data = read_data(config)
        with stop_on_signal(series.whole):
            outcomes, code = _train_all(series, data)
        if code == EXIT_RESUMABLE:
            return code
        _report(series, outcomes, time.time() - started)
        return code
    finally:
        series.close()


def _train_all(series: _Series, data: Any) -> tuple[list[Outcome], int]:
    outcomes: list[Outcome] = []
    failures: list[int] = []
    members = members_of(series.config)
    for member in members:
        parent = series.folder
        if parent is not None and outcome_of(parent.path / member.name).status == "done":
            outcomes.append(outcome_of(parent.path / member.name))
            _tell(member, outcomes[-1])
            continue
        try:
            code = _train_member(series, member, data)
        except Exception as error:
            if series.folder is None:
                # Nothing has begun: the input is wrong for all of them.
                raise
            failures.append(EXIT_USER_ERROR if isinstance(error, UserError) else EXIT_FAILURE)
            text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            outcomes.append(Outcome(member.name, "failed", error=" ".join(text.split())))
            log.warning("%s failed: %s", member.label, outcomes[-1].error)
            record = series.folder.path / member.name / "log.txt"
            if record.is_file():
                log.warning("its log is %s; the other runs go on", display_path(record))
            continue
        assert series.folder is not None
        stop = series.whole.stop
        if code == EXIT_RESUMABLE or (stop is not None and member is not members[-1]):
            _tell_stop(series, member, finished=code == EXIT_DONE)
            return outcomes, EXIT_RESUMABLE
        outcomes.append(outcome_of(series.folder.path / member.name))
        _tell(member, outcomes[-1])
    # A defect (1) says more than wrong input (2).
    return outcomes, min(failures, default=EXIT_DONE)


def _train_member(series: _Series, member: Member, data: Any) -> int:
    import gc

    from dlrun.commands.train import train_run

    config, folder = member.config, None
    if series.folder is not None and (series.folder.path / member.name / "config.yaml").is_file():
        folder = RunFolder(series.folder.path / member.name)
    request = series.request if folder is not None else _as_typed(series, member)
    try:
        with only_progress(member.label):
            return train_run(
                config,
                request,
                time.time(),
                folder=folder,
                create=lambda: series.open_member(member.name),
                data=data,
                whole=series.whole,
            )
    finally:
        # A run holds itself in circles; its tensors should be gone before the next one asks for memory.
        gc.collect()


def _as_typed(series: _Series, member: Member) -> Request:
    """What would have to be typed for a run by itself."""
    request, words = series.request, list[str]()
    if series.resumed and series.folder is not None and (series.folder.path / "overrides.txt").is_file():
        words = (series.folder.path / "overrides.txt").read_text(encoding="utf-8").splitlines()
        request = replace(request, reserved={})
    own = {word.partition("=")[0] for word in member.words}
    kept = [word for word in (*words, *request.overrides) if word.partition("=")[0] not in own]
    return replace(request, overrides=(*kept, *member.words))


def _tell(member: Member, outcome: Outcome) -> None:
    from dlrun.report import score_cell

    parts = [f"{name} {score_cell(name, value)}" for name, value in outcome.metrics.items() if "top5" not in name]
    log.info("%-14s%s", member.label, ", ".join(part for part in parts if not part.startswith("train/")))


def _tell_stop(series: _Series, member: Member, *, finished: bool) -> None:
    assert series.folder is not None
    stop = series.whole.stop
    message = "by a limit of the run" if stop is None else stop.message
    log.info("stopped     %s: %s is %s", message, member.label, "done" if finished else "interrupted")
    log.info("go on with  dlrun train resume=%s", shlex.quote(shown(series.folder)))


def _report(series: _Series, outcomes: Sequence[Outcome], seconds: float) -> None:
    from dlrun.commands.out_of_fold import LISTING, collect

    folder, (kind, _) = series.folder, _size(series.config)
    assert folder is not None
    text = summary(kind, outcomes)
    written = [TABLE, SUMMARY]
    try:
        if kind == "folds":
            text["out_of_fold"] = collect(folder, [one.name for one in outcomes if one.status == "done"])
            written += [] if text["out_of_fold"] is None else [LISTING]
        write_table(folder, outcomes)
        folder.write_json(SUMMARY, text)
    except OSError as error:
        log.warning("the results cannot be written to %s: %s", folder.path, error.strerror)
        written = []
    for line in table_lines(kind, outcomes):
        log.info("%s", line)
    log.info("")
    log.info("done in %.1f s: %s", seconds, shown(folder))
    if written:
        log.info("written     %s", ", ".join(written))


def table_lines(kind: Kind, outcomes: Sequence[Outcome]) -> list[str]:
    """The results as a table: a row for each run, then mean and spread of every metric on held-out images."""
    from dlrun.report import score_cell

    found = {name: value for name, value in spreads(outcomes).items() if not name.startswith("train/")}
    columns = [(name, max(10, len(name) + 2)) for name in found]

    def row(label: str, cells: Sequence[str]) -> str:
        return f"  {label:<18}" + "".join(f"{cell:>{wide}}" for cell, (_, wide) in zip(cells, columns, strict=False))

    lines = ["", row("", list(found))]
    for one in outcomes:
        cells = [score_cell(name, one.metrics.get(name)) for name in found] if one.status == "done" else []
        lines.append(row(one.name, cells) if cells else f"  {one.name:<18}  {one.status}: {one.error}")
    measures = {"mean": "mean", "standard deviation": "std"}
    if kind == "seeds":
        measures |= {"standard error": "standard_error", "noise below": "noise"}
    lines.append("")
    for label, attribute in measures.items():
        values = [None if one is None else getattr(one, attribute) for one in found.values()]
        lines.append(row(label, [score_cell(name, value) for name, value in zip(found, values, strict=True)]))
    done = sum(one.status == "done" for one in outcomes)
    if kind == "seeds" and done > 1:
        lines += [
            "",
            f"Two settings with {done} seeds each that differ by less than `noise below` cannot be told apart (95 %).",
        ]
    return lines
