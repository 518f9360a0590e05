"""Outcomes of sweeps that were never run: trials with every ending on a known response surface."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dlrun.config.search import Search, load_search
from dlrun.sweep.outcome import Outcome, StageResult
from dlrun.sweep.record import Record, Status
from dlrun.sweep.space import draw
from dlrun.sweep.stages import Searched, Stage, following, limits, outcomes
from dlrun.sweep.verdict import judge

WORDS = (
    "data=synthetic",
    "model=mlp",
    "optimizer=choice(sgd, adamw)",
    "optimizer.lr=log(1e-5, 10)",
    "optimizer.weight_decay=log(1e-7, 1e-2)",
    "optimizer.momentum=logit(0.5, 0.999) when optimizer=sgd",
    "data.batch_size=int_log(8, 256)",
    "model.dropout=uniform(0, 0.6)",
)
BEST_LR = 0.05


def example_search(*words: str) -> Search:
    """A search over every kind of axis, one of them conditional."""
    return load_search(None, [*WORDS, *words])


def example_outcome(search: Search, counts: tuple[int, ...] = (40, 20), seed: int = 0) -> Outcome:
    """What the sweep finds in stages of so many trials: learning rates above 1 diverge, some others fail."""
    outcome = Outcome()
    searched = Searched(search.space)
    for i, count in enumerate(counts, 1):
        stage = Stage(i, count, 3 * i, None)
        if outcome.stages:
            searched = following(searched, outcome.stages[-1].verdicts, stage)
        result = StageResult(stage, searched)
        generator = np.random.default_rng((seed, i))
        for own in range(count):
            result.records[own + 1] = _record(searched, search.fixed, i, own + 1, 3 * i, generator)
        result.verdicts = judge(
            searched.space,
            outcomes(searched.space, list(result.records.values()), "min"),
            seed,
            limits(search, searched),
        )
        outcome.stages.append(result)
    return outcome


def _record(
    searched: Searched, fixed: Mapping[str, Any], stage: int, number: int, epochs: int, generator: np.random.Generator
) -> Record:
    positions = {axis.key: float(generator.random()) for axis in searched.space}
    values = draw(searched.space, positions, {**fixed, **searched.settings})
    lr = float(values.get("optimizer.lr", BEST_LR))
    floor = 0.05 + 0.3 * math.log10(lr / BEST_LR) ** 2 + 0.4 * float(values.get("model.dropout", 0.2))
    floor *= float(np.exp(0.1 * generator.standard_normal()))
    curve = tuple((float(e), floor + 2.0 * math.exp(-1.2 * e)) for e in range(1, epochs + 1))
    status: Status = "ok"
    reason = ""
    if lr > 1:
        status, reason, curve = (
            "diverged",
            "the training loss 61 is more than 3 times that of the first step (2.4)",
            curve[:1],
        )
    elif number % 19 == 7:
        status, reason, curve = "failed", "RuntimeError: </script><script>alert(1)</script> & more (x.py:3)", ()
    elif number % 19 == 11:
        status, reason, curve = "oom", "out of memory", ()
    elif number % 19 == 13:
        status, reason, curve = "timeout", "took longer than 60 s", curve[:2]
    elif number % 4 == 1 and floor > 0.8:
        status, reason, curve = "pruned", "lags behind the others after 1 epochs", curve[:1]
    score = min((value for _, value in curve), default=None)
    return Record(
        number,
        stage,
        status,
        values,
        score=score,
        epochs=curve[-1][0] if curve else 0.0,
        reason=reason,
        folder=f"{stage}-{number:04d}",
        seconds=1.5 * len(curve),
        metrics={} if score is None else {"val/loss": score, "val/accuracy": math.exp(-score)},
        curve=curve,
    )
