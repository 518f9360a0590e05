"""Augmentation, label smoothing and averaged weights on CIFAR-10, each left out: docs/experiments/cifar10_ablation.md.

python docs/experiments/cifar10_ablation.py data.root=~/cifar10 [trainer.threads=2]

Further words go to each of the nine runs. Runs that are there already are evaluated without being trained again. The
average rides along with each run and does not change it, so that a run gives both of its rows.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

SEEDS = (0, 1, 2)
VARIANTS = {
    "all": (),
    "no_augment": ("augment=none",),
    "no_smoothing": ("loss.label_smoothing=0",),
}
NAMES = {
    "all": "crop, flip, label smoothing 0.2",
    "no_augment": "without augmentation",
    "no_smoothing": "without label smoothing",
}
SMALL = ("model.widths=[32,64,128]", "averaging=ema", "averaging.evaluate=false", "trainer.eval_every=11ep")
ROOT = Path("runs/cifar10_ablation")


def run_of(variant: str, seed: int, words: list[str]) -> Path:
    """The finished run of a variant; it is trained if there is none."""
    for folder in sorted(ROOT.glob(f"*_{variant}_{seed}_*")):
        if (folder / "results.json").is_file():
            return folder
    command = [sys.executable, "-m", "dlrun", "train", "config=cifar10_cpu", *SMALL, *VARIANTS[variant]]
    subprocess.run([*command, f"seed={seed}", f"run.root={ROOT}", f"run.name={variant}_{seed}", *words], check=True)
    return run_of(variant, seed, words)


def accuracy(folder: Path, weights: str) -> float:
    """Test accuracy in percent, of the raw or the averaged weights of the last step."""
    path = folder / f"eval_test_last_{weights}.json"
    if not path.is_file():
        checkpoint = f"checkpoint={folder / 'checkpoints/last.pt'}"
        subprocess.run([sys.executable, "-m", "dlrun", "eval", checkpoint, f"weights={weights}"], check=True)
    return 100 * float(json.loads(path.read_text(encoding="utf-8"))["accuracy"])


def main(words: list[str]) -> None:
    """Run what is missing, evaluate, and print the table."""
    found: dict[tuple[str, str], list[float]] = {}
    for variant in VARIANTS:
        for weights in ("raw", "averaged"):
            found[variant, weights] = [accuracy(run_of(variant, seed, words), weights) for seed in SEEDS]
    base = found["all", "raw"]
    print("| trained with | weights | test accuracy (seeds 0, 1, 2) | mean | against the first row |")
    print("| --- | --- | --- | --: | --: |")
    for (variant, weights), scores in found.items():
        pairs = [one - other for one, other in zip(scores, base, strict=True)]
        change = "" if scores is base else f"{statistics.fmean(pairs):+.2f} +- {statistics.stdev(pairs):.2f}"
        each = ", ".join(f"{score:.2f}" for score in scores)
        mean = f"{statistics.fmean(scores):.2f} +- {statistics.stdev(scores):.2f}"
        print(f"| {NAMES[variant]} | {weights} | {each} | {mean} | {change} |")


if __name__ == "__main__":
    main(sys.argv[1:])
