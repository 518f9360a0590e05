"""The page of a sweep and its entries in TensorBoard, from trials that were never run and from a tiny sweep."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, chromium
from helpers import TINY, Dlrun, compose_faster
from hypothesis import given, settings
from hypothesis import strategies as st
from sweep_outcomes import WORDS, example_outcome, example_search

from dlrun.config.search import Search, load_search
from dlrun.config.sources import Origin
from dlrun.runfolder import RunFolder
from dlrun.sweep import results
from dlrun.sweep.distributions import Choice, Numeric, Scale
from dlrun.sweep.hparams import BEST, END, EXPERIMENT, PLUGIN, START, write_hparams
from dlrun.sweep.outcome import Outcome, StageResult
from dlrun.sweep.page import LivePage, page
from dlrun.sweep.page.commands import next_sweep
from dlrun.sweep.page.data import chart_data, short_names
from dlrun.sweep.page.ticks import ticks
from dlrun.sweep.record import Record
from dlrun.sweep.results import table
from dlrun.sweep.scalars import plain, same
from dlrun.sweep.space import Axis
from dlrun.sweep.stages import Fixed, Searched, Stage

COUNTS = (60, 25)
WITHOUT_SCORE = {"diverged", "failed", "oom"}


@pytest.fixture(autouse=True)
def _composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compose_faster(monkeypatch)


@pytest.fixture(scope="module")
def search() -> Search:
    return example_search(f"sweep.stages=[{{trials: {COUNTS[0]}, epochs: 3}},{{trials: {COUNTS[1]}, epochs: 6}}]")


@pytest.fixture(scope="module")
def outcome(search: Search) -> Outcome:
    return example_outcome(search, COUNTS)


@pytest.fixture(scope="module")
def written(search: Search, outcome: Outcome) -> str:
    return page(search, "a sweep", "sweeps/a sweep", outcome)


class Reader(HTMLParser):
    """What is in a page: the start of every element, the text of the data, and all text that is shown."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.starts: list[tuple[str, dict[str, str | None]]] = []
        self.data = ""
        self.shown = ""
        self._inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.starts.append((tag, dict(attrs)))
        self._inside.append(dict(attrs).get("id") or tag)

    def handle_endtag(self, tag: str) -> None:
        self._inside.append("")

    def handle_data(self, data: str) -> None:
        inside = self._inside[-1] if self._inside else ""
        if inside == "data":
            self.data += data
        elif inside not in ("script", "style"):
            self.shown += data


def test_ticks_of_each_scale() -> None:
    def texts(spread: Numeric | Choice) -> list[str]:
        return [text for _, text in ticks(spread).labelled]

    assert texts(Numeric("log", 1e-5, 10)) == ["10⁻⁴", "10⁻²", "10⁰"]
    assert texts(Numeric("log", 1e-6, 1e-2)) == ["10⁻⁶", "10⁻⁵", "10⁻⁴", "10⁻³", "10⁻²"]
    assert texts(Numeric("log", 0.001, 1)) == ["0.001", "0.01", "0.1", "1"]
    assert texts(Numeric("log", 0.06, 4)) == ["0.1", "0.2", "0.5", "1", "2"]
    assert texts(Numeric("log", 8, 256, integer=True)) == ["10", "20", "50", "100", "200"]
    assert texts(Numeric("log", 0.031, 0.034)) == ["0.031", "0.032", "0.033", "0.034"]
    assert texts(Numeric("logit", 0.5, 0.999)) == ["0.5", "0.9", "0.99", "0.999"]
    assert texts(Numeric("linear", 0, 0.6)) == ["0", "0.2", "0.4", "0.6"]
    assert texts(Numeric("linear", 2, 5, integer=True)) == ["2", "3", "4", "5"]
    assert texts(Choice((True, None, 64, "a, b"))) == ["true", "null", "64", "'a, b'"]
    assert [at for at, _ in ticks(Numeric("log", 1e-6, 1e-2)).labelled] == [0, 0.25, 0.5, 0.75, 1]


@given(st.sampled_from(["linear", "log", "logit"]), st.floats(1e-9, 0.999), st.floats(1e-6, 1.0), st.booleans())
def test_ticks_lie_on_the_axis_in_order(scale: Scale, low: float, width: float, large: bool) -> None:
    factor = 1e5 if large and scale != "logit" else 1.0
    high = low + width * (0.9999999 - low)
    if high <= low * (1 + 1e-6):
        return
    found = ticks(Numeric(scale, low * factor, high * factor))
    places = [at for at, _ in found.labelled]
    assert 2 <= len(places) <= 7
    assert places == sorted(places)
    assert all(0 <= at <= 1 for at in [*places, *found.minor])
    assert len({text for _, text in found.labelled}) == len(places)


def test_names_are_as_short_as_they_can_be() -> None:
    assert short_names(["optimizer.betas.0", "model.hidden.0", "optimizer.lr"]) == {
        "optimizer.betas.0": "betas.0",
        "model.hidden.0": "hidden.0",
        "optimizer.lr": "lr",
    }
    assert short_names(["optimizer.lr", "model.lr", "data.batch_size", "model"]) == {
        "optimizer.lr": "optimizer.lr",
        "model.lr": "model.lr",
        "data.batch_size": "batch_size",
        "model": "model",
    }


def test_every_trial_has_its_mark_on_every_axis_that_it_has(search: Search, outcome: Outcome) -> None:
    data = chart_data(search, outcome)
    assert len(data["trials"]) == sum(COUNTS)
    keys = [axis["key"] for axis in data["axes"]]
    assert sorted(keys) == sorted(axis.key for axis in search.space)
    assert {axis["key"]: axis["kind"] for axis in data["axes"]} == {
        "optimizer": "choice",
        "optimizer.lr": "log",
        "optimizer.weight_decay": "log",
        "optimizer.momentum": "logit",
        "data.batch_size": "log",
        "model.dropout": "linear",
    }
    for trial, record in zip(data["trials"], outcome.records, strict=True):
        assert (trial["id"], trial["status"]) == (record.folder, record.status)
        assert (trial["score"] is None) == (record.status in WITHOUT_SCORE)
        assert len(trial["curve"]) == len(record.curve)
        values = outcome.stages[record.stage - 1].searched.complete(record.values, {})
        for key, at in zip(keys, trial["at"], strict=True):
            assert (at is not None) == (key in values)
            assert at is None or 0 <= at <= 1
    assert {trial["status"] for trial in data["trials"]} == {"ok", "pruned", "timeout", *WITHOUT_SCORE}
    (best,) = (trial for trial in data["trials"] if trial["best"])
    assert best["id"] == outcome.best("min")[0].folder


def test_positions_follow_the_scale_of_the_axis(search: Search, outcome: Outcome) -> None:
    data = chart_data(search, outcome)
    column = [axis["key"] for axis in data["axes"]].index("optimizer.lr")
    trial = data["trials"][0]
    lr = outcome.records[0].values["optimizer.lr"]
    assert trial["at"][column] == pytest.approx(Numeric("log", 1e-5, 10).position(lr), abs=1e-5)
    first, second = data["axes"][column]["ranges"]
    assert (first["from"], first["to"]) == (0, 1)
    assert 0 < second["from"] < second["to"] < 1
    assert data["axes"][column]["avoid"]["to"] == 1
    assert "diverges above" in data["axes"][column]["avoid"]["text"]


def one_stage(space: tuple[Axis, ...], records: list[Record]) -> Outcome:
    stage = StageResult(Stage(1, len(records), 1, None), Searched(space), {r.number: r for r in records})
    return Outcome([stage])


def test_scores_far_off_and_not_finite_ones_leave_room_for_the_others(search: Search) -> None:
    space = (Axis("optimizer.lr", Numeric("log", 1e-4, 1.0)),)
    scores = [0.1, 0.11, 0.12, 0.13, 0.14, 0.15, 1e30, float("nan"), float("inf")]
    records = [
        Record(n, 1, "ok", {"optimizer.lr": 0.01}, score=score, curve=((1.0, score),), folder=f"1-{n:04d}")
        for n, score in enumerate(scores, 1)
    ]
    data = chart_data(search, one_stage(space, records))
    places = [trial["score"] for trial in data["trials"]]
    assert places[:6] == sorted(places[:6])
    assert places[5] - places[0] > 0.9
    assert places[6:] == [1, None, None]
    assert [len(trial["curve"]) for trial in data["trials"]] == [1] * 7 + [0, 0]

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    json.loads(Reader(page(search, "x", "x", one_stage(space, records))).data, parse_constant=refuse)


def test_values_outside_of_the_space_widen_the_axis(search: Search) -> None:
    space = (Axis("optimizer.lr", Numeric("log", 1e-2, 1.0)),)
    records = [Record(n, 1, "ok", {"optimizer.lr": lr}, score=1.0) for n, lr in enumerate((1e-4, 0.1), 1)]
    (axis,) = chart_data(search, one_stage(space, records))["axes"]
    assert [range_["from"] for range_ in axis["ranges"]] == [0.5]


PLAIN = st.one_of(st.booleans(), st.none(), st.integers(-9, 9), st.floats(0.01, 0.9), st.text(max_size=3))
CHOICES = st.lists(PLAIN, min_size=2, max_size=4, unique_by=repr).map(
    lambda values: [value for i, value in enumerate(values) if not any(same(value, known) for known in values[:i])]
)
AXES = st.one_of(
    st.sampled_from(
        [
            Numeric("log", 1e-6, 1e-1),
            Numeric("log", 0.25, 0.26),
            Numeric("logit", 0.5, 0.999),
            Numeric("linear", -3.0, 0.5),
            Numeric("linear", 1, 4, integer=True),
            Numeric("log", 8, 256, integer=True),
        ]
    ),
    CHOICES.filter(lambda values: len(values) > 1).map(lambda values: Choice(tuple(values))),
)
SCORES = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True), st.floats(0.01, 3.0))
STATUSES = st.sampled_from(["ok", "pruned", "diverged", "failed", "oom", "timeout", "interrupted"])


@settings(max_examples=30)
@given(st.lists(st.tuples(AXES, AXES, SCORES, SCORES, STATUSES, st.floats(0, 1)), min_size=1, max_size=6))
def test_any_axes_and_scores_make_a_page_with_every_mark_on_its_scale(
    search: Search, drawn: list[tuple[Any, Any, float | None, float | None, Any, float]]
) -> None:
    # Each stage searches the two axes in another way: a range may become a choice, a choice a range.
    outcome = Outcome()
    for number, (one, two, score, other, status, at) in enumerate(drawn, 1):
        records = {
            n: Record(n, number, status, {"a": one.at(at)}, score=value, curve=() if value is None else ((1.0, value),))
            for n, value in enumerate((score, other), 1)
        }
        searched = Searched((Axis("a", one),), {"b": Fixed(two.at(at))}) if number % 2 else Searched((Axis("a", two),))
        if not number % 2:
            records = {n: replace(record, values={"a": two.at(at)}) for n, record in records.items()}
        outcome.stages.append(StageResult(Stage(number, 2, 1, None), searched, records))
    data = json.loads(Reader(page(search, "x", "x", outcome)).data)
    assert len(data["trials"]) == 2 * len(drawn)
    for trial in data["trials"]:
        places = [*trial["at"], *(place for point in trial["curve"] for place in point)]
        assert all(place is None or 0 <= place <= 1 for place in [trial["score"], *places])
        assert None not in trial["at"]
    for axis in data["axes"]:
        assert axis["ticks"]
        assert all(0 <= range_["from"] <= range_["to"] <= 1 for range_ in axis["ranges"])


@settings(max_examples=20)
@given(AXES, st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.1, 0.2])), min_size=8, max_size=16), st.booleans())
def test_equal_scores_make_a_page_like_others(
    search: Search, spread: Any, trials: list[tuple[float, float]], tied: bool
) -> None:
    records = [
        Record(n, 1, "ok", {"a": spread.at(at)}, score=0.1 if tied else score)
        for n, (at, score) in enumerate(trials, 1)
    ]
    outcome = one_stage((Axis("a", spread),), records)
    assert len(json.loads(Reader(page(search, "x", "x", outcome)).data)["trials"]) == len(trials)


HOSTILE = "</script><img src=x onerror=alert(1)>\u2028'\"&<!--"


def test_nothing_that_a_user_writes_breaks_out_of_the_page(search: Search) -> None:
    space = (Axis(HOSTILE, Choice((HOSTILE, "b"))), Axis("optimizer.lr", Numeric("log", 1e-2, 1.0)))
    records = [
        Record(n, 1, "failed", {HOSTILE: HOSTILE, "optimizer.lr": 0.1}, reason=HOSTILE, folder=HOSTILE)
        for n in range(1, 4)
    ]
    text = page(search, HOSTILE, HOSTILE, one_stage(space, records))
    found = Reader(text)
    assert "img" not in {tag for tag, _ in found.starts}
    assert text.count("</script") == text.count("<script") == 2
    assert not any(name.startswith("on") for _, attributes in found.starts for name in attributes)
    data = json.loads(found.data)
    assert [axis["key"] for axis in data["axes"]] == [HOSTILE, "optimizer.lr"]
    assert data["trials"][0]["reason"] == HOSTILE
    assert HOSTILE in found.shown


def test_page_needs_nothing_else_and_is_the_same_each_time(search: Search, outcome: Outcome, written: str) -> None:
    assert written == page(search, "a sweep", "sweeps/a sweep", outcome)
    for tag, attributes in Reader(written).starts:
        assert tag not in ("img", "iframe", "object", "base")
        assert attributes.get("http-equiv") in (None, "Content-Security-Policy")
        assert "src" not in attributes
        assert re.match(r"trials/|data:,|None$", str(attributes.get("href")))
    assert "@import" not in written
    assert "url(" not in written
    assert set(re.findall(r"https?://[^\s\"']+", written)) == {"http://www.w3.org/2000/svg"}


def test_the_page_tells_in_text_what_the_charts_show(outcome: Outcome, written: str) -> None:
    found = Reader(written)
    rows = [attributes for tag, attributes in found.starts if tag == "tr" and "data-trial" in attributes]
    assert [int(row["data-trial"] or "") for row in rows] == list(range(sum(COUNTS)))
    for result in outcome.stages:
        for verdict in result.verdicts:
            assert verdict.text in found.shown
    for record in outcome.records:
        assert record.folder in found.shown
        assert record.reason in found.shown
    assert "dlrun train config='sweeps/a sweep/best.yaml'" in found.shown
    assert f"dlrun eval checkpoint='sweeps/a sweep/trials/{outcome.best('min')[0].folder}'" in found.shown
    assert "Done: 85 trials" in found.shown
    assert "Running" not in found.shown
    assert "Go on with the trials that are missing" not in found.shown
    assert "dlrun sweep resume='sweeps/a sweep' retry=failed,oom,timeout" in found.shown


def test_a_stopped_sweep_and_a_running_one_say_so(search: Search, outcome: Outcome) -> None:
    half = Outcome([replace(outcome.stages[0], verdicts=())])
    text = Reader(page(search, "s", "sweeps/s", replace(half, stopped="received SIGINT", resumable=True))).shown
    assert "Stopped: received SIGINT. 60 of 85 trials" in text
    assert "dlrun sweep resume=sweeps/s " in text
    assert "sweep.trials=" not in text
    text = Reader(page(search, "s", "sweeps/s", half, running=True)).shown
    assert "Running: 60 of 85 trials are over" in text
    assert "load it again" in text
    assert "best.yaml" not in text
    assert "the stage is not over" in text
    assert "No trial has a score yet" in Reader(page(search, "s", "sweeps/s", Outcome())).shown


@pytest.mark.parametrize("seed", range(4))
def test_the_next_sweep_is_a_command_that_searches_what_the_verdicts_say(seed: int) -> None:
    search = example_search("sweep.trials=60")
    outcome = example_outcome(search, (60,), seed)
    command = next_sweep(search, outcome)
    assert command is not None
    words = shlex.split(command)
    assert words[:2] == ["dlrun", "sweep"]
    again = load_search(None, words[2:])
    lr = next(verdict.next for verdict in outcome.stages[0].verdicts if verdict.axis.key == "optimizer.lr")
    assert isinstance(lr, Axis)
    assert lr in again.space
    assert {axis.key for axis in again.space} < {axis.key for axis in search.space}
    assert again.settings == search.settings


def test_a_conditional_axis_is_left_out_of_the_command_where_its_condition_cannot_hold() -> None:
    words = ["optimizer=choice(sgd, adamw)", "optimizer.momentum=logit(0.5, 0.9) when optimizer=sgd", WORDS[3]]
    search = load_search(None, ["data=synthetic", "model=mlp", *words])
    outcome = example_outcome(search, (60,))
    result = outcome.stages[0]
    changed = {"optimizer": "adamw", "optimizer.momentum": 0.7}
    for choice, texts in (
        ("adamw", ("optimizer=adamw",)),
        (None, ("optimizer.momentum='logit(", "when optimizer=sgd")),
    ):
        if choice is None:
            changed["optimizer"] = Axis("optimizer", Choice(("sgd", "adamw")))  # type: ignore[assignment]
        result.verdicts = tuple(replace(v, next=changed.get(v.axis.key, v.next)) for v in result.verdicts)
        command = next_sweep(search, outcome) or ""
        assert all(text.replace("'", "") in command.replace("'", "") for text in texts)
        assert ("momentum" in command) == (choice is None)
        load_search(None, shlex.split(command)[2:])


def test_a_running_page_is_written_every_few_seconds_at_most(
    tmp_path: Path, search: Search, outcome: Outcome, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    times = [0.0]
    writings: list[float] = []

    def slowly(name: str, text: str) -> None:
        writings.append(times[0])
        times[0] += 0.1 if len(writings) > 1 else 0.0

    folder = RunFolder(tmp_path)
    monkeypatch.setattr(folder, "write_text", slowly)
    live = LivePage(search, folder, outcome, clock=lambda: times[0])
    for _ in range(300):
        times[0] += 0.1
        live.refresh()
    # After four seconds; and once it took 0.1 s, only when that is a hundredth of the time.
    assert writings == pytest.approx([4.0, 8.1, 18.2, 28.3])

    def refuse(name: str, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "write_text", refuse)
    caplog.clear()
    for _ in range(300):
        times[0] += 1
        live.refresh()
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/report.html cannot be written: No space left on device; the sweep goes on"
    ]


def test_what_cannot_be_written_costs_nothing_else(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    search: Search,
    outcome: Outcome,
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(results, "best_config", broken)
    monkeypatch.setattr(results, "write_page", broken)
    (tmp_path / "results.csv").mkdir()
    results.write(search, RunFolder(tmp_path), outcome)
    told = [record.getMessage() for record in caplog.records]
    assert [message.split(": ")[0] for message in told] == [
        f"{tmp_path}/results.csv cannot be written",
        f"{tmp_path}/best.yaml is not written",
        f"{tmp_path}/report.html is not written",
    ]
    assert "ZeroDivisionError: division by zero (test_sweep_page.py:" in told[1]
    assert "\n" not in told[1]
    assert (tmp_path / "tensorboard").is_dir()
    caplog.set_level("INFO", "dlrun")
    results.report(search, RunFolder(tmp_path), outcome)
    assert "best of 85 trials" in caplog.text


def test_a_sweep_leaves_its_page_and_tells_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [word for word in TINY if not word.startswith("callbacks")]
    done = Dlrun(capsys)("sweep", *words, "optimizer.lr=log(1e-4, 1)", "sweep.trials=3", "sweep.jobs=0")
    assert done.code == 0
    (folder,) = (tmp_path / "sweeps").iterdir()
    assert f"page        sweeps/{folder.name}/report.html" in done.text
    data = json.loads(Reader((folder / "report.html").read_text(encoding="utf-8")).data)
    assert [trial["id"] for trial in data["trials"]] == ["1-0001", "1-0002", "1-0003"]
    assert all(trial["curve"] for trial in data["trials"])
    assert sorted(path.name for path in (folder / "tensorboard").iterdir() if path.is_dir()) == [
        "1-0001",
        "1-0002",
        "1-0003",
    ]


def hparams(accumulator: Any, tag: str) -> Any:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    content = accumulator.SummaryMetadata(tag).plugin_data.content
    return HParamsPluginData.FromString(content)


def test_tensorboard_has_an_entry_for_each_trial(tmp_path: Path, search: Search, outcome: Outcome) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    assert (metadata.PLUGIN_NAME, metadata.EXPERIMENT_TAG) == (PLUGIN, EXPERIMENT)
    assert (metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG) == (START, END)
    write_hparams(tmp_path, search, outcome)
    before = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("events*")}
    write_hparams(tmp_path, search, outcome)
    assert before == {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("events*")}
    assert len(before) == 1 + sum(COUNTS)

    experiment = hparams(EventAccumulator(str(tmp_path / ".")).Reload(), EXPERIMENT).experiment
    known = {info.name: info for info in experiment.hparam_infos}
    assert known.keys() == {axis.key for axis in search.space} | {"stage"}
    interval = known["optimizer.lr"].domain_interval
    assert (interval.min_value, interval.max_value) == (1e-5, 10)
    assert [value.string_value for value in known["optimizer"].domain_discrete.values] == ["sgd", "adamw"]
    assert [info.name.tag for info in experiment.metric_infos] == [f"{BEST}val/loss", f"{BEST}val/accuracy"]

    seen = set()
    for record in (outcome.stages[0].records[n] for n in range(1, 25)):
        accumulator = EventAccumulator(str(tmp_path / record.folder)).Reload()
        started = hparams(accumulator, START).session_start_info
        values = {key: value.string_value or value.number_value for key, value in started.hparams.items()}
        assert values == {**record.values, "stage": 1}
        seen.add((record.status, hparams(accumulator, END).session_end_info.status))
        scalars = accumulator.Tags()["scalars"]
        if record.score is not None:
            assert [event.value for event in accumulator.Scalars(f"{BEST}val/loss")] == pytest.approx([record.score])
            curve = [(event.step, event.value) for event in accumulator.Scalars("val/loss")]
            assert curve == [(n, pytest.approx(value)) for n, (_, value) in enumerate(record.curve, 1)]
        else:
            assert not scalars
    assert seen == {("ok", 1), ("pruned", 0), ("diverged", 2), ("failed", 2), ("oom", 2), ("timeout", 2)}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as found:
        yield found


MIDDLE = "(e => {const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]})"


@pytest.fixture
def opened(browser: Browser, tmp_path: Path, written: str) -> Browser:
    browser.complaints.clear()
    browser.requests.clear()
    (tmp_path / "report.html").write_text(written, encoding="utf-8")
    browser.open(tmp_path / "report.html")
    return browser


def test_browser_draws_every_mark_and_asks_for_nothing_else(
    opened: Browser, tmp_path: Path, search: Search, outcome: Outcome
) -> None:
    data = chart_data(search, outcome)
    charts = opened.js("[...document.querySelectorAll('#axes svg')].map(s => s.querySelectorAll('path.mark').length)")
    assert charts == [sum(trial["at"][k] is not None for trial in data["trials"]) for k in range(len(data["axes"]))]
    texts = opened.js("[...document.querySelectorAll('#axes svg')].map(s => s.textContent)")
    for axis, text in zip(data["axes"], texts, strict=True):
        assert all(words in text for _, words in axis["ticks"])
        assert all(status in text for status in ("diverged", "failed", "no memory"))
    assert opened.js("document.querySelectorAll('#parallel polyline').length") == sum(COUNTS)
    curves = sum(bool(trial["curve"]) for trial in data["trials"])
    assert opened.js("document.querySelectorAll('#curves polyline').length") == curves
    assert opened.js("document.querySelectorAll('#pairs svg').length") == 6
    opened.js("document.querySelector('#more-pairs').open = true")
    opened.wait("document.querySelectorAll('#more-pairs svg').length === 9")
    legend = opened.js("document.querySelector('#legend').textContent")
    assert all(word in legend for word in ("pruned", "diverged", "failed", "out of memory", "timed out", "the best"))
    assert opened.complaints == []
    assert opened.requests == [(tmp_path / "report.html").as_uri()]


def test_browser_shows_a_trial_everywhere_when_pointed_at(opened: Browser, search: Search, outcome: Outcome) -> None:
    best = outcome.best("min")[0]
    assert opened.js("document.querySelector('#tip').hidden")
    opened.js("document.querySelectorAll('#axes figure')[1].scrollIntoView({block: 'center'})")
    ring = "document.querySelectorAll('#axes svg')[1].querySelector('.marks circle')"
    opened.mouse("mouseMoved", *opened.js(f"{MIDDLE}({ring})"))
    tip = opened.js("document.querySelector('#tip').textContent")
    assert best.folder in tip
    assert all(key in tip for key in best.values)
    assert f"{best.score:.4g}" in tip
    (trial,) = (trial for trial in chart_data(search, outcome)["trials"] if trial["best"])
    hot = "[...document.querySelectorAll('{} > g.hot')].map(g => g.childElementCount)"
    assert opened.js(hot.format("#axes svg")) == [int(at is not None) for at in trial["at"]]
    assert opened.js(hot.format("#parallel svg")) == opened.js(hot.format("#curves svg")) == [1]
    assert opened.js(hot.format("#pairs svg")).count(1) >= 3
    assert opened.js("document.querySelector('tr.hot a').textContent") == best.folder
    opened.mouse("mouseMoved", 2, 2)
    assert opened.js("document.querySelector('#tip').hidden && !document.querySelector('tr.hot')")
    # A click keeps it, Escape lets it go.
    opened.click(*opened.js(f"{MIDDLE}({ring})"))
    opened.mouse("mouseMoved", 2, 2)
    assert opened.js("document.querySelector('tr.hot a').textContent") == best.folder
    opened.js("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'}))")
    assert not opened.js("document.querySelector('tr.hot')")
    assert opened.complaints == []


def test_browser_follows_the_keyboard_through_the_table(opened: Browser, outcome: Outcome) -> None:
    first, second = (record.folder for record in outcome.records[:2])
    opened.js("document.querySelector('#trials tbody a').focus()")
    assert opened.js("document.querySelector('tr.hot a').textContent") == first
    assert first in opened.js("document.querySelector('#tip').textContent")
    for kind in ("keyDown", "keyUp"):
        opened.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
    assert opened.js("document.querySelector('tr.hot a').textContent") == second
    assert opened.complaints == []


def test_browser_selects_sorts_and_shows_stages(opened: Browser, outcome: Outcome) -> None:
    opened.js("document.querySelector('#parallel').scrollIntoView({block: 'center'})")
    grabs = "document.querySelectorAll('#parallel .grab')"
    x, y, height = opened.js(
        f"(r => [r.x + r.width / 2, r.y, r.height])({grabs}[{grabs}.length - 1].getBoundingClientRect())"
    )
    # From below the low end of the metric to its middle.
    for kind, share in (("mouseMoved", 0.99), ("mousePressed", 0.99), ("mouseMoved", 0.5), ("mouseReleased", 0.5)):
        opened.mouse(kind, x, y + share * height)
    rows = opened.js("[...document.querySelectorAll('#trials tbody tr')].filter(r => !r.hidden).length")
    assert 0 < rows < sum(COUNTS)
    assert opened.js("document.querySelector('#selection').textContent").startswith(f"{rows} of {sum(COUNTS)} trials")
    marks = "document.querySelectorAll('#axes svg')[1].querySelectorAll('.marks > :not(.out)').length"
    assert opened.js(marks) == rows
    opened.js("document.querySelector('#clear').click()")
    assert opened.js(marks) == sum(COUNTS)

    score = "document.querySelectorAll('#trials thead th')[3]"
    cells = "[...document.querySelectorAll('#trials tbody tr')].map(r => r.cells[3].dataset.v)"
    known = sorted(record.score for record in outcome.records if record.score is not None)
    for order, expected in (("ascending", known), ("descending", known[::-1])):
        opened.js(f"{score}.querySelector('button').click()")
        assert opened.js(f"{score}.getAttribute('aria-sort')") == order
        found = opened.js(cells)
        assert [float(value) for value in found if value] == expected
        assert not any(found[len(known) :])

    opened.js("document.querySelector('#stages button[data-stage=\"2\"]').click()")
    assert opened.js("document.querySelectorAll('#parallel polyline').length") == COUNTS[1]
    assert opened.complaints == []


def test_browser_page_fits_a_phone_and_the_dark(browser: Browser, opened: Browser, tmp_path: Path) -> None:
    opened.open(tmp_path / "report.html", 390, 800, dark=True)
    assert opened.js("document.documentElement.scrollWidth") == 390
    red, green, blue = map(int, re.findall(r"\d+", opened.js("getComputedStyle(document.body).backgroundColor")))
    assert max(red, green, blue) < 50
    assert opened.js("document.querySelectorAll('#axes svg').length") == 6
    assert opened.complaints == []


def test_browser_draws_a_sweep_without_scores_and_one_without_trials(
    browser: Browser, tmp_path: Path, search: Search
) -> None:
    space = (Axis(HOSTILE, Choice((HOSTILE, "b"))),)
    failed = one_stage(space, [Record(1, 1, "failed", {HOSTILE: "b"}, reason=HOSTILE, folder="1-0001")])
    browser.complaints.clear()
    for outcome, marks in ((failed, 1), (Outcome(), 0)):
        (tmp_path / "report.html").write_text(page(search, HOSTILE, "x", outcome), encoding="utf-8")
        browser.open(tmp_path / "report.html")
        assert browser.js("document.querySelectorAll('#axes path.mark').length") == marks
        assert browser.js("document.querySelectorAll('img').length") == 0
    assert browser.complaints == []


def test_the_next_sweep_leaves_out_the_ranges_that_stages_were_given() -> None:
    given = "sweep.stages=[{trials: 60, epochs: 3}, {trials: 25, epochs: 6, space: {optimizer.lr: 'log(1e-3, 1e-2)'}}]"
    search = example_search(given)
    command = next_sweep(search, example_outcome(search, COUNTS)) or ""
    assert "sweep.stages=[{epochs: 3, trials: 60}, {epochs: 6, trials: 25}]" in command
    assert "space" not in command


def test_the_next_sweep_in_a_database_has_a_name_of_its_own_and_shows_no_password() -> None:
    search = example_search("sweep.storage=postgresql://ann:s3cret@db/sweeps", "sweep.name=mine")
    outcome = example_outcome(search, COUNTS)
    command = next_sweep(search, outcome) or ""
    assert "sweep.storage=postgresql://ann:***@db/sweeps" in command
    assert shlex.split(command).count("sweep.name=mine-next") == 1
    assert "sweep.name=mine " not in command
    assert "s3cret" not in page(search, "a sweep", "sweeps/a sweep", outcome)


def test_the_next_sweep_begins_where_its_files_are(search: Search, outcome: Outcome, tmp_path: Path) -> None:
    here = replace(search, origin=Origin(None, Path.cwd(), ()))
    assert (next_sweep(here, outcome) or "").startswith("dlrun sweep ")
    there = replace(search, origin=Origin(None, tmp_path / "a b", ()))
    assert (next_sweep(there, outcome) or "").startswith(f"cd '{tmp_path}/a b' && dlrun sweep ")


def test_the_table_has_what_was_fixed_for_later_stages(search: Search, outcome: Outcome) -> None:
    fixed = outcome.stages[1].searched.settings
    assert fixed
    found = list(csv.DictReader(io.StringIO(table(search, outcome))))
    for row in found:
        if row["stage"] == "2":
            assert {key: row[key] for key in fixed} == {key: plain(value) for key, value in fixed.items()}
