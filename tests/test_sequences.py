"""Labelled sequences: the data sets, batches, both tasks, resuming, the commands."""

from __future__ import annotations

import json
import signal
import tokenize
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Dlrun
from hypothesis import given, settings
from hypothesis import strategies as st
from running import ForkServer, config, equal, fork_server, make_fit, run_folder
from torch import Tensor, nn
from torch.nn import functional as F

from dlrun import checkpoint
from dlrun.data.length_batches import LengthBatches
from dlrun.data.sequence_batches import EncodedSequences
from dlrun.data.sequence_feed import SequenceFeed
from dlrun.data.sequences import SequenceData
from dlrun.data.tagged_text import highlighted
from dlrun.errors import CheckpointError, DataError, UserError
from dlrun.losses import IGNORED, cross_entropy
from dlrun.registry import DATASETS, MODELS, TASKS
from dlrun.scores import is_bio, macro_f1, span_f1, spans
from dlrun.train.callbacks.gradient_flow import FILE
from dlrun.train.evaluate import evaluate, predict
from dlrun.train.step import TrainStep

CPU = torch.device("cpu")
COMMON = (
    "data.batch_size=8",
    "data.eval_batch_size=5",
    "model=rnn",
    "model.layers=1",
    "model.hidden_size=8",
    "optimizer=adam",
    "optimizer.lr=0.02",
    "schedule=constant",
    "schedule.warmup=0ep",
    "augment=none",
)
MEMORY = (*COMMON, "task=sequence_classification", "data=long_memory", "data.samples=80", "data.length=4")
TAGGED = (*COMMON, "task=sequence_labeling", "data=tagged_text", "data.path=tags.tsv")
BEST = "callbacks.checkpoint={monitor: val/loss, mode: min}"


def build(name: str, *, split_seed: int = 0, val_fraction: float = 0.1, **params: Any) -> SequenceData:
    values, problems = DATASETS.check(name, params)
    assert not problems
    found: SequenceData = DATASETS.build(name, values, split_seed=split_seed, val_fraction=val_fraction)
    return found


def write_tags(path: Path, *, sentences: int = 60) -> None:
    """Tokens whose tag depends on the one before."""
    text = []
    for number in range(sentences):
        length = 2 + number % 5
        words = [("the", "O"), (f"name{number % 7}", "B-PER"), ("of", "I-PER"), ("x", "O"), ("42", "O"), ("y", "O")]
        text += [f"{word}\t{tag}\n" for word, tag in words[:length]]
        text.append(f"n{number}\tO\n\n")
    path.write_text("".join(text), encoding="utf-8")


# Data sets


def test_a_long_memory_asks_for_the_letter() -> None:
    data = build("long_memory", length=9, symbols=3, samples=200)
    every = [*data.train, *data.val, *data.test]
    assert (len(data.train), len(data.val), len(data.test)) == (162, 18, 20)
    assert {one.labels[0] for one in every} == {"a", "b", "c"}
    assert all(one.tokens[0] == one.labels[0] and str(one.tokens[1:]).isdecimal() for one in every)
    assert {len(one.tokens) for one in every} == {10}
    assert len({one.tokens for one in every}) == 200
    assert build("long_memory", length=9, symbols=3, samples=200) == data
    assert build("long_memory", length=9, symbols=3, samples=200, split_seed=1).train != data.train


def test_equal_texts_are_in_one_split(tmp_path: Path) -> None:
    path = tmp_path / "texts.tsv"
    path.write_text("".join(f"{'good' if i % 2 else 'bad'}\ttext {i % 20}\r\n" for i in range(100)), encoding="utf-8")
    data = build("labelled_text", path=path, val_fraction=0.25, test_fraction=0.2)
    parts = [{one.tokens for one in part} for part in (data.train, data.val, data.test)]
    assert list(map(len, parts)) == [12, 4, 4]
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
    assert {one.labels for one in data.train} <= {("good",), ("bad",)}
    words = build("labelled_text", path=path, level="word", max_length=1)
    assert words.cut == 100
    assert words.train[0].tokens == ("text",)


def test_folders_of_texts_and_of_files(tmp_path: Path) -> None:
    lines, files = tmp_path / "lines", tmp_path / "files"
    lines.mkdir()
    (lines / "fr.txt").write_text("bonjour\n\noui\n", encoding="utf-8")
    (lines / "de.txt").write_text("ja\n", encoding="utf-8")
    for name, text in (("pos/1.txt", "good\nfilm"), ("neg/2.txt", "bad")):
        (files / name).parent.mkdir(parents=True)
        (files / name).write_text(text, encoding="utf-8")
    none = {"val_fraction": 0.0, "test_fraction": 0.0}
    assert build("labelled_text", path=lines, **none).train == (
        ("ja", ("de",)),
        ("bonjour", ("fr",)),
        ("oui", ("fr",)),
    )
    assert build("labelled_text", path=files, **none).train == (("bad", ("neg",)), ("good\nfilm", ("pos",)))
    (files / "readme.txt").write_text("both", encoding="utf-8")
    with pytest.raises(DataError, match=r"both folders and files \(neg, readme.txt\)"):
        build("labelled_text", path=files)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("labelled_text", b"a\tone\ntwo\n", r":2: must be label<TAB>text, both not empty, but has no tab"),
        ("labelled_text", b"a\tone\n\ttwo\n", ":2: .* has no label"),
        ("labelled_text", b"a\t\n", ":1: .* has no text"),
        ("labelled_text", b"a\tone\nb\tt\xfcr\n", ":2: is not UTF-8 text: byte 0xfc at column 4"),
        ("labelled_text", b"", "there is no text in"),
        ("tagged_text", b"a\tO\nb\n", ":2: must be token<TAB>tag"),
        ("tagged_text", b"a\t\n", ":1: must be token<TAB>tag"),
        ("tagged_text", b"\n\n", "there is no sequence in"),
    ],
)
def test_wrong_files_are_told_with_their_line(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(content)
    with pytest.raises(DataError, match=message):
        build(name, path=tmp_path / "data")
    with pytest.raises(DataError, match="cannot read"):
        build(name, path=tmp_path / "absent")


@pytest.mark.parametrize(
    ("name", "content"), [("labelled_text", "good\tone\nbad\ttwo\n"), ("tagged_text", "one\tgood\n\ntwo\tbad\n")]
)
def test_a_byte_order_mark_is_neither_label_nor_token(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / "some.tsv"
    path.write_text(content, encoding="utf-8-sig")
    found = build(name, path=str(path), test_fraction=0.0, val_fraction=0.0).train
    assert {one.labels[0] for one in found} == {"good", "bad"}
    assert {"".join(one.tokens) for one in found} == {"one", "two"}
    path.write_bytes(b"\xef\xbb\xbfgood\xff\t")
    with pytest.raises(DataError, match=r"some.tsv:1: is not UTF-8 text: byte 0xff at column 8"):
        build(name, path=str(path))


def test_columns_are_read_as_conll_writes_them(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("EU NNP B-ORG\nrejects VBZ O\n\n\n  \nNew York\tx\tB-LOC\n", encoding="utf-8")
    data = build("tagged_text", path=tmp_path / "a.txt", val_fraction=0.0, test_fraction=0.0)
    assert data.train == ((("EU", "rejects"), ("B-ORG", "O")), (("New York",), ("B-LOC",)))


def test_sources_are_tagged_as_python_reads_them() -> None:
    source = 'class A:\n    # note\n    def f(self, x=1.5):\n        return ("a"\n            + x)  # é\n'
    found = list(highlighted(source))
    letters = [("".join(one.tokens), "".join(label[0] for label in one.labels)) for one in found]
    assert letters == [
        ("class A:", "kkkkksno"),
        ("# note", "cccccc"),
        ("def f(self, x=1.5):", "kkksnonnnnosnonnnoo"),
        ('return ("a"             + x)  # é', "kkkkkksosss" + "s" * 13 + "osnossccc"),
    ]
    assert all(len(one.tokens) == len(one.labels) for one in found)


def test_the_default_sets_are_on_every_machine() -> None:
    data = build("tagged_text")
    tags = {label for one in data.train for label in one.labels}
    assert tags == {"name", "keyword", "number", "string", "comment", "operator", "space"}
    assert len(data.train) > 5000
    for one in data.train[::500]:
        text = str(one.tokens)
        names = {part.string for part in _tokens(text) if part.type == tokenize.NAME}
        kinds = {kind for kind, letter in zip(one.labels, text, strict=True) if letter == " "}
        assert kinds <= {"space", "string", "comment"}
        assert bool(names) == bool({"name", "keyword"} & set(one.labels))


def _tokens(text: str) -> list[tokenize.TokenInfo]:
    # A header such as ``if x:`` alone has no block behind it, and Python's tokenizer does not mind.
    return list(tokenize.generate_tokens(StringIO(text).readline))


# Batches and tasks


def encoded(lengths: list[int], *, per_token: bool, seed: int = 0) -> EncodedSequences:
    generator = torch.Generator().manual_seed(seed)
    tokens = [torch.randint(6, (length,), generator=generator) for length in lengths]
    labels = [torch.randint(3, (length if per_token else 1,), generator=generator) for length in lengths]
    return EncodedSequences(tokens, labels, per_token, CPU)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=40),
    size=st.integers(1, 9),
    epoch=st.integers(0, 3),
    per_token=st.booleans(),
)
def test_each_sequence_is_in_one_batch_and_nothing_but_padding_is_added(
    lengths: list[int], size: int, epoch: int, per_token: bool
) -> None:
    table = encoded(lengths, per_token=per_token)
    batches = list(LengthBatches(table, size, seed=5).epoch(epoch))
    rows = []
    for batch in batches:
        assert batch.tokens.shape[1] == max(batch.lengths.tolist())
        for tokens, length, targets, count in zip(
            batch.tokens, batch.lengths.tolist(), batch.targets, batch.counts, strict=True
        ):
            kept = targets[:count] if per_token else targets[None]
            assert not per_token or bool((targets[count:] == IGNORED).all())
            rows.append((tokens[:length].tolist(), kept.tolist()))
    every = table.batch(np.arange(len(lengths)), 0.0)
    wanted = [
        (tokens[:n].tolist(), (targets[:n] if per_token else targets[None]).tolist())
        for tokens, n, targets in zip(every.tokens, lengths, every.targets, strict=True)
    ]
    assert sorted(rows) == sorted(wanted)
    again = list(LengthBatches(table, size, seed=5).epoch(epoch, start=len(batches) // 2))
    assert all(equal(a, b) for a, b in zip(again, batches[len(batches) // 2 :], strict=True))


def net(per_token: bool, **params: Any) -> nn.Module:
    torch.manual_seed(0)
    values, problems = MODELS.check("rnn", {"hidden_size": 5, "layers": 2, **params})
    assert not problems
    counts = {"tag_count": 3} if per_token else {"class_count": 3}
    made: nn.Module = MODELS.build("rnn", values, token_count=6, **counts)
    return made


def task(per_token: bool) -> Any:
    name = "sequence_labeling" if per_token else "sequence_classification"
    return TASKS.build(name, {}, loss=cross_entropy(), **({"tag_count": 3} if per_token else {"class_count": 3}))


@pytest.mark.parametrize("cell", ["lstm", "gru", "mut1"])
@pytest.mark.parametrize("per_token", [True, False])
@pytest.mark.parametrize(("pooling", "bidirectional"), [("last", False), ("last", True), ("mean", True)])
def test_padding_changes_nothing(cell: str, per_token: bool, pooling: str, bidirectional: bool) -> None:
    if per_token and pooling == "mean":
        return
    model = net(per_token, cell=cell, pooling=pooling, bidirectional=bidirectional).double().eval()
    lengths = [4, 1, 7, 2]
    batch = encoded(lengths, per_token=per_token).batch(np.arange(4), 0.0)
    together = model(batch.tokens, batch.lengths)
    losses = []
    for row, length in enumerate(lengths):
        alone = model(batch.tokens[row : row + 1, :length])[0]
        torch.testing.assert_close(together[row, :length] if per_token else together[row], alone)
        target = batch.targets[row, :length] if per_token else batch.targets[row]
        losses.append(F.cross_entropy(alone, target, reduction="none").flatten())
    output = task(per_token).forward(model, batch)
    torch.testing.assert_close(output.loss, torch.cat(losses).mean())
    assert task(per_token).size(batch) == len(torch.cat(losses)) == (14 if per_token else 4)


def test_the_class_is_read_from_the_last_outputs_or_their_mean() -> None:
    tokens, lengths = torch.tensor([[1, 2, 3, 0], [4, 5, 1, 2]]), torch.tensor([3, 4])
    for pooling in ("last", "mean"):
        model: Any = net(False, pooling=pooling, bidirectional=True).eval()
        for row, length in enumerate(lengths.tolist()):
            outputs = model.features(model.embedding(tokens[row : row + 1, :length]))[0][0]
            last = torch.cat([outputs[-1, :5], outputs[0, 5:]])
            pooled = last if pooling == "last" else outputs.mean(0)
            torch.testing.assert_close(model(tokens, lengths)[row], model.head(pooled))


@pytest.mark.parametrize("per_token", [True, False])
def test_micro_batches_give_the_gradient_of_the_batch(per_token: bool) -> None:
    results = []
    for accumulate in (1, 3):
        model = net(per_token)
        parameters = list(model.parameters())
        chosen = config(f"trainer.accumulate={accumulate}").trainer
        step = TrainStep(model, parameters, task(per_token), torch.optim.SGD(parameters, lr=0.1), None, chosen, CPU)
        batch = encoded([3, 9, 1, 2, 6, 4, 4], per_token=per_token).batch(np.arange(7), 0.0)
        output, _ = step(batch, want_norm=True)
        results.append((output.loss, [parameter.detach() for parameter in parameters]))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("per_token", [True, False])
def test_an_evaluation_counts_every_label_once(per_token: bool) -> None:
    model, table = net(per_token).eval(), encoded([5, 1, 3, 8, 2, 2, 7], per_token=per_token)
    hits: list[bool] = []
    for row in range(7):
        batch = table.batch(np.array([row]), 0.0)
        hits += (model(batch.tokens).argmax(-1) == batch.targets).flatten().tolist()
    for size in (1, 3, 7):
        scores = evaluate(model, LengthBatches(table, size), task(per_token), "fp32", CPU)
        assert scores is not None
        assert scores["accuracy"] == pytest.approx(sum(hits) / len(hits))


def test_spans_are_counted_whole() -> None:
    true = ["B-A", "I-A", "O", "B-B", "B-B", "I-A", "O"]
    assert spans(true) == {(0, 2, "A"), (3, 4, "B"), (4, 5, "B"), (5, 6, "A")}
    assert span_f1(true, true) == 1
    # Two of the three that are found are among the four that are there.
    assert span_f1(["B-A", "O", "O", "B-B", "B-B", "O", "O"], true) == pytest.approx(2 * 2 / 7)
    assert np.isnan(span_f1(["O"], ["O"]))
    assert is_bio(["B-A", "I-A", "O"])
    assert not is_bio(["name", "O"])
    assert not is_bio(["O"])
    assert macro_f1([{"f1": 1.0}, {"f1": None}, {"f1": 0.5}]) == 0.75


# The feed


def feed_of(tmp_path: Path, text: str, *words: str, stored: Any = None) -> SequenceFeed:
    (tmp_path / "t.tsv").write_text(text, encoding="utf-8")
    chosen = config(
        *COMMON, "task=sequence_classification", "data=labelled_text", f"data.path={tmp_path}/t.tsv", *words
    )
    values = dict(chosen.data.params)
    data = DATASETS.build("labelled_text", values, split_seed=0, val_fraction=chosen.data.val_fraction)
    return SequenceFeed(data, chosen, (), CPU, stored)


def test_the_vocabulary_is_that_of_the_training_part_and_unknown_characters_are_counted(tmp_path: Path) -> None:
    feed = feed_of(tmp_path, "x\tabc\ny\tbcd\n" * 3 + "x\tcab\ny\tdd\n", "data.test_fraction=0", "data.val_fraction=0")
    assert feed.tokens.symbols == ("<unk>", "a", "b", "c", "d")
    assert feed.outputs == ("x", "y")
    assert dict(feed.arguments) == {"token_count": 5, "class_count": 2}
    other = feed_of(tmp_path, "y\taüdé\n", "data.test_fraction=1", stored=feed.state_dict())
    assert other.facts("test") == {"sequences": 1, "read": 4, "unknown": 2}
    assert other.table("test").batch(np.array([0]), 0.0).tokens.tolist() == [[1, 0, 4, 0]]
    with pytest.raises(CheckpointError, match="have the labels z, which it was not trained on; it knows x, y"):
        feed_of(tmp_path, "z\ta\n", "data.test_fraction=1", stored=feed.state_dict())
    with pytest.raises(CheckpointError, match="training sequences are not those"):
        feed_of(tmp_path, "x\ta\ny\tb\n", "data.test_fraction=0").check_unchanged(feed.state_dict())
    with pytest.raises(DataError, match="all sequences have the label 'x'"):
        feed_of(tmp_path, "x\ta\nx\tb\n")
    with pytest.raises(DataError, match="no sequence is left to train on"):
        feed_of(tmp_path, "x\ta\ny\tb\n", "data.test_fraction=1")


# Runs


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with fork_server() as running:
        yield running


SEQ2SEQ = (
    *(word for word in COMMON if word not in ("model=rnn", "model.layers=1")),
    "model=seq2seq",
    "task=seq2seq",
    "task.teacher_forcing=0.7",
    "data=pairs",
    "data.kind=reverse",
    "data.samples=80",
)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(MEMORY, marks=pytest.mark.slow, id="classification"),
        pytest.param(TAGGED, marks=pytest.mark.slow, id="labeling"),
        pytest.param(SEQ2SEQ, marks=pytest.mark.slow, id="seq2seq"),
    ],
)
def test_a_killed_run_ends_like_one_that_was_left_alone(
    words: tuple[str, ...], server: ForkServer, tmp_path: Path
) -> None:
    line = ("train", *words, "model.dropout=0.2", "device=cpu", "trainer.threads=1", "trainer.epochs=3")
    line += ("callbacks.tensorboard=null", "callbacks.gradient_flow={every: 3st}", "trainer.log_every=3")
    line += ("callbacks.checkpoint={monitor: val/loss, mode: min, every: 5st}",)
    for place in ("whole", "killed"):
        (tmp_path / place).mkdir()
        write_tags(tmp_path / place / "tags.tsv")
    assert server.run(tmp_path / "whole", *line) == 0, (tmp_path / "whole/output.txt").read_text()
    assert server.run(tmp_path / "killed", *line, step=8) == -signal.SIGKILL
    run, other = run_folder(tmp_path / "killed"), run_folder(tmp_path / "whole")
    saved = checkpoint.load(run / "checkpoints/last.pt")
    assert saved["state"]["batch"] > 0
    assert server.run(tmp_path / "killed", "train", f"resume={run}", step=6) == -signal.SIGKILL
    assert server.run(tmp_path / "killed", "train", f"resume={run}") == 0
    for name in ("metrics.jsonl", FILE):
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
    for name in ("best.pt", "last.pt"):
        one, two = (checkpoint.load(folder / "checkpoints" / name) for folder in (run, other))
        assert equal(one["model"], two["model"])
        assert equal(one["optimizer"], two["optimizer"])


@pytest.fixture
def dlrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Dlrun:
    monkeypatch.chdir(tmp_path)
    write_tags(tmp_path / "tags.tsv")
    return Dlrun(capsys)


@pytest.mark.slow
def test_tags_from_training_to_export(dlrun: Dlrun) -> None:
    words = (*TAGGED, "model.bidirectional=true", "device=cpu", "trainer.threads=1", "trainer.epochs=6", BEST)
    done = dlrun("train", *words)
    assert done.code == 0, done.text
    assert "tags.tsv, 49 / 5 / 6 sequences" in done.text
    assert "3 tags" in done.text
    run = run_folder(Path())
    assert json.loads((run / "results.json").read_text())["test"]["accuracy"] > 0.9
    done = dlrun("eval", f"checkpoint={run}")
    assert done.code == 0, done.text
    report = json.loads((run / "eval_test_best.json").read_text())
    assert report["sequences"] == 6
    assert report["tokens"] == sum(row["support"] for row in report["per_class"])
    assert [row["class"] for row in report["per_class"]] == ["B-PER", "I-PER", "O"]
    for name in ("accuracy", "macro_f1", "span_f1"):
        assert f"{name}" in done.out
        assert 0.7 < report[name] <= 1
    assert "tokens in 6 sequences, " in done.out
    assert "unknown to the training text" in done.out

    done = dlrun("export", f"checkpoint={run}", "format=onnx")
    assert done.code == 2
    assert "give their number of tokens with steps=N" in done.text
    done = dlrun("export", f"checkpoint={run}", "format=onnx", "steps=5")
    assert done.code == 0, done.text
    assert "batchx5x3" in done.text
    assert dlrun("eval", f"checkpoint={run}", "data=long_memory").code == 2


@pytest.mark.slow
def test_classes_from_training_to_export(dlrun: Dlrun) -> None:
    words = (*MEMORY, "device=cpu", "trainer.threads=1", "trainer.epochs=2", "callbacks.gradient_flow=true")
    done = dlrun("train", *words)
    assert done.code == 0, done.text
    run = run_folder(Path())
    rows = [json.loads(line) for line in (run / FILE).read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 9, 18]
    assert set(rows[0]["norms"]) == {"features.0.h", "features.0.c"}
    assert {len(values) for values in rows[0]["norms"].values()} == {5}
    assert (run / "gradient_flow.png").read_bytes().startswith(b"\x89PNG")
    assert "a letter and 4 digits, 65 / 7 / 8 sequences" in done.text
    done = dlrun("eval", f"checkpoint={run}")
    assert done.code == 0, done.text
    report = json.loads((run / "eval_test_best.json").read_text())
    assert [row["class"] for row in report["per_class"]] == ["a", "b", "c", "d"]
    assert "8 samples of 40 tokens" in done.out
    assert (run / "eval_test_best.png").is_file()
    done = dlrun("export", f"checkpoint={run}", "format=onnx", "steps=5", "--json")
    assert done.code == 0, done.text
    assert json.loads(done.out)["outputs"][0]["shape"] == ["batch", 4]


def test_an_evaluation_reads_what_it_was_trained_to_read(dlrun: Dlrun) -> None:
    Path("texts.tsv").write_text("".join(f"{'ab'[i % 2]}\tthe text number {i}\n" for i in range(60)))
    words = (*COMMON, "task=sequence_classification", "data=labelled_text", "data.path=texts.tsv", "data.max_length=20")
    done = dlrun("train", *words, "device=cpu", "trainer.threads=1", "trainer.epochs=1", BEST)
    assert done.code == 0, done.text
    evaluate = ("eval", f"checkpoint={run_folder(Path())}")
    done = dlrun(*evaluate, "data.level=word")
    assert done.code == 2
    assert "was trained on characters, and these data are cut into words" in done.err
    # Cut shorter, the texts are other ones, and others are held out.
    done = dlrun(*evaluate, "data.max_length=17")
    assert done.code == 0, done.text
    assert "split=test is not what was held out at the training, as data.max_length was changed" in done.err
    assert dlrun(*evaluate, "data.max_length=50").err == ""


@pytest.mark.parametrize("recipe", ["which_module", "syntax", "date_format"])
def test_an_empty_file_is_told_by_the_summary_too(dlrun: Dlrun, recipe: str) -> None:
    Path("empty.tsv").touch()
    done = dlrun("summary", f"config={recipe}", "data.path=empty.tsv")
    assert done.code == 2
    assert "empty.tsv" in done.err


def test_the_summary_counts_them(dlrun: Dlrun) -> None:
    done = dlrun("summary", *MEMORY)
    assert done.code == 0, done.text
    assert "input 5 tokens, 4 classes, 8 sequences at once" in done.out
    assert "7 tags, 8 sequences" in dlrun("summary", *TAGGED, "classes=7").out
    assert json.loads(dlrun("summary", *TAGGED, "--json").out)["classes"] == 3


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("task=classification", "task 'classification' needs num_classes"),
        ("task=sequence_labeling", "task 'sequence_labeling' needs tag_count"),
        (
            "model=mlp",
            "model 'mlp' needs input_shape and num_classes, which data 'long_memory' (sequences) do not have",
        ),
        ("model.tied=true", "tied is for text"),
        ("model.read=pixels", "read=pixels is for images"),
        ("data.batch_size=1000", "larger than the training split (65 sequences); set it to 65 or less"),
        ("data.normalize=channel", "data.normalize=channel is for images"),
        ("model.cache_features=true", "set model.freeze=all_but_head"),
    ],
)
def test_what_does_not_fit_is_refused(dlrun: Dlrun, word: str, message: str) -> None:
    words = [known for known in MEMORY if not (word == "model=mlp" and known.startswith("model"))]
    done = dlrun("train", *words, word, "device=cpu")
    assert done.code == 2
    assert message in done.text.replace("\n", " ")
    assert not Path("runs").exists()


def test_a_mean_over_outputs_is_refused_where_each_has_its_scores(dlrun: Dlrun) -> None:
    done = dlrun("train", *TAGGED, "model.pooling=mean", "device=cpu")
    assert done.code == 2
    assert "pooling=mean is for one class per sequence" in done.text


def test_features_of_sequences_are_not_kept(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is for images with a class each"):
        make_fit(tmp_path, *MEMORY, "model.freeze=all_but_head", "model.cache_features=true")


def test_what_is_predicted_is_in_the_order_of_the_split(tmp_path: Path) -> None:
    fit = make_fit(tmp_path, *MEMORY, callbacks={})
    loader = fit.feed.eval_loader("test")
    assert loader is not None
    outputs, targets = predict(fit.model, loader, fit.task, "fp32", CPU)
    assert isinstance(fit.feed, SequenceFeed)
    wanted = [fit.feed.outputs.index(one.labels[0]) for one in fit.feed.sequences("test")]
    assert targets.tolist() == wanted
    alone: Tensor = fit.model(fit.feed.table("test").batch(np.array([3]), 0.0).tokens)
    torch.testing.assert_close(outputs[3:4], alone.detach())
