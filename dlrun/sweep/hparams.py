"""The trials of a sweep for TensorBoard's page HPARAMS: one entry each, in ``tensorboard/`` of the sweep's folder."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.config.search import Search
from dlrun.sweep.distributions import Choice
from dlrun.sweep.outcome import Outcome
from dlrun.sweep.record import Record
from dlrun.sweep.scalars import plain
from dlrun.sweep.space import Axis

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary

FILE = "events.out.tfevents.0.sweep"
"""Name of every file: the same each time, so that writing again replaces it."""
BEST = "best/"
"""Before the name of a metric: its value where the trial had its best score. Without it, the tag holds the curve."""

# The names that TensorBoard's plugin gives (tensorboard.plugins.hparams.metadata, which takes 0.1 s to import).
PLUGIN, EXPERIMENT = "hparams", "_hparams_/experiment"
START, END = "_hparams_/session_start_info", "_hparams_/session_end_info"


def write_hparams(folder: Path, search: Search, outcome: Outcome) -> None:
    """Write the axes and, in a folder for each trial, its values, its curve and its metrics.

    The metric of the sweep has the step of its evaluation; trials that came to their end are a success, those that were
    pruned are unknown, all others are failures. The bytes follow from the outcome alone.

    Args:
        folder: to write into.
        search: what was searched.
        outcome: what it found.

    Raises:
        OSError: if a file cannot be written.
    """
    if not outcome.records:
        return
    metric = search.settings.metric
    _write(folder, [_experiment(metric, outcome)])
    axes = [axis for result in outcome.stages for axis in result.searched.space]
    choices = {axis.key for axis in axes if isinstance(axis.distribution, Choice)}
    for result in outcome.stages:
        for _, record in sorted(result.records.items()):
            name = record.folder or f"{record.stage}-{record.number:04d}"
            values = result.searched.complete(record.values, search.fixed)
            _write(folder / name, _trial(metric, record, values, choices))


def _experiment(metric: str, outcome: Outcome) -> Summary:
    from tensorboard.plugins.hparams.api_pb2 import Experiment, HParamInfo, MetricInfo, MetricName
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    axes: dict[str, list[Axis]] = {}
    for result in outcome.stages:
        for axis in result.searched.space:
            axes.setdefault(axis.key, []).append(axis)
    names = dict.fromkeys([metric, *(name for record in outcome.records for name in record.metrics)])
    experiment = Experiment(
        hparam_infos=[_described(HParamInfo(name=key), found) for key, found in axes.items()]
        + [HParamInfo(name="stage", type="DATA_TYPE_FLOAT64")],
        metric_infos=[MetricInfo(name=MetricName(tag=f"{BEST}{name}"), display_name=name) for name in names],
    )
    return _marker(EXPERIMENT, HParamsPluginData(experiment=experiment))


def _described(info: Any, axes: Iterable[Axis]) -> Any:
    """With the type and the values of an axis over all stages."""
    parts = [axis.distribution for axis in axes]
    if not any(isinstance(part, Choice) for part in parts):
        info.type = "DATA_TYPE_FLOAT64"
        info.domain_interval.min_value = min(part.low for part in parts if not isinstance(part, Choice))
        info.domain_interval.max_value = max(part.high for part in parts if not isinstance(part, Choice))
        return info
    info.type = "DATA_TYPE_STRING"
    values = dict.fromkeys(plain(value) for part in parts if isinstance(part, Choice) for value in part.values)
    info.domain_discrete.extend(list(values))
    return info


def _trial(
    metric: str, record: Record, values: Mapping[str, Any], choices: Container[str]
) -> Iterator[Summary | tuple[int, Summary]]:
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo

    start = SessionStartInfo(group_name=record.folder)
    for key, value in {**values, "stage": record.stage}.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and key not in choices:
            start.hparams[key].number_value = value
        else:
            start.hparams[key].string_value = plain(value)
    yield _marker(START, HParamsPluginData(session_start_info=start))
    for step, (_, value) in enumerate(record.curve, 1):
        yield step, Summary(value=[Summary.Value(tag=metric, simple_value=value)])
    metrics: Mapping[str, float] = dict(record.metrics)
    if record.score is not None:
        metrics = {**metrics, metric: record.score}
    for name, value in metrics.items():
        if math.isfinite(value):
            yield Summary(value=[Summary.Value(tag=f"{BEST}{name}", simple_value=value)])
    status = {"ok": "STATUS_SUCCESS", "pruned": "STATUS_UNKNOWN"}.get(record.status, "STATUS_FAILURE")
    yield _marker(END, HParamsPluginData(session_end_info=SessionEndInfo(status=status)))


def _marker(tag: str, content: Any) -> Summary:
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata

    data = SummaryMetadata.PluginData(plugin_name=PLUGIN, content=content.SerializeToString(deterministic=True))
    return Summary(value=[Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=data))])


def _write(folder: Path, summaries: Iterable[Summary | tuple[int, Summary]]) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    folder.mkdir(parents=True, exist_ok=True)
    # An hour of the day would make each file another one; TensorBoard only orders by it.
    events = [Event(file_version="brain.Event:2")]
    for item in summaries:
        step, summary = item if isinstance(item, tuple) else (0, item)
        events.append(Event(step=step, summary=summary))
    with (folder / FILE).open("wb") as file:
        writer = RecordWriter(file)
        for event in events:
            writer.write(event.SerializeToString(deterministic=True))
