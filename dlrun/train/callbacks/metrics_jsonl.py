"""Metrics as lines of JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from dlrun.registry import CALLBACKS
from dlrun.train.fit import Callback, Fit, log

_FILES = ("metrics.jsonl", "timings.jsonl")


@CALLBACKS.register
class metrics_jsonl(Callback):  # named as in YAML
    """Write one JSON object per reading to ``metrics.jsonl``; timings go to ``timings.jsonl``.

    ``metrics.jsonl`` holds only what the seed determines, so two runs of one configuration on a CPU give the same
    bytes, also when one was killed and resumed: on resume both files are cut back to the checkpoint.
    Rows have ``event`` (log: means since the last row; eval: after an evaluation; epoch: means of the epoch), ``step``
    and ``epoch`` (from 1). NaN and infinity are written as null.
    """

    def __init__(self) -> None:
        self._open: dict[str, IO[bytes]] = {}
        self._sizes: dict[str, int] = {}
        self._failed = False

    def fit_start(self, fit: Fit) -> None:
        """Open the files, cut back to the checkpoint."""
        for name in _FILES:
            path: Path = fit.run.path / name
            try:
                file = path.open("ab")
            except OSError as error:
                self._complain(name, error)
                continue
            recorded = self._sizes.get(name, 0)
            if file.tell() > recorded:
                file.truncate(recorded)
                file.seek(0, 2)
            elif file.tell() < recorded:
                log.warning("%s is shorter than when the checkpoint was written: rows are missing", path)
            self._open[name] = file

    def log(self, fit: Fit, metrics: Mapping[str, float]) -> None:
        """One row of each file."""
        timings = {key: value for key, value in metrics.items() if key.startswith("time/")}
        self._write("metrics.jsonl", "log", fit, {k: v for k, v in metrics.items() if k not in timings})
        self._write("timings.jsonl", "log", fit, timings)

    def eval_end(self, fit: Fit, metrics: Mapping[str, float]) -> None:
        """The validation metrics."""
        self._write("metrics.jsonl", "eval", fit, {k: v for k, v in metrics.items() if k.startswith("val/")})

    def epoch_end(self, fit: Fit) -> None:
        """The training metrics of the whole epoch."""
        means = fit.epoch_reading.means()
        self._write("metrics.jsonl", "epoch", fit, {f"train/{name}": value for name, value in means.items()})

    def fit_end(self, fit: Fit) -> None:
        """Close the files."""
        self._close()

    def exception(self, fit: Fit, error: BaseException) -> None:
        """Close the files."""
        self._close()

    def state_dict(self) -> dict[str, Any]:
        """Lengths of the files in bytes."""
        for name, file in self._open.items():
            self._sizes[name] = file.tell()
        return {"sizes": dict(self._sizes)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``."""
        self._sizes = dict(state["sizes"])

    def _write(self, name: str, event: str, fit: Fit, values: Mapping[str, float]) -> None:
        if not values:
            return
        finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
        row = {"event": event, "step": fit.state.step, "epoch": fit.state.epoch + 1, **finite}
        if name not in self._open:
            return
        try:
            self._open[name].write(json.dumps(row).encode() + b"\n")
            self._open[name].flush()
        except OSError as error:
            self._complain(name, error)

    def _complain(self, name: str, error: OSError) -> None:
        if not self._failed:
            log.warning("%s cannot be written: %s. The run goes on without it", name, error.strerror)
        self._failed = True

    def _close(self) -> None:
        for file in self._open.values():
            try:
                file.close()
            except OSError:
                # The disk is full: the rows that did not fit were already reported.
                self._failed = True
        self._open = {}
