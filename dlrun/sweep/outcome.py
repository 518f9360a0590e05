"""What a sweep found, stage by stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dlrun.sweep.confirm import Confirmed
from dlrun.sweep.record import Record
from dlrun.sweep.stages import Searched, Stage
from dlrun.sweep.verdict import Verdict


@dataclass
class StageResult:
    """What a stage found.

    Attributes:
        stage: as described.
        searched: its space.
        records: of its trials, by number.
        verdicts: on its axes; empty before it is over.
    """

    stage: Stage
    searched: Searched
    records: dict[int, Record] = field(default_factory=dict)
    verdicts: tuple[Verdict, ...] = ()


@dataclass
class Outcome:
    """What a sweep found.

    Attributes:
        stages: those that were begun.
        stopped: why it ended before it was done; empty if it is done.
        resumable: whether a resume goes on (after a signal), or has nothing to do but what failed.
        confirmed: the best trials with other seeds, best first; empty if that was not asked for.
        epochs: of the trials of stages that do not say it.
    """

    stages: list[StageResult] = field(default_factory=list)
    stopped: str = ""
    resumable: bool = False
    confirmed: list[Confirmed] = field(default_factory=list)
    epochs: int = 0

    @property
    def records(self) -> list[Record]:
        """Of all trials, in order."""
        return [result.records[number] for result in self.stages for number in sorted(result.records)]

    def best(self, mode: str, count: int = 1) -> list[Record]:
        """The best trials, best first: those that were confirmed, or of all stages those that came to their end.

        A score after 2 epochs says little beside one after 8: trials count that were to train as long as those of the
        last stage that is over, or longer. So a stage that was only begun replaces the best by a better one only.
        """
        if self.confirmed:
            return [item.record for item in self.confirmed][:count]
        searches = [result for result in self.stages if not result.stage.confirms]
        over = [result for result in searches if result.verdicts]
        if self.stopped and over[-1:] == searches[-1:]:
            over = over[:-1]
        sign = 1.0 if mode == "max" else -1.0
        for least in [*(self._budget(result) for result in reversed(over)), 0]:
            long = [result for result in searches if self._budget(result) >= least]
            records = [result.records[number] for result in long for number in sorted(result.records)]
            done = [
                (-sign * record.score, record)
                for record in records
                if record.status == "ok" and record.score is not None
            ]
            if done:
                return [record for _, record in sorted(done, key=lambda pair: pair[0])][:count]
        return []

    def complete(self, record: Record, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a trial with those of the axes that were fixed before its stage.

        Args:
            record: of the trial.
            settings: path -> value of what conditions ask for and what never was searched.
        """
        own = next(result for result in self.stages if result.stage.number == record.stage)
        return own.searched.complete(record.values, settings)

    def budget(self, record: Record) -> int:
        """The epochs that the stage of a trial gives to each."""
        return next(self._budget(result) for result in self.stages if result.stage.number == record.stage)

    def _budget(self, result: StageResult) -> int:
        return self.epochs if result.stage.epochs is None else result.stage.epochs
