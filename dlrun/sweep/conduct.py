"""A sweep from its first stage to its last."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from optuna.storages import BaseStorage

from dlrun.config.search import Search
from dlrun.errors import UserError
from dlrun.runfolder import RunFolder
from dlrun.sweep import confirm, identity
from dlrun.sweep.confirm import SEED, read_confirm
from dlrun.sweep.first import read_first
from dlrun.sweep.launcher import make_runner, read_launcher
from dlrun.sweep.ledger import Ledger
from dlrun.sweep.outcome import Outcome, StageResult
from dlrun.sweep.plan import continued, is_finite, plan
from dlrun.sweep.record import FAILURES, Record
from dlrun.sweep.runner import InlineRunner, PoolRunner, Runner
from dlrun.sweep.scalars import counted
from dlrun.sweep.screen import Screen
from dlrun.sweep.stages import Searched, Stage, following, limits, outcomes, read_stages
from dlrun.sweep.storage import failed, open_storage, said
from dlrun.sweep.verdict import judge
from dlrun.sweep.work import Work

log = logging.getLogger("dlrun")

INLINE_SECONDS = 1.0
"""A trial that takes less runs in the process of the sweep: to start another one would cost more."""


class Conductor:
    """Runs a sweep.

    Attributes:
        over: whether nothing is left to stop; for whoever writes the results.

    Args:
        search: what is searched.
        folder: of the sweep.
        threads: CPU threads of each trial.
        screen: what the user sees.
        extend: whether the search may be another one than that which was begun.
        retry: statuses of trials that are run again.
    """

    def __init__(
        self,
        search: Search,
        folder: RunFolder,
        threads: int,
        screen: Screen,
        *,
        extend: bool = False,
        retry: Collection[str] = (),
    ) -> None:
        self.search, self.folder, self.threads, self.screen = search, folder, threads, screen
        self.settings = search.settings
        self.seed = self.settings.seed if self.settings.seed is not None else int(search.composed.tree["seed"])
        self.shared = self.settings.storage is not None
        self.place = identity.place(folder) if self.shared else ""
        self._extend, self._retry = extend, retry
        self._home = identity.home(folder) if self.shared else None
        self.outcome = Outcome(epochs=int(search.composed.tree["trainer"]["epochs"]))
        self.over = False
        self._runner: Runner | None = None
        self._signals = 0
        self._failures = 0
        self._quick = True

    def stop(self, reason: str) -> None:
        """End the sweep: once, so that the trials save themselves; a second time at once."""
        self._signals += 1
        self.outcome.stopped = self.outcome.stopped or reason
        self.outcome.resumable = True
        if self._runner is not None:
            self._runner.stop()

    def interrupted(self, reason: str) -> None:
        """A trial was interrupted; if it heard a signal before the sweep did, the sweep stops too."""
        if not self.outcome.stopped:
            self.outcome.stopped, self.outcome.resumable = reason, True

    def run(self) -> Outcome:
        """Run all stages that are not done.

        Raises:
            UserError: if the storage cannot be used, or holds another search.
        """
        storage = open_storage(self.settings.storage, self.folder.path)
        try:
            return self._run(storage)
        except Exception as error:
            if not failed(error):
                raise
            raise UserError(
                f"sweep.storage: the database cannot be used any more: {said(error)}. What was finished is safe there; "
                f"go on with dlrun sweep resume={self.folder.path} when it is back"
            ) from error

    def _run(self, storage: BaseStorage) -> Outcome:
        name = (self.settings.name or self.search.composed.name) if self.shared else "sweep"
        searched = Searched(self.search.space)
        for stage in read_stages(self.settings):
            if self.outcome.stages:
                searched = following(searched, self.outcome.stages[-1].verdicts, stage)
                if not searched.space:
                    log.info("every axis is fixed by its verdict: stage %d has nothing to search", stage.number)
                    break
            settings, seed = self.settings, self.seed + stage.number
            study = f"{name}/{stage.number}"
            ledger = Ledger(storage, study, searched.space, settings.mode, settings.search, seed, home=self._home)
            try:
                searched = self._agreed(ledger, name, searched, first=not self.outcome.stages)
                result = StageResult(stage, searched)
                self.outcome.stages.append(result)
                self._stage(result, ledger, self._planned(result, ledger))
            finally:
                ledger.close()
            if self.outcome.stopped:
                break
        chosen = read_confirm(self.settings)
        if chosen is not None and not self.outcome.stopped:
            self._confirm(storage, name, *chosen)
        return self.outcome

    def _agreed(self, ledger: Ledger, name: str, searched: Searched, *, first: bool) -> Searched:
        """The space of a stage as it was when the stage was begun.

        The verdicts of another machine may differ in a last digit, and those of this one when trials were run again.
        """
        study = ledger.study
        if self.shared:
            mine = identity.identity(self.search)
            if self._extend:
                study.overrule("search", mine)
            if first:
                if self._extend:
                    study.overrule("searched", searched.to_plain())
                identity.check(self.search, name, study.agree("search", mine))
                log.info("shared      %s '%s' in the database", "begins" if study.founder else "joins", name)
            known = study.agree("searched", searched.to_plain())
        else:
            # An earlier start may have extended the space that it follows from, and not have come to this stage.
            spaces = [*map(str, self.search.space), *(str(stage.get("space")) for stage in self.settings.stages)]
            known = study.remember("searched", {**searched.to_plain(), "of": spaces})
            if self._extend or known.get("of") != spaces:
                known = {**searched.to_plain(), "of": spaces}
                study.overrule("searched", known)
        agreed = Searched.from_plain(known)
        ledger.space = agreed.space
        return agreed

    def _confirm(self, storage: BaseStorage, name: str, top: int, seeds: int) -> None:
        last, ranked = self.outcome.stages[-1], self.outcome.best(self.settings.mode, len(self.outcome.records))
        best = confirm.different(ranked, top)
        if not best:
            return
        epochs = max(map(self.outcome.budget, best))
        stage = Stage(last.stage.number + 1, len(best) * seeds, epochs, None, confirms=True)
        result = StageResult(stage, Searched(()))
        # The best may be of several stages, of which each had fixed other axes.
        settled = [replace(record, values=self.outcome.complete(record, self.search.fixed)) for record in best]
        # Above those that the search itself had.
        used = [
            int(self.search.composed.tree["seed"]),
            *(record.values.get(SEED, 0) for record in self.outcome.records),
        ]
        planned = confirm.trials(settled, seeds, max(used))
        # Each choice of trials and seeds has a study of its own: a resume may change it, another machine have another.
        study = f"{name}/confirm/{hashlib.sha256(repr(planned).encode()).hexdigest()[:8]}"
        ledger = Ledger(storage, study, (), self.settings.mode, "random", self.seed, home=self._home)
        self.outcome.stages.append(result)
        try:
            self._stage(result, ledger, planned)
        finally:
            ledger.close()
        self.outcome.confirmed = confirm.confirmed(best, result.records, seeds, self.settings.mode)

    def _stage(self, result: StageResult, ledger: Ledger, planned: Sequence[Mapping[str, Any] | None]) -> None:
        space = result.searched.space
        if self._extend:
            ledger.study.overrule("fixed", self._fixed(result))
        ledger.study.remember("fixed", self._fixed(result))
        if len(planned) < result.stage.trials and not result.stage.confirms:
            what = "grid" if self.settings.search == "grid" else "space"
            log.info("the %s has %s: each is tried once", what, counted(len(planned), "point"))
        ledger.plan(1, planned, renew=self._renews)
        repeated = ledger.retry(self._retry)
        if repeated:
            log.info("again       %s of stage %d", counted(len(repeated), "trial"), result.stage.number)
        recovered = ledger.recover()
        if recovered:
            # One of them may have taken the process with it: in one of its own it is a trial that failed.
            self._quick = False
            if self.settings.jobs == 0:
                log.info("            (a trial that ends its process ends the sweep; with sweep.jobs=1 it fails alone)")
        result.records.update(ledger.records())
        # A grid may have fewer points than there may be trials, and more may be done than are asked for now.
        known = {*range(1, len(planned) + 1), *result.records}
        stage = result.stage = replace(result.stage, trials=len(known))
        self.screen.begin(stage, space, len(result.records), recovered)
        for record in result.records.values():
            self.screen.learn(record)
        Work(self, result, ledger).run()
        result.records.update(ledger.records())
        if not self.outcome.stopped or not self.outcome.resumable:
            sequence = [result.records[number] for number in sorted(result.records)]
            result.verdicts = judge(
                space,
                outcomes(space, sequence, self.settings.mode),
                self.seed,
                limits(self.search, result.searched),
            )
        self.screen.end()
        self.screen.verdicts(stage, result.verdicts)

    @property
    def _renews(self) -> bool:
        """Whether slots that nobody has begun get the values of the plan: theirs may be of another space.

        Where others share them, those may be taking them at this moment, with the same plan.
        """
        return self._extend or not self.shared

    def _fixed(self, result: StageResult) -> dict[str, Any]:
        return {**self.search.fixed, **result.searched.settings}

    def _planned(self, result: StageResult, ledger: Ledger) -> Sequence[Mapping[str, Any] | None]:
        settings, stage = self.settings, result.stage
        first = read_first(self.search) if stage.number == 1 else ()
        if settings.search in ("tpe", "gp"):
            return [*first, *[None] * (stage.trials - len(first))]
        planned = plan(
            result.searched.space,
            settings.search,
            trials=stage.trials,
            seed=self.seed,
            stage=stage.number,
            points=settings.points,
            fixed=self._fixed(result),
            first=first,
        )
        if is_finite(result.searched.space, settings.search):
            return continued(planned, ledger.values(begun=self._renews), settings.search)
        return planned

    @contextmanager
    def running(self, runner: Runner) -> Iterator[Runner]:
        """While inside, :meth:`stop` reaches the runner."""
        self._runner = runner
        try:
            yield runner
        finally:
            self._runner = None

    def runners(self) -> Iterator[Runner]:
        """The runner to use; with ``jobs=null`` first one that finds out how long a trial takes."""
        jobs, gpus = self.settings.jobs, devices(self.search)
        launcher = read_launcher(self.settings)
        if launcher is not None:
            yield make_runner(launcher, self.folder.path)
        elif jobs == 0:
            yield InlineRunner()
        elif jobs is not None:
            yield PoolRunner(jobs, gpus)
        else:
            inline = self.settings.timeout is None and self._quick
            if inline:
                probe = InlineRunner(patience=INLINE_SECONDS)
                yield probe
                self._quick = not probe.impatient
            if not inline or not self._quick:
                yield PoolRunner(automatic_jobs(self.search), gpus)

    def count_failure(self, record: Record) -> None:
        """Stop when there are more failures than the user allows."""
        if record.status not in FAILURES:
            return
        self._failures += 1
        limit = 0 if self.settings.fail_fast else self.settings.max_failures
        if limit is not None and self._failures > limit:
            self.outcome.stopped = (
                f"{counted(self._failures, 'trial')} failed, "
                f"{'sweep.fail_fast=true' if self.settings.fail_fast else f'sweep.max_failures={limit}'}"
            )
            if self._runner is not None:
                self._runner.stop()


def automatic_jobs(search: Search) -> int:
    """One per GPU, or on a CPU one per core, up to eight."""
    found = devices(search)
    return len(found) if found else min(8, cores())


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def devices(search: Search) -> list[str]:
    """The GPUs that the trials are divided among; none if they run on the CPU, or on a device that is named."""
    import torch

    device = search.composed.tree.get("device")
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        return [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return []
