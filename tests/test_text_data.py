"""Text: files, vocabulary, splits, streams; and what is said when they do not fit."""

from __future__ import annotations
import __future__

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Dlrun
from hypothesis import given
from hypothesis import strategies as st
from running import config

from dlrun.assembly import build_data, build_feed
from dlrun.data.streams import TokenStreams
from dlrun.data.text import LIBRARY_BYTES, TextData, text
from dlrun.data.text_feed import TextFeed
from dlrun.data.vocabulary import UNKNOWN, Level, Vocabulary
from dlrun.errors import CheckpointError, DataError, UserError
from dlrun.losses import IGNORED

CPU = torch.device("cpu")
TEXT = ("data=text", "model=rnn", "task=language_modeling", "augment=none")


@pytest.fixture
def dlrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Dlrun:
    monkeypatch.chdir(tmp_path)
    return Dlrun(capsys)


def feed_of(path: Path, *words: str, stored: Any = None) -> TextFeed:
    feed = build_feed(config(*TEXT, f"data.path={path}", *words), CPU, stored)
    assert isinstance(feed, TextFeed)
    return feed


# Files


def test_files_globs_and_lists_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name, content in {"b.txt": "two ", "a.txt": "one ", "deep/c.txt": "three ", "d.md": "four "}.items():
        (tmp_path / name).write_text(content)

    def read(path: Path | tuple[Path, ...]) -> Any:
        return text(0.0, path=path, test_fraction=0.0).train

    assert read(tmp_path / "b.txt") == "two "
    assert read(tmp_path / "*.txt") == "one two "
    assert read(tmp_path / "**/*.txt") == "one two three "
    assert read((tmp_path / "d.md", tmp_path / "*.txt")) == "four one two "
    # Of a file that is read twice, one copy would be trained on and the other one tested.
    (tmp_path / "link.txt").symlink_to(tmp_path / "a.txt")
    assert read((tmp_path / "b.txt", tmp_path / "*.txt", tmp_path / "deep" / ".." / "a.txt")) == "two one "


def test_the_default_corpus_is_the_standard_library() -> None:
    data = text(0.1)
    whole = "".join(str(part) for part in (data.train, data.val, data.test))
    assert LIBRARY_BYTES * 0.9 < len(whole.encode()) <= LIBRARY_BYTES
    assert whole.startswith(Path(__future__.__file__).read_text())
    assert data.source.startswith(f"standard library of Python {sys.version.split()[0]}, ")
    assert text(0.1) == data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xef\xbb\xbfabc\xff", "byte 0xff at offset 6 (invalid start byte)"),
        (b"abc\xff", "is not UTF-8 text: byte 0xff at offset 3 (invalid start byte)"),
        ("é".encode() + b"\xe2\x82", "byte 0xe2 at offset 2 (unexpected end of data)"),
        (b"", "there is no text in it.txt: empty"),
    ],
)
def test_text_that_cannot_be_read_is_told_with_its_place(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "it.txt").write_bytes(content)
    with pytest.raises(DataError) as caught:
        text(0.0, path=tmp_path / "it.txt")
    assert message in str(caught.value)


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_bytes(mark + name.encode() + mark)
    # One at the beginning of each file; what else looks like it is a character.
    assert text(0.0, path=tmp_path / "*.txt", test_fraction=0.0).train == "a.txt\ufeffb.txt\ufeff"
    assert text(0.0, path=tmp_path / "a.txt", level="byte", test_fraction=0.0).train == mark + b"a.txt" + mark


def test_bytes_need_no_encoding(tmp_path: Path) -> None:
    content = bytes(range(256)) * 2
    (tmp_path / "it.bin").write_bytes(content)
    feed = feed_of(tmp_path / "it.bin", "data.level=byte", "data.test_fraction=0", "data.val_fraction=0")
    assert len(feed.vocabulary) == 256
    assert feed.vocabulary.encode(content).tolist() == list(content)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("data.path=nowhere.txt",), "no file is"),
        (("data.path='*.nothing'",), "no file matches"),
        (("data.path=.",), "is a folder; give files, or a glob"),
        (("data.path=[]",), "the list is empty"),
        (
            ("data.path=it.txt", "data.batch_size=1000"),
            "data.batch_size=1000: the training split has 81 tokens, and 1001 are needed; lower it, or give more text",
        ),
        (
            ("data.path=it.txt", "data.sequence_length=100", "data.drop_last=true"),
            "the training split has 81 tokens, and 401 are needed; lower them, set data.drop_last=false, or give more",
        ),
        (("data.path=it.txt", "data.min_count=100"), "data.min_count=100: no character of the training text occurs so"),
        (("data.path=one.txt",), "the train split has 1 token, which leaves nothing to predict; give more text"),
        (("data.path=it.txt", "data.test_fraction=1"), "no text is left to train on"),
        (
            ("data.path=it.txt", "data.test_fraction=0.01"),
            "the test split has 1 token, which leaves nothing to predict; give more text, or another data",
        ),
        (("data.path=it.txt", "data.normalize=channel"), "data.normalize=channel is for images"),
        (("data.path=it.txt", "data.resident=false"), "data.resident=false is for images"),
        (("data.path=it.txt", "augment=crop_flip"), "random_crop, horizontal_flip is for images"),
        (
            ("data.path=it.txt", "model=mlp"),
            "model 'mlp' needs input_shape and num_classes, which data 'text' (text) do",
        ),
        (("data.path=it.txt", "task=classification"), "tasks for text: language_modeling"),
        (("data.path=it.txt", "model.bidirectional=true"), "would see the token it has to predict"),
        (("data.path=it.txt", "model.tied=true", "model.embedding_size=3"), "tied=true needs embedding_size = hidden"),
        (("data.path=it.txt", "model.read=pixels"), "read=pixels is for images"),
    ],
)
def test_what_does_not_fit_is_one_error(dlrun: Dlrun, words: tuple[str, ...], message: str) -> None:
    Path("it.txt").write_text("0123456789" * 10)
    Path("one.txt").write_text("0")
    done = dlrun("train", *TEXT, "data.batch_size=4", "device=cpu", *words)
    assert done.code == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert not Path("runs").exists()


def test_a_task_of_text_refuses_images(dlrun: Dlrun) -> None:
    done = dlrun("train", "task=language_modeling")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "which data 'digits' (images) do not have; tasks for images: classification" in done.err


# Vocabulary


@given(st.text(min_size=1), st.sampled_from(["character", "byte", "word"]))
def test_a_text_survives_its_numbers(content: str, level: Level) -> None:
    given = content.encode() if level == "byte" else content
    vocabulary = Vocabulary.fit(given, level)
    tokens = vocabulary.encode(given)
    assert vocabulary.decode(tokens.tolist()) == content
    assert vocabulary.unknown(tokens) == 0
    assert Vocabulary.from_state(vocabulary.state_dict()).encode(given).equal(tokens)
    assert int(tokens.max()) < len(vocabulary)


def test_symbols_are_numbered_after_the_unknown_one() -> None:
    assert Vocabulary.fit("cabbage", "character").symbols == ("<unk>", "a", "b", "c", "e", "g")
    words = Vocabulary.fit("to be, or not to be", "word")
    assert words.symbols == ("<unk>", " be", " not", " or", " to", ",", "to")
    assert words.encode("to be or bee").tolist() == [6, 1, 3, UNKNOWN]


def test_rare_symbols_are_unknown() -> None:
    vocabulary = Vocabulary.fit("aaabbc", "character", min_count=2)
    tokens = vocabulary.encode("abcd")
    assert tokens.tolist() == [1, 2, UNKNOWN, UNKNOWN]
    assert vocabulary.unknown(tokens) == 2
    assert vocabulary.decode(tokens.tolist()) == "ab<unk><unk>"


@pytest.mark.parametrize(("size", "dtype"), [(255, torch.uint8), (256, torch.int16), (1 << 15, torch.int32)])
def test_tokens_take_the_smallest_integers(size: int, dtype: torch.dtype) -> None:
    content = "".join(map(chr, range(32, 32 + size)))
    assert Vocabulary.fit(content, "character").encode(content).dtype == dtype


def test_the_vocabulary_comes_from_the_training_part_alone(tmp_path: Path) -> None:
    (tmp_path / "it.txt").write_text("ab" * 40 + "c" * 10 + "d" * 10)
    feed = feed_of(tmp_path / "it.txt", "data.test_fraction=0.1", "data.val_fraction=0.1111", "data.batch_size=2")
    assert (feed.data.train, feed.data.val, feed.data.test) == ("ab" * 40, "c" * 10, "d" * 10)
    assert feed.vocabulary.symbols == ("<unk>", "a", "b")
    assert feed.sizes() == {"train": 80, "val": 10, "test": 10}
    assert feed.describe() == "it.txt, 3 characters, 10 unknown in val, 10 unknown in test"
    # In an evaluation it is that of the checkpoint, whatever the text.
    stored = feed.state_dict()
    (tmp_path / "other.txt").write_text("bcb")
    other = feed_of(tmp_path / "other.txt", "data.test_fraction=1", stored=stored)
    assert (other.sizes(), other.facts("test")) == ({"test": 3}, {"unknown": 1})
    assert other.arguments == feed.arguments
    with pytest.raises(CheckpointError, match=r"level character, so data\.level=word"):
        feed_of(tmp_path / "other.txt", "data.level=word", stored=stored)


def test_a_changed_text_is_noticed_at_a_resume(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("one.txt", "same.txt", "other.txt")]
    for path, content in zip(paths, ("abcd" * 100, "abcd" * 100, "abdc" * 100), strict=True):
        path.write_text(content)
    stored = feed_of(paths[0]).state_dict()
    feed_of(paths[1]).check_unchanged(stored)
    with pytest.raises(CheckpointError, match="the training text is not that of the checkpoint"):
        feed_of(paths[2]).check_unchanged(stored)
    # Its last tenth is for the test, and the tenth before that for validation: scores of other texts do not compare.
    for place, split in ((390, "test"), (350, "validation")):
        content = list("abcd" * 100)
        content[place] = "x"
        paths[2].write_text("".join(content))
        with pytest.raises(CheckpointError, match=f"the {split} text is not that of the checkpoint"):
            feed_of(paths[2]).check_unchanged(stored)
    with pytest.raises(CheckpointError, match=r"data\.eval_batch_size was 50, now 7"):
        feed_of(paths[1], "data.eval_batch_size=7").check_unchanged(stored)


# Streams

SIZES = st.tuples(st.integers(2, 200), st.integers(1, 12), st.integers(1, 9))


@given(SIZES)
def test_evaluation_predicts_every_token_but_the_first_once(sizes: tuple[int, int, int]) -> None:
    count, rows, steps = sizes
    tokens = torch.arange(count, dtype=torch.int16)
    streams = TokenStreams(tokens, rows, steps, CPU, whole=True)
    batches = list(streams.epoch(0))
    assert len(batches) == streams.steps_per_epoch
    predicted = []
    for batch in batches:
        counts = batch.targets != IGNORED
        assert counts.sum(1).tolist() == list(batch.lengths)
        # Those that count come first, and follow their inputs.
        assert all(counts[row, :length].all() for row, length in enumerate(batch.lengths))
        assert (batch.targets[counts] == batch.inputs[counts] + 1).all()
        predicted += batch.targets[counts].tolist()
    assert sorted(predicted) == list(range(1, count))
    assert streams.num_samples == count - 1


@given(SIZES, st.booleans())
def test_training_streams_are_contiguous_and_of_one_length(sizes: tuple[int, int, int], drop_last: bool) -> None:
    count, rows, steps = sizes
    tokens = torch.arange(count, dtype=torch.int16)
    length = (count - 1) // rows
    wanted = length // steps * steps if drop_last else length
    if wanted == 0:
        with pytest.raises(ValueError, match=r"tokens, and \d+ are needed"):
            TokenStreams(tokens, rows, steps, CPU, whole=False, drop_last=drop_last)
        return
    streams = TokenStreams(tokens, rows, steps, CPU, whole=False, drop_last=drop_last)
    batches = list(streams.epoch(3))
    assert {batch.inputs.shape[1] for batch in batches[:-1]} <= {steps}
    inputs, targets = (torch.cat([batch[i] for batch in batches], dim=1) for i in (0, 1))
    expected = torch.arange(rows)[:, None] * length + torch.arange(wanted)
    assert inputs.equal(expected)
    assert targets.equal(expected + 1)
    assert all(batch.lengths == (batch.inputs.shape[1],) * rows for batch in batches)
    assert streams.num_samples == rows * wanted


def test_an_epoch_is_entered_anywhere_and_limited() -> None:
    tokens = torch.arange(101, dtype=torch.uint8)
    streams = TokenStreams(tokens, 4, 10, CPU, whole=False)
    whole = list(streams.epoch(0))
    assert len(whole) == 3
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(whole[1:], streams.epoch(5, 1), strict=True))
    assert list(streams.epoch(0, 3)) == []
    with pytest.raises(ValueError, match="an epoch has 3 batches"):
        list(streams.epoch(0, 4))
    limited = TokenStreams(tokens, 4, 10, CPU, whole=False, limit=2)
    assert (limited.steps_per_epoch, limited.num_samples) == (2, 80)
    assert torch.equal(list(limited.epoch(0))[1].targets, whole[1].targets)


def test_reading_a_batch_moves_no_more_than_the_batch() -> None:
    tokens = torch.zeros(1_000_001, dtype=torch.uint8)
    streams = TokenStreams(tokens, 10, 7, CPU, whole=False)
    assert streams._inputs.untyped_storage().nbytes() == 1_000_001
    assert streams._targets.untyped_storage().data_ptr() == streams._inputs.untyped_storage().data_ptr()


def test_build_data_gives_the_text(tmp_path: Path) -> None:
    (tmp_path / "it.txt").write_text("x" * 100)
    data = build_data(config(*TEXT, f"data.path={tmp_path}/it.txt"))
    assert isinstance(data, TextData)
    assert (len(data.train), len(data.val), len(data.test)) == (81, 9, 10)


def test_level_is_checked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be one of character, byte, word, got 'letter'"):
        config(*TEXT, "data.level=letter")
