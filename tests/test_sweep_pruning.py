"""Which trials may go on, and that a sweep which was killed decides as one that was left alone."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sweeping import lasting_rows

from dlrun.cli import main
from dlrun.sweep import runner as runners
from dlrun.sweep.pruning import Halving, MedianRule
from dlrun.sweep.record import Record, Status, Trial, best_of
from dlrun.sweep.watcher import Watcher
from dlrun.train.fit import Callback, Fit

TINY = (
    "data=synthetic",
    "data.samples=60",
    "data.batch_size=32",
    "model=mlp",
    "model.hidden=[8]",
    "trainer.threads=1",
    "schedule.warmup=0ep",
    "optimizer.lr=log(1e-3, 1)",
    "sweep.jobs=0",
)


class Killed(BaseException):
    """Ends everything at once."""


def _record(number: int, *curve: float) -> Record:
    points = tuple((float(i), value) for i, value in enumerate(curve, 1))
    return Record(number, 1, "ok", {}, score=min(curve), epochs=float(len(curve)), curve=points)


def test_the_best_third_of_a_rung_goes_on() -> None:
    halving = Halving("min", 1, 3, 9)
    assert halving.rungs == [1, 3]
    assert halving.advise(1, 1.0, [(1.0, 0.5)]) == "pause"
    assert halving.advise(2, 1.0, [(1.0, 0.9)]) == "pause"
    assert halving.promoted({1, 2}) is None
    # The third to arrive is the best: it goes on at once.
    assert halving.advise(3, 1.0, [(1.0, 0.4)]) == "go"
    assert halving.advise(4, 1.0, [(1.0, 0.8)]) == "pause"
    assert halving.advise(5, 1.0, [(1.0, 0.7)]) == "pause"
    assert halving.promoted({1, 2, 4, 5}) is None
    # Six have arrived: two may go on, and the second is the first trial.
    assert halving.advise(6, 1.0, [(1.0, 0.95)]) == "pause"
    assert halving.promoted({1, 2, 4, 5, 6}) == (1, 1)
    assert halving.promoted({2, 4, 5, 6}) is None


def test_larger_is_better_where_it_is() -> None:
    halving = Halving("max", 1, 2, 4)
    assert halving.advise(1, 1.0, [(1.0, 0.1)]) == "pause"
    assert halving.advise(2, 1.0, [(1.0, 0.9)]) == "go"


def test_a_trial_between_two_rungs_is_not_paused_again() -> None:
    halving = Halving("min", 1, 3, 9)
    for number, value in enumerate((0.1, 0.2, 0.3), 2):
        halving.advise(number, 1.0, [(1.0, value)])
    # Resumed at epoch 2, behind the rung where it was told to go on, with a score there that others have beaten since.
    assert halving.advise(1, 2.0, [(1.0, 0.9), (2.0, 0.05)]) == "go"
    # Its score of the rung is that which it had there, and it is not promoted twice.
    assert halving.promoted({1, 3, 4}) is None
    assert halving.leader({1, 3, 4}) == 3


def test_a_rung_is_judged_at_the_first_evaluation_behind_it() -> None:
    halving = Halving("min", 1, 2, 8)
    assert halving.rungs == [1, 2, 4]
    assert halving.advise(1, 3.0, [(3.0, 0.5)]) == "pause"
    assert halving.advise(2, 3.0, [(3.0, 0.4)]) == "go"


def test_the_leader_is_the_best_of_those_that_came_farthest() -> None:
    halving = Halving("min", 1, 3, 9)
    halving.learn(_record(1, 0.9, 0.8, 0.7))
    halving.learn(_record(2, 0.9, 0.8, 0.6))
    halving.learn(_record(3, 0.1))
    assert halving.leader({1, 2, 3}) == 2
    assert halving.leader({1, 3}) == 1
    assert halving.leader({3}) == 3
    assert halving.leader(set()) is None
    assert halving.leader({7}) is None
    halving.release(2, 9.0)
    assert halving.advise(2, 3.0, []) == "go"


def test_the_median_of_the_others_stops_a_trial() -> None:
    rule = MedianRule("min", 1)
    for number in range(1, 6):
        rule.learn(_record(number, 0.5, 0.4, 0.3))
    assert rule.advise(6, 1.0, [(1.0, 0.6)]) == "stop"
    assert rule.advise(7, 1.0, [(1.0, 0.4)]) == "go"
    # The best so far counts.
    assert rule.advise(7, 2.0, [(2.0, 9.0)]) == "go"
    assert rule.advise(7, 3.0, [(3.0, 9.0)]) == "stop"


def test_resumed_trials_bring_their_curves() -> None:
    rule = MedianRule("min", 1)
    for number in range(1, 6):
        # Each begins again at epoch 5, and tells what it saw before.
        assert rule.advise(number, 5.0, [(float(epoch), 0.1) for epoch in range(1, 6)]) == "go"
    assert rule.advise(6, 2.0, [(1.0, 9.9), (2.0, 9.9)]) == "stop"
    # Behind its newest evaluation a trial was told to go on already.
    assert rule.advise(7, 2.5, [(1.0, 9.9), (2.0, 9.9)]) == "go"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=9), min_size=1, max_size=9),
    st.sampled_from([lambda: Halving("min", 1, 3, 9), lambda: MedianRule("max", 2)]),
    st.randoms(use_true_random=False),
)
def test_hearing_of_it_again_changes_nothing(
    curves: list[list[float]], make: Callable[[], Any], chance: random.Random
) -> None:
    once, twice = make(), make()
    for number, curve in enumerate(curves, 1):
        points = [(float(i), value) for i, value in enumerate(curve, 1)]
        for i in range(len(points)):
            answer = once.advise(number, points[i][0], [points[i]])
            known = chance.randrange(i + 1)
            assert twice.advise(number, points[i][0], points[known : i + 1]) == answer
            assert twice.advise(number, points[i][0], []) == answer
            if answer != "go":
                break
        record = _record(number, *curve[: i + 1])
        once.learn(record)
        twice.learn(record)
        twice.learn(record)


def _table(root: Path) -> list[dict[str, str]]:
    (sweep,) = root.iterdir()
    return lasting_rows(sweep)


def _pretend(
    monkeypatch: pytest.MonkeyPatch, saved: dict[str, list[tuple[float, float]]], failing: str = ""
) -> list[int]:
    """Trials without training: a curve that follows from the values, a checkpoint after each evaluation, and a counter
    of what happens that ends everything at the number that is put into it."""
    left = [10**9]

    def happens() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    def run_trial(trial: Trial, advise: Any) -> Record:
        chance = random.Random(repr(sorted(trial.values.items())))
        epochs = trial.config["trainer"]["epochs"]
        values = [chance.random() + 1 / epoch for epoch in range(1, epochs + 1)]
        key = Path(trial.folder).name
        if key == failing:
            return Record(trial.number, trial.stage, "failed", trial.values, folder=key)
        curve, told = saved.get(key, []), 0
        status: Status = "ok"
        while True:
            happens()
            at = len(curve)
            if told < at < epochs:
                advice = advise(trial.number, float(at), curve[told:])
                told = at
                happens()
                saved[key] = curve
                happens()
                if advice != "go":
                    status = "pruned" if advice == "stop" else "paused"
                    break
            if at == epochs:
                break
            curve = [*curve, (float(at + 1), values[at])]
        saved[key] = curve
        happens()
        score, stands = best_of(curve, "min"), len(curve)
        return Record(trial.number, trial.stage, status, trial.values, score, stands, folder=key, curve=tuple(curve))

    monkeypatch.setattr(runners, "run_trial", run_trial)
    return left


def _sweep(root: str, *words: str) -> list[str]:
    return ["sweep", *TINY, f"sweep.root={root}", *words]


@pytest.mark.parametrize(
    ("prune", "moments"),
    [
        ("halving", (7, 23, 50)),
        ("median", (40, 90)),
        *(pytest.param(prune, range(0, 200, 4), marks=pytest.mark.slow) for prune in ("halving", "median")),
    ],
)
def test_decisions_do_not_depend_on_kills(
    tmp_path: Path, prune: str, moments: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved: dict[str, list[tuple[float, float]]] = {}
    left = _pretend(monkeypatch, saved)
    words = (f"sweep.prune={prune}", "sweep.trials=9", "trainer.epochs=9")
    assert main(_sweep("whole", *words)) == 0
    whole = _table(tmp_path / "whole")
    assert {"ok", "pruned"} <= {row["status"] for row in whole}
    total = 10**9 - left[0]
    for moment in moments:
        if moment >= total:
            break
        saved.clear()
        left[0] = moment
        with pytest.raises(Killed):
            main(_sweep(f"killed{moment}", *words))
        (folder,) = (tmp_path / f"killed{moment}").iterdir()
        left[0] = 5
        with contextlib.suppress(Killed):
            main(["sweep", f"resume={folder}"])
        left[0] = 10**9
        assert main(["sweep", f"resume={folder}"]) == 0
        assert _table(tmp_path / f"killed{moment}") == whole, moment


def test_what_nobody_has_begun_is_drawn_from_the_extended_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    left = _pretend(monkeypatch, {})
    # Three epochs are ten events: the second trial is begun.
    left[0] = 14
    with pytest.raises(Killed):
        main(_sweep("sweeps", "sweep.trials=4", "trainer.epochs=3"))
    (folder,) = (tmp_path / "sweeps").iterdir()
    left[0] = 10**9
    assert main(["sweep", f"resume={folder}", "optimizer.lr=log(10, 100)", "extend=true"]) == 0
    rows = _table(tmp_path / "sweeps")
    assert [float(row["optimizer.lr"]) >= 10 for row in rows] == [False, False, True, True]
    assert [row["status"] for row in rows] == ["ok"] * 4


def test_a_sweep_that_failures_ended_keeps_its_paused_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _pretend(monkeypatch, {}, failing="1-0005")
    words = ("sweep.prune=halving", "sweep.trials=9", "trainer.epochs=9")
    assert main(_sweep("whole", *words)) == 0
    assert main(_sweep("ended", *words, "sweep.fail_fast=true")) == 1
    assert "pruned" not in {row["status"] for row in _table(tmp_path / "ended")}
    (folder,) = (tmp_path / "ended").iterdir()
    assert main(["sweep", f"resume={folder}"]) == 0
    assert _table(tmp_path / "ended") == _table(tmp_path / "whole")


@pytest.mark.parametrize(("trials", "epochs"), [(2, 3), (4, 28), (8, 9)])
def test_halving_ends_with_a_trial_that_was_trained_to_its_end(
    tmp_path: Path, trials: int, epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _pretend(monkeypatch, {})
    assert main(_sweep("sweeps", "sweep.prune=halving", f"sweep.trials={trials}", f"trainer.epochs={epochs}")) == 0
    rows = _table(tmp_path / "sweeps")
    done = [row for row in rows if row["status"] == "ok"]
    assert done
    assert all(int(row["epochs"]) == epochs for row in done)
    assert sum(int(row["epochs"]) for row in rows) < trials * epochs
    assert len(list(tmp_path.glob("sweeps/*/best.yaml"))) == 1


@pytest.mark.parametrize("moments", [(14,), pytest.param(range(100), marks=pytest.mark.slow)])
def test_trained_trials_do_not_depend_on_kills_either(
    tmp_path: Path, moments: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With real trials: killed in the middle of a step."""
    monkeypatch.chdir(tmp_path)
    left = [10**9]

    def step_end(self: Callback, fit: Fit) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    monkeypatch.setattr(Watcher, "step_end", step_end)
    words = ("sweep.prune=halving", "sweep.trials=6", "trainer.epochs=4")
    assert main(_sweep("whole", *words)) == 0
    whole = _table(tmp_path / "whole")
    total = 10**9 - left[0]
    for moment in moments:
        if moment >= total:
            break
        left[0] = moment
        with pytest.raises(Killed):
            main(_sweep(f"killed{moment}", *words))
        left[0] = 10**9
        (folder,) = (tmp_path / f"killed{moment}").iterdir()
        assert main(["sweep", f"resume={folder}"]) == 0
        assert _table(tmp_path / f"killed{moment}") == whole, moment
