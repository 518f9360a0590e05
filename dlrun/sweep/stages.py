"""Stages from coarse to fine: what each searches, and what follows from the verdicts on the one before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dlrun.config.axes import canonical, read_axis
from dlrun.config.search import Search
from dlrun.config.sweep_schema import SweepConfig
from dlrun.errors import ConfigError, did_you_mean
from dlrun.sweep.record import Record
from dlrun.sweep.response import Outcome
from dlrun.sweep.space import Axis, Condition, Space, in_order
from dlrun.sweep.verdict import Verdict

_KEYS = ("trials", "epochs", "space")


@dataclass(frozen=True)
class Stage:
    """One stage as the user described it.

    Attributes:
        number: from 1.
        trials: in all, >= 1.
        epochs: of each trial; None: as the configuration says.
        space: the axes that are given; None: they follow from the verdicts.
        confirms: whether it is not a search, but the best trials again.
    """

    number: int
    trials: int
    epochs: int | None
    space: Mapping[str, str] | None
    confirms: bool = False


@dataclass(frozen=True)
class Fixed:
    """An axis that is no longer searched.

    Attributes:
        value: that it has from now on.
        when: only where this holds; None: always.
    """

    value: Any
    when: Condition | None = None


@dataclass(frozen=True)
class Searched:
    """What a stage searches.

    Attributes:
        space: the axes.
        fixed: path -> what became of the axes that are no longer searched.
    """

    space: Space
    fixed: Mapping[str, Fixed] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """Path -> value of what is fixed whatever the others are."""
        return {key: item.value for key, item in self.fixed.items() if item.when is None}

    def complete(self, values: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a trial with what is fixed beside them.

        Args:
            values: path -> value of the axes.
            settings: path -> value of what conditions ask for and what never was searched.
        """
        known = {**settings, **self.settings, **values}
        found = dict(self.settings)
        for key, item in self.fixed.items():
            if item.when is not None and item.when.key in known and item.when.holds(known[item.when.key]):
                found[key] = item.value
        return {**found, **values}

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        fixed = {
            key: [item.value, None if item.when is None else [item.when.key, list(item.when.values)]]
            for key, item in self.fixed.items()
        }
        return {"space": {axis.key: str(axis) for axis in self.space}, "fixed": fixed}

    @classmethod
    def from_plain(cls, tree: Mapping[str, Any]) -> Searched:
        """The inverse of :meth:`to_plain`."""
        space = tuple(read_axis(key, text) for key, text in tree["space"].items())
        fixed = {
            key: Fixed(value, None if when is None else Condition(when[0], tuple(when[1])))
            for key, (value, when) in tree["fixed"].items()
        }
        return cls(in_order(space), fixed)


def read_stages(settings: SweepConfig) -> tuple[Stage, ...]:
    """The stages of a sweep; one, if none are described.

    Raises:
        ConfigError: listing every problem.
    """
    if not settings.stages:
        return (Stage(1, settings.trials, None, None),)
    stages, problems = [], []
    for i, tree in enumerate(settings.stages):
        where = f"sweep.stages.{i}"
        for key in tree:
            if key not in _KEYS:
                problems.append(f"{where}.{key}: unknown key; {did_you_mean(key, _KEYS)}")
        trials, epochs, space = tree.get("trials"), tree.get("epochs"), tree.get("space", "auto")
        for key, value, needed in (("trials", trials, True), ("epochs", epochs, False)):
            wrong = isinstance(value, bool) or not isinstance(value, int) or value < 1
            if wrong and (needed or value is not None):
                problems.append(f"{where}.{key}: must be a whole number >= 1, got {value!r}")
        if space not in ("auto", None) and not isinstance(space, Mapping):
            problems.append(f"{where}.space: must be auto, or a mapping from keys to distributions, got {space!r}")
            space = None
        if i == 0 and isinstance(space, Mapping):
            problems.append(f"{where}.space: the first stage searches the space of the sweep itself")
        given = {canonical(key): str(text) for key, text in space.items()} if isinstance(space, Mapping) else None
        stages.append(Stage(i + 1, trials if isinstance(trials, int) else 1, epochs, given))
    if problems:
        raise ConfigError(problems)
    return tuple(stages)


def following(before: Searched, verdicts: Sequence[Verdict], stage: Stage) -> Searched:
    """What a stage searches after the verdicts on the one before.

    Args:
        before: what was searched.
        verdicts: on its axes.
        stage: the one to come.
    """
    fixed = dict(before.fixed)
    axes: list[Axis] = []
    given = stage.space or {}
    for verdict in verdicts:
        key = verdict.axis.key
        if key in given:
            axes.append(read_axis(key, given[key]))
        elif stage.space is not None:
            axes.append(verdict.axis)
        elif isinstance(verdict.next, Axis):
            axes.append(verdict.next)
        else:
            fixed[key] = Fixed(verdict.next, verdict.axis.when)
    for key in given:
        fixed.pop(key, None)
    known = {axis.key for axis in axes}
    axes += [read_axis(key, text) for key, text in given.items() if key not in known]
    settled = Searched((), fixed).settings
    # An axis of a component that was not chosen is gone with it.
    left = [
        axis for axis in axes if axis.when is None or axis.when.holds(settled.get(axis.when.key, axis.when.values[0]))
    ]
    return Searched(in_order(tuple(left)), fixed)


def outcomes(space: Space, records: Sequence[Record], mode: str) -> list[Outcome]:
    """The trials of a stage as they are judged; those that failed say nothing of their values, and one that did what
    another one had done is no second witness."""
    sign = 1.0 if mode == "max" else -1.0
    found = []
    seen = set()
    for record in records:
        same = repr((sorted(record.values.items()), record.status, record.score, record.epochs))
        if record.status not in ("ok", "pruned", "diverged") or same in seen:
            continue
        seen.add(same)
        positions = {}
        for axis in space:
            if axis.key in record.values:
                try:
                    positions[axis.key] = axis.distribution.position(record.values[axis.key])
                except ValueError:
                    # Drawn before the space was changed.
                    continue
        diverged = record.status == "diverged"
        score = None if diverged or record.score is None else sign * record.score
        budget = record.epochs if record.status == "pruned" else float("inf")
        found.append(Outcome(positions, score, budget, diverged))
    return found


def limits(search: Search, searched: Searched) -> Callable[[Axis, float], bool]:
    """How far axes may be extended: whether the option of one takes a value, beside the middle of the others."""

    def allowed(axis: Axis, value: float) -> bool:
        values = {other.key: other.distribution.at(0.5) for other in searched.space if other.when is None}
        if axis.when is not None:
            values[axis.when.key] = axis.when.values[0]
        try:
            search.trial(searched.complete({**values, axis.key: value}, search.fixed))
        except ConfigError:
            return False
        return True

    return allowed
