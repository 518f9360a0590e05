"""Sampling: what is drawn, the command, and the texts that a run writes while it learns."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Dlrun
from hypothesis import given
from hypothesis import strategies as st
from running import equal, make_fit
from torch import Tensor, nn

from dlrun import checkpoint
from dlrun.data.vocabulary import Vocabulary
from dlrun.errors import UserError
from dlrun.registry import MODELS
from dlrun.sampling import generate, probabilities, start_tokens
from dlrun.train.callbacks.checkpoint import checkpoint as checkpoint_callback
from dlrun.train.callbacks.metrics_jsonl import metrics_jsonl
from dlrun.train.callbacks.sample_text import sample_text
from dlrun.train.callbacks.tensorboard import tensorboard
from dlrun.train.fit import Callback, Fit
from dlrun.train.loop import train
from dlrun.types import Duration

V = 7
SMALL = (
    "data=text",
    "data.sequence_length=8",
    "data.batch_size=5",
    "data.eval_batch_size=3",
    "model=rnn",
    "model.hidden_size=12",
    "task=language_modeling",
    "optimizer=adam",
    "optimizer.lr=0.01",
    "schedule=constant",
    "schedule.warmup=0ep",
    "augment=none",
    "callbacks.checkpoint={monitor: val/loss, mode: min}",
)


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_text("".join(f"{i} green bottles hanging on the wall, take {i % 3} down.\n" for i in range(40)))
    return path


def net(**params: Any) -> nn.Module:
    values, _ = MODELS.check("rnn", {"hidden_size": 6, **params})
    model: nn.Module = MODELS.build("rnn", values, vocabulary_size=V)
    # Further from an even guess than fresh weights are.
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(3)
    return model.eval()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def texts(model: nn.Module, start: Tensor, length: int, seed: int = 0, **options: Any) -> list[list[int]]:
    columns = list(generate(model, start, length, generator=seeded(seed), **options))
    return [list(row) for row in zip(*columns, strict=True)]


# What a token is drawn from


@given(st.lists(st.floats(-20, 20), min_size=2, max_size=9), st.floats(0.05, 5))
def test_without_cuts_it_is_the_softmax(row: list[float], temperature: float) -> None:
    scores = torch.tensor([row], dtype=torch.float64)
    torch.testing.assert_close(probabilities(scores, temperature=temperature), torch.softmax(scores / temperature, 1))


@given(
    st.lists(st.integers(-4, 4), min_size=2, max_size=9),
    st.integers(1, 10) | st.none(),
    st.floats(0.01, 1) | st.none(),
)
def test_the_cuts_keep_the_most_probable(row: list[int], top_k: int | None, top_p: float | None) -> None:
    scores = torch.tensor([row], dtype=torch.float64)
    got = probabilities(scores, top_k=top_k, top_p=top_p)[0].tolist()
    weights = [math.exp(value) for value in row]
    order = sorted(range(len(row)), key=lambda i: (-row[i], i))[: top_k or len(row)]
    total, kept, mass = sum(weights[i] for i in order), [], 0.0
    for i in order:
        if top_p is not None and kept and mass / total >= top_p - 1e-12:
            break
        kept.append(i)
        mass += weights[i]
    assert got == pytest.approx([weights[i] / mass if i in kept else 0 for i in range(len(row))], abs=1e-9)


def test_cut_offs_by_hand() -> None:
    scores = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    for options, expected in (
        ({"top_k": 2}, [4 / 7, 3 / 7, 0, 0]),
        ({"top_p": 0.69}, [4 / 7, 3 / 7, 0, 0]),
        ({"top_p": 0.71}, [4 / 9, 3 / 9, 2 / 9, 0]),
        ({"top_p": 0.01}, [1, 0, 0, 0]),
        ({"top_k": 3, "top_p": 0.5}, [4 / 7, 3 / 7, 0, 0]),
        ({"top_k": 99}, [0.4, 0.3, 0.2, 0.1]),
        ({"temperature": 0}, [1, 0, 0, 0]),
        ({"temperature": 1e-300}, [1, 0, 0, 0]),
        ({"temperature": 0.5}, [16 / 30, 9 / 30, 4 / 30, 1 / 30]),
        ({"excluded": (0,)}, [0, 3 / 6, 2 / 6, 1 / 6]),
        ({"excluded": (0,), "temperature": 0}, [0, 1, 0, 0]),
    ):
        assert probabilities(scores, **options)[0].tolist() == pytest.approx(expected, abs=1e-6), options  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"temperature": -1}, {"top_k": 0}, {"top_p": 0}, {"top_p": 1.1}])
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="temperature must be >= 0, top_k >= 1 and top_p in"):
        probabilities(torch.zeros(1, 3), **options)


def test_where_every_token_is_excluded_none_is_drawn() -> None:
    for temperature in (0.0, 1.0):
        with pytest.raises(ValueError, match="every token is excluded"):
            probabilities(torch.zeros(2, 1), temperature=temperature, excluded=(0,))


def test_scores_that_are_not_finite() -> None:
    with pytest.raises(ValueError, match="not finite"):
        probabilities(torch.tensor([[0.0, math.nan]]))


# Writing on


def test_what_is_drawn_follows_the_softmax() -> None:
    model, draws = net(), 4000
    start = torch.tensor([[1, 4, 2]])
    drawn = texts(model, start.expand(draws, -1), 1)
    counts = torch.bincount(torch.tensor(drawn)[:, 0], minlength=V).double()
    expected = draws * torch.softmax(model(start)[0][0, -1].double(), 0).detach()
    # Chi-square with 6 degrees of freedom: above 22.5 in one of 1000.
    assert float(((counts - expected) ** 2 / expected).sum()) < 22.5


@pytest.mark.parametrize("cell", ["lstm", "gru", "tanh", "mut1"])
def test_steps_with_carried_state_are_one_long_pass(cell: str) -> None:
    model, start = net(cell=cell), torch.tensor([[3, 1], [0, 5]])
    rows = torch.tensor(texts(model, start, 9, temperature=0))
    scores = model(torch.cat([start, rows], 1))[0]
    assert rows.equal(scores[:, 1:-1].argmax(2))


def test_a_seed_writes_the_same_text_and_the_global_generator_is_left_alone() -> None:
    model, start = net(), torch.tensor([[1]])
    before = torch.get_rng_state()
    one = texts(model, start, 40, seed=3)
    assert texts(model, start, 40, seed=3) == one
    assert texts(model, start, 40, seed=4) != one
    assert torch.get_rng_state().equal(before)


def test_a_model_that_carries_nothing_reads_the_newest_tokens() -> None:
    seen = []

    class Sum(nn.Module):
        def forward(self, tokens: Tensor, carried: object) -> Tensor:
            seen.append(tokens.tolist())
            return nn.functional.one_hot(tokens.cumsum(1) % V, V).float()

    assert texts(Sum(), torch.tensor([[1, 2]]), 4, temperature=0, window=3) == [[3, 6, 4, 6]]
    assert seen == [[[1, 2]], [[1, 2, 3]], [[2, 3, 6]], [[3, 6, 4]]]


# Text and tokens


@given(st.binary(max_size=40))
def test_pieces_of_bytes_are_the_text(data: bytes) -> None:
    vocabulary = Vocabulary("byte")
    pieces = list(vocabulary.pieces(data))
    assert "".join(pieces) == data.decode("utf-8", "replace") == vocabulary.decode(list(data))
    assert len(data) <= len(pieces) <= len(data) + 1


def test_where_a_text_begins() -> None:
    words = Vocabulary.fit("the cat\n", "word")
    assert start_tokens(words, " cat")[0].tolist() == [words.symbols.index(" cat")]
    assert start_tokens(words, "")[0].tolist() == [words.symbols.index("\n")]
    assert start_tokens(Vocabulary.fit("abc", "character"), "")[0].tolist() == [3]
    assert start_tokens(Vocabulary("byte"), "é\udcff")[0].tolist() == [0xC3, 0xA9, 0xFF]
    with pytest.raises(UserError, match=r"trained on has no 'dog', ' ran'; leave them out"):
        start_tokens(words, "dog ran cat ran")


# The command


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, book: Path) -> Path:
    callbacks = {"checkpoint": checkpoint_callback(monitor="val/loss", mode="min")}
    fit = make_fit(tmp_path_factory.mktemp("run"), *SMALL, f"data.path={book}", callbacks=callbacks)
    train(fit)
    return fit.run.path


@pytest.fixture
def dlrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Dlrun:
    monkeypatch.chdir(tmp_path)
    return Dlrun(capsys)


def test_stdout_holds_the_text_alone(dlrun: Dlrun, run: Path) -> None:
    done = dlrun("sample", f"checkpoint={run}", "prompt=9 green", "length=60", "seed=5")
    assert done.code == 0, done.text
    text = json.loads(dlrun("sample", f"checkpoint={run}", "prompt=9 green", "length=60", "seed=5", "--json").out)
    assert done.out == text["texts"][0].removesuffix("\n") + "\n"
    assert done.out.startswith("9 green")
    assert len(text["texts"][0]) == 67
    assert "seed        5\n" in done.err
    assert "written     60 characters in " in done.err
    assert (
        dlrun("sample", f"checkpoint={run}/checkpoints/best.pt", "prompt=9 green", "length=60", "seed=5").out
        == done.out
    )


def test_a_drawn_seed_is_told_and_writes_the_text_again(dlrun: Dlrun, run: Path) -> None:
    first = json.loads(dlrun("sample", f"checkpoint={run}", "samples=3", "length=30", "--json").out)
    again = dlrun("sample", f"checkpoint={run}", "samples=3", "length=30", f"seed={first['seed']}")
    assert [len(text) for text in first["texts"]] == [30, 30, 30]
    assert len(set(first["texts"])) == 3
    assert again.out == "\n".join(text if text.endswith("\n") else f"{text}\n" for text in first["texts"])
    assert f"seed        {first['seed']}\n" in again.err


def test_greedy_is_the_argmax(dlrun: Dlrun, run: Path) -> None:
    done = dlrun("sample", f"checkpoint={run}", "prompt=1", "temperature=0", "length=20", "--json")
    assert "seed" not in done.err
    (text,) = json.loads(done.out)["texts"]
    saved = checkpoint.load(run / "checkpoints/best.pt")
    vocabulary = Vocabulary.from_state(saved["data"]["vocabulary"])
    values, _ = MODELS.check("rnn", {"hidden_size": 12})
    model = MODELS.build("rnn", values, vocabulary_size=len(vocabulary))
    model.load_state_dict(saved["model"])
    tokens = vocabulary.encode(text).long()[None]
    scores = model(tokens)[0][0, :-1]
    scores[:, 0] = -math.inf  # <unk> is never written
    assert scores.argmax(1).equal(tokens[0, 1:])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "dlrun sample needs checkpoint=PATH, a checkpoint file or a run folder"),
        (("checkpoint=no.pt",), "checkpoint no.pt: no such file; give a checkpoint file or a run folder"),
        (("checkpoint=no.pt", "length=0"), "length=0: must be a whole number >= 1"),
        (("checkpoint=no.pt", "temperature=-1"), "temperature=-1: must be a number from 0 to 100"),
        (("checkpoint=no.pt", "temperature=nan"), "temperature=nan: must be a number from 0 to 100"),
        (("checkpoint=no.pt", "top_k=0"), "top_k=0: must be a whole number >= 1"),
        (("checkpoint=no.pt", "top_p=1.5"), "top_p=1.5: must be a number from 0 to 1"),
        (("checkpoint=no.pt", "top_p=0"), "top_p=0: must be greater than 0; temperature=0 takes the most probable"),
        (("checkpoint=no.pt", f"seed={2**63}"), "must be less than 2**63"),
        (
            ("checkpoint=RUN", "prompt=1 blüe Q"),
            "prompt: the text that the model was trained on has no 'ü', 'Q'; leave",
        ),
        (
            ("checkpoint=RUN", "model.layers=3"),
            "model.layers: was 2, now 3; the checkpoint was trained with it, so sample",
        ),
        (("checkpoint=RUN", "promt=x"), "promt: unknown key"),
    ],
)
def test_wrong_words(dlrun: Dlrun, run: Path, words: tuple[str, ...], message: str) -> None:
    done = dlrun("sample", *(word.replace("RUN", str(run)) for word in words))
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert done.err.count("error:") == 1


def test_a_model_of_images_is_refused(dlrun: Dlrun, tmp_path: Path) -> None:
    fit = make_fit(tmp_path, "trainer.epochs=1", callbacks={"checkpoint": checkpoint_callback()})
    train(fit)
    done = dlrun("sample", f"checkpoint={fit.run.path}")
    assert (done.code, done.out) == (2, "")
    assert "dlrun sample is for language models, and this is model 'mlp' of data 'synthetic'" in done.err


# The callback


def steps(number: int) -> Duration:
    return Duration(number, "st")


def test_training_is_the_same_with_and_without_it(tmp_path: Path, book: Path) -> None:
    results = []
    for name, callbacks in (("a", {}), ("b", {"sample_text": sample_text(every=steps(3), length=20, temperature=0.5)})):
        fit = make_fit(tmp_path / name, *SMALL, f"data.path={book}", "model.dropout=0.3", callbacks=callbacks)
        torch.manual_seed(1)
        train(fit)
        payload = fit.payload()
        del payload["callbacks"], payload["config"]
        results.append(payload)
    assert equal(*results)


class Stop(Callback):
    def step_end(self, fit: Fit) -> None:
        if fit.state.step == 8:
            fit.state.request_stop("signal", "received SIGTERM")


def test_a_resumed_run_has_the_samples_of_a_whole_one(tmp_path: Path, book: Path) -> None:
    def fit(*more: tuple[str, Callback]) -> Fit:
        callbacks: dict[str, Callback] = {"sample_text": sample_text(every=steps(3), length=25, prompt="1 ")}
        callbacks |= {"metrics": metrics_jsonl(), "tensorboard": tensorboard(), "checkpoint": checkpoint_callback()}
        return make_fit(tmp_path, *SMALL, f"data.path={book}", "trainer.epochs=1", callbacks=callbacks | dict(more))

    whole, broken, resumed = fit(), fit(("stop", Stop())), fit()
    train(whole)
    train(broken)
    resumed.run = broken.run
    with (broken.run.path / "samples.txt").open("a") as file:
        file.write("written by a process that was killed before its next checkpoint")
    resumed.resume(checkpoint.load(broken.run.checkpoints / "last.pt"))
    train(resumed)
    text = (whole.run.path / "samples.txt").read_text()
    assert (resumed.run.path / "samples.txt").read_text() == text
    assert text.startswith("--- step 3, epoch 1\n1 ")
    assert text.count("--- step") == whole.total_steps // 3

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shown = EventAccumulator(str(whole.run.tensorboard), {"tensors": 0}).Reload().Tensors("sample/text_summary")
    assert [event.step for event in shown][:2] == [3, 6]
    assert shown[0].tensor_proto.string_val[0].startswith(b"    1 ")


def test_a_broken_model_is_left_to_the_loop(tmp_path: Path, book: Path) -> None:
    words = ("optimizer.lr=1e30", "trainer.log_every=1000", f"data.path={book}")
    small = [word for word in SMALL if "lr" not in word]
    fit = make_fit(tmp_path, *small, *words, callbacks={"sample_text": sample_text(every=steps(1), length=5)})
    fit.model.get_parameter("head.bias").data.fill_(math.nan)
    train(fit)
    assert fit.state.stop is not None
    assert fit.state.stop.reason == "diverged"


def test_what_the_callback_refuses(dlrun: Dlrun, book: Path) -> None:
    with pytest.raises(ValueError, match=r"every=5min: must be in epochs \(ep\) or steps \(st\)"):
        sample_text(every=Duration(5, "min"))
    done = dlrun("train", *SMALL, f"data.path={book}", "callbacks.sample_text={prompt: 'ö'}", "run.root=none")
    assert done.code == 2
    assert re.search(r"callbacks\.sample_text\.prompt: the text .* has no 'ö'", done.err)
    # A folder without a run would be what resume=auto takes next.
    assert not Path("none").exists()
