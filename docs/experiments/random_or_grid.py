"""Random search beside grids of the same number of trials: docs/experiments/random_or_grid.png.

python docs/experiments/random_or_grid.py [sweep.jobs=2]

Further words go to each of the sweeps. Sweeps that are there already are not run again.
"""

from __future__ import annotations

import csv
import random
import statistics
import subprocess
import sys
from pathlib import Path

from dlrun.charts import new_figure

POINTS = (2, 3, 4)
AXES = 4
DRAWS = 2000
ROOT = Path("sweeps/random_or_grid")
SWEEPS = {"random": ("sweep.trials=256",)} | {
    f"grid-{points}": ("sweep.search=grid", f"sweep.points={points}", f"sweep.trials={points**AXES}")
    for points in POINTS
}


def trials(name: str, words: list[str]) -> list[dict[str, str]]:
    """The trials of a sweep, from results.csv; it is run if there is none."""
    for folder in sorted(ROOT.glob(f"*_{name}_*")):
        if (folder / "best.yaml").is_file():
            with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
                return list(csv.DictReader(file))
    command = [sys.executable, "-m", "dlrun", "sweep", "config=random_or_grid", *SWEEPS[name], f"sweep.root={ROOT}"]
    subprocess.run([*command, f"sweep.name={name}", *words], check=True)
    return trials(name, words)


def loss(row: dict[str, str]) -> float:
    """Score of a trial; one that diverged or failed has an infinite one."""
    return float(row["score"]) if row["status"] == "ok" else float("inf")


def main(words: list[str]) -> None:
    """Run what is missing, draw, and print a table."""
    found = {name: trials(name, words) for name in SWEEPS}
    scores = {name: [loss(row) for row in rows] for name, rows in found.items()}
    counts = [2**i for i in range(9)]
    draws = random.Random(0)
    best = {
        count: sorted(min(draws.sample(scores["random"], count)) for _ in range(DRAWS))
        for count in [*counts, *(points**AXES for points in POINTS)]
    }
    figure, (left, middle, right) = new_figure(width=12, height=3.8, columns=3)
    left.fill_between(
        counts, [best[n][DRAWS // 4] for n in counts], [best[n][3 * DRAWS // 4] for n in counts], alpha=0.25
    )
    left.plot(counts, [statistics.median(best[n]) for n in counts], label="random: median and quartiles")
    sizes = [points**AXES for points in POINTS]
    left.plot(sizes, [min(scores[f"grid-{points}"]) for points in POINTS], "s--", color="C3", label="grid")
    left.set(xscale="log", yscale="log", xlabel="trials", ylabel="val/loss of the best trial", title="what is found")
    left.set_xticks([*counts], [str(count) for count in counts])
    left.minorticks_off()
    losses = [mark for mark in (0.1, 0.15, 0.2, 0.3, 0.5, 1.0) if mark >= min(scores["random"]) * 0.9]
    left.set_yticks(losses, [f"{mark:g}" for mark in losses])
    left.legend()
    for axis, name, color in ((middle, "grid-3", "C3"), (right, "random", "C0")):
        rows = found[name][: 3**AXES]
        shown = [(float(row["optimizer.lr"]), loss(row)) for row in rows if loss(row) != float("inf")]
        axis.scatter(*zip(*shown, strict=True), s=12, color=color, alpha=0.7)
        values = len({row["optimizer.lr"] for row in rows})
        kind = "a grid" if name != "random" else "random"
        axis.set(xscale="log", yscale="log", xlabel="optimizer.lr", ylabel="val/loss")
        axis.set(title=f"{kind}: {len(rows)} trials, {values} values of lr", ylim=(0.03, 4), xlim=(8e-4, 1.3))
    path = Path(__file__).with_suffix(".png")
    figure.savefig(path, dpi=110)
    print(f"{'trials':>6}{'grid':>9}{'random, median':>16}{'random is better':>18}")
    for points in POINTS:
        size, grid = points**AXES, min(scores[f"grid-{points}"])
        share = sum(value < grid for value in best[size]) / DRAWS
        print(f"{size:6}{grid:9.4f}{statistics.median(best[size]):16.4f}{share:18.0%}")
    print(f"drawn: {path}")


if __name__ == "__main__":
    main(sys.argv[1:])
