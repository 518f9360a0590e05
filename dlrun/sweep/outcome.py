"""What a sweep found, stage by stage."""

from __future__ import annotations

from dataclasses import dataclass, field

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
    """

    stages: list[StageResult] = field(default_factory=list)
    stopped: str = ""
    resumable: bool = False
    confirmed: list[Confirmed] = field(default_factory=list)

    @property
    def records(self) -> list[Record]:
        """Of all trials, in order."""
        return [result.records[number] for result in self.stages for number in sorted(result.records)]

    def best(self, mode: str, count: int = 1) -> list[Record]:
        """The best trials, best first: those that were confirmed, or of the last stage with a score those that came to
        their end."""
        if self.confirmed:
            return [item.record for item in self.confirmed][:count]
        sign = 1.0 if mode == "max" else -1.0
        for result in reversed(self.stages):
            if result.stage.confirms:
                continue
            done = [record for record in result.records.values() if record.status == "ok" and record.score is not None]
            if done:
                return sorted(done, key=lambda record: -sign * (record.score or 0.0))[:count]
        return []
