"""A slot of the ledger: what its marks in Optuna's storage say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from optuna.trial import FrozenTrial

from dlrun.sweep.record import Record

_MOST_BYTES = 60_000
INSTEAD = "instead_of"
"""Mark of a slot that another one of its number has ended in a way that is not to count."""


@dataclass(frozen=True)
class Ticket:
    """A slot that this process has taken.

    Attributes:
        number: of the trial in the sweep, from 1.
        values: path -> value.
        resumed: whether it was begun before.
        paused: how far it came, if it waits for others to turn out worse.
        again: whether it had ended before, in a way that may be another one now.
    """

    number: int
    values: Mapping[str, Any]
    resumed: bool
    trial_id: int
    paused: Record | None = None
    again: bool = False


def ticket_of(trial: FrozenTrial, *, resumed: bool) -> Ticket:
    """The ticket of a slot that was taken."""
    known = trial.user_attrs
    values, again = known.get("values", {}), INSTEAD in known
    return Ticket(known["number"], values, resumed, trial._trial_id, waits(trial), again)


def urgency(trial: FrozenTrial) -> tuple[bool, bool, int]:
    """The order in which slots are taken: paused trials, then those that were begun, then new ones."""
    return waits(trial) is None, not trial.user_attrs.get("resumed"), trial._trial_id


def waits(trial: FrozenTrial) -> Record | None:
    """How far a trial came that is paused; None if it is not, or was released since."""
    paused, released = trial.user_attrs.get("paused"), trial.user_attrs.get("released")
    if not paused or (released and released[1] >= paused["epochs"]):
        return None
    return Record.from_plain(paused)


def fitting(record: Record) -> dict[str, Any]:
    """A record that a database's column takes; of a curve that is too long every second point is left out."""
    while len(json.dumps(record.to_plain())) > _MOST_BYTES and len(record.curve) > 2:
        record = replace(record, curve=(*record.curve[:-1:2], record.curve[-1]))
    return record.to_plain()
