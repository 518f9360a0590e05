"""The trials of one stage in Optuna's storage: planned, taken, finished, each exactly once.

Every trial is a *slot* that is enqueued before the first one starts, with its values if the search does not learn, and
without where Optuna's sampler chooses them when the slot is taken. Taking is one atomic change of state in the storage,
so any number of processes and machines share the slots. A slot whose owner died is closed and enqueued again under the
same number: only what was finished under a number counts.
"""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from dlrun.errors import UserError
from dlrun.sweep.record import Record
from dlrun.sweep.space import Axis, Choice, Space, active, in_order, plain

# What Optuna warns of (parameters that depend on others are drawn one by one) is meant.
optuna.logging.set_verbosity(optuna.logging.ERROR)
logging.getLogger("alembic").setLevel(logging.WARNING)

BEAT_SECONDS = 20.0
"""Time between two signs of life of a process that shares its trials with others."""
_DEAD_AFTER = 9 * BEAT_SECONDS
_PLANNING_SECONDS = 60.0


@dataclass(frozen=True)
class Ticket:
    """A slot that this process has taken.

    Attributes:
        number: of the trial in the sweep, from 1.
        values: path -> value.
        resumed: whether it was begun before.
    """

    number: int
    values: Mapping[str, Any]
    resumed: bool
    trial_id: int


class Ledger:
    """The slots of one stage.

    Args:
        storage: where they are.
        name: of the study.
        space: the axes.
        mode: whether small or large scores are good.
        search: ``tpe`` or ``gp`` choose values when a slot is taken; others bring them.
        seed: of the sampler.
        shared: whether other processes may take slots of the same study.

    Raises:
        UserError: if the storage cannot be used.
    """

    def __init__(
        self,
        storage: BaseStorage,
        name: str,
        space: Space,
        mode: str,
        search: str,
        seed: int,
        *,
        shared: bool,
    ) -> None:
        self.space, self._shared = in_order(space), shared
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._beat_at = -math.inf
        options: dict[str, Any] = {
            "storage": storage,
            "study_name": name,
            "direction": "minimize" if mode == "min" else "maximize",
            "sampler": _sampler(search, seed),
        }
        try:
            self._study = optuna.create_study(**options)
            self._founder = True
        except DuplicatedStudyError:
            self._study = optuna.create_study(**options, load_if_exists=True)
            self._founder = False
        self._storage, self._id = storage, self._study._study_id

    def remember(self, key: str, value: Any) -> Any:
        """What the study knows under a key; ``value`` is written if it knows nothing yet."""
        known = self._study.user_attrs
        if key in known:
            return known[key]
        self._study.set_user_attr(key, value)
        return value

    def forget(self, key: str, value: Any) -> None:
        """Write ``value`` whatever was known under the key."""
        self._study.set_user_attr(key, value)

    def plan(self, first: int, trials: Sequence[Mapping[str, Any] | None]) -> None:
        """Enqueue the slots that are not there yet.

        Args:
            first: number of the first trial.
            trials: the values of each; None leaves the choice to the sampler.
        """
        numbers = range(first, first + len(trials))
        if self._shared and not self._founder and not self._wait_for_plan():
            logging.getLogger("dlrun").warning("whoever began this stage has not planned it; this process does")
        known = {trial.user_attrs.get("number") for trial in self._trials()}
        for number, values in zip(numbers, trials, strict=True):
            if number not in known:
                self._enqueue(number, values, resumed=False)
        self._study.set_user_attr("planned", True)

    def recover(self) -> int:
        """Enqueue again what dead processes had taken; returns how many trials that were.

        Without sharing, this process is the only one, and every other owner is dead.
        """
        found = 0
        for trial in self._trials(TrialState.RUNNING):
            owner = trial.user_attrs.get("owner")
            if owner == self._owner or (self._shared and self._alive(owner)):
                continue
            if self._close(trial):
                found += 1
                if "number" in trial.user_attrs:
                    self._enqueue(trial.user_attrs["number"], trial.user_attrs.get("values"), resumed=True)
        return found

    def again(self, number: int, values: Mapping[str, Any]) -> None:
        """Enqueue a trial that goes on from where it paused."""
        self._enqueue(number, values, resumed=True)

    def take(self) -> Ticket | None:
        """The next slot; None if all are taken."""
        self.beat()
        if not self._trials(TrialState.WAITING):
            return None
        trial = self._study.ask()
        known = self._storage.get_trial(trial._trial_id).user_attrs
        if "number" not in known:
            # Another process took the last slot in between, and Optuna made a new trial.
            self._study.tell(trial, state=TrialState.FAIL)
            return None
        self._storage.set_trial_user_attr(trial._trial_id, "owner", self._owner)
        values = known.get("values")
        if values is None:
            values = self._choose(trial)
            self._storage.set_trial_user_attr(trial._trial_id, "values", values)
        return Ticket(known["number"], values, bool(known.get("resumed")), trial._trial_id)

    def give_back(self, ticket: Ticket) -> None:
        """Return a slot that was not finished, for the next start of the sweep."""
        if self._close(self._storage.get_trial(ticket.trial_id)):
            self._enqueue(ticket.number, ticket.values, resumed=True)

    def finish(self, ticket: Ticket, record: Record) -> None:
        """Write down what became of a trial."""
        self._storage.set_trial_user_attr(ticket.trial_id, "record", record.to_plain())
        # To the sampler a diverged trial is a bad one, a failed one says nothing of its values.
        if record.score is not None and record.status == "ok":
            self._storage.set_trial_state_values(ticket.trial_id, TrialState.COMPLETE, [record.score])
        elif record.status in ("ok", "diverged", "pruned"):
            self._storage.set_trial_state_values(ticket.trial_id, TrialState.PRUNED)
        else:
            self._storage.set_trial_state_values(ticket.trial_id, TrialState.FAIL)

    def records(self) -> dict[int, Record]:
        """Number -> record of every finished trial; of one that paused and went on, the last."""
        found: dict[int, Record] = {}
        for trial in self._trials():
            if "record" in trial.user_attrs and trial.state.is_finished():
                record = Record.from_plain(trial.user_attrs["record"])
                found[record.number] = record
        return found

    def running(self) -> int:
        """Trials that are taken and not finished, by whomever."""
        return len(self._trials(TrialState.RUNNING))

    def waiting(self) -> int:
        """Slots that nobody has taken."""
        return len(self._trials(TrialState.WAITING))

    def beat(self) -> None:
        """Give a sign of life, if it is time and somebody looks."""
        if self._shared and time.monotonic() - self._beat_at > BEAT_SECONDS:
            self._beat_at = time.monotonic()
            self._study.set_user_attr(f"alive {self._owner}", time.time())

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._storage.get_all_trials(self._id, deepcopy=False, states=states or None)

    def _enqueue(self, number: int, values: Mapping[str, Any] | None, *, resumed: bool) -> None:
        params: dict[str, Any] = {}
        distributions: dict[str, BaseDistribution] = {}
        for axis in self.space:
            if values is not None and axis.key in values:
                name, distribution = _named(axis)
                try:
                    params[name] = _encoded(axis, values[axis.key])
                except ValueError:
                    # The space was extended meanwhile: the trial counts, but the sampler cannot place it.
                    continue
                distributions[name] = distribution
        marks: dict[str, Any] = {"number": number, "resumed": resumed}
        if values is not None:
            marks["values"] = dict(values)
        slot = create_trial(state=TrialState.WAITING, params=params, distributions=distributions, user_attrs=marks)
        self._storage.create_new_trial(self._id, template_trial=slot)

    def _close(self, trial: FrozenTrial) -> bool:
        """End a trial without a record; False if another process was faster."""
        try:
            return self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        except UpdateFinishedTrialError:
            return False

    def _choose(self, trial: optuna.Trial) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for axis in self.space:
            if not active(axis, values, self._fixed):
                continue
            name, distribution = _named(axis)
            values[axis.key] = _decoded(axis, trial._suggest(name, distribution))
        return values

    @property
    def _fixed(self) -> Mapping[str, Any]:
        fixed: Mapping[str, Any] = self._study.user_attrs.get("fixed", {})
        return fixed

    def _alive(self, owner: Any) -> bool:
        seen = self._study.user_attrs.get(f"alive {owner}")
        return isinstance(seen, float) and time.time() - seen < _DEAD_AFTER

    def _wait_for_plan(self) -> bool:
        deadline = time.monotonic() + _PLANNING_SECONDS
        while not self._study.user_attrs.get("planned"):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return True


def open_storage(address: str | None, folder: Any) -> BaseStorage:
    """The storage of a sweep.

    Args:
        address: of a database (``postgresql://``, ``mysql://``, ``redis://``); None: a journal in ``folder``.
        folder: of the sweep.

    Raises:
        UserError: if the address is of no known kind, its driver is missing, or nobody answers.
    """
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalRedisBackend

    if address is None:
        from dlrun.sweep.journal import Journal

        return JournalStorage(Journal(folder / "journal.log"))
    shown = _without_password(address)
    try:
        if address.startswith(("redis://", "rediss://")):
            return JournalStorage(JournalRedisBackend(address))
        return RDBStorage(address, engine_kwargs={"pool_pre_ping": True})
    except ImportError as error:
        raise UserError(f"sweep.storage={shown}: {error}; install the driver of the database") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"sweep.storage={shown}: cannot be opened: {reason}") from error


def _without_password(address: str) -> str:
    head, at, tail = address.rpartition("@")
    scheme, mark, login = head.partition("://")
    user = login.partition(":")[0]
    return f"{scheme}{mark}{user}{at}{tail}" if at else address


def _sampler(search: str, seed: int) -> BaseSampler:
    if search == "gp":
        return optuna.samplers.GPSampler(seed=seed)
    if search == "tpe":
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    return optuna.samplers.RandomSampler(seed=seed)


def _named(axis: Axis) -> tuple[str, BaseDistribution]:
    """Name and distribution of an axis for Optuna: a logit scale, which it has not, as the position on the axis."""
    spread = axis.distribution
    if isinstance(spread, Choice):
        return axis.key, CategoricalDistribution([_encoded(axis, value) for value in spread.values])
    if spread.scale == "logit":
        return f"position of {axis.key}", FloatDistribution(0.0, 1.0)
    if spread.integer:
        return axis.key, IntDistribution(int(spread.low), int(spread.high), log=spread.scale == "log")
    return axis.key, FloatDistribution(spread.low, spread.high, log=spread.scale == "log")


def _encoded(axis: Axis, value: Any) -> Any:
    spread = axis.distribution
    position = spread.position(value)
    if isinstance(spread, Choice):
        return value if value is None or isinstance(value, (bool, int, float, str)) else json.dumps(value)
    return position if spread.scale == "logit" else value


def _decoded(axis: Axis, value: Any) -> Any:
    spread = axis.distribution
    if isinstance(spread, Choice):
        return next(known for known in spread.values if plain(_encoded(axis, known)) == plain(value))
    if spread.scale == "logit":
        return spread.at(value)
    return spread.at(spread.position(value))
