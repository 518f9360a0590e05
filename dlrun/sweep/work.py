"""The trials of one stage: taken, run, written down."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from dlrun.errors import ConfigError
from dlrun.sweep.common import common
from dlrun.sweep.confirm import SEED, read_confirm
from dlrun.sweep.doubts import longest_epochs
from dlrun.sweep.ledger import Ledger
from dlrun.sweep.outcome import StageResult
from dlrun.sweep.plan import digest
from dlrun.sweep.pruning import Advisor, Halving, MedianRule, NoPruning
from dlrun.sweep.record import Record, Trial, Watch
from dlrun.sweep.runner import Pack
from dlrun.sweep.slot import Ticket
from dlrun.sweep.tidy import tidy
from dlrun.sweep.watcher import Advise

if TYPE_CHECKING:
    from dlrun.sweep.conduct import Conductor

log = logging.getLogger("dlrun")

POLL_SECONDS = 1.0
"""Time between two looks at what other machines do, when there is nothing to do here."""


class Work:
    """The trials of one stage: taken, run, written down."""

    def __init__(self, conductor: Conductor, result: StageResult, ledger: Ledger) -> None:
        self._conductor, self._result, self._ledger = conductor, result, ledger
        self._tickets: dict[int, Ticket] = {}
        self._paused: dict[int, Record] = {}
        self._ready: list[Ticket] = []
        self._heard: dict[int, float] = {}
        self._bare: set[str] = set()
        settings, stage = conductor.settings, result.stage
        self._epochs = stage.epochs or longest_epochs(conductor.search)
        self.advisor: Advisor = NoPruning()
        if settings.prune == "median" and not stage.confirms:
            self.advisor = MedianRule(settings.mode, settings.min_epochs)
        elif settings.prune == "halving" and not stage.confirms:
            self.advisor = Halving(settings.mode, settings.min_epochs, settings.eta, self._epochs)
        for record in [*result.records.values(), *ledger.paused()]:
            self.advisor.learn(record)
        for number, epochs in ledger.released().items():
            self.advisor.release(number, epochs)

    def run(self) -> None:
        """Until no slot is left, here or with others that share the study."""
        conductor = self._conductor
        while True:
            for runner in conductor.runners():
                with conductor.running(runner):
                    runner.run(self._next, self._done, self._advise)
                if conductor.outcome.stopped:
                    break
            if conductor.outcome.stopped:
                break
            if not self._others() and not self._rescued():
                if not (conductor.shared and self._paused):
                    break
                # Others may wait for these: only then the stage is over for all.
                self._end_paused()
        self._end_paused()

    def _rescued(self) -> bool:
        """Let the best of those that came farthest go on to its end, if no trial has come there; True if one does."""
        if any(record.status == "ok" for record in self._result.records.values()):
            return False
        paused = self._paused.keys() | {record.number for record in self._ledger.paused()}
        leader = self.advisor.leader(paused)
        if leader in self._paused:
            self._release(leader, float(self._epochs))
        elif leader is not None:
            # It goes on on the machine that paused it.
            time.sleep(POLL_SECONDS)
        return leader is not None

    def _release(self, number: int, epochs: float) -> None:
        self.advisor.release(number, epochs)
        ticket = self._tickets[number]
        self._ledger.release(ticket, self._paused.pop(number), epochs)
        self._ready.append(ticket)

    def _end_paused(self) -> None:
        conductor = self._conductor
        for record in self._paused.values():
            if conductor.outcome.stopped:
                self._ledger.give_back(self._tickets[record.number])
            else:
                reason = f"others did better after {record.epochs:g} epochs"
                self._finish(replace(record, status="pruned", reason=reason))
        self._paused.clear()

    def _others(self) -> bool:
        """Wait for those that share the study; True if there is something to do for this process again."""
        ledger = self._ledger
        while self._conductor.shared and not self._conductor.outcome.stopped:
            ledger.recover()
            # Looked at first: what was paused or finished by then is known after learning.
            running = ledger.running()
            if self._learn() and self._paused:
                return True
            if ledger.waiting():
                return True
            # What another machine has paused goes on, or is finished, there.
            if not running and not ledger.missing() and (self._paused or not ledger.paused()):
                return False
            time.sleep(POLL_SECONDS)
        return False

    def _learn(self) -> bool:
        """Take over what others have finished and paused; whether there was anything new."""
        new = False
        for number, record in self._ledger.records().items():
            if number not in self._result.records:
                self._result.records[number] = record
                self._conductor.screen.learn(record)
                self.advisor.learn(record)
                new = True
        for record in self._ledger.paused():
            if record.number not in self._paused and self._heard.get(record.number) != record.epochs:
                self._heard[record.number] = record.epochs
                self.advisor.learn(record)
                new = True
        return new

    def _next(self) -> Pack | None:
        if self._conductor.outcome.stopped:
            return None
        if self._conductor.shared:
            self._learn()
        while not self._conductor.outcome.stopped and (ticket := self._ticket()) is not None:
            try:
                return [self._trial(ticket)]
            except ConfigError as error:
                # Values that the configuration refuses together: this trial has failed, and no other.
                reason = "; ".join(error.problems)
                self._finish(Record(ticket.number, self._result.stage.number, "failed", ticket.values, reason=reason))
        return None

    def _ticket(self) -> Ticket | None:
        """What is to run next: a trial that was promoted, one that was begun, a new one."""
        while not self._ready:
            # Those of other machines go on there.
            promoted = self.advisor.promoted(self._paused.keys())
            if promoted is not None:
                self._release(*promoted)
                break
            ticket = self._ledger.take()
            if ticket is None:
                return None
            self._tickets[ticket.number] = ticket
            if ticket.paused is None:
                self._ready.append(ticket)
            else:
                # By an earlier start, or by a machine that is gone.
                self._paused[ticket.number] = ticket.paused
        return self._ready.pop(0)

    def _trial(self, ticket: Ticket) -> Trial:
        conductor, stage = self._conductor, self._result.stage
        settings = conductor.settings
        name = f"{stage.number}-{ticket.number:04d}"
        if stage.confirms:
            # By what is trained and not by its number: what a resume confirms otherwise keeps what was trained before.
            name = f"{stage.number}-{digest({**ticket.values, SEED: None})}-seed{ticket.values[SEED]}"
        folder = conductor.folder.path / "trials" / name
        return Trial(
            stage.number,
            ticket.number,
            dict(ticket.values),
            (self._begun(folder) if ticket.resumed else None) or self._config(ticket.values, name),
            str(folder),
            Watch(
                settings.metric,
                settings.mode,
                settings.explode,
                seconds=None if settings.timeout is None else settings.timeout.seconds,
            ),
            settings.retry_oom,
            ticket.again,
        )

    def _config(self, values: Mapping[str, Any], name: str) -> dict[str, Any]:
        """The configuration of a trial: that of the user, quiet, and with a checkpoint of what the sweep scores."""
        conductor = self._conductor
        extra: dict[str, Any] = {
            "trainer.threads": conductor.threads,
            **common(conductor.search),
            "run.root": str(conductor.folder.path / "trials"),
            "run.name": name,
            "trainer.epochs": self._epochs,
        }
        complete = self._result.searched.complete(values, conductor.search.fixed)
        return conductor.search.trial({**extra, **complete}).to_tree()

    def _begun(self, folder: Path) -> dict[str, Any] | None:
        """The configuration that a trial was begun with, and goes on with whatever the sweep has been extended to."""
        try:
            tree = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            return None
        # The runner chooses among several devices.
        return {**tree, "device": self._conductor.search.composed.tree["device"]} if isinstance(tree, dict) else None

    def _done(self, record: Record) -> None:
        ticket = self._tickets[record.number]
        if record.status in ("interrupted", "moved"):
            self._ledger.give_back(ticket)
            if record.status == "interrupted":
                self._conductor.interrupted(record.reason)
        elif record.status == "paused":
            self._paused[record.number] = record
            self.advisor.learn(record)
            self._ledger.pause(ticket, record)
        else:
            self._finish(record)

    def _finish(self, record: Record) -> None:
        record = replace(record, place=self._conductor.place)
        if not self._ledger.finish(self._tickets[record.number], record):
            log.warning("trial %d-%04d does not count: another machine has taken it over", record.stage, record.number)
            return
        self._result.records[record.number] = record
        self.advisor.learn(record)
        if self._conductor.settings.keep is not None:
            self._tidy(self._conductor.settings.keep)
        self._conductor.screen.show(record)
        self._conductor.count_failure(record)

    def _tidy(self, keep: int) -> None:
        conductor = self._conductor
        confirmed = read_confirm(conductor.settings)
        if confirmed is not None:
            # Any of those that are trained again may turn out to be the best.
            keep = max(keep, confirmed[0])
        mine = [
            record
            for record in self._result.records.values()
            if record.place == conductor.place and record.folder not in self._bare
        ]
        self._bare |= tidy(conductor.folder.path / "trials", mine, conductor.settings.mode, keep)

    @property
    def _advise(self) -> Advise:
        return self.advisor.advise
