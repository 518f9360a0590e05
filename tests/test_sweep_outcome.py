"""The best of a sweep: which trials of which stages are compared."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from dlrun.sweep.notation import parse_axis
from dlrun.sweep.outcome import Outcome, StageResult
from dlrun.sweep.record import Record, Status
from dlrun.sweep.stages import Searched, Stage
from dlrun.sweep.verdict import judge

SPACE = (parse_axis("optimizer.lr", "log(1e-3, 1)"),)
FEW = judge(SPACE, [])


def stage(number: int, epochs: int | None, scores: Mapping[str, float], *, over: bool = True) -> StageResult:
    """A stage with the scores of its trials; those whose name begins with p were pruned."""
    records = {}
    for i, (name, score) in enumerate(scores.items(), 1):
        status: Status = "pruned" if name.startswith("p") else "ok"
        records[i] = Record(i, number, status, {}, score=score, folder=name)
    return StageResult(Stage(number, len(records), epochs, None), Searched(SPACE), records, FEW if over else ())


@pytest.mark.parametrize(
    ("stages", "stopped", "best"),
    [
        # The same number of epochs: all count.
        ([stage(1, None, {"a": 0.2, "b": 0.1}), stage(2, None, {"c": 0.15})], "", ["b", "c", "a"]),
        ([stage(1, 5, {"a": 0.2, "b": 0.1}), stage(2, 5, {"c": 0.15})], "", ["b", "c", "a"]),
        # The default of the configuration is 5, written or not.
        ([stage(1, None, {"a": 0.2, "b": 0.1}), stage(2, 5, {"c": 0.15})], "", ["b", "c", "a"]),
        # Those that trained for a shorter time are behind, those that trained longer count.
        ([stage(1, 2, {"a": 0.2, "b": 0.1}), stage(2, 8, {"c": 0.15})], "", ["c"]),
        ([stage(1, 8, {"a": 0.2, "b": 0.1}), stage(2, 2, {"c": 0.15})], "", ["b", "c", "a"]),
        # A stage that is not over yet, or was stopped, adds its better ones.
        ([stage(1, 2, {"a": 0.2, "b": 0.1}), stage(2, 8, {"c": 0.15}, over=False)], "", ["b", "c", "a"]),
        ([stage(1, 2, {"a": 0.2, "b": 0.1}), stage(2, 8, {"c": 0.05}, over=False)], "", ["c", "b", "a"]),
        ([stage(1, 2, {"a": 0.2, "b": 0.1}), stage(2, 8, {"c": 0.15})], "3 trials failed", ["b", "c", "a"]),
        ([stage(1, 2, {"a": 0.2}, over=False)], "", ["a"]),
        # Nothing came to its end in the last one.
        ([stage(1, 2, {"a": 0.2}), stage(2, 8, {"pruned": 0.1})], "", ["a"]),
        ([stage(1, 2, {"pruned": 0.2})], "", []),
    ],
)
def test_the_best_of_all_stages(stages: list[StageResult], stopped: str, best: list[str]) -> None:
    outcome = Outcome(stages, stopped, epochs=5)
    assert [record.folder for record in outcome.best("min", 9)] == best
    assert [record.folder for record in outcome.best("min")] == best[:1]


def test_equal_scores_keep_their_order() -> None:
    outcome = Outcome([stage(1, None, {"a": 0.2, "b": 0.3}), stage(2, None, {"c": 0.2})], epochs=5)
    assert [record.folder for record in outcome.best("min", 9)] == ["a", "c", "b"]
    assert [record.folder for record in outcome.best("max", 9)] == ["b", "a", "c"]
