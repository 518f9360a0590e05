"""Train plain and residual nets of 20 and 56 layers, and draw their training losses: docs/experiments/degradation.png.

python docs/experiments/degradation.py data.root=~/cifar10

Further words go to each of the four runs. Runs that are there already are drawn without being trained again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from dlrun.charts import new_figure

NETS = {
    "plain-20": ("model.depth=20", "model.plain=true"),
    "plain-56": ("model.depth=56", "model.plain=true"),
    "ResNet-20": ("model.depth=20", "model.plain=false"),
    "ResNet-56": ("model.depth=56", "model.plain=false"),
}
ROOT = Path("runs/degradation")


def run_of(name: str, words: list[str]) -> Path:
    """The finished run of a net; it is trained if there is none."""
    for folder in sorted(ROOT.glob(f"*_{name}_*")):
        if (folder / "results.json").is_file():
            return folder
    command = [sys.executable, "-m", "dlrun", "train", "config=degradation", *NETS[name], f"run.root={ROOT}"]
    subprocess.run([*command, f"run.name={name}", *words], check=True)
    return run_of(name, words)


def curve(folder: Path, metric: str) -> tuple[list[int], list[float]]:
    """Epoch and mean of a metric over it, from metrics.jsonl."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    means = {row["epoch"]: row[metric] for row in rows if row["event"] == "epoch"}
    return list(means), list(means.values())


def main(words: list[str]) -> None:
    """Train what is missing, draw, and print a table."""
    figure, axes = new_figure(width=9, height=3.6, columns=2)
    print(f"{'net':<12}{'train loss':>12}{'val loss':>10}{'test accuracy':>15}")
    for name in NETS:
        folder = run_of(name, words)
        kind, depth = name.split("-")
        axis = axes[0] if kind == "plain" else axes[1]
        epochs, losses = curve(folder, "train/loss")
        axis.plot(epochs, losses, label=f"{depth} layers", color="C0" if depth == "20" else "C3")
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        last, test = results["last"], results["test"]
        print(f"{name:<12}{last['train/loss']:12.3f}{last['val/loss']:10.3f}{test['accuracy']:15.2%}")
    for axis, title in zip(axes, ("plain", "with shortcuts"), strict=True):
        axis.set(title=title, xlabel="epoch", ylabel="training loss", ylim=(0.5, 2.4))
        axis.grid(alpha=0.3)
        axis.legend()
    path = Path(__file__).with_suffix(".png")
    figure.savefig(path, dpi=110)
    print(f"drawn: {path}")


if __name__ == "__main__":
    main(sys.argv[1:])
