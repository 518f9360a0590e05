"""The trials of one stage in Optuna's storage: planned, taken, finished, each exactly once.

Every trial is a *slot* that is enqueued before the first one starts, with its values if the search does not learn, and
without where Optuna's sampler chooses them when the slot is taken. Taking is one atomic change of state in the storage,
so any number of processes and machines share the slots. What a sweep folder had taken when its process died is its own
again at the next start. A slot whose owner died elsewhere is closed and enqueued again under the same number: only what
was finished under a number counts. Of slots with one number (two machines planned at once) the first is run, the others
are closed when they are taken. A slot that is run again is replaced by another one with the mark ``instead_of``.

A paused trial is a slot that is taken, with the mark ``paused``; one that was promoted has ``released``, too.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from dlrun.sweep.plan import digest, stream
from dlrun.sweep.pulse import Pulse
from dlrun.sweep.record import Record
from dlrun.sweep.sampler import choose, placed, sampler
from dlrun.sweep.slot import INSTEAD, Ticket, fitting, ticket_of, urgency, waits
from dlrun.sweep.space import Space, in_order
from dlrun.sweep.study import Study

_ALIVE = "alive "


class Ledger:
    """The slots of one stage.

    Attributes:
        space: the axes, those first that others depend on.
        study: what is known of the stage beside its slots.

    Args:
        storage: where they are.
        name: of the study.
        space: the axes.
        mode: whether small or large scores are good.
        search: ``tpe`` or ``gp`` choose values when a slot is taken; others bring them.
        seed: of the sampler, which chooses by it and by the number of the trial: no start and no machine repeats what
            another one chose.
        home: what tells this sweep folder from those of other machines, which may take slots of the same study; None:
            there are no others.
    """

    def __init__(
        self,
        storage: BaseStorage,
        name: str,
        space: Space,
        mode: str,
        search: str,
        seed: int,
        home: str | None = None,
    ) -> None:
        self.space, self._home = in_order(space), home
        self._search, self._seed = search, seed
        self._owner = f"{home}:{uuid.uuid4().hex[:8]}"
        self._planned: dict[int, Mapping[str, Any] | None] = {}
        self._held: set[int] = set()
        self._returned: list[Ticket] = []
        self.study = Study(storage, name, mode)
        self._storage, self._id = storage, self.study.id
        self._pulse = Pulse(self._beat, self._signs)
        if home is not None:
            self._pulse.start()

    def close(self) -> None:
        """Give no more signs of life; what this process still has is free for others after a while."""
        self._pulse.stop()

    def plan(self, first: int, trials: Sequence[Mapping[str, Any] | None], *, renew: bool = False) -> None:
        """Enqueue the slots that are not there yet; others than these are not given out.

        Args:
            first: number of the first trial.
            trials: the values of each; None leaves the choice to the sampler.
            renew: whether slots that nobody has begun get these values in the place of those that they have.
        """
        if self._home is not None and not self.study.founder:
            self.study.wait_for("planned")
        self._planned = dict(enumerate(trials, first))
        if renew:
            self._drop_others()
        for number in self.missing():
            self._restore(number)
        self.study.overrule("planned", True)

    def retry(self, statuses: Collection[str]) -> list[Record]:
        """Enqueue once more what ended with one of some statuses; returns what no longer counts.

        It has the number and the values that it had.
        """
        found = []
        for trial in self._trials():
            if trial.state.is_finished() and trial.user_attrs.get("record", {}).get("status") in statuses:
                record = Record.from_plain(trial.user_attrs["record"])
                if record.number not in self._planned:
                    continue
                marks = {INSTEAD: trial._trial_id}
                self._enqueue(record.number, record.values, resumed=True, marks=marks)
                found.append(record)
        return found

    def missing(self) -> list[int]:
        """Numbers that were planned and are neither finished nor to be run.

        A process that dies between closing a slot and enqueuing it again leaves such a number behind.
        """
        known = set()
        for trial in self._trials():
            if not trial.state.is_finished() or "record" in trial.user_attrs:
                known.add(trial.user_attrs.get("number"))
        return [number for number in self._planned if number not in known]

    def recover(self) -> int:
        """Take over again what this folder had, and enqueue what other dead processes had; returns how many those were.

        Without others, every other owner is dead; and so is one of the same folder, which this process has locked.
        """
        found = 0
        signs = self._signs() if self._home is not None else {}
        for trial in self._trials(TrialState.RUNNING):
            number, owner = trial.user_attrs.get("number"), trial.user_attrs.get("owner")
            if trial._trial_id in self._held or number not in self._planned:
                continue
            if self._home is None or (owner or "").startswith(f"{self._home}:"):
                found += 1
                self._hold(trial._trial_id)
                self._returned.append(ticket_of(trial, resumed=True))
            elif self._dead(trial, owner, signs) and self._close(trial):
                found += 1
                self._enqueue(number, trial.user_attrs.get("values"), resumed=True, marks=trial.user_attrs)
        for number in self.missing():
            # Whoever closed it may be about to enqueue it.
            if self._home is None or self._pulse.dead(f"slot {number}", None):
                self._restore(number)
        return found

    def take(self) -> Ticket | None:
        """The next slot: paused trials first, then those that were begun, then new ones; None if all are taken."""
        while self._returned:
            self._returned.sort(key=lambda ticket: (ticket.paused is None, ticket.number))
            return self._with_values(self._returned.pop(0))
        while waiting := self._waiting():
            trial = min(waiting, key=urgency)
            try:
                taken = self._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
            except UpdateFinishedTrialError:
                continue
            if not taken:
                # Another process was faster.
                continue
            self._hold(trial._trial_id)
            if self._redundant(trial._trial_id, trial.user_attrs["number"]):
                self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
                continue
            return self._with_values(ticket_of(trial, resumed=bool(trial.user_attrs.get("resumed"))))
        return None

    def pause(self, ticket: Ticket, record: Record) -> None:
        """Write down how far a trial came that waits for others to turn out worse."""
        self._storage.set_trial_user_attr(ticket.trial_id, "paused", fitting(record))

    def release(self, ticket: Ticket, record: Record, epochs: float) -> None:
        """A trial that paused with ``record`` goes on beyond so many epochs."""
        self._storage.set_trial_user_attr(ticket.trial_id, "released", [epochs, record.epochs])

    def paused(self) -> list[Record]:
        """The trials that are paused, here or elsewhere."""
        return [record for trial in self._unfinished() if (record := waits(trial)) is not None]

    def released(self) -> dict[int, float]:
        """Number -> the epochs beyond which a trial was allowed to go that had been paused."""
        found = ((trial.user_attrs["number"], trial.user_attrs.get("released")) for trial in self._unfinished())
        return {number: released[0] for number, released in found if released}

    def give_back(self, ticket: Ticket) -> None:
        """Return a slot that was not finished: to others if there are any, else to the next :meth:`take` or start."""
        trial = self._storage.get_trial(ticket.trial_id)
        if self._home is None:
            self._returned.append(replace(ticket, resumed=True, paused=waits(trial)))
        elif self._close(trial):
            self._enqueue(ticket.number, ticket.values, resumed=True, marks=trial.user_attrs)

    def finish(self, ticket: Ticket, record: Record) -> bool:
        """Write down what became of a trial; False if it does not count, for another process has taken it over."""
        # To the sampler a diverged trial is a bad one, a failed one says nothing of its values.
        if record.score is not None and record.status == "ok":
            state, scores = TrialState.COMPLETE, [record.score]
        else:
            known = record.status in ("ok", "diverged", "pruned")
            state, scores = TrialState.PRUNED if known else TrialState.FAIL, None
        try:
            self._storage.set_trial_user_attr(ticket.trial_id, "record", fitting(record))
            self._storage.set_trial_state_values(ticket.trial_id, state, scores)
        except UpdateFinishedTrialError:
            return False
        return True

    def records(self) -> dict[int, Record]:
        """Number -> record of every finished trial; of one that paused and went on, the last."""
        found: dict[int, Record] = {}
        for trial in self._trials():
            if "record" in trial.user_attrs and trial.state.is_finished():
                record = Record.from_plain(trial.user_attrs["record"])
                found[record.number] = record
        return found

    def values(self, *, begun: bool = False) -> dict[int, Mapping[str, Any]]:
        """Number -> values of the slots that have some; ``begun``: only of those that somebody has begun."""
        found: dict[int, Mapping[str, Any]] = {}
        for trial in self._trials():
            known = trial.user_attrs
            untouched = trial.state == TrialState.WAITING and not known.get("resumed")
            if known.get("values") and not known.get("dropped") and not (begun and untouched):
                found[known["number"]] = known["values"]
        return found

    def running(self) -> int:
        """Trials that somebody trains."""
        return sum(trial.state == TrialState.RUNNING and waits(trial) is None for trial in self._unfinished())

    def waiting(self) -> int:
        """Slots that nobody has taken."""
        return len(self._waiting())

    def _waiting(self) -> list[FrozenTrial]:
        return [trial for trial in self._trials(TrialState.WAITING) if trial.user_attrs.get("number") in self._planned]

    def _unfinished(self) -> list[FrozenTrial]:
        trials = self._trials(TrialState.WAITING, TrialState.RUNNING)
        return [trial for trial in trials if trial.user_attrs.get("number") in self._planned]

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        found = self._storage.get_all_trials(self._id, deepcopy=False)
        replaced = {trial.user_attrs.get(INSTEAD) for trial in found}
        return [trial for trial in found if trial._trial_id not in replaced and (not states or trial.state in states)]

    def _hold(self, trial_id: int) -> None:
        self._held.add(trial_id)
        if self._home is not None:
            self._storage.set_trial_user_attr(trial_id, "owner", self._owner)

    def _drop_others(self) -> None:
        """Close the slots that nobody has begun and that have other values than the plan."""
        for trial in self._waiting():
            values, planned = trial.user_attrs.get("values"), self._planned[trial.user_attrs["number"]]
            same = values == planned if values is None or planned is None else digest(values) == digest(planned)
            if not same and not trial.user_attrs.get("resumed"):
                self._storage.set_trial_user_attr(trial._trial_id, "dropped", True)
                self._close(trial)

    def _enqueue(
        self, number: int, values: Mapping[str, Any] | None, *, resumed: bool, marks: Mapping[str, Any] | None = None
    ) -> None:
        params, distributions = placed(self.space, values or {})
        known: dict[str, Any] = {"number": number, "resumed": resumed}
        if values is not None:
            known["values"] = dict(values)
        known.update({key: value for key, value in (marks or {}).items() if key in ("paused", "released", INSTEAD)})
        slot = create_trial(state=TrialState.WAITING, params=params, distributions=distributions, user_attrs=known)
        self._storage.create_new_trial(self._id, template_trial=slot)

    def _close(self, trial: FrozenTrial) -> bool:
        """End a trial without a record; False if another process was faster."""
        try:
            return self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        except UpdateFinishedTrialError:
            return False

    def _with_values(self, ticket: Ticket) -> Ticket:
        """The ticket with what the sampler chooses, if the slot has no values."""
        known = self._storage.get_trial(ticket.trial_id).user_attrs.get("values")
        if known is None:
            seed = int(stream(self._seed, ticket.number).integers(2**31))
            known = choose(self.study.optuna, ticket.trial_id, self.space, self._fixed, sampler(self._search, seed))
            self._storage.set_trial_user_attr(ticket.trial_id, "values", known)
        return replace(ticket, values=known)

    @property
    def _fixed(self) -> Mapping[str, Any]:
        fixed: Mapping[str, Any] = self.study.known.get("fixed", {})
        return fixed

    def _beat(self, count: int) -> None:
        self._storage.set_study_user_attr(self._id, _ALIVE + self._owner, count)

    def _signs(self) -> dict[str, Any]:
        known = self._storage.get_study_user_attrs(self._id)
        return {key: value for key, value in known.items() if key.startswith(_ALIVE)}

    def _dead(self, trial: FrozenTrial, owner: str | None, signs: Mapping[str, Any]) -> bool:
        if self._home is None:
            return True
        if owner is None:
            # Taken this moment, or by a process that died before it could write its name.
            return self._pulse.dead(f"trial {trial._trial_id}", None)
        return owner.startswith(f"{self._home}:") or self._pulse.dead(_ALIVE + owner, signs.get(_ALIVE + owner))

    def _restore(self, number: int) -> None:
        """Enqueue a number that is missing, with the values that it had."""
        before = [
            trial
            for trial in self._trials()
            if trial.user_attrs.get("number") == number and not trial.user_attrs.get("dropped")
        ]
        known = next((trial.user_attrs["values"] for trial in before if "values" in trial.user_attrs), None)
        marks = before[-1].user_attrs if before else {}
        values = self._planned[number] if known is None else known
        self._enqueue(
            number, values, resumed=bool(before), marks={key: marks[key] for key in (INSTEAD,) if key in marks}
        )

    def _redundant(self, trial_id: int, number: int) -> bool:
        """Whether a slot that was taken is a second one of its number."""
        for other in self._trials():
            if other._trial_id == trial_id or other.user_attrs.get("number") != number:
                continue
            finished = other.state.is_finished()
            if (finished and "record" in other.user_attrs) or (not finished and other._trial_id < trial_id):
                return True
        return False
