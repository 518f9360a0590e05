"""Time per training step of dlrun over a hand-written PyTorch loop, interleaved in one run.

    python benchmarks/step_overhead.py [--rounds 12] [--threads 1]

Two problems: a tiny MLP at batch 64, where a step is little more than Python, and a small CNN on 32x32 images. dlrun
runs with everything on: progress, JSONL, TensorBoard, checkpoints, accuracy. The hand-written loop is what one writes
in a notebook: shuffled indices, forward, cross entropy, backward, step, and nothing else: no metric, no log. It is
measured with torch's default implementation of the optimizer and with the fused one that dlrun chooses. dlrun itself is
measured with an average of the weights too (averaging=ema, taken at every step).

Each round trains the same number of epochs with each contestant, in turn; the figures are medians over the rounds of
the time per step and of the ratio within a round.
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

from dlrun.assembly import build_fit, prepare
from dlrun.config.load import load_config
from dlrun.runfolder import create_run_folder
from dlrun.train.fit import Fit
from dlrun.train.loop import train

PROBLEMS = {
    "MLP 64-128-10, batch 64": [
        "model=mlp",
        "model.hidden=[128]",
        "model.activation=relu",
        "data=synthetic",
        "data.samples=40000",
        "data.size=8",
        "data.channels=1",
        "data.batch_size=64",
        "augment=[]",
        "trainer.epochs=3",
    ],
    "CNN 32x32x3, batch 64": [
        "model=resnet",
        "model.depth=8",
        "data=synthetic",
        "data.samples=2000",
        "data.size=32",
        "data.channels=3",
        "data.batch_size=64",
        "augment=[]",
        "trainer.epochs=2",
    ],
}


def make_fit(overrides: list[str], folder: Path) -> Fit:
    """A run, ready to be trained."""
    config, _ = load_config(
        None, [*overrides, "schedule=constant", "optimizer=sgd", "device=cpu", f"run.root={folder}"]
    )
    prepared = prepare(config)
    return build_fit(config, prepared, lambda: create_run_folder(folder, "bench", config.to_tree()))


def by_dlrun(overrides: list[str], folder: Path) -> float:
    """Seconds per training step, without a validation split: the hand-written loop does not evaluate either."""
    fit = make_fit(overrides, folder)
    fit.val = None
    fit.callbacks["checkpoint"].monitor = "train/accuracy"  # type: ignore[attr-defined]
    begin = time.perf_counter()
    train(fit)
    return (time.perf_counter() - begin) / fit.state.step


def by_hand(overrides: list[str], folder: Path, *, fused: bool) -> float:
    """Seconds per step of the hand-written loop."""
    fit = make_fit(overrides, folder)
    inputs, targets = zip(*fit.train.epoch(0), strict=True)
    x, y = torch.cat(inputs).contiguous(), torch.cat(targets)
    model, criterion = fit.model.train(), nn.CrossEntropyLoss()
    given = fit.config.optimizer.params
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=given["lr"],
        momentum=given["momentum"],
        nesterov=given["nesterov"],
        weight_decay=given["weight_decay"],
        fused=True if fused else None,
    )
    batch, epochs, steps = fit.config.data.batch_size, fit.config.trainer.epochs, 0
    begin = time.perf_counter()
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for i in range(0, len(x), batch):
            picked = order[i : i + batch]
            optimizer.zero_grad()
            loss = criterion(model(x[picked]), y[picked])
            loss.backward()
            optimizer.step()
            steps += 1
    return (time.perf_counter() - begin) / steps


def main() -> None:
    """Measure in turn and print rates and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12, help="rounds of each contestant")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.getLogger("dlrun").setLevel(logging.ERROR)
    print(f"torch {torch.__version__}, {arguments.threads} thread(s), median of {arguments.rounds} rounds")
    heads = f"{'by hand':>10}{'ratio':>8}{'by hand, fused':>16}{'ratio':>8}"
    print(f"{'':<26}{'dlrun':>10}{heads}   {'goal':<10}{'with ema':>10}{'ratio':>8}")
    for (name, overrides), goal in zip(PROBLEMS.items(), ("<= 1.10", "<= 1.02"), strict=True):
        with tempfile.TemporaryDirectory() as folder:
            contestants: dict[str, Callable[[], float]] = {
                "dlrun": lambda o=overrides, f=folder: by_dlrun(o, Path(f)),
                "hand": lambda o=overrides, f=folder: by_hand(o, Path(f), fused=False),
                "ema": lambda o=overrides, f=folder: by_dlrun([*o, "averaging=ema"], Path(f)),
                "fused": lambda o=overrides, f=folder: by_hand(o, Path(f), fused=True),
            }
            times: dict[str, list[float]] = {key: [] for key in contestants}
            for turn in range(arguments.rounds + 1):
                for key, run in contestants.items():
                    seconds = run()
                    if turn:  # the first round warms up
                        times[key].append(seconds)
        middle = {key: 1e6 * statistics.median(values) for key, values in times.items()}
        ratio = {
            key: statistics.median(a / b for a, b in zip(times["dlrun"], times[key], strict=True))
            for key in ("hand", "fused")
        }
        averaged = statistics.median(a / b for a, b in zip(times["ema"], times["dlrun"], strict=True))
        print(
            f"{name:<26}{middle['dlrun']:>7.0f} us{middle['hand']:>7.0f} us{ratio['hand']:>8.2f}"
            f"{middle['fused']:>13.0f} us{ratio['fused']:>8.2f}   {goal:<10}{middle['ema']:>7.0f} us{averaged:>8.2f}"
        )


if __name__ == "__main__":
    main()
