"""Tokens per second of dlrun's character model over a hand-written PyTorch loop, interleaved in one run.

    python benchmarks/char_rnn.py [--rounds 5] [--steps 150] [--threads 2]

The problem is the usual one: two LSTM layers of 128 units, 50 streams, 50 characters in a step, the gradient clipped by
norm, on Python's standard library. dlrun runs with everything on: progress, JSONL, TensorBoard, accuracy, perplexity.
The hand-written loop is what one writes in a notebook: slices of one tensor, forward, cross entropy, backward, clip,
Adam, the state detached, and nothing else: no metric, no log.

    same settings   dlrun in fp32
    as the recipe   dlrun with the precision of char_lstm

Both start from the same weights and read the same batches. Each round trains the same number of steps with each
contestant, in turn; the figures are medians over the rounds of the rate and of the ratio within a round.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from dlrun.assembly import build_fit, prepare
from dlrun.config.load import load_config
from dlrun.runfolder import create_run_folder
from dlrun.train.fit import Fit
from dlrun.train.loop import train

PROBLEM = (
    "model.cell=lstm",
    "model.layers=2",
    "model.hidden_size=128",
    "model.dropout=0",
    "data.path=null",
    "data.batch_size=50",
    "data.sequence_length=50",
    "data.val_fraction=0",
    "data.test_fraction=0",
    "optimizer=adam",
    "optimizer.lr=2e-3",
    "schedule=constant",
    "schedule.warmup=0ep",
    "trainer.clip_norm=5",
    "trainer.epochs=1",
    "callbacks.checkpoint={monitor: train/loss, mode: min}",
    "device=cpu",
)


def make_fit(folder: Path, steps: int, threads: int, *words: str) -> Fit:
    """A run of the character model, ready to be trained."""
    overrides = [*PROBLEM, f"trainer.limit_batches={steps}", f"trainer.threads={threads}", f"run.root={folder}", *words]
    config, _ = load_config("char_lstm", overrides)
    return build_fit(config, prepare(config), lambda: create_run_folder(folder, "bench", config.to_tree()))


def by_dlrun(fit: Fit) -> float:
    """Tokens per second, without an evaluation: the hand-written loop has none either."""
    begin = time.perf_counter()
    train(fit)
    return fit.state.samples / (time.perf_counter() - begin)


class ByHand(nn.Module):
    """What a notebook has."""

    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, 128)
        self.lstm = nn.LSTM(128, 128, num_layers=2, batch_first=True)
        self.head = nn.Linear(128, symbols)

    def forward(
        self, tokens: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor] | None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        outputs, after = self.lstm(self.embedding(tokens), state)
        return self.head(outputs), after


def by_hand(fit: Fit, *, fused: bool) -> float:
    """Tokens per second of the hand-written loop on the same weights and batches."""
    model = ByHand(fit.feed.arguments["vocabulary_size"]).train()
    for own, theirs in zip(model.parameters(), fit.model.parameters(), strict=True):
        own.data.copy_(theirs)
    batches = list(fit.train.epoch(0))
    length = sum(batch.inputs.shape[1] for batch in batches)
    text = torch.cat([batch.inputs for batch in batches], dim=1)
    following = torch.cat([batch.targets for batch in batches], dim=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, fused=True if fused else None)
    state: tuple[torch.Tensor, torch.Tensor] | None = None
    begin = time.perf_counter()
    for start in range(0, length, 50):
        inputs, targets = text[:, start : start + 50], following[:, start : start + 50]
        optimizer.zero_grad()
        logits, (hidden, cell) = model(inputs, state)
        state = hidden.detach(), cell.detach()
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5)
        optimizer.step()
    return text.numel() / (time.perf_counter() - begin)


def main() -> None:
    """Measure in turn and print rates and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each contestant")
    parser.add_argument("--steps", type=int, default=150, help="training steps in a round")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch")
    arguments = parser.parse_args()
    logging.getLogger("dlrun").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as place:

        def fit(*words: str) -> Fit:
            return make_fit(Path(place), arguments.steps, arguments.threads, *words)

        contestants: dict[str, Callable[[], float]] = {
            "hand": lambda: by_hand(fit("trainer.precision=fp32"), fused=False),
            "hand, fused": lambda: by_hand(fit("trainer.precision=fp32"), fused=True),
            "same settings": lambda: by_dlrun(fit("trainer.precision=fp32")),
            "as the recipe": lambda: by_dlrun(fit()),
        }
        rates: dict[str, list[float]] = {name: [] for name in contestants}
        for turn in range(arguments.rounds + 1):
            for name, run in contestants.items():
                rate = run()
                if turn:  # the first round warms up
                    rates[name].append(rate)
    print(f"torch {torch.__version__}, {arguments.threads} thread(s), median of {arguments.rounds} rounds")
    print(f"{'LSTM 2x128, 50 x 50':<22}{'tokens/s':>12}{'over hand':>12}{'over fused':>12}   goal")
    goals = {"same settings": ">= 0.97", "as the recipe": ">= 1.50"}
    for name, values in rates.items():
        ratios = [
            statistics.median(a / b for a, b in zip(values, rates[other], strict=True))
            for other in ("hand", "hand, fused")
        ]
        goal = goals.get(name, "")
        print(f"{name:<22}{statistics.median(values):>12,.0f}{ratios[0]:>12.2f}{ratios[1]:>12.2f}   {goal}".rstrip())


if __name__ == "__main__":
    main()
