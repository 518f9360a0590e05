"""From the command to the first training step on digits, over importing torch and taking one bare optimizer step.

    python benchmarks/startup.py [--rounds 5]

Both are whole processes, in turn. dlrun's ends at its first ``step_end`` event: by then it has composed and checked
the configuration, loaded and split the data, built everything and made the run folder. The bare process imports torch,
makes one linear layer and one SGD optimizer, and takes one step.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BARE = """
import torch
model = torch.nn.Linear(64, 10)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(torch.zeros(1, 64)).sum().backward()
optimizer.step()
"""
PLUGIN = """
import os
from dlrun.registry import CALLBACKS
from dlrun.train.fit import Callback

@CALLBACKS.register
class leave_after_one_step(Callback):
    def step_end(self, fit):
        os._exit(0)
"""


def seconds(command: list[str], folder: str) -> float:
    """Wall time of a process."""
    begin = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def main() -> None:
    """Measure in turn and print times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="processes of each kind")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "leave.py").write_text(PLUGIN, encoding="utf-8")
        commands = {
            "dlrun": [
                sys.executable,
                "-m",
                "dlrun",
                "train",
                f"plugins=[{folder}/leave.py]",
                "callbacks.leave_after_one_step=true",
            ],
            "bare": [sys.executable, "-c", BARE],
        }
        times: dict[str, list[float]] = {key: [] for key in commands}
        for turn in range(arguments.rounds + 1):
            for key, command in commands.items():
                took = seconds(command, folder)
                if turn:  # the first round fills the disk cache
                    times[key].append(took)
    ratio = statistics.median(a / b for a, b in zip(times["dlrun"], times["bare"], strict=True))
    print(f"command to first step   {statistics.median(times['dlrun']):6.2f} s")
    print(f"import torch, one step  {statistics.median(times['bare']):6.2f} s")
    print(f"ratio                   {ratio:6.2f}     goal <= 1.30")


if __name__ == "__main__":
    main()
