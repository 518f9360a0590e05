"""Language models: loss and metrics, carried state, exact resume, evaluation, and what the commands show."""

from __future__ import annotations

import json
import math
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Dlrun
from running import ForkServer, config, equal, fork_server, make_fit, run_folder
from torch import Tensor, nn
from torch.nn import functional as F

from dlrun import checkpoint
from dlrun.data.streams import TokenBatch
from dlrun.errors import UserError
from dlrun.losses import IGNORED, cross_entropy
from dlrun.registry import MODELS
from dlrun.tasks.base import Carried, complete, join_carried, split_carried
from dlrun.tasks.language_modeling import language_modeling
from dlrun.train.evaluate import evaluate
from dlrun.train.fit import Callback, Fit
from dlrun.train.loop import train
from dlrun.train.step import TrainStep

CPU = torch.device("cpu")
VOCABULARY = 7
SMALL = (
    "data=text",
    "data.sequence_length=8",
    "data.batch_size=5",
    "data.eval_batch_size=3",
    "model=rnn",
    "model.hidden_size=16",
    "task=language_modeling",
    "optimizer=adam",
    "optimizer.lr=0.01",
    "schedule=constant",
    "schedule.warmup=0ep",
    "augment=none",
    "trainer.clip_norm=1",
    "callbacks.checkpoint={monitor: val/loss, mode: min}",
)


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_text("".join(f"{i} green bottles hanging on the wall, take {i % 3} down.\n" for i in range(60)))
    return path


def small(book: Path, *words: str) -> tuple[str, ...]:
    return (*SMALL, f"data.path={book}", *words)


def task() -> language_modeling:
    return language_modeling(cross_entropy(), VOCABULARY, "character")


def model(**params: Any) -> nn.Module:
    values, problems = MODELS.check("rnn", {"hidden_size": 6, **params})
    assert not problems
    net: nn.Module = MODELS.build("rnn", values, vocabulary_size=VOCABULARY)
    return net


def batch(rows: int, steps: int, lengths: tuple[int, ...] | None = None) -> TokenBatch:
    tokens = torch.randint(VOCABULARY, (rows, steps + 1))
    lengths = lengths or (steps,) * rows
    ends = torch.tensor(lengths)[:, None]
    targets = tokens[:, 1:].masked_fill(torch.arange(steps) >= ends, IGNORED)
    return TokenBatch(tokens[:, :-1], targets, lengths)


# The task


def test_masked_positions_have_no_loss_and_are_not_averaged() -> None:
    net, given = model(), batch(4, 6, (6, 4, 1, 0))
    output = task().forward(net, given)
    scores = F.log_softmax(net(given.inputs)[0], -1)
    losses = [-scores[row, step, given.targets[row, step]] for row, n in enumerate(given.lengths) for step in range(n)]
    torch.testing.assert_close(output.loss, torch.stack(losses).mean())
    assert task().size(given) == len(losses) == 11
    hits = sum(
        int(scores[row, step].argmax() == given.targets[row, step])
        for row, n in enumerate(given.lengths)
        for step in range(n)
    )
    assert int(task().score(output.outputs, output.targets)["accuracy"]) == hits
    # What is read there changes nothing: it comes after all that counts.
    beyond = torch.arange(6) >= torch.tensor(given.lengths)[:, None]
    read = torch.where(beyond, (given.inputs + 1) % VOCABULARY, given.inputs)
    assert not read.equal(given.inputs)
    other = task().forward(net, given._replace(inputs=read))
    assert other.loss.equal(output.loss)
    assert int(task().score(other.outputs, other.targets)["accuracy"]) == hits


def test_a_batch_without_targets_has_no_loss_and_no_gradient() -> None:
    net = model()
    output = task().forward(net, batch(2, 3, (0, 0)))
    assert output.loss.item() == 0
    output.loss.backward()
    assert all(not parameter.grad.any() for parameter in net.parameters() if parameter.grad is not None)


@pytest.mark.parametrize(("token", "name"), [("character", "bpc"), ("byte", "bpb"), ("word", "bpw")])
def test_bits_and_perplexity_follow_from_the_mean_loss(token: str, name: str) -> None:
    it = language_modeling(cross_entropy(), VOCABULARY, token)
    assert it.metrics == (name, "perplexity", "accuracy")
    assert complete(it, {"loss": math.log(8), "accuracy": 0.5}) == pytest.approx(
        {"loss": math.log(8), name: 3, "perplexity": 8, "accuracy": 0.5}
    )
    assert complete(it, {}) == {}
    assert complete(it, {"loss": 1e5})["perplexity"] == pytest.approx(1e300)


@pytest.mark.parametrize("cell", ["tanh", "lstm", "gru", "mut1", "highway"])
def test_chunks_with_carried_state_are_one_long_pass(cell: str) -> None:
    net, whole = model(cell=cell), batch(3, 12)
    once = task().forward(net, whole)
    carried: Carried = None
    losses = []
    for begin in range(0, 12, 4):
        part = TokenBatch(whole.inputs[:, begin : begin + 4], whole.targets[:, begin : begin + 4], (4, 4, 4))
        output = task().forward(net, part, carried)
        carried = output.carried
        assert carried is not None
        assert not any(tensor.requires_grad for tensor in carried)
        losses.append(output.loss)
    torch.testing.assert_close(torch.stack(losses).mean(), once.loss)
    torch.testing.assert_close(carried, once.carried)


def test_the_gradient_ends_with_the_chunk() -> None:
    net, whole = model(), batch(2, 6)
    before = task().forward(net, TokenBatch(whole.inputs[:, :3], whole.targets[:, :3], (3, 3)))
    last = TokenBatch(whole.inputs[:, 3:], whole.targets[:, 3:], (3, 3))
    task().forward(net, last, before.carried).loss.backward()
    found = [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None]
    net.zero_grad()
    given = tuple(tensor.clone() for tensor in before.carried or ())
    F.cross_entropy(net(last.inputs, given)[0].flatten(0, 1), last.targets.flatten()).backward()
    assert all(a.equal(b.grad) for a, b in zip(found, net.parameters(), strict=True))


def test_micro_batches_take_their_streams_and_states_along() -> None:
    given = batch(5, 4, (4, 4, 4, 3, 0))
    torch.manual_seed(1)
    state = tuple(torch.randn(2, 5, 6) for _ in range(2))
    results = []
    for accumulate in (1, 2, 3, 5):
        torch.manual_seed(0)
        net = model()
        parameters = list(net.parameters())
        chosen = config(f"trainer.accumulate={accumulate}").trainer
        step = TrainStep(net, parameters, task(), torch.optim.SGD(parameters, lr=1.0), None, chosen, CPU)
        results.append((step(given, state, want_norm=True), [parameter.detach() for parameter in parameters]))
    (whole, norm), weights = results[0]
    for (output, other_norm), other in results[1:]:
        torch.testing.assert_close((output.loss, output.carried, other_norm), (whole.loss, whole.carried, norm))
        assert output.outputs.equal(whole.outputs)
        torch.testing.assert_close(other, weights)


def test_what_is_carried_is_cut_like_the_batch() -> None:
    state = (torch.arange(14.0).reshape(2, 7), torch.arange(7.0).reshape(1, 7))
    parts = split_carried(state, 3)
    assert [[tensor.shape[1] for tensor in part or ()] for part in parts] == [[3, 3], [2, 2], [2, 2]]
    assert equal(join_carried(parts), state)
    assert split_carried(None, 2) == [None, None]
    assert join_carried([None, None]) is None


# The model


@pytest.mark.parametrize("params", [{}, {"tied": True}, {"cell": "gru", "layers": 1}, {"cell": "relu"}])
def test_the_first_loss_is_that_of_an_even_guess(params: dict[str, Any]) -> None:
    values, _ = MODELS.check("rnn", params)
    net = MODELS.build("rnn", values, vocabulary_size=66)
    tokens = torch.randint(66, (20, 31))
    loss = F.cross_entropy(net(tokens[:, :-1])[0].flatten(0, 1), tokens[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(66), rel=0.02)


def test_tied_weights_are_one_matrix() -> None:
    net = model(tied=True)
    assert net.get_submodule("head").weight is net.get_submodule("embedding").weight
    free = sum(value.numel() for value in model().parameters())
    assert free - sum(value.numel() for value in net.parameters()) == VOCABULARY * 6
    sizes = {"embedding_size": 4, "hidden_size": 6}
    assert model(**sizes).get_submodule("embedding").weight.shape == (VOCABULARY, 4)


@pytest.mark.parametrize("read", ["rows", "pixels"])
def test_images_are_read_in_the_order_of_a_page(read: str) -> None:
    values, _ = MODELS.check("rnn", {"read": read, "hidden_size": 5, "layers": 1, "cell": "tanh"})
    net = MODELS.build("rnn", values, input_shape=(2, 3, 4), num_classes=3)
    images = torch.randn(2, 2, 3, 4)
    kernel = net.features.recurrent.kernel
    cell = nn.RNNCell(kernel.input_size, 5)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in kernel.state_dict().items()})
    pieces = images.permute(2, 0, 3, 1).flatten(2) if read == "rows" else images.flatten(2).permute(2, 0, 1)
    hidden = torch.zeros(2, 5)
    for piece in pieces:
        hidden = cell(piece, hidden)
    torch.testing.assert_close(net(images), net.head(hidden))


def test_two_directions_meet_at_the_end_of_each() -> None:
    values, _ = MODELS.check("rnn", {"hidden_size": 5, "layers": 1, "bidirectional": True})
    net = MODELS.build("rnn", values, input_shape=(1, 6, 4), num_classes=3)
    images = torch.randn(2, 1, 6, 4)
    _, (last, _) = net.features.recurrent(images[:, 0])
    torch.testing.assert_close(net.features(images), torch.cat([last[0], last[1]], 1))


# Training, resuming


def test_the_state_follows_the_streams_and_ends_with_the_epoch(tmp_path: Path, book: Path) -> None:
    fit = make_fit(tmp_path, *small(book), callbacks={})
    seen: list[bool] = []
    real = fit.task.forward

    def forward(net: nn.Module, given: TokenBatch, carried: Carried = None) -> Any:
        if net.training:
            seen.append(carried is not None)
        return real(net, given, carried)

    fit.task.forward = forward  # type: ignore[method-assign]
    train(fit)
    steps = fit.steps_per_epoch
    assert steps > 10
    assert seen == [*[False, *[True] * (steps - 1)] * 2]
    assert fit.state.samples == 2 * fit.train.num_samples
    assert fit.carried is None


def test_training_is_the_loop_one_would_write(tmp_path: Path, book: Path) -> None:
    fit = make_fit(tmp_path, *small(book, "trainer.epochs=1"), callbacks={})
    net = make_fit(tmp_path, *small(book, "trainer.epochs=1"), callbacks={}).model
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01, fused=True)
    state, losses = None, []
    for given in fit.train.epoch(0):
        logits, state = net(given.inputs, state)
        state = tuple(tensor.detach() for tensor in state)
        loss = F.cross_entropy(logits.flatten(0, 1), given.targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1)
        optimizer.step()
        losses += [loss.item()] * given.targets.numel()
    train(fit)
    assert equal(dict(fit.model.state_dict()), dict(net.state_dict()))
    assert fit.state.metrics["train/loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-6)
    assert fit.state.metrics["val/loss"] < losses[0]


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("model.cell=gru", "trainer.accumulate=2", "model.dropout=0.2"),
        ("trainer.precision=bf16", "model.tied=true", "data.level=word"),
        ("model.cell=mut2", "trainer.limit_batches=12", "data.level=byte"),
    ],
)
def test_a_run_stopped_in_mid_epoch_goes_on_exactly(tmp_path: Path, book: Path, words: tuple[str, ...]) -> None:
    class Stop(Callback):
        def step_end(self, fit: Fit) -> None:
            if fit.state.step == 9:
                fit.state.request_stop("signal", "received SIGTERM")

    words = small(book, *words, "callbacks.tensorboard=null")
    whole, broken, resumed = (make_fit(tmp_path, *words) for _ in range(3))
    broken.callbacks = {**broken.callbacks, "stop": Stop()}
    resumed.run = broken.run
    torch.manual_seed(0)
    train(whole)
    torch.manual_seed(0)
    train(broken)
    payload = checkpoint.load(broken.run.checkpoints / "last.pt")
    assert (payload["state"]["step"], payload["state"]["batch"]) == (9, 9)
    assert len(payload["carried"]) == (2 if resumed.config.model.params["cell"] == "lstm" else 1)
    resumed.resume(payload)
    train(resumed)
    one, other = whole.payload(), resumed.payload()
    for each in (one, other):
        del each["callbacks"]["metrics_jsonl"]
    assert equal(one, other)
    assert (whole.run.path / "metrics.jsonl").read_bytes() == (resumed.run.path / "metrics.jsonl").read_bytes()


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with fork_server() as running:
        yield running


@pytest.mark.slow
def test_a_killed_run_ends_like_one_that_was_left_alone(server: ForkServer, tmp_path: Path, book: Path) -> None:
    words = ("train", *small(book), "device=cpu", "trainer.threads=1", "trainer.epochs=2", "trainer.log_every=7")
    words = (*(word for word in words if "checkpoint" not in word), "callbacks.tensorboard=null")
    words += ("callbacks.checkpoint={monitor: val/loss, mode: min, every: 5st}",)
    assert server.run(tmp_path / "whole", *words) == 0
    assert server.run(tmp_path / "killed", *words, step=18) == -signal.SIGKILL
    run = run_folder(tmp_path / "killed")
    assert "carried" in checkpoint.load(run / "checkpoints/last.pt")
    assert server.run(tmp_path / "killed", "train", f"resume={run}", step=60) == -signal.SIGKILL
    assert server.run(tmp_path / "killed", "train", f"resume={run}") == 0
    other = run_folder(tmp_path / "whole")
    assert (run / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    for name in ("best.pt", "last.pt"):
        one, two = (checkpoint.load(folder / "checkpoints" / name) for folder in (run, other))
        assert equal(one["model"], two["model"])
        assert equal(one["optimizer"], two["optimizer"])


# Evaluation


def test_evaluation_is_the_loop_one_would_write_and_leaves_the_training_alone(tmp_path: Path, book: Path) -> None:
    fit = make_fit(tmp_path, *small(book), callbacks={})
    assert fit.val is not None
    fit.carried = (torch.full((2, 5, 16), 9.0), torch.full((2, 5, 16), 9.0))
    tokens = torch.tensor(fit.feed._tokens("val").tolist())  # type: ignore[attr-defined]
    targets = len(tokens) - 1
    length = -(-targets // 3)
    total, hits = 0.0, 0
    with torch.inference_mode():
        for row in range(3):
            stream = tokens[row * length : (row + 1) * length + 1]
            logits, _ = fit.model(stream[None, :-1])
            total += F.cross_entropy(logits[0], stream[1:], reduction="sum").item()
            hits += int((logits[0].argmax(1) == stream[1:]).sum())
    scores = evaluate(fit.model, fit.val, fit.task, "fp32", CPU)
    assert scores is not None
    assert scores["loss"] == pytest.approx(total / targets, rel=1e-6)
    assert scores["accuracy"] == hits / targets
    assert scores["perplexity"] == pytest.approx(math.exp(total / targets), rel=1e-6)
    assert scores["bpc"] == pytest.approx(total / targets / math.log(2), rel=1e-6)
    assert all(bool((tensor == 9).all()) for tensor in fit.carried)


@pytest.fixture
def dlrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Dlrun:
    monkeypatch.chdir(tmp_path)
    return Dlrun(capsys)


def test_from_training_to_evaluation(dlrun: Dlrun, book: Path) -> None:
    done = dlrun("train", *small(book), "device=cpu", "trainer.threads=1", "trainer.epochs=1", "trainer.log_every=9")
    assert done.code == 0, done.text
    assert re.search(r"data text \(\d,\d+ train / \d+ val / \d+ test; book.txt, \d+ characters\); cpu", done.text)
    assert " tokens/s, ETA" in done.text
    assert "perplexity" in done.text
    (run,) = Path("runs").iterdir()
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert row["train/perplexity"] == pytest.approx(math.exp(row["train/loss"]))
    timing = json.loads((run / "timings.jsonl").read_text().splitlines()[0])
    assert timing["time/tokens_per_second"] > 0
    assert "perplexity" in (run / "report.html").read_text()
    results = json.loads((run / "results.json").read_text())

    done = dlrun("eval", f"checkpoint={run}", "split=test")
    assert done.code == 0, done.text
    scores = json.loads((run / "eval_test_best.json").read_text())
    assert scores["loss"] == pytest.approx(results["test"]["loss"], rel=1e-6)
    assert f"loss        {scores['loss']:.4f}\nbpc         {scores['bpc']:.4f}" in done.out
    assert "eval_test_best.json\n" in done.out

    Path("other.txt").write_text("10 green böttles\n" * 9)
    done = dlrun("eval", f"checkpoint={run}", "data.path=other.txt", "data.test_fraction=1")
    assert done.code == 0, done.text
    assert "split       test, 152 tokens, 9 of them unknown to the training text" in done.out
    done = dlrun("eval", f"checkpoint=[{run},{run}/checkpoints/last.pt]")
    assert [len(line.split()) for line in done.out.splitlines() if "checkpoints/" in line][-2:] == [5, 5]
    assert dlrun("train", f"resume={run}", "trainer.epochs=2", "data.eval_batch_size=9").code == 2


def test_what_was_trained_on_is_not_passed_off_as_held_out(dlrun: Dlrun, book: Path, tmp_path: Path) -> None:
    done = dlrun(
        "train", *small(book), "device=cpu", "trainer.threads=1", "trainer.limit_batches=2", "trainer.epochs=1"
    )
    assert done.code == 0, done.text
    evaluate = ("eval", f"checkpoint={run_folder(Path())}")
    warning = "warning: split=test is not what was held out at the training, as data.test_fraction was changed"
    whole = "data.test_fraction=1"
    for words in ((whole,), (whole, f"data.path={book.parent}/../{book.parent.name}/book.txt")):
        done = dlrun(*evaluate, *words)
        assert done.code == 0, done.text
        assert done.err.startswith(warning)
    # Nothing is to be said where the split is that of the training, or the text another one.
    other = tmp_path / "other.txt"
    other.write_text("other bottles stand on the wall")
    for words in ((), ("split=val",), (whole, "split=train"), (whole, f"data.path={other}")):
        done = dlrun(*evaluate, *words)
        assert "held out" not in done.text
    other.write_text("1")
    done = dlrun(*evaluate, whole, f"data.path={other}")
    assert (done.code, done.err) == (
        2,
        "error: the test split has 1 token, which leaves nothing to predict; give more"
        " text, or another data.test_fraction (0 for none)\n",
    )
    done = dlrun(*evaluate, "data.test_fraction=0")
    assert "no test split; give split=val, or other data as a whole (data.path=... data.test_fraction=1)" in done.err


def test_a_short_text_trains_with_the_recipe_as_it_is(
    dlrun: Dlrun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlrun.reproducibility.bf16_kernels", lambda: False)
    path = tmp_path / "short.txt"
    path.write_text("To be, or not to be, that is the question. " * 90)
    words = ("model.hidden_size=8", "callbacks.tensorboard=null", "device=cpu", "trainer.threads=1")
    done = dlrun("train", "config=char_rnn", f"data.path={path}", *words)
    assert done.code == 0, done.text
    # Of bf16 on such a CPU it tells once, on the screen and in the log.
    assert done.text.count("this CPU has no instructions for bf16") == 1
    (run,) = Path("runs").iterdir()
    assert "set trainer.precision=fp32" in (run / "log.txt").read_text()
    done = dlrun("eval", f"checkpoint={run}", "split=val")
    assert "this CPU has no instructions for bf16" in done.err
    done = dlrun("eval", f"checkpoint={run}", "split=val", "trainer.precision=fp32")
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize("mode", ["fast", "nan"])
def test_debug_modes_run(dlrun: Dlrun, book: Path, mode: str) -> None:
    words = [word for word in small(book) if "warmup" not in word]
    words += ["device=cpu", "trainer.threads=1", "trainer.limit_batches=3", "trainer.epochs=1"]
    done = dlrun("train", *words, f"debug={mode}", "callbacks.tensorboard=null")
    assert done.code == 0, done.text
    assert "step 3/3" in done.text


def test_a_few_streams_are_learned_by_heart(tmp_path: Path, book: Path) -> None:
    words = [word for word in small(book, "optimizer.lr=0.02", "model.hidden_size=64") if "batch_size" not in word]
    fit = make_fit(tmp_path, "debug=overfit", *words, callbacks={})
    assert (fit.train.batch_size, fit.steps_per_epoch, fit.total_steps) == (20, 1, 200)
    train(fit)
    assert fit.state.metrics["train/loss"] < 0.1
    assert fit.state.metrics["train/accuracy"] > 0.9  # the first tokens have no context


def test_the_summary_counts_per_token(dlrun: Dlrun, book: Path) -> None:
    done = dlrun("summary", *small(book), "model.layers=1", "data.level=byte")
    assert done.code == 0, done.text
    assert "input 8 tokens, 256 symbols, 5 streams at once" in done.out
    # Four gates from 16 inputs and 16 units, and the head.
    assert f"multiply-adds    {(4 * 16 * 32 + 16 * 256) / 1000:.2f}K for one token, forward" in done.out
    plain = json.loads(dlrun("summary", *small(book), "--json").out)
    fit_symbols = len(set(book.read_text()[: int(len(book.read_text()) * 0.81)])) + 1
    assert (plain["classes"], plain["input_shape"]) == (fit_symbols, [8])
    given = json.loads(dlrun("summary", *small(Path("nowhere.txt")), "classes=99", "--json").out)
    assert given["classes"] == 99


def test_the_beginning_of_the_text_is_shown_in_tensorboard(tmp_path: Path, book: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit = make_fit(tmp_path, *small(book, "trainer.epochs=1", "trainer.limit_batches=2", "callbacks.progress=null"))
    train(fit)
    events = EventAccumulator(str(fit.run.tensorboard)).Reload()
    (shown,) = events.Tensors("train/text/text_summary")
    assert b"0 green bottles hanging" in shown.tensor_proto.string_val[0]
    assert "time/tokens_per_second" in events.Tags()["scalars"]


def one_hot_bigram(tokens: Tensor) -> Tensor:
    """Scores of a model without a state."""
    return F.one_hot((tokens + 1) % VOCABULARY, VOCABULARY).float() * 9


def test_a_model_may_carry_nothing() -> None:
    class Net(nn.Module):
        def forward(self, tokens: Tensor, carried: Carried) -> Tensor:
            assert carried is None
            return one_hot_bigram(tokens)

    tokens = torch.arange(12).reshape(2, 6) % VOCABULARY
    output = task().forward(Net(), TokenBatch(tokens, (tokens + 1) % VOCABULARY, (6, 6)))
    assert output.carried is None
    assert int(task().score(output.outputs, output.targets)["accuracy"]) == 12


@pytest.mark.parametrize(("extra", "made"), [("", "head kept"), ("ß", "new head: embedding, head")])
def test_training_goes_on_with_another_text(tmp_path: Path, book: Path, extra: str, made: str) -> None:
    fit = make_fit(tmp_path, *small(book, "trainer.limit_batches=2", "trainer.epochs=1", "callbacks.tensorboard=null"))
    train(fit)
    other = tmp_path / "other.txt"
    other.write_text(extra + book.read_text())
    again = make_fit(tmp_path, *small(other, f"model.weights={fit.run.path}"), callbacks={})
    assert made in again.origin
    kept = [name for name, value in again.model.state_dict().items() if value.equal(fit.model.state_dict()[name])]
    assert any(name.startswith("features.") for name in kept)
    assert ("embedding.weight" in kept) == (made == "head kept")


def test_cached_features_are_for_classes(tmp_path: Path, book: Path) -> None:
    words = ("model.freeze=all_but_head", "model.cache_features=true")
    with pytest.raises(UserError, match="cache_features=true is for images with a class each"):
        make_fit(tmp_path, *small(book, *words))
