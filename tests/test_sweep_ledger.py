"""The trials of a stage in a storage that several processes share."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import TrialState

from dlrun.sweep import pulse
from dlrun.sweep.ledger import Ledger
from dlrun.sweep.notation import parse_axis
from dlrun.sweep.record import Record
from dlrun.sweep.slot import Ticket
from dlrun.sweep.storage import open_storage

SPACE = (parse_axis("lr", "log(1e-3, 1)"),)
VALUES = [{"lr": 0.01 * i} for i in range(1, 5)]


@pytest.fixture(params=["memory", "journal"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> BaseStorage:
    return InMemoryStorage() if request.param == "memory" else open_storage(None, tmp_path)


@pytest.fixture
def ledgers(storage: BaseStorage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(pulse, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(pulse, "DEAD_AFTER", 0.2)
    made: list[Ledger] = []

    def make(home: str | None) -> Ledger:
        made.append(Ledger(storage, "study", SPACE, "min", "random", 0, home=home))
        return made[-1]

    yield make
    for ledger in made:
        ledger.close()


def _record(ticket: Ticket, score: float = 0.5) -> Record:
    return Record(ticket.number, 1, "ok", ticket.values, score=score)


def _until(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_planners_make_each_trial_once(ledgers: Any, storage: BaseStorage) -> None:
    one, two = ledgers("one"), ledgers("two")
    assert (one.study.founder, two.study.founder) == (True, False)
    one.plan(1, VALUES)
    # As if both had looked before either wrote.
    for number in range(1, 5):
        two._planned = dict(enumerate(VALUES, 1))
        two._restore(number)
    taken: list[Ticket] = []
    while (ticket := one.take() or two.take()) is not None:
        taken.append(ticket)
    assert sorted(ticket.number for ticket in taken) == [1, 2, 3, 4]
    assert [ticket.values for ticket in sorted(taken, key=lambda ticket: ticket.number)] == VALUES


def test_a_dead_owner_loses_its_trial_and_a_living_one_keeps_it(ledgers: Any) -> None:
    one, two = ledgers("one"), ledgers("two")
    one.plan(1, VALUES)
    two.plan(1, VALUES)
    first, second = one.take(), two.take()
    assert first is not None
    assert second is not None
    time.sleep(0.4)
    assert two.recover() == 0
    one.close()
    _until(lambda: two.recover() == 1)
    numbers = []
    while (ticket := two.take()) is not None:
        numbers.append((ticket.number, ticket.resumed))
        assert two.finish(ticket, _record(ticket))
    assert numbers == [(1, True), (3, False), (4, False)]
    # It was only slow: what it brings does not count any more.
    assert not one.finish(first, _record(first, score=9.0))
    assert two.finish(second, _record(second))
    assert {number: record.score for number, record in two.records().items()} == dict.fromkeys(range(1, 5), 0.5)
    assert one.records() == two.records()


def test_a_folder_gets_its_own_trial_back_at_once(ledgers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "DEAD_AFTER", 600.0)
    before = ledgers("one")
    before.plan(1, VALUES)
    assert before.take() is not None
    again = ledgers("one")
    again.plan(1, VALUES)
    assert again.recover() == 1


def test_a_slot_that_was_lost_in_between_is_enqueued_again(ledgers: Any, storage: BaseStorage) -> None:
    one, two = ledgers("one"), ledgers("two")
    one.plan(1, VALUES)
    two.plan(1, VALUES)
    ticket = one.take()
    assert ticket is not None
    # Killed after it closed the slot, before it enqueued it again.
    storage.set_trial_state_values(ticket.trial_id, TrialState.FAIL)
    assert two.missing() == [1]
    assert two.recover() == 0
    assert two.missing() == [1]
    _until(lambda: two.recover() == 0 and not two.missing())
    taken = [two.take() for _ in range(4)]
    assert sorted((ticket.number, ticket.resumed) for ticket in taken if ticket) == [
        (1, True),
        (2, False),
        (3, False),
        (4, False),
    ]


def test_alone_a_lost_slot_is_back_at_the_next_start(ledgers: Any, storage: BaseStorage) -> None:
    one = ledgers(None)
    one.plan(1, VALUES)
    ticket = one.take()
    assert ticket is not None
    storage.set_trial_state_values(ticket.trial_id, TrialState.FAIL)
    again = ledgers(None)
    again.plan(1, VALUES)
    assert again.missing() == []
    assert again.waiting() == 4


def test_who_founds_a_study_is_agreed_with(ledgers: Any) -> None:
    one, two = ledgers("one"), ledgers("two")
    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.append(two.study.agree("space", "two's")))
    waiting.start()
    assert one.study.agree("space", "one's") == "one's"
    waiting.join()
    assert found == ["one's"]
    one.study.overrule("space", "another")
    assert two.study.agree("space", "two's") == "another"


def test_a_curve_that_no_column_takes_is_thinned(ledgers: Any) -> None:
    one = ledgers("one")
    one.plan(1, VALUES[:1])
    ticket = one.take()
    assert ticket is not None
    curve = tuple((float(i), 1 / (i + 1)) for i in range(20_000))
    record = Record(1, 1, "ok", ticket.values, score=curve[-1][1], curve=curve)
    assert one.finish(ticket, record)
    kept = one.records()[1].curve
    assert kept[0] == curve[0]
    assert kept[-1] == curve[-1]
    assert 500 < len(kept) < 3000
    assert set(kept) <= set(curve)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["take 0", "take 1", "finish 0", "finish 1", "die 0", "die 1", "give 0"]), max_size=40))
def test_each_number_has_one_record_whatever_happens(acts: list[str]) -> None:
    storage = InMemoryStorage()
    open_: list[Ledger] = []

    def begin(i: int) -> Ledger:
        ledger = Ledger(storage, "study", SPACE, "min", "random", 0, home=f"home {i}")
        open_.append(ledger)
        ledger.plan(1, VALUES)
        ledger.recover()
        return ledger

    try:
        ledgers = [begin(0), begin(1)]
        held: list[list[Ticket]] = [[], []]
        finished: list[int] = []
        for act in acts:
            what, _, who = act.partition(" ")
            i = int(who)
            if what == "take" and (ticket := ledgers[i].take()) is not None:
                held[i].append(ticket)
            elif what == "finish" and held[i]:
                ticket = held[i].pop()
                finished += [ticket.number] * ledgers[i].finish(ticket, _record(ticket))
            elif what == "give" and held[i]:
                ledgers[i].give_back(held[i].pop())
            elif what == "die":
                ledgers[i].close()
                held[i] = []
                ledgers[i] = begin(i)
            running = [ticket.number for tickets in held for ticket in tickets]
            assert len(set(running)) == len(running)
            assert not set(running) & set(finished)
        for i in (0, 1):
            ledgers[i].close()
            ledgers[i] = begin(i)
            while (ticket := ledgers[i].take()) is not None:
                finished += [ticket.number] * ledgers[i].finish(ticket, _record(ticket))
        assert sorted(finished) == [1, 2, 3, 4]
        assert sorted(ledgers[0].records()) == [1, 2, 3, 4]
    finally:
        for ledger in open_:
            ledger.close()


@pytest.mark.parametrize("search", ["tpe", "gp"])
def test_no_start_and_no_machine_repeats_what_a_sampler_chose(search: str) -> None:
    storage = InMemoryStorage()
    chosen: list[float] = []
    for start in range(4):
        ledger = Ledger(storage, "study", SPACE, "min", search, 3, home=f"home {start}")
        try:
            ledger.plan(1, [None] * 12)
            for _ in range(3):
                ticket = ledger.take()
                assert ticket is not None
                chosen.append(ticket.values["lr"])
                assert ledger.finish(ticket, _record(ticket, score=abs(ticket.values["lr"] - 0.1)))
        finally:
            ledger.close()
    assert len(set(chosen)) == 12
    assert all(1e-3 <= value <= 1 for value in chosen)


def test_a_sampler_chooses_the_same_after_a_kill(tmp_path: Path) -> None:
    found = []
    for kills in (0, 3):
        (tmp_path / str(kills)).mkdir()
        storage = open_storage(None, tmp_path / str(kills))
        values: dict[int, Any] = {}
        while len(values) < 14:
            ledger = Ledger(storage, "study", SPACE, "min", "tpe", 0)
            ledger.plan(1, [None] * 14)
            ledger.recover()
            for i in range(14):
                ticket = ledger.take()
                if ticket is None or (kills and i == kills):
                    # Killed with a trial in hand.
                    break
                values[ticket.number] = ticket.values
                ledger.finish(ticket, _record(ticket, score=abs(ticket.values["lr"] - 0.1)))
        found.append(values)
    assert found[0] == found[1]


def test_paused_trials_stay_paused_and_promoted_ones_go_on(ledgers: Any) -> None:
    one = ledgers(None)
    one.plan(1, VALUES)
    first, second, third = one.take(), one.take(), one.take()
    paused = {ticket.number: replace(_record(ticket), status="paused", epochs=1.0) for ticket in (first, second)}
    one.pause(first, paused[1])
    one.pause(second, paused[2])
    one.release(second, paused[2], 1.0)
    assert [record.number for record in one.paused()] == [1]
    again = ledgers(None)
    again.plan(1, VALUES)
    assert again.recover() == 3
    assert again.released() == {2: 1.0}
    taken = [again.take() for _ in range(4)]
    assert [(ticket.number, ticket.resumed, ticket.paused is not None) for ticket in taken] == [
        (1, True, True),
        (2, True, False),
        (3, True, False),
        (4, False, False),
    ]
    assert again.take() is None
    # The second comes to the next rung.
    again.pause(taken[1], replace(paused[2], epochs=3.0))
    assert [(record.number, record.epochs) for record in again.paused()] == [(1, 1.0), (2, 3.0)]
    assert third.number == 3


def test_another_machine_takes_over_that_a_trial_is_paused(ledgers: Any) -> None:
    one, two = ledgers("one"), ledgers("two")
    one.plan(1, VALUES)
    two.plan(1, VALUES)
    ticket = one.take()
    one.pause(ticket, replace(_record(ticket), status="paused", epochs=1.0))
    one.give_back(ticket)
    assert [record.number for record in two.paused()] == [1]
    taken = two.take()
    assert (taken.number, taken.paused.epochs) == (1, 1.0)


def test_slots_above_the_total_are_left_alone(ledgers: Any) -> None:
    one = ledgers(None)
    one.plan(1, VALUES)
    assert one.take().number == 1
    fewer = ledgers(None)
    fewer.plan(1, VALUES[:2])
    fewer.recover()
    assert fewer.waiting() == 1
    assert [fewer.take().number, fewer.take().number, fewer.take()] == [1, 2, None]
    more = ledgers(None)
    more.plan(1, VALUES)
    more.recover()
    assert [more.take().number for _ in range(4)] == [1, 2, 3, 4]


def test_slots_that_nobody_has_begun_are_renewed(ledgers: Any) -> None:
    one = ledgers(None)
    one.plan(1, VALUES)
    done, begun = one.take(), one.take()
    one.finish(done, _record(done))
    others = [{"lr": 0.5 + 0.1 * i} for i in range(4)]
    again = ledgers(None)
    again.plan(1, others, renew=True)
    again.recover()
    taken = [again.take(), again.take(), again.take()]
    assert [(ticket.number, ticket.values) for ticket in taken] == [(2, VALUES[1]), (3, others[2]), (4, others[3])]
    assert begun.values == VALUES[1]
    for ticket in taken:
        assert again.finish(ticket, _record(ticket))
    assert sorted(again.records()) == [1, 2, 3, 4]


def test_a_journal_that_ends_anywhere_gives_each_trial_once(tmp_path: Path) -> None:
    def begin(path: Path) -> Ledger:
        ledger = Ledger(open_storage(None, path), "study", SPACE, "min", "random", 0)
        ledger.plan(1, VALUES)
        ledger.recover()
        return ledger

    one = begin(tmp_path)
    for _ in range(2):
        ticket = one.take()
        assert ticket is not None
        one.finish(ticket, _record(ticket))
    ticket = one.take()
    assert ticket is not None
    waits = replace(_record(ticket), status="paused", epochs=1.0)
    one.pause(ticket, waits)
    one.release(ticket, waits, 1.0)
    whole = (tmp_path / "journal.log").read_bytes()
    for end in range(0, len(whole), 131):
        path = tmp_path / str(end)
        path.mkdir()
        (path / "journal.log").write_bytes(whole[:end])
        again = begin(path)
        taken = []
        while (found := again.take()) is not None:
            taken.append(found.number)
            assert found.values == VALUES[found.number - 1]
            assert again.finish(found, _record(found))
        assert len(set(taken)) == len(taken)
        assert sorted(again.records()) == [1, 2, 3, 4]


def _fail(ledger: Ledger, ticket: Ticket) -> None:
    assert ledger.finish(ticket, Record(ticket.number, 1, "failed", ticket.values, reason="boom"))


def test_what_failed_is_run_again_under_its_number(ledgers: Any) -> None:
    ledger = ledgers(None)
    ledger.plan(1, VALUES[:2])
    for ticket in (ledger.take(), ledger.take()):
        assert not ticket.again
        _fail(ledger, ticket) if ticket.number == 1 else ledger.finish(ticket, _record(ticket))
    assert ledger.retry(("oom",)) == []
    assert [record.number for record in ledger.retry(("failed", "oom"))] == [1]
    # It counts as open from now on, also at the next start, and only once.
    later = ledgers(None)
    later.plan(1, VALUES[:2])
    assert (later.waiting(), list(later.records())) == (1, [2])
    assert later.retry(("failed",)) == []
    ticket = later.take()
    assert (ticket.number, ticket.values, ticket.resumed, ticket.again) == (1, VALUES[0], True, True)
    # Killed in between: its own again, and still one that is to be run in spite of its end.
    last = ledgers(None)
    last.plan(1, VALUES[:2])
    last.recover()
    ticket = last.take()
    assert (ticket.number, ticket.again) == (1, True)
    assert last.finish(ticket, _record(ticket))
    assert {number: record.status for number, record in last.records().items()} == {1: "ok", 2: "ok"}
    assert last.take() is None
    assert last.retry(("failed",)) == []


def test_two_machines_run_again_what_failed_once(ledgers: Any) -> None:
    one, two = ledgers("one"), ledgers("two")
    for ledger in (one, two):
        ledger.plan(1, VALUES[:1])
    _fail(one, one.take())
    # Both were asked to, and looked before either had written.
    replaced = one.retry(("failed",))
    assert [record.number for record in replaced] == [1]
    assert two.retry(("failed",)) == []
    ticket = two.take()
    assert ticket.again
    assert one.take() is None
    # Its machine dies: another one goes on, and knows that too.
    two.close()
    _until(lambda: one.recover())
    assert one.take().again
