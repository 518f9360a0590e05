"""Verdicts on synthetic response surfaces, of which the truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrun.sweep.distributions import Choice, Numeric
from dlrun.sweep.notation import parse_axis
from dlrun.sweep.response import Outcome, Response
from dlrun.sweep.space import Axis, Space
from dlrun.sweep.verdict import Verdict, judge

Floats = npt.NDArray[np.float64]
TRIALS = 40
NOISE = 0.1  # of the standard deviation of the scores


def space_of(axes: int) -> Space:
    return tuple(Axis(f"k{i}", Numeric("log", 1e-5, 1e-1)) for i in range(axes))


def outcomes(space: Space, positions: Floats, scores: Floats, diverged: npt.NDArray[np.bool_]) -> list[Outcome]:
    return [
        Outcome(
            {axis.key: float(at) for axis, at in zip(space, row, strict=True)},
            None if bad else float(score),
            diverged=bool(bad),
        )
        for row, score, bad in zip(positions, scores, diverged, strict=True)
    ]


SHAPES: dict[str, Callable[[Floats], Floats]] = {
    "parabola": lambda away: away**2,
    "corner": np.abs,
    "cliff": lambda away: np.where(away > 0, 4 * away**2, away**2),
}


def judged(case: str, seed: int, shape: str, axes: int, trials: int = TRIALS) -> tuple[Verdict, float]:
    """The verdict on the first axis, and where the truth is."""
    generator = np.random.default_rng(seed)
    positions = generator.random((trials, axes))
    centre = generator.uniform(0.3, 0.7, axes)
    weights = np.ones(axes)
    diverged = np.zeros(trials, dtype=np.bool_)
    if case == "edge":
        centre[0] = generator.uniform(0.98, 1.0)
    elif case == "outside":
        centre[0] = generator.uniform(1.1, 1.5)
    elif case == "none":
        weights[0] = 0
    elif case == "infeasible":
        centre[0] = generator.uniform(0.65, 0.85)
        diverged = positions[:, 0] > centre[0]
    scores = -(weights * SHAPES[shape](positions - centre)).sum(axis=1)
    scores += NOISE * scores.std() * generator.standard_normal(trials)
    space = space_of(axes)
    return judge(space, outcomes(space, positions, scores, diverged))[0], float(centre[0])


def right(case: str, seed: int, shape: str = "parabola", axes: int = 3) -> bool:
    verdict, truth = judged(case, seed, shape, axes)
    if case == "infeasible":
        return verdict.infeasible is not None and abs(verdict.infeasible[1] - truth) < 0.12
    if verdict.infeasible is not None:
        return False
    if case == "inside":
        begin, end = verdict.best
        return verdict.kind == "inside" and begin - 0.1 <= truth <= end + 0.1
    return verdict.kind == {"edge": "high_edge", "outside": "high_edge", "none": "no_influence"}[case]


CASES = ("inside", "edge", "outside", "none", "infeasible")


@pytest.mark.parametrize("case", CASES)
def test_verdicts_on_surfaces_of_known_truth(case: str) -> None:
    assert sum(right(case, seed) for seed in range(200)) >= 190


@pytest.mark.slow
@pytest.mark.parametrize("axes", [2, 4])
@pytest.mark.parametrize("shape", ["parabola", "corner"])
@pytest.mark.parametrize("case", CASES)
def test_verdicts_on_other_surfaces(case: str, shape: str, axes: int) -> None:
    assert sum(right(case, seed, shape, axes) for seed in range(200)) >= 190


@pytest.mark.parametrize("trials", [8, 10, 12, 16, 20])
@pytest.mark.parametrize("case", ["inside", "edge"])
def test_few_trials_do_not_say_that_an_axis_is_without_influence(case: str, trials: int) -> None:
    kinds = [judged(case, seed, "parabola", 3, trials)[0].kind for seed in range(100)]
    assert kinds.count("no_influence") <= 5


def test_twenty_trials_can_say_it() -> None:
    kinds = [judged("none", seed, "parabola", 3, 20)[0].kind for seed in range(100)]
    assert kinds.count("no_influence") >= 90
    assert judged("none", 0, "parabola", 3, 10)[0].text == "too few trials to tell (10 with a score): keep it"


def test_noise_alone_is_not_known_to_be_noise() -> None:
    generator = np.random.default_rng(5)
    trials = [Outcome({"k0": float(generator.random())}, float(generator.standard_normal())) for _ in range(30)]
    (verdict,) = judge(space_of(1), trials)
    assert (verdict.kind, verdict.next) == ("unclear", space_of(1)[0])


def test_what_follows_from_the_verdicts() -> None:
    space = (parse_axis("lr", "log(1e-4, 1)"), parse_axis("wd", "log(1e-6, 1e-2)"), parse_axis("p", "uniform(0, 1)"))
    generator = np.random.default_rng(0)
    positions = generator.random((60, 3))
    # The rate is best at 0.01 and diverges above 0.3, the decay wants more than 1e-2, the third does nothing.
    scores = -((positions[:, 0] - 0.5) ** 2) - (positions[:, 1] - 1.2) ** 2
    diverged = positions[:, 0] > 0.87
    rate, decay, nothing = judge(space, outcomes(space, positions, scores, diverged))
    assert rate.kind == "inside"
    assert isinstance(rate.next, Axis)
    assert isinstance(rate.next.distribution, Numeric)
    assert 1e-3 <= rate.next.distribution.low < 0.01 < rate.next.distribution.high <= 0.1
    assert rate.infeasible is not None
    assert rate.infeasible[0] == "above"
    assert "diverge" in rate.text
    assert decay.kind == "high_edge"
    assert str(decay.next) == "log(0.0001, 1)"
    assert "extend to log(0.0001, 1)" in decay.text
    assert nothing.kind == "no_influence"
    assert nothing.fixed
    assert nothing.text.startswith("no influence: fix it")


@pytest.mark.parametrize(
    ("limit", "following", "text"),
    [
        (2.0, "uniform(0.45, 1.35)", "the best crowd the upper edge 0.9: extend to uniform(0.45, 1.35)"),
        (1.0, "uniform(0.45, 0.99)", "the best crowd the upper edge 0.9: extend to uniform(0.45, 0.99)"),
        (
            0.9,
            "uniform(0.45, 0.9)",
            "the best crowd the upper edge 0.9, beyond which the option does not go: zoom to uniform(0.45, 0.9)",
        ),
    ],
)
def test_an_axis_is_extended_as_far_as_its_option_goes(limit: float, following: str, text: str) -> None:
    space = (parse_axis("optimizer.momentum", "uniform(0, 0.9)"),)
    trials = [Outcome({"optimizer.momentum": i / 30}, float(i)) for i in range(30)]
    (verdict,) = judge(space, trials, allowed=lambda axis, value: value < limit)
    assert (verdict.kind, str(verdict.next), verdict.text) == ("high_edge", following, text)
    mirrored = [Outcome({"optimizer.momentum": i / 30}, float(-i)) for i in range(30)]
    (verdict,) = judge(space, mirrored, allowed=lambda axis, value: value >= 0)
    assert (verdict.kind, str(verdict.next)) == ("low_edge", "uniform(0, 0.45)")


def test_choices() -> None:
    space = (parse_axis("optimizer", "choice(sgd, adam, lion)"), parse_axis("width", "choice(8, 16)"))
    generator = np.random.default_rng(1)
    numbers = generator.integers(0, (3, 2), (40, 2))
    positions = (numbers + 0.5) / (3, 2)
    scores = np.array([0.0, 2.0, 2.0])[numbers[:, 0]] + 0.3 * generator.standard_normal(40)
    optimizer, width = judge(space, outcomes(space, positions, scores, np.zeros(40, dtype=np.bool_)))
    assert optimizer.kind == "values"
    assert isinstance(optimizer.next, Axis)
    assert optimizer.next.distribution == Choice(("adam", "lion"))
    assert width.kind == "no_influence"
    assert width.next in (8, 16)


def test_a_choice_with_one_good_value_is_fixed() -> None:
    space = (parse_axis("optimizer", "choice(sgd, adam)"),)
    positions = np.array([[0.25], [0.75]] * 10)
    scores = np.where(positions[:, 0] < 0.5, 1.0, 0.0) + 0.01 * np.arange(20)
    (verdict,) = judge(space, outcomes(space, positions, scores, np.zeros(20, dtype=np.bool_)))
    assert (verdict.kind, verdict.next, verdict.fixed) == ("values", "sgd", True)


def test_too_few_trials() -> None:
    space = space_of(1)
    (verdict,) = judge(space, [Outcome({"k0": 0.1 * i}, float(i)) for i in range(5)])
    assert verdict.kind == "unclear"
    assert verdict.next == space[0]
    assert "5 trials" in verdict.text


@pytest.mark.parametrize("count", [8, 10])
def test_a_choice_with_one_trial_of_each_value(count: int) -> None:
    space = (parse_axis("lr", f"choice({', '.join(map(str, range(count)))})"),)
    (verdict,) = judge(space, [Outcome({"lr": (i + 0.5) / count}, float(i)) for i in range(count)])
    assert (verdict.kind, verdict.next) == ("unclear", space[0])


@given(st.integers(0, 20), st.integers(1, 3), st.integers(1, 12), st.integers(0, 2**32))
def test_whatever_the_trials_are_they_are_judged(count: int, different: int, values: int, seed: int) -> None:
    """Few trials, tied scores, and more values of a choice than trials."""
    space = (Axis("c", Choice(tuple(range(values + 1)))), *space_of(1))
    generator = np.random.default_rng(seed)
    positions = generator.integers(0, values + 1, (count, 2)) / values
    scores = generator.integers(0, different, count).astype(float)
    trials = outcomes(space, positions, scores, generator.random(count) < 0.1)
    response = Response(space, trials)
    for i, verdict in enumerate(judge(space, trials)):
        assert 0 <= verdict.confidence <= 1
        assert math.isnan(response.importance(i)) or 0 <= response.importance(i) <= 1


def test_equal_scores_say_nothing() -> None:
    (verdict,) = judge(space_of(1), [Outcome({"k0": i / 20}, 0.1) for i in range(20)])
    assert verdict.kind == "unclear"
    assert verdict.text == "all trials with a score have the same one: nothing to tell"


def test_all_diverged() -> None:
    (verdict,) = judge(space_of(1), [Outcome({"k0": 0.02 * i}, None, diverged=True) for i in range(50)])
    assert verdict.kind == "unclear"
    assert verdict.infeasible is None


def test_a_condition_that_seldom_holds() -> None:
    space = (parse_axis("a", "choice(x, y)"), parse_axis("b", "uniform(0, 1) when a=x"))
    generator = np.random.default_rng(2)
    trials = []
    for _ in range(60):
        first = float(generator.random())
        positions = {"a": first}
        score = 0.0
        if first < 0.5:
            positions["b"] = float(generator.random())
            score = 1 - 4 * (positions["b"] - 0.5) ** 2
        trials.append(Outcome(positions, score + 0.05 * float(generator.standard_normal())))
    kind = {verdict.axis.key: verdict.kind for verdict in judge(space, trials)}
    assert kind == {"a": "values", "b": "inside"}


def test_trials_that_were_stopped_early_rank_behind() -> None:
    stopped = [Outcome({"k0": 0.05 * i}, 1000.0 + i, budget=1) for i in range(10)]
    finished = [Outcome({"k0": 0.5 + 0.05 * i}, float(i), budget=8) for i in range(10)]
    assert Response(space_of(1), [*stopped, *finished]).leaders("k0") == pytest.approx([0.95, 0.9, 0.85, 0.8])


def test_an_axis_without_influence_is_fixed_amid_the_best_trials() -> None:
    space = (
        parse_axis("lr", "log(1e-4, 1)"),
        parse_axis("idle", "uniform(0, 1)"),
        parse_axis("kind", "choice(x, y, z)"),
    )
    generator = np.random.default_rng(7)
    trials = []
    for i in range(60):
        lr, idle, kind = (float(value) for value in generator.random(3))
        trials.append(Outcome({"lr": lr, "idle": idle, "kind": kind}, 1 - 4 * (lr - 0.5) ** 2, budget=1))
        if i == 59:
            # The very best one stands at the end of the axis that does nothing.
            trials.append(Outcome({"lr": 0.5, "idle": 0.99, "kind": 0.99}, 1.1, budget=1))
    found = {verdict.axis.key: verdict for verdict in judge(space, trials)}
    leaders = sorted(trials, key=lambda trial: -(trial.score or 0))[:12]
    assert found["idle"].kind == found["kind"].kind == "no_influence"
    assert found["idle"].next == pytest.approx(np.median([trial.positions["idle"] for trial in leaders]), abs=0.01)
    counts = np.bincount([int(3 * trial.positions["kind"]) for trial in leaders], minlength=3)
    assert counts["xyz".index(found["kind"].next)] == counts.max()


def test_importance() -> None:
    space = space_of(2)
    generator = np.random.default_rng(3)
    positions = generator.random((50, 2))
    response = Response(space, outcomes(space, positions, positions[:, 0], np.zeros(50, dtype=np.bool_)))
    assert response.importance(0) > 0.9
    assert response.importance(1) < 0.05
    assert math.isnan(Response(space, []).importance(0))


@pytest.mark.parametrize(("trials", "missed"), [(20, 6), (40, 3), (100, 0)])
def test_a_skew_optimum_is_not_left_out(trials: int, missed: int) -> None:
    """Slowly better along the axis, then steeply worse: surely the top of a parabola lies beside the optimum."""
    space, left_out = space_of(2), 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        positions = generator.random((trials, 2))
        along = positions[:, 0]
        scores = np.where(along <= 0.7, along, 0.7 - 8 * (along - 0.7)) + 0.05 * generator.standard_normal(trials)
        verdict = judge(space, outcomes(space, positions, scores, along > 0.88), seed)[0]
        assert isinstance(verdict.axis.distribution, Numeric)
        optimum = verdict.axis.distribution.at(0.7)
        left_out += not verdict.next.distribution.low <= optimum <= verdict.next.distribution.high
    assert left_out <= missed


@pytest.mark.parametrize("trials", [10, 16, 40])
@pytest.mark.parametrize("cliff", [0.7, 0.8, 0.9])
def test_nobody_is_sent_to_where_trials_diverge(cliff: float, trials: int) -> None:
    """The commonest surface of a learning rate: better and better, up to where the loss explodes."""
    space, extended = space_of(2), []
    axis = space[0].distribution
    assert isinstance(axis, Numeric)
    for seed in range(60):
        generator = np.random.default_rng(seed)
        positions = generator.random((trials, 2))
        diverged = positions[:, 0] > cliff
        scores = positions[:, 0] + 0.05 * generator.standard_normal(trials)
        verdict = judge(space, outcomes(space, positions, scores, diverged), seed)[0]
        if diverged.any() and verdict.kind == "high_edge":
            extended.append(seed)
        if verdict.kind == "inside" and verdict.infeasible is not None:
            assert verdict.next.distribution.high < axis.at(verdict.infeasible[1] + 0.05)
    assert not extended
