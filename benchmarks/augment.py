"""Images per second of each augmentation: 32x32 in batches of 512, and 224x224 in batches of 64, three channels.

Compared in one process, taking turns, so that all see the same state of the machine:

* dlrun, on the whole batch of uint8 images;
* torchvision v2, the same operation with the same options on one uint8 tensor after the other and stacked, as a
  dataset and its DataLoader do in each worker process: each image gets random numbers of its own;
* kornia, if it is installed (``pip install kornia``), on the whole batch of floats, which is what it works on; the
  time to make them is not counted.

All operations are applied to every image (p=1) where their options allow it. The figures are medians over rounds.

``python benchmarks/augment.py`` takes some minutes on one core. ``--only affine crop`` measures the operations whose
names contain one of these, ``--device cuda`` puts dlrun and kornia on the GPU, ``--json PATH`` also writes the
numbers. On a busy machine keep ``--threads 1``: with more threads than free cores everything waits for the thread
that is kept from running.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torchvision
from torch import Tensor
from torchvision.transforms import v2

from dlrun.allocator import keep_freed_memory
from dlrun.data.colours import Colours
from dlrun.registry import AUGMENTATIONS

SIZES = {32: 512, 224: 64}
"""Side of the images -> images in a batch."""
GOAL = 10
AIMED = (
    "random_crop",
    "horizontal_flip",
    "affine",
    "colour_jitter",
    "cutout",
    "mixup",
)
"""Operations meant to reach GOAL times the speed of torchvision at 32x32."""
CLASSES = 10

Transform = Callable[..., Any]


@dataclass(frozen=True)
class Row:
    """One operation.

    Attributes:
        name: in dlrun's registry.
        options: of dlrun's operation.
        single: side of the images -> torchvision's transform of one image, or None if it has none.
        batched: side of the images -> kornia's transform of a batch, given kornia.augmentation; or None.
        mixes: whether it is for a batch and its labels, also in torchvision (then `single` is for a batch).
        title: how it is called in the table; the name if empty.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    single: Callable[[int], Transform] | None = None
    batched: Callable[[Any, int], Transform] | None = None
    mixes: bool = False
    title: str = ""


class Stretch:
    """What torchvision users write for lack of a transform: different factors along the axes."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def __call__(self, image: Tensor) -> Tensor:
        x, y = torch.empty(2).uniform_(self.low, self.high).tolist()
        height, width = image.shape[-2:]
        high, wide = max(1, round(height * y)), max(1, round(width * x))
        return v2.functional.center_crop(v2.functional.resize(image, [high, wide]), [height, width])


class Cutout:
    """The usual few lines: a square about a random pixel, cut off at the border."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        top, left = (int(torch.randint(0, size, (1,))) - self.side // 2 for size in (height, width))
        bottom, right = top + self.side, left + self.side
        result = image.clone()
        result[..., max(top, 0) : bottom, max(left, 0) : right] = 0
        return result


class GaussianNoise:
    """torchvision's GaussianNoise takes floats only."""

    def __init__(self, std: float) -> None:
        self.std = std

    def __call__(self, image: Tensor) -> Tensor:
        return (image + torch.randn(image.shape) * (self.std * 255)).round_().clamp_(0, 255).to(torch.uint8)


COLOURS = Colours(torch.eye(3), torch.tensor([0.06, 0.003, 0.001]))
"""About those of natural images."""


class PcaColour:
    """The usual few lines: a colour along the principal axes."""

    def __init__(self, std: float) -> None:
        self.std = std

    def __call__(self, image: Tensor) -> Tensor:
        amounts = COLOURS.axes @ (torch.randn(3) * self.std * COLOURS.variances) * 255
        return (image + amounts[:, None, None]).round_().clamp_(0, 255).to(torch.uint8)


class MixedOneByOne:
    """Mixup with a weight for each image, as in a dataset: torchvision's MixUp draws one weight for a batch."""

    def __init__(self, alpha: float) -> None:
        self.weights = torch.distributions.Beta(alpha, alpha)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        shares = torch.nn.functional.one_hot(labels, CLASSES).float()
        mixed, targets = [], []
        for image, share in zip(images, shares, strict=True):
            other, weight = int(torch.randint(0, len(images), (1,))), self.weights.sample().item()
            mixed.append(torch.lerp(images[other], image, weight))
            targets.append(torch.lerp(shares[other], share, weight))
        return torch.stack(mixed), torch.stack(targets)


BILINEAR = {"interpolation": v2.InterpolationMode.BILINEAR}

GEOMETRY = [
    Row(
        "random_crop",
        {"padding": 4},
        lambda s: v2.RandomCrop(s, padding=4),
        lambda k, s: k.RandomCrop((s, s), padding=4),
    ),
    Row(
        "random_resized_crop",
        {},
        lambda s: v2.RandomResizedCrop(s),
        lambda k, s: k.RandomResizedCrop((s, s), align_corners=False),
    ),
    Row(
        "horizontal_flip",
        {},
        lambda s: v2.RandomHorizontalFlip(),
        lambda k, s: k.RandomHorizontalFlip(),
    ),
    Row(
        "vertical_flip",
        {},
        lambda s: v2.RandomVerticalFlip(),
        lambda k, s: k.RandomVerticalFlip(),
    ),
    Row(
        "translate",
        {},
        lambda s: v2.RandomAffine(0, translate=(0.125, 0.125)),
        lambda k, s: k.RandomAffine(0.0, translate=(0.125, 0.125), p=1.0),
    ),
    Row(
        "rotate",
        {},
        lambda s: v2.RandomRotation(15, **BILINEAR),
        lambda k, s: k.RandomRotation(15.0, p=1.0),
    ),
    Row(
        "scale",
        {},
        lambda s: v2.RandomAffine(0, scale=(0.8, 1.25), **BILINEAR),
        lambda k, s: k.RandomAffine(0.0, scale=(0.8, 1.25), p=1.0),
    ),
    Row(
        "stretch",
        {},
        lambda s: Stretch(0.8, 1.25),
        lambda k, s: k.RandomAffine(0.0, scale=(0.8, 1.25, 0.8, 1.25), p=1.0),
    ),
    Row(
        "shear",
        {},
        lambda s: v2.RandomAffine(0, shear=(-10, 10, -10, 10), **BILINEAR),
        lambda k, s: k.RandomShear((-10.0, 10.0, -10.0, 10.0), p=1.0),
    ),
    Row(
        "affine",
        {},
        lambda s: v2.RandomAffine(10, translate=(0.1, 0.1), scale=(0.9, 1.1), shear=10, **BILINEAR),
        lambda k, s: k.RandomAffine(10.0, translate=(0.1, 0.1), scale=(0.9, 1.1), shear=10.0, p=1.0),
    ),
    Row(
        "affine",
        {"interpolation": "nearest"},
        lambda s: v2.RandomAffine(10, translate=(0.1, 0.1), scale=(0.9, 1.1), shear=10),
        lambda k, s: k.RandomAffine(10.0, (0.1, 0.1), (0.9, 1.1), 10.0, resample="nearest", p=1.0),
        title="affine, nearest",
    ),
    Row(
        "perspective",
        {"p": 1.0},
        lambda s: v2.RandomPerspective(0.3, p=1),
        lambda k, s: k.RandomPerspective(0.3, p=1.0),
    ),
    Row("lens_distortion", {}, None, lambda k, s: _fisheye(k)),
    Row(
        "elastic",
        {},
        # Their way is another one: noise for every pixel, blurred. With torchvision's own options.
        lambda s: v2.ElasticTransform(alpha=50.0, sigma=5.0),
        lambda k, s: k.RandomElasticTransform((25, 25), (5.0, 5.0), (1.0, 1.0), p=1.0),
    ),
    Row("cutout", {"fill": 0}, lambda s: Cutout(s // 2), None),
    Row("cutout", {}, None, None, title="cutout, mean"),
    Row(
        "random_erasing",
        {"p": 1.0},
        lambda s: v2.RandomErasing(1.0),
        lambda k, s: k.RandomErasing(p=1.0),
    ),
]

COLOUR = [
    Row(
        "colour_jitter",
        {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.0},
        lambda s: v2.ColorJitter(0.4, 0.4, 0.4),
        lambda k, s: k.ColorJitter(0.4, 0.4, 0.4, p=1.0),
    ),
    Row(
        "colour_jitter",
        {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
        lambda s: v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
        lambda k, s: k.ColorJitter(0.4, 0.4, 0.4, 0.1, p=1.0),
        title="colour_jitter, hue",
    ),
    Row("pca_colour", {}, lambda s: PcaColour(0.1), None),
    Row("grayscale", {"p": 1.0}, lambda s: v2.RandomGrayscale(1.0), lambda k, s: k.RandomGrayscale(p=1.0)),
    Row("autocontrast", {"p": 1.0}, lambda s: v2.RandomAutocontrast(1.0), lambda k, s: k.RandomAutoContrast(p=1.0)),
    Row("equalize", {"p": 1.0}, lambda s: v2.RandomEqualize(1.0), lambda k, s: k.RandomEqualize(p=1.0)),
    Row("invert", {"p": 1.0}, lambda s: v2.RandomInvert(1.0), lambda k, s: k.RandomInvert(p=1.0)),
    Row(
        "posterize",
        {"bits": 4, "p": 1.0},
        lambda s: v2.RandomPosterize(4, 1.0),
        lambda k, s: k.RandomPosterize((4.0, 4.0), p=1.0),
    ),
    Row("solarize", {"p": 1.0}, lambda s: v2.RandomSolarize(128, 1.0), lambda k, s: k.RandomSolarize(p=1.0)),
    Row(
        "sharpness",
        {"p": 1.0},
        lambda s: v2.RandomAdjustSharpness(1.5, 1.0),
        lambda k, s: k.RandomSharpness(0.5, p=1.0),
    ),
    Row(
        "gaussian_blur",
        {"p": 1.0},
        lambda s: v2.GaussianBlur(5, (0.1, 2.0)),
        lambda k, s: k.RandomGaussianBlur((5, 5), (0.1, 2.0), p=1.0),
    ),
    Row("gaussian_noise", {}, lambda s: GaussianNoise(0.05), lambda k, s: k.RandomGaussianNoise(0.0, 0.05, p=1.0)),
    Row("trivial_augment", {}, lambda s: v2.TrivialAugmentWide(), lambda k, s: k.auto.TrivialAugment()),
    Row("rand_augment", {}, lambda s: v2.RandAugment(), lambda k, s: k.auto.RandAugment(2, 9)),
    Row("mixup", {}, lambda s: MixedOneByOne(0.2), lambda k, s: k.RandomMixUpV2(p=1.0), mixes=True),
    Row(
        "mixup",
        {"weights": "batch"},
        lambda s: v2.MixUp(alpha=0.2, num_classes=CLASSES),
        None,
        mixes=True,
        title="mixup, one weight",
    ),
    Row(
        "cutmix",
        {"weights": "batch"},
        lambda s: v2.CutMix(alpha=1.0, num_classes=CLASSES),
        lambda k, s: k.RandomCutMixV2(p=1.0, use_correct_lambda=True),
        mixes=True,
        title="cutmix, one weight",
    ),
]


def _fisheye(kornia: Any) -> Transform:
    nothing, strength = torch.tensor([0.0, 0.0]), torch.tensor([-0.2, 0.2])
    return kornia.RandomFisheye(nothing, nothing, strength, p=1.0)  # type: ignore[no-any-return]


def contestants(row: Row, side: int, device: torch.device, kornia: Any) -> dict[str, Callable[[], Any]]:
    """Name -> a call that augments one batch."""
    images = torch.randint(0, 256, (SIZES[side], 3, side, side), dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (SIZES[side],))
    values, problems = AUGMENTATIONS.check(row.name, row.options)
    if problems:
        raise ValueError(f"{row.name}: {problems}")
    augment = AUGMENTATIONS.build(row.name, values, input_shape=(3, side, side), colours=COLOURS)
    random = torch.Generator(device).manual_seed(0)
    there, floats = images.to(device), (images / 255).to(device)
    shares = torch.nn.functional.one_hot(labels, CLASSES).float().to(device)
    labels_there = labels.to(device)
    result: dict[str, Callable[[], Any]] = {
        "dlrun": (lambda: augment.mix(there, shares, random)) if row.mixes else (lambda: augment(there, random))
    }
    if row.single is not None:
        single = row.single(side)
        if row.mixes:
            # torchvision's takes the batch that was stacked, as float.
            batch = images / 255
            result["torchvision"] = lambda: single(torch.stack(list(batch)), labels)
        else:
            result["torchvision"] = lambda: torch.stack([single(image) for image in images])
    if row.batched is not None and kornia is not None:
        batched = row.batched(kornia, side)
        result["kornia"] = (lambda: batched(floats, labels_there)) if row.mixes else (lambda: batched(floats))
    return result


def measure(calls: dict[str, Callable[[], Any]], rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each call, taking turns; one call before the first round is not counted.

    A call that takes long is made once in a round, a short one several times: 20 ms at least.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    repeats = {}
    for name, call in calls.items():
        call()
        repeats[name] = max(1, math.ceil(0.02 / _seconds(call, 1, device)))
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(_seconds(call, repeats[name], device))
    return {name: median(values) for name, values in times.items()}


def _seconds(call: Callable[[], Any], repeats: int, device: torch.device) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def main() -> None:
    """Measure every row and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="measure the operations whose names contain one of these")
    parser.add_argument("--sizes", nargs="*", type=int, default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="of dlrun and kornia; torchvision stays on the CPU")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as in a run; for all contestants
    torch.manual_seed(0)
    device, kornia = torch.device(arguments.device), None
    if importlib.util.find_spec("kornia") is not None:
        import kornia.augmentation as kornia
    rows = [
        row
        for row in GEOMETRY + COLOUR
        if row.name in AUGMENTATIONS and (not arguments.only or any(part in row.name for part in arguments.only))
    ]
    print(
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, kornia "
        f"{'not installed' if kornia is None else kornia_version()}, {platform.machine()}, "
        f"{arguments.threads} threads, dlrun on {device}"
    )
    found = []
    for side in arguments.sizes:
        print(f"\n{side}x{side}, batches of {SIZES[side]}: images/s, and how many times as fast dlrun is")
        print(f"{'':22}{'dlrun':>12}{'torchvision':>13}{'':>8}{'kornia':>12}{'':>8}")
        for row in rows:
            seconds = measure(contestants(row, side, device, kornia), arguments.rounds, device)
            speed = {name: SIZES[side] / value for name, value in seconds.items()}
            ratio = {name: speed["dlrun"] / value for name, value in speed.items() if name != "dlrun"}
            found.append({"name": row.title or row.name, "side": side, "images_per_second": speed, "ratio": ratio})
            marks = []
            if min(ratio.values(), default=math.inf) < 1:
                marks.append("slower")
            if side == 32 and row.name in AIMED and not row.title and ratio.get("torchvision", math.inf) < GOAL:
                marks.append(f"aim is {GOAL}x")
            print(f"{row.title or row.name:22}{told(speed, ratio)}  {', '.join(marks)}".rstrip(), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


def kornia_version() -> str:
    """Kornia's version, or that it is missing."""
    import kornia

    return str(kornia.__version__)


def told(speed: dict[str, float], ratio: dict[str, float]) -> str:
    """One line of the table: images per second, and the ratios."""
    text = f"{speed['dlrun']:>12,.0f}"
    for name, width in (("torchvision", 13), ("kornia", 12)):
        text += f"{speed[name]:>{width},.0f}{ratio[name]:>7.1f}x" if name in speed else f"{'-':>{width}}{'':>8}"
    return text


if __name__ == "__main__":
    main()
