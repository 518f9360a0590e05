"""Sequence to sequence: pairs and their batches, the model and its decoding, the task, resuming, the commands."""

from __future__ import annotations

import itertools
import json
import math
import re
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Dlrun
from hypothesis import given, settings
from hypothesis import strategies as st
from running import config, equal, make_fit
from torch import Tensor, nn
from torch.nn import functional as F

from dlrun import checkpoint
from dlrun.data.pair_batches import EncodedPairs, PairBatch, PairBatches
from dlrun.data.pairs import PairData
from dlrun.errors import CheckpointError, DataError, UserError
from dlrun.losses import IGNORED, cross_entropy
from dlrun.models.seq2seq import SequenceToSequence
from dlrun.registry import DATASETS, MODELS, TASKS
from dlrun.tasks.base import complete
from dlrun.tasks.seq2seq import seq2seq
from dlrun.train.evaluate import evaluate
from dlrun.train.fit import Callback, Fit
from dlrun.train.loop import train
from dlrun.train.step import TrainStep

CPU = torch.device("cpu")
SOURCE, TARGET = 6, 4
END = TARGET - 1
SMALL = (
    "data=pairs",
    "data.kind=reverse",
    "data.samples=120",
    "data.batch_size=16",
    "data.eval_batch_size=5",
    "model=seq2seq",
    "model.hidden_size=8",
    "task=seq2seq",
    "optimizer=adam",
    "optimizer.lr=0.01",
    "schedule=constant",
    "schedule.warmup=0ep",
    "augment=none",
    "callbacks.checkpoint={monitor: val/loss, mode: min}",
)


def data(*, split_seed: int = 0, val_fraction: float = 0.1, **params: Any) -> PairData:
    values, problems = DATASETS.check("pairs", params)
    assert not problems
    found: PairData = DATASETS.build("pairs", values, split_seed=split_seed, val_fraction=val_fraction)
    return found


def model(**params: Any) -> SequenceToSequence:
    torch.manual_seed(0)
    values, problems = MODELS.check("seq2seq", {"hidden_size": 6, **params})
    assert not problems
    net: SequenceToSequence = MODELS.build("seq2seq", values, source_size=SOURCE, target_size=TARGET)
    # Fresh weights score all symbols nearly alike.
    nn.init.normal_(net.head.weight, std=1.5)
    return net


def task(**params: Any) -> seq2seq:
    found: seq2seq = TASKS.build("seq2seq", TASKS.check("seq2seq", params)[0], loss=cross_entropy(), target_size=TARGET)
    return found


def encoded(pairs: int, *, seed: int = 1) -> EncodedPairs:
    generator = torch.Generator().manual_seed(seed)

    def some(size: int, least: int, most: int) -> Tensor:
        length = int(torch.randint(least, most + 1, (), generator=generator))
        return torch.randint(size, (length,), generator=generator)

    sides = [some(SOURCE, 1, 7) for _ in range(pairs)], [some(END, 0, 5) for _ in range(pairs)]
    return EncodedPairs(*sides, END, CPU)


def batch(pairs: int, *, seed: int = 1, progress: float = 0.0) -> PairBatch:
    return next(PairBatches(encoded(pairs, seed=seed), pairs).epoch(0))._replace(progress=progress)


# The data


@pytest.mark.parametrize("kind", ["dates", "reverse", "arithmetic"])
def test_no_input_is_in_two_splits_and_every_answer_is_right(kind: str) -> None:
    found = data(kind=kind, samples=3000, val_fraction=0.2, test_fraction=0.3)
    splits = [found.train, found.val, found.test]
    sources = [{pair.source for pair in split} for split in splits]
    assert sum(map(len, sources)) == sum(map(len, splits)) == len(set.union(*sources)) == 3000
    assert len(found.test) == pytest.approx(900, rel=0.1)
    assert len(found.val) == pytest.approx(420, rel=0.1)
    assert data(kind=kind, samples=3000, val_fraction=0.2, test_fraction=0.3) == found
    assert data(kind=kind, samples=3000, split_seed=1).train != found.train
    for pair in itertools.chain(*splits):
        if kind == "reverse":
            assert pair.target == pair.source[::-1]
        elif kind == "arithmetic":
            sign = "-" if "-" in pair.source else "+"
            first, second = map(int, pair.source.split(sign))
            assert int(pair.target) == (first - second if sign == "-" else first + second)


def test_dates_are_held_out_as_days_and_sums_in_both_orders() -> None:
    dates = data(kind="dates", samples=20_000)
    days = [{pair.target for pair in split} for split in (dates.train, dates.val, dates.test)]
    assert len(set.union(*days)) == sum(map(len, days))
    sums = data(kind="arithmetic", samples=20_000)
    sets = [{pair.source for pair in split if "+" in pair.source} for split in (sums.train, sums.val, sums.test)]
    turned = [{"+".join(reversed(source.split("+"))) for source in found} for found in sets]
    assert len(set.union(*sets, *turned)) == sum(len(one | other) for one, other in zip(sets, turned, strict=True))


def test_every_way_of_writing_a_date_names_the_day() -> None:
    from dlrun.data.pairs import _FIRST_DAY, _WAYS, _written

    written = [_written(date(1979, 5, 3), way) for way in range(_WAYS)]
    for text in ("3 May 1979", "5/3/79", "thursday 3 may 1979", "Thursday, May 3, 1979".lower(), "03.05.79"):
        assert text in written
    assert len({_written(date(1979, 6, 3), way) for way in range(_WAYS)}) == _WAYS
    # A text stands for one day: the day first where dots are, the month first where strokes are.
    meant: dict[str, date] = {}
    for number in range(0, 36525, 7):
        day = _FIRST_DAY + timedelta(days=number)
        for way in range(_WAYS):
            assert meant.setdefault(_written(day, way), day) == day


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\tb\nab\n", r"pairs.tsv:2: must be source<TAB>target, both not empty, but has 0 tabs"),
        (b"a\tb\tc\n", r"pairs.tsv:1: .* 2 tabs"),
        (b"a\tb\n\nc\td", r"pairs.tsv:2: .* 0 tabs"),
        (b"a\t\n", r"pairs.tsv:1: .* an empty side"),
        (b"a\tb\nc\t\xff\n", r"pairs.tsv:2: is not UTF-8 text: byte 0xff at column 3"),
        (b"", r"is empty"),
    ],
)
def test_a_line_that_is_no_pair_is_told_with_its_place(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        data(path=str(path))
    with pytest.raises(DataError, match=r"cannot read .*nowhere"):
        data(path=str(tmp_path / "nowhere"))


def test_pairs_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_bytes("".join(f"wör {i % 20}\t{i}\r\n" for i in range(60)).encode())
    found = data(path=str(path), test_fraction=0.25)
    # A source that stands there three times stays in one split.
    assert (len(found.test), len(found.val), len(found.train)) == (15, 6, 39)
    assert not {pair.source for pair in found.train} & {pair.source for pair in (*found.val, *found.test)}
    assert all("\r" not in pair.target for pair in found.train)
    assert data(path=str(path), test_fraction=1.0, val_fraction=0.0).train == ()


# The batches


def test_a_batch_is_padded_and_masked() -> None:
    pairs = EncodedPairs(
        [torch.tensor([5, 4, 3]), torch.tensor([2])], [torch.tensor([1]), torch.tensor([0, 2])], END, CPU
    )
    given_ = next(PairBatches(pairs, 2).epoch(0))
    assert given_.source[0].tolist() == [5, 4, 3]
    assert given_.source[1, 0] == 2
    assert given_.source_lengths.tolist() == [3, 1]
    assert given_.inputs.tolist() == [[END, 1, END], [END, 0, 2]]
    assert given_.targets.tolist() == [[1, END, IGNORED], [0, 2, END]]
    assert given_.lengths == (2, 3)


@settings(max_examples=40, deadline=None)
@given(pairs=st.integers(1, 90), size=st.integers(1, 20), seed=st.integers(0, 9), epoch=st.integers(0, 3))
def test_an_epoch_has_every_pair_once_and_any_part_of_it_is_the_same(
    pairs: int, size: int, seed: int, epoch: int
) -> None:
    table = encoded(pairs)
    loader = PairBatches(table, size, seed=seed, epochs=4)
    whole = list(loader.epoch(epoch))
    assert len(whole) == loader.steps_per_epoch == math.ceil(pairs / size)
    assert sum(sum(each.lengths) for each in whole) == loader.num_samples
    rows = [tuple(row.tolist()) for each in whole for row in each.targets.masked_fill(each.targets == IGNORED, END)]
    (one,) = PairBatches(table, pairs).epoch(0)
    short = sorted(row[: row.index(END)] for row in rows)
    assert short == sorted(tuple(r[: r.index(END)]) for r in one.targets.tolist())
    start = len(whole) // 2
    again = PairBatches(table, size, seed=seed, epochs=4).epoch(epoch, start)
    assert all(equal(tuple(a), tuple(b)) for a, b in zip(again, whole[start:], strict=True))
    assert [each.progress for each in whole] == pytest.approx([(epoch + i / len(whole)) / 4 for i in range(len(whole))])


def test_pairs_of_like_length_lie_together_and_epochs_differ() -> None:
    table = encoded(400)
    loader = PairBatches(table, 20, seed=0)

    def padding(batches: Any) -> float:
        return sum(each.source.numel() for each in batches) / int(table.source_lengths.sum()) - 1

    assert padding(loader.epoch(0)) < 0.1 < 0.4 < padding(PairBatches(table, 20).epoch(0))
    first, second = ([each.source_lengths.tolist() for each in loader.epoch(epoch)] for epoch in (0, 1))
    assert first != second
    assert first != sorted(first)
    assert PairBatches(table, 30, seed=0, drop_last=True).steps_per_epoch == 13
    assert PairBatches(table, 30, seed=0, limit=3).steps_per_epoch == 3
    for wrong in ((-1, 0), (0, 21), (0, -1)):
        with pytest.raises(ValueError, match="no batch"):
            next(loader.epoch(*wrong))


# The model


@pytest.mark.parametrize("cell", ["lstm", "gru", "tanh", "mut2"])
@pytest.mark.parametrize("attention", ["additive", "dot", "none"])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_what_a_pair_scores_does_not_depend_on_its_neighbours(cell: str, attention: str, bidirectional: bool) -> None:
    net = model(cell=cell, attention=attention, bidirectional=bidirectional, layers=2).eval()
    pairs = batch(6)
    scores = net(pairs.source, pairs.source_lengths, pairs.inputs)
    found = net.decode(pairs.source, pairs.source_lengths, max_length=6)
    for row in range(6):
        wide, deep = int(pairs.source_lengths[row]), pairs.lengths[row]
        alone = pairs.source[row : row + 1, :wide]
        torch.testing.assert_close(net(alone, None, pairs.inputs[row : row + 1, :deep])[0], scores[row, :deep])
        one = net.decode(alone, max_length=6)
        torch.testing.assert_close(one.scores[0], found.scores[row])
        steps = one.tokens.shape[2]
        assert one.tokens[0, 0].equal(found.tokens[row, 0, :steps])


@pytest.mark.parametrize("attention", ["additive", "dot"])
def test_attention_sums_to_one_over_the_source_alone(attention: str) -> None:
    net, pairs = model(attention=attention).eval(), batch(7)
    found = net.decode(pairs.source, pairs.source_lengths, beam=3, max_length=5)
    assert found.weights is not None
    for row, hypothesis in itertools.product(range(7), range(3)):
        weights, tokens = found.weights[row, hypothesis], found.tokens[row, hypothesis].tolist()
        written = tokens.index(END) + 1 if END in tokens else len(tokens)
        torch.testing.assert_close(weights[:written].sum(1), torch.ones(written))
        assert not weights[written:].any()
        assert not weights[:, int(pairs.source_lengths[row]) :].any()
    assert model(attention="none").decode(pairs.source, pairs.source_lengths).weights is None


def log_probability(net: SequenceToSequence, source: Tensor, target: tuple[int, ...]) -> float:
    """By one pass over the whole target."""
    inputs = torch.tensor([[END, *target[:-1]]])
    after = net(source, None, inputs)[0].log_softmax(-1)
    return sum(after[step, symbol].item() for step, symbol in enumerate(target))


def all_targets(longest: int) -> list[tuple[int, ...]]:
    """Every hypothesis: ended within ``longest`` steps, or cut there."""
    open_ = [tuple(each) for n in range(longest + 1) for each in itertools.product(range(END), repeat=n)]
    return [each if len(each) == longest else (*each, END) for each in open_]


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("attention", ["additive", "dot", "none"])
def test_a_wide_beam_finds_what_a_search_of_everything_finds(cell: str, attention: str) -> None:
    net = model(cell=cell, attention=attention).double().eval()
    targets = all_targets(3)
    assert len(targets) == 1 + 3 + 9 + 27
    sources = torch.randint(SOURCE, (3, 4))
    found = net.decode(sources, beam=len(targets) + 5, max_length=3)
    for row in range(3):
        ranked = sorted(((log_probability(net, sources[row : row + 1], each), each) for each in targets), reverse=True)
        kept = found.tokens[row, : len(targets)].tolist()
        assert kept == [[*each, *[END] * (3 - len(each))] for _, each in ranked]
        wanted = torch.tensor([score for score, _ in ranked])
        torch.testing.assert_close(found.scores[row, : len(targets)], wanted, check_dtype=False)
        assert found.scores[row, : len(targets)].exp().sum().item() == pytest.approx(1)
        assert found.scores[row, len(targets) :].isneginf().all()


@pytest.mark.parametrize("beam", [1, 2, 3])
def test_decoding_is_the_loop_one_would_write(beam: int) -> None:
    net, pairs = model().double().eval(), batch(8)
    found = net.decode(pairs.source, pairs.source_lengths, beam=beam, max_length=5)
    for row in range(8):
        source = pairs.source[row : row + 1, : int(pairs.source_lengths[row])]
        kept: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
        for _ in range(5):
            grown = []
            for score, target in kept:
                if END in target:
                    grown.append((score, target))
                    continue
                after = net(source, None, torch.tensor([[END, *target]]))[0, -1].log_softmax(-1).tolist()
                grown += [(score + more, (*target, symbol)) for symbol, more in enumerate(after)]
            kept = sorted(grown, reverse=True)[:beam]
        for place, (score, target) in enumerate(kept):
            tokens = found.tokens[row, place].tolist()
            assert tokens[: len(target)] == list(target)[: len(tokens)]
            assert all(symbol == END for symbol in tokens[len(target) :])
            assert found.scores[row, place].item() == pytest.approx(score)


def test_its_layers_are_those_of_the_library() -> None:
    net = model(layer_norm=True, forget_bias=2.5, recurrent_init="identity")
    for layers in (net.encoder, net.decoder):
        weights = dict(layers.named_parameters())
        assert {"directions.0.gain_ih", "directions.0.gain_hh"} <= weights.keys()
        assert (weights["directions.0.bias"] == 2.5).sum() == 6
        assert weights["directions.0.weight_hh"].view(4, 6, 6).equal(torch.eye(6).expand(4, 6, 6))
    with pytest.raises(UserError, match="forget_bias=2 has no effect with cell=gru"):
        model(cell="gru", forget_bias=2.0)


def test_wrong_sizes_are_refused() -> None:
    net = model()
    for params in ({"beam": 0}, {"max_length": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            net.decode(torch.zeros(1, 2, dtype=torch.long), **params)
    with pytest.raises(ValueError, match="beside its end"):
        MODELS.get("seq2seq")(source_size=3, target_size=1)


# The task


def test_padding_has_no_loss_and_is_not_averaged() -> None:
    net, pairs = model(), batch(6)
    output = task().forward(net, pairs)
    scores = net(pairs.source, pairs.source_lengths, pairs.inputs).log_softmax(-1)
    losses = [-scores[row, t, pairs.targets[row, t]] for row, n in enumerate(pairs.lengths) for t in range(n)]
    torch.testing.assert_close(output.loss, torch.stack(losses).mean())
    assert task().size(pairs) == len(losses)
    hits = [
        int(scores[row, t].argmax() == pairs.targets[row, t]) for row, n in enumerate(pairs.lengths) for t in range(n)
    ]
    found = task().score(output.outputs, output.targets)
    assert (int(found["accuracy"]), int(found["decoded"])) == (sum(hits), 0)
    # Nothing was decoded: there is no share of exact matches.
    assert complete(task(), {"loss": 1.0, "accuracy": 0.5, "exact": 0.0, "decoded": 0.0}) == {
        "loss": 1.0,
        "accuracy": 0.5,
    }


@pytest.mark.parametrize("beam", [1, 3])
def test_exact_matches_are_counted_by_decoding(beam: int) -> None:
    net, pairs = model().eval(), batch(40)
    net.head.bias.data[END] = 1.5
    found = net.decode(pairs.source, pairs.source_lengths, beam=beam, max_length=9)
    # Half of the targets become what the model writes.
    targets = [[symbol for symbol in row if symbol >= 0][:-1] for row in pairs.targets.tolist()]
    for row in range(0, 40, 2):
        tokens = found.tokens[row, 0].tolist()
        targets[row] = tokens[: tokens.index(END)] if END in tokens else targets[row]
    sources = [pairs.source[row, : int(pairs.source_lengths[row])] for row in range(40)]
    table = EncodedPairs(sources, [torch.tensor(each, dtype=torch.long) for each in targets], END, CPU)
    right = 0
    for row, wanted in enumerate(targets):
        tokens = found.tokens[row, 0].tolist()
        right += tokens[: len(wanted) + 1] == [*wanted, END]
    assert 10 < right < 40
    for size in (40, 7):
        scores = evaluate(net, PairBatches(table, size), task(beam=beam), "fp32", CPU)
        assert scores is not None
        assert list(scores) == ["loss", "accuracy", "sequence_accuracy"]
        assert scores["sequence_accuracy"] == pytest.approx(right / 40)


@pytest.mark.parametrize("beam", [1, 5])
def test_exact_matches_do_not_depend_on_the_batch(beam: int) -> None:
    # This net ends late, so that a beam holds hypotheses which have not ended when the right one has.
    generator = torch.Generator().manual_seed(2)
    values, _ = MODELS.check("seq2seq", {"hidden_size": 8, "cell": "gru"})
    torch.manual_seed(2)
    net: SequenceToSequence = MODELS.build("seq2seq", values, source_size=SOURCE, target_size=5).double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter *= 3
        net.head.weight *= 8
        net.head.bias[4] -= 0.5
    sources = torch.randint(SOURCE, (120, 6), generator=generator)
    found = net.decode(sources, beam=beam, max_length=40).tokens[:, 0].tolist()
    kept = [(source, row[: row.index(4)]) for source, row in zip(sources, found, strict=True) if 4 in row]
    assert len({len(target) for _, target in kept}) > 1
    # Every third target goes on where the net ends.
    wanted = [target + [1] * (place % 3 == 0) for place, (_, target) in enumerate(kept)]
    right = 1 - len(wanted[::3]) / len(wanted)
    targets = [torch.tensor(target, dtype=torch.long) for target in wanted]
    table = EncodedPairs([source for source, _ in kept], targets, 4, CPU)
    chosen = TASKS.build("seq2seq", {"beam": beam}, loss=cross_entropy(), target_size=5)
    for size in (1, 7, 500):
        scores = evaluate(net, PairBatches(table, size), chosen, "fp32", CPU)
        assert scores is not None
        assert scores["sequence_accuracy"] == pytest.approx(right)


def test_without_teacher_the_decoder_reads_its_own_guesses() -> None:
    net, pairs = model(), batch(5)
    args = pairs.source, pairs.source_lengths, pairs.inputs
    whole = net(*args)
    torch.testing.assert_close(net(*args, torch.ones_like(pairs.inputs, dtype=torch.bool)), whole)
    alone = net(*args, torch.zeros_like(pairs.inputs, dtype=torch.bool))
    read = pairs.inputs[:, :1]
    for step in range(pairs.inputs.shape[1]):
        scores = net(pairs.source, pairs.source_lengths, read)[:, -1]
        torch.testing.assert_close(alone[:, step], scores)
        read = torch.cat([read, scores.argmax(-1, keepdim=True)], 1)


@pytest.mark.parametrize(
    ("params", "progress", "share"),
    [
        ({}, 0.5, 1.0),
        ({"teacher_forcing": 0.5}, 0.9, 0.5),
        ({"teacher_forcing_end": 0.0}, 0.25, 0.75),
        ({"teacher_forcing": 0.2, "teacher_forcing_end": 0.6}, 0.5, 0.4),
    ],
)
def test_teacher_forcing_follows_the_training(params: dict[str, float], progress: float, share: float) -> None:
    seen: list[Tensor | None] = []

    class Net(nn.Module):
        def forward(self, source: Tensor, lengths: Tensor, inputs: Tensor, teacher: Tensor | None) -> Tensor:
            seen.append(teacher)
            return F.one_hot(inputs, TARGET).float()

    pairs = batch(2000, progress=progress)
    task(**params).forward(Net(), pairs)
    (teacher,) = seen
    if share == 1:
        assert teacher is None
    else:
        assert teacher is not None
        assert teacher.float().mean().item() == pytest.approx(share, abs=0.03)


def test_micro_batches_give_the_gradient_of_the_batch() -> None:
    pairs, results = batch(7), []
    for accumulate in (1, 3, 7):
        net = model()
        parameters = list(net.parameters())
        chosen = config(f"trainer.accumulate={accumulate}").trainer
        step = TrainStep(net, parameters, task(), torch.optim.SGD(parameters, lr=0.1), None, chosen, CPU)
        output, norm = step(pairs, want_norm=True)
        results.append((output.loss, norm, [parameter.detach() for parameter in parameters]))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


# Runs


@pytest.mark.parametrize(
    "words",
    [
        ("task.teacher_forcing=0.9", "task.teacher_forcing_end=0.3", "model.dropout=0.2"),
        ("model.cell=gru", "model.attention=dot", "trainer.accumulate=2", "data.kind=arithmetic"),
    ],
)
def test_a_run_stopped_in_mid_epoch_goes_on_exactly(tmp_path: Path, words: tuple[str, ...]) -> None:
    class Stop(Callback):
        def step_end(self, fit: Fit) -> None:
            if fit.state.step == 9:
                fit.state.request_stop("signal", "received SIGTERM")

    words = (*(word for word in SMALL if word.split("=")[0] not in {w.split("=")[0] for w in words}), *words)
    words += ("callbacks.tensorboard=null",)
    whole, broken, resumed = (make_fit(tmp_path, *words) for _ in range(3))
    broken.callbacks = {**broken.callbacks, "stop": Stop()}
    resumed.run = broken.run
    for fit in (whole, broken):
        torch.manual_seed(0)
        train(fit)
    payload = checkpoint.load(broken.run.checkpoints / "last.pt")
    assert payload["state"]["batch"] == 9 - whole.steps_per_epoch > 0
    resumed.resume(payload)
    train(resumed)
    one, other = whole.payload(), resumed.payload()
    for each in (one, other):
        del each["callbacks"]["metrics_jsonl"]
    assert equal(one, other)
    assert (whole.run.path / "metrics.jsonl").read_bytes() == (resumed.run.path / "metrics.jsonl").read_bytes()


def test_other_pairs_are_noticed(tmp_path: Path) -> None:
    one, other = (make_fit(tmp_path, *SMALL, f"data.split_seed={seed}", callbacks={}) for seed in (0, 1))
    stored = one.feed.state_dict()
    with pytest.raises(CheckpointError, match="training pairs are not those"):
        other.feed.check_unchanged(stored)
    one.feed.check_unchanged(stored)
    with pytest.raises(CheckpointError, match="the validation pairs are not those"):
        one.feed.check_unchanged({**stored, "val_digest": "another"})
    # An older checkpoint tells of the training split alone.
    one.feed.check_unchanged({key: value for key, value in stored.items() if key not in ("val_digest", "test_digest")})


@pytest.fixture
def dlrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Dlrun:
    monkeypatch.chdir(tmp_path)
    return Dlrun(capsys)


def test_from_training_to_evaluation(dlrun: Dlrun) -> None:
    Path("pairs.tsv").write_text("".join(f"{word}{i}\t{word.upper()}\n" for i in range(30) for word in ("ab", "b")))
    words = [word for word in SMALL if not word.startswith("data.")]
    words += ["data.path=pairs.tsv", "data.batch_size=6", "optimizer.lr=0.03", "device=cpu", "trainer.threads=1"]
    done = dlrun("train", *words, "trainer.epochs=8")
    assert done.code == 0, done.text
    assert "pairs.tsv, 49 / 5 / 6 pairs, 13 to 3 characters" in done.text
    (run,) = Path("runs").iterdir()
    results = json.loads((run / "results.json").read_text())
    assert results["test"]["sequence_accuracy"] == 1.0
    assert "sequence_accuracy" in (run / "report.html").read_text()

    done = dlrun("eval", f"checkpoint={run}", "task.beam=2")
    assert done.code == 0, done.text
    assert "sequence_accuracy  100.00 %" in done.out
    scores = json.loads((run / "eval_test_best.json").read_text())
    assert scores["pairs"] == len(scores["examples"]) == 6
    first = scores["examples"][0]
    assert first["target"] == first["prediction"]
    assert re.search(rf"^  {first['source']} +-> {first['prediction']}$", done.out, re.M)
    assert len(first["attention"]) == len(first["target"]) + 1
    assert len(first["attention"][0]) == len(first["source"])
    assert (run / "eval_test_best.png").read_bytes().startswith(b"\x89PNG")

    # Errors first, what was wanted in brackets; unknown characters are counted.
    Path("other.tsv").write_text("ab7\tAB\nüb7\tAC\n")
    done = dlrun("eval", f"checkpoint={run}", "data.path=other.tsv", "data.test_fraction=1")
    assert done.code == 0, done.text
    assert (
        "6 tokens in 2 pairs, 1 of them and 1 of the characters in the sources unknown to the training text" in done.out
    )
    shown = [line for line in done.out.splitlines() if " -> " in line]
    assert shown[0].startswith("  üb7 -> ")
    assert shown[0].endswith("  (AC)")
    assert shown[1] == "  ab7 -> AB"
    assert dlrun("train", f"resume={run}", "data.path=other.tsv", "trainer.epochs=9").code == 2


def test_without_attention_nothing_is_drawn(dlrun: Dlrun) -> None:
    words = (*SMALL, "model.attention=none", "device=cpu", "trainer.threads=1", "trainer.epochs=1")
    done = dlrun("train", *words)
    assert done.code == 0, done.text
    (run,) = Path("runs").iterdir()
    done = dlrun("eval", f"checkpoint={run}")
    assert done.code == 0, done.text
    assert not (run / "eval_test_best.png").exists()
    done = dlrun("export", f"checkpoint={run}")
    assert done.code == 2
    assert "model 'seq2seq' writes one sequence from another" in done.text


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model=rnn", "needs images, text or labelled sequences"),
        ("model=linear", "needs input_shape and num_classes, which data 'pairs' (pairs) do not have"),
        ("task=language_modeling", "task 'language_modeling' needs vocabulary_size"),
        ("data=text", "model 'seq2seq' needs source_size and target_size, which data 'text' (text) do not have"),
        ("data.normalize=channel", "data.normalize=channel is for images"),
        ("data.batch_size=1000", "larger than the training split (97 pairs); set it to 97 or less"),
        ("data.test_fraction=1", "no pair is left to train on"),
        ("data.kind=poems", "data.kind"),
        ("task.teacher_forcing=1.5", "task.teacher_forcing"),
    ],
)
def test_what_does_not_fit_is_refused(dlrun: Dlrun, word: str, message: str) -> None:
    key = word.partition("=")[0]
    words = [known for known in SMALL if known.partition("=")[0] != key and (key != "data" or "data." not in known)]
    words = [known for known in words if key != "model" or not known.startswith("model.")]
    done = dlrun("train", *words, word, "device=cpu")
    assert done.code == 2
    assert message in done.text.replace("\n", " ")
    assert not Path("runs").exists()


def test_the_summary_counts_it(dlrun: Dlrun) -> None:
    done = dlrun("summary", *SMALL)
    assert done.code == 0, done.text
    assert "input 12 tokens, 12 symbols" in done.out
    plain = json.loads(dlrun("summary", *SMALL, "classes=9", "--json").out)
    assert plain["classes"] == 9


@pytest.mark.parametrize("mode", ["fast", "nan"])
def test_debug_modes_run(dlrun: Dlrun, mode: str) -> None:
    words = [word for word in SMALL if "warmup" not in word]
    words += ["device=cpu", "trainer.threads=1", "trainer.limit_batches=3", "trainer.epochs=1"]
    done = dlrun("train", *words, f"debug={mode}", "task.teacher_forcing=0.5", "trainer.precision=bf16")
    assert done.code == 0, done.text
