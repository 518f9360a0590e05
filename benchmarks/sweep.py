"""20 random trials of a tiny network by dlrun sweep, over the same trials by hand and by other frameworks.

    python benchmarks/sweep.py [--rounds 5] [--only two loop]

A trial trains an MLP (64-256-256-10) on the handwritten digits for 5 epochs of 21 batches, with a learning rate drawn
evenly from log(1e-3, 1), and evaluates it after each epoch. All contestants are whole processes with one thread per
trial, in turn, and each is also counted without the time that a process takes to import torch:

    two       the trials in a hand-written loop, ten in each of two fresh processes: the ideal of two processes
    loop      the same in one process
    dlrun 2   dlrun sweep, sweep.jobs=2: a folder, checkpoints and logs of every trial, results and page at the end
    dlrun 0   the same with sweep.jobs=0, which is what it chooses by itself for such trials
    optuna    Optuna's study.optimize around the hand-written loop, in memory
    lightning the same around a LightningModule and a Trainer that logs and saves nothing (if lightning is installed)
    ray       Ray Tune around the hand-written loop, two trials at a time (if ray[tune] is installed)
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

TRIALS, EPOCHS, BATCH = 20, 5, 64
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_AIR_NEW_OUTPUT": "0", "RAY_DEDUP_LOGS": "0"}


def rates(seed: int, count: int) -> list[float]:
    """Learning rates, evenly drawn from log(1e-3, 1)."""
    draws = random.Random(seed)
    return [math.exp(draws.uniform(math.log(1e-3), 0.0)) for _ in range(count)]


def by_hand(lr: float) -> float:
    """Train once as one does in a notebook; returns the validation loss."""
    import torch
    from sklearn.datasets import load_digits
    from torch import nn
    from torch.nn import functional as F

    torch.manual_seed(0)
    digits = load_digits()
    order = torch.randperm(len(digits.target))
    images = torch.from_numpy(digits.data).float()[order]
    labels = torch.from_numpy(digits.target)[order]
    images = (images - images.mean()) / images.std()
    train_x, val_x, train_y, val_y = images[:1294], images[1294:1438], labels[:1294], labels[1294:1438]
    net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    loss = torch.zeros(())
    for _ in range(EPOCHS):
        net.train()
        for chosen in torch.randperm(len(train_x)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(net(train_x[chosen]), train_y[chosen]).backward()
            optimizer.step()
        net.eval()
        with torch.no_grad():
            loss = F.cross_entropy(net(val_x), val_y)
    return float(loss)


def loop(count: int = TRIALS) -> None:
    """The trials one after the other."""
    import torch

    torch.set_num_threads(1)
    print(min((by_hand(lr), lr) for lr in rates(0, count)))


def optuna_loop() -> None:
    """Optuna around the hand-written loop."""
    import optuna
    import torch

    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda trial: by_hand(trial.suggest_float("lr", 1e-3, 1.0, log=True)), n_trials=TRIALS)
    print(study.best_value, study.best_params)


def optuna_lightning() -> None:
    """Optuna around a LightningModule."""
    import logging
    import warnings

    import lightning
    import optuna
    import torch
    from sklearn.datasets import load_digits
    from torch import nn
    from torch.nn import functional as F
    from torch.utils.data import DataLoader, TensorDataset

    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    digits = load_digits()
    images, labels = torch.from_numpy(digits.data).float(), torch.from_numpy(digits.target)
    images = (images - images.mean()) / images.std()
    train = DataLoader(TensorDataset(images[:1294], labels[:1294]), batch_size=BATCH, shuffle=True)
    val = DataLoader(TensorDataset(images[1294:1438], labels[1294:1438]), batch_size=144)

    class Net(lightning.LightningModule):
        def __init__(self, lr: float) -> None:
            super().__init__()
            self.lr = lr
            self.net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))

        def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
            self.log("val_loss", F.cross_entropy(self.net(batch[0]), batch[1]))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, nesterov=True, weight_decay=5e-4)

    def objective(trial: optuna.Trial) -> float:
        trainer = lightning.Trainer(
            max_epochs=EPOCHS,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Net(trial.suggest_float("lr", 1e-3, 1.0, log=True)), train, val)
        return float(trainer.callback_metrics["val_loss"])

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=TRIALS)
    print(study.best_value, study.best_params)


def ray_tune() -> None:
    """Ray Tune around the hand-written loop."""
    import ray
    from ray import tune

    def trainable(config: dict[str, float]) -> dict[str, float]:
        import torch

        torch.set_num_threads(1)
        return {"val_loss": by_hand(config["lr"])}

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    results = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space={"lr": tune.loguniform(1e-3, 1.0)},
        tune_config=tune.TuneConfig(num_samples=TRIALS, metric="val_loss", mode="min"),
        run_config=tune.RunConfig(storage_path=os.getcwd(), verbose=0),
    ).fit()
    print(results.get_best_result().metrics["val_loss"])


PEERS: dict[str, Callable[[], None]] = {
    "import": lambda: __import__("torch") and None,
    "half": lambda: loop(TRIALS // 2),
    "loop": loop,
    "optuna": optuna_loop,
    "lightning": optuna_lightning,
    "ray": ray_tune,
}
NEEDS = {"lightning": ("lightning",), "ray": ("ray", "pandas", "pyarrow")}


def commands(name: str) -> list[list[str]]:
    """The processes of a contestant, which run at the same time."""
    if name.startswith("dlrun"):
        return [
            [
                *(sys.executable, "-m", "dlrun", "sweep", "model=mlp", "model.hidden=[256,256]", "augment=none"),
                *("optimizer=sgd", "optimizer.lr=log(1e-3, 1)", "schedule=constant", "schedule.warmup=0ep"),
                *(f"data.batch_size={BATCH}", f"trainer.epochs={EPOCHS}", f"sweep.trials={TRIALS}", "sweep.threads=1"),
                f"sweep.jobs={name.split()[1]}",
            ]
        ]
    mine = [sys.executable, str(Path(__file__).resolve()), "--as"]
    return [[*mine, "half"], [*mine, "half"]] if name == "two" else [[*mine, name]]


def seconds(name: str) -> float:
    """Wall time from the start of the processes of a contestant to the end of the last one."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        running = [
            subprocess.Popen(
                command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            for command in commands(name)
        ]
        for process in running:
            _, error = process.communicate()
            if process.returncode:
                raise SystemExit(f"{name} failed:\n{error}")
        return time.perf_counter() - begin


def main() -> None:
    """Measure in turn and print times and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="processes of each contestant")
    parser.add_argument("--only", nargs="+", help="these contestants alone, beside two")
    parser.add_argument("--as", dest="peer", choices=PEERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        PEERS[arguments.peer]()
        return
    names = ["import", "two", "loop", "dlrun 2", "dlrun 0", "optuna", "lightning", "ray"]
    if arguments.only:
        names = [name for name in names if name in ("import", "two", *arguments.only)]
    for name, modules in NEEDS.items():
        if name in names and any(importlib.util.find_spec(module) is None for module in modules):
            print(f"{name:<12} is not installed")
            names.remove(name)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(arguments.rounds + 1):
        for name in names:
            took = seconds(name)
            if turn:  # the first round fills the disk cache
                times[name].append(took)
    bare = statistics.median(times.pop("import"))
    print(f"{TRIALS} trials of {EPOCHS} epochs; a process that imports torch takes {bare:.2f} s")
    print(f"{'':<12}{'seconds':>8}{'by two':>8}{'without the import':>20}{'by two':>8}")
    ideal = times["two"]
    for name, found in times.items():
        ratio = statistics.median(one / other for one, other in zip(found, ideal, strict=True))
        own, others = statistics.median(found) - bare, statistics.median(ideal) - bare
        goal = "   goal <= 1.15" if name == "dlrun 2" else ""
        print(f"{name:<12}{statistics.median(found):8.2f}{ratio:8.2f}{own:20.2f}{own / others:8.2f}{goal}")


if __name__ == "__main__":
    main()
