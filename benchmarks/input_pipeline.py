"""Images per second of the input pipeline: 32x32 colour images, random crop (padding 4) and flip, batches of
128.

Compared in one process, taking turns, so that all see the same state of the machine: dlrun's resident loader,
in both memory formats; torchvision v2 transforms on tensors, image by image, in a DataLoader with worker
processes (the usual way); the same with torchvision v1 transforms on PIL images; and two bounds, a plain copy
of batches to float without augmentation, and the resident loader without augmentation. Every one ends with
normalised float batches.

Run on an idle machine: ``python benchmarks/input_pipeline.py`` (about 40 seconds). ``--seconds 5`` gives each
contestant five seconds per round, ``--json PATH`` also writes the numbers. On a busy machine ``--threads 1``
measures dlrun on one core: with more threads than free cores every operation of PyTorch waits for the thread
that is kept from running, and the resident loader looked a hundred times slower than it is.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dlrun.augment.horizontal_flip import horizontal_flip
from dlrun.augment.random_crop import random_crop
from dlrun.data.loaders import make_loader
from dlrun.data.source import ArraySource
from dlrun.data.statistics import Statistics

BATCH = 128
MEAN, STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
GOAL = 20
Batches = Iterator[Any]


class PerSample(Dataset[tuple[Any, int]]):
    """Images one at a time, each through a transform."""

    def __init__(self, images: Any, labels: list[int], transform: Callable[[Any], Tensor]) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def contestants(images: Tensor, labels: Tensor, workers: int) -> dict[str, Callable[[], Batches]]:
    """Name -> an endless stream of batches. The first is the one that is judged, the second what it is judged
    by."""
    source = ArraySource(images, labels)
    statistics = Statistics("channel", torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1))

    def resident(augment: bool, channels_last: bool) -> Batches:
        loader = make_loader(
            source,
            batch_size=BATCH,
            seed=0,
            shuffle=True,
            augment=[random_crop(), horizontal_flip()] if augment else [],
            statistics=statistics,
            device=torch.device("cpu"),
            resident=True,
            channels_last=channels_last,
        )
        epoch = 0
        while True:
            yield from loader.epoch(epoch)
            epoch += 1

    def copies() -> Batches:
        while True:
            for part in images.split(BATCH):
                yield part.to(torch.float32)

    return {
        "dlrun resident, crop + flip": lambda: resident(True, False),
        f"torchvision v2, tensors, {workers} workers": lambda: per_sample(images, labels, workers, "v2"),
        f"torchvision v1, PIL, {workers} workers": lambda: per_sample(images, labels, workers, "v1"),
        "dlrun resident, crop + flip, channels_last": lambda: resident(True, True),
        "dlrun resident, no augmentation": lambda: resident(False, False),
        "plain copy to float (upper bound)": copies,
    }


def per_sample(images: Tensor, labels: Tensor, workers: int, version: str) -> Batches:
    """The usual way: transforms of one image at a time, in worker processes."""
    store: Any
    if version == "v2":
        from torchvision.transforms import v2

        transform = v2.Compose(
            [
                v2.RandomCrop(32, padding=4),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )
        store = images
    else:
        from PIL import Image
        from torchvision import transforms as v1

        transform = v1.Compose(
            [
                v1.RandomCrop(32, padding=4),
                v1.RandomHorizontalFlip(),
                v1.ToTensor(),
                v1.Normalize(MEAN, STD),
            ]
        )
        store = [Image.fromarray(image) for image in images.permute(0, 2, 3, 1).numpy()]
    data = PerSample(store, labels.tolist(), transform)
    loader = DataLoader(data, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0, drop_last=True)
    while True:
        yield from loader


def rate(batches: Batches, seconds: float) -> float:
    """Images per second, after a start that does not count."""
    for _ in range(4):
        next(batches)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        next(batches)
        count += BATCH
    return count / (time.perf_counter() - began)


def measure(count: int, workers: int, seconds: float, rounds: int) -> dict[str, list[float]]:
    """Rates of every contestant in every round."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=random)
    labels = torch.randint(0, 10, (count,), generator=random)
    rates: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, start in contestants(images, labels, workers).items():
            batches = start()
            rates.setdefault(name, []).append(rate(batches, seconds))
            # Workers of one contestant must not take the time of the next.
            del batches
    return rates


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.5, help="time of each contestant in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="of the DataLoader; dlrun's resident path has none")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--threads", type=int, help="of dlrun and the copy; default: one per core")
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    rates = measure(options.images, options.workers, options.seconds, options.rounds)
    middle = {name: median(values) for name, values in rates.items()}
    judged, reference = list(middle)[:2]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.rounds} rounds")
    print(f"{'':46s} {'images/s':>10s} {'best':>10s} {'x v2':>8s}")
    for name, value in middle.items():
        print(f"{name:46s} {value:10,.0f} {max(rates[name]):10,.0f} {value / middle[reference]:8.2f}")
    ratio = middle[judged] / middle[reference]
    print(f"{judged} is {ratio:.1f} times {reference} (goal: {GOAL})")
    if options.json:
        options.json.write_text(json.dumps({"rates": rates, "ratio": ratio}, indent=1))


if __name__ == "__main__":
    main()
