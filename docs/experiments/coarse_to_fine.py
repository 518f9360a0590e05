"""Search coarse to fine and in one stage, with as many epochs, over several seeds: docs/experiments/coarse_to_fine.png.

python docs/experiments/coarse_to_fine.py [sweep.jobs=2]

Further words go to each of the sweeps. Sweeps that are there already are not run again.
"""

from __future__ import annotations

import csv
import statistics
import subprocess
import sys
from pathlib import Path

from dlrun.charts import new_figure

SEEDS = 10
WAYS = {
    "one_stage": ("sweep.stages=[{trials: 30, epochs: 8}]",),
    "coarse_to_fine": ("sweep.stages=[{trials: 40, epochs: 2}, {trials: 20, epochs: 8}]",),
}
ROOT = Path("sweeps/coarse_to_fine")


def sweep_of(way: str, seed: int, words: list[str]) -> Path:
    """The finished sweep of a way and a seed; it is run if there is none."""
    for folder in sorted(ROOT.glob(f"*_{way}-{seed}_*")):
        if (folder / "best.yaml").is_file():
            return folder
    command = [sys.executable, "-m", "dlrun", "sweep", "config=digits_search", f"seed={seed}", *WAYS[way]]
    subprocess.run([*command, f"sweep.root={ROOT}", f"sweep.name={way}-{seed}", *words], check=True)
    return sweep_of(way, seed, words)


def trials(folder: Path) -> list[dict[str, str]]:
    """The rows of results.csv."""
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def main(words: list[str]) -> None:
    """Run what is missing, draw, and print a table."""
    best: dict[str, list[float]] = {way: [] for way in WAYS}
    figure, (left, right) = new_figure(width=9, height=3.6, columns=2)
    for way, color in zip(WAYS, ("C0", "C3"), strict=True):
        for seed in range(SEEDS):
            found = [(float(row["score"]), row) for row in trials(sweep_of(way, seed, words)) if row["status"] == "ok"]
            best[way].append(min(score for score, row in found if row["epochs"] == "8"))
            if seed == 0:
                shown = [(float(row["optimizer.lr"]), score) for score, row in found if row["optimizer.lr"]]
                left.scatter(*zip(*shown, strict=True), s=12, color=color, label=way.replace("_", " "), alpha=0.7)
    left.set(xscale="log", yscale="log", xlabel="optimizer.lr", ylabel="val/loss", title="trials of seed 0")
    left.legend()
    for seed, pair in enumerate(zip(*best.values(), strict=True)):
        right.plot([0, 1], pair, color="0.6", marker="o", markersize=4, label="a seed" if seed == 0 else None)
    medians = [statistics.median(values) for values in best.values()]
    right.plot([0, 1], medians, color="C3", linewidth=2.5, marker="s", label="median")
    right.set_xticks([0, 1], [way.replace("_", " ") for way in WAYS])
    right.set(ylabel="val/loss of the best trial", xlim=(-0.3, 1.3), title=f"{SEEDS} seeds, 240 epochs each")
    right.legend()
    path = Path(__file__).with_suffix(".png")
    figure.savefig(path, dpi=110)
    print(f"{'':<16}{'median':>9}{'best':>9}{'worst':>9}")
    for way, values in best.items():
        print(f"{way:<16}{statistics.median(values):9.4f}{min(values):9.4f}{max(values):9.4f}")
    better = sum(fine < one for one, fine in zip(best["one_stage"], best["coarse_to_fine"], strict=True))
    print(f"coarse to fine is better with {better} of {SEEDS} seeds; drawn: {path}")


if __name__ == "__main__":
    main(sys.argv[1:])
