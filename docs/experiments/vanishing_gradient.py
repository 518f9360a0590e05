"""Train plain cells and LSTMs on a long memory, and draw how far the gradient reaches: vanishing_gradient.png.

python docs/experiments/vanishing_gradient.py

Further words go to each of the runs. Runs that are there already are drawn without being trained again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from dlrun.charts import new_figure
from dlrun.gradients import reach

NETS = {
    "tanh": ("config=long_memory_rnn",),
    "lstm-1": ("config=long_memory_lstm", "model.forget_bias=1"),
    "lstm-4": ("config=long_memory_lstm",),
}
LABELS = {"tanh": "tanh", "lstm-1": "LSTM, forget bias 1", "lstm-4": "LSTM, forget bias 4"}
ROOT = Path("runs/vanishing_gradient")


def run_of(name: str, words: list[str]) -> Path:
    """The finished run of a net; it is trained if there is none."""
    for folder in sorted(ROOT.glob(f"*_{name}_*")):
        if (folder / "results.json").is_file():
            return folder
    command = [sys.executable, "-m", "dlrun", "train", *NETS[name], f"run.root={ROOT}", f"run.name={name}"]
    subprocess.run([*command, *words], check=True)
    return run_of(name, words)


def rows(path: Path) -> list[dict[str, object]]:
    """The rows of a jsonl file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main(words: list[str]) -> None:
    """Train what is missing, draw, and print a table."""
    figure, axes = new_figure(width=12, height=3.8, columns=3)
    print(f"{'net':<22}{'reach, untrained':>18}{'reach, trained':>16}{'val accuracy':>14}{'test accuracy':>15}")
    for color, name in zip(("C3", "C1", "C0"), NETS, strict=True):
        folder = run_of(name, words)
        measured = rows(folder / "gradient_flow.jsonl")
        left = []
        for axis, row in zip(axes, (measured[0], measured[-1]), strict=False):
            norms = row["norms"]
            assert isinstance(norms, dict)
            values = norms.get("features.0", norms.get("features.0.h"))
            axis.plot(range(1, len(values) + 1), values, label=LABELS[name], color=color)
            left.append(reach(values) or 0.0)
        evaluated = [row for row in rows(folder / "metrics.jsonl") if "val/accuracy" in row]
        axes[2].plot(
            [0, *(row["epoch"] for row in evaluated)],
            [0.25, *(row["val/accuracy"] for row in evaluated)],
            label=LABELS[name],
            color=color,
            marker="o",
        )
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        scores = results["last"]["val/accuracy"], results["test"]["accuracy"]
        print(f"{LABELS[name]:<22}{left[0]:18.1e}{left[1]:16.1e}{scores[0]:14.2%}{scores[1]:15.2%}")
    for axis, title in zip(axes, ("before training", "after training"), strict=False):
        axis.set(title=title, xlabel="time step (the letter is 1)", ylabel="norm of dL/dh", yscale="log")
    axes[2].set(title="accuracy", xlabel="epoch", ylabel="validation accuracy", ylim=(0, 1.05))
    axes[2].axhline(0.25, color="gray", linestyle=":", linewidth=1)
    for axis in axes:
        axis.grid(alpha=0.3)
    axes[0].legend()
    path = Path(__file__).with_suffix(".png")
    figure.savefig(path, dpi=110)
    print(f"drawn: {path}")


if __name__ == "__main__":
    main(sys.argv[1:])
