"""The data sets that YAML can choose by name, other than image folders."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from dlrun.data.digits import digits
from dlrun.data.source import ImageData
from dlrun.data.synthetic import synthetic
from dlrun.errors import DataError, UserError
from dlrun.registry import DATASETS

CONFIGS = Path(__file__).parents[1] / "configs"
COMMON = {
    "name", "batch_size", "eval_batch_size", "val_fraction", "split_seed", "normalize", "resident", "workers",
    "drop_last",
}  # fmt: skip


def parts(data: ImageData) -> list[torch.Tensor]:
    sources = [source for source in (data.train, data.val, data.test) if source is not None]
    return [part for source in sources for part in (source.read(range(len(source))), source.labels)]


def test_digits_are_all_there_and_split_by_seed() -> None:
    data = digits(0)
    assert data.input_shape == (1, 8, 8)
    assert data.classes == tuple("0123456789")
    assert data.test is not None
    assert (len(data.train), len(data.test), data.val) == (1438, 359, None)
    counts = data.test.labels.bincount()
    assert int(counts.max() - counts.min()) <= 2
    images = data.train.read(range(len(data.train)))
    assert (images.dtype, int(images.min()), int(images.max())) == (torch.uint8, 0, 255)
    # 17 levels, of which 8 (half of 16) is 127.5, rounded to even.
    assert set(images.unique().tolist()) == {round(level * 255 / 16) for level in range(17)}
    assert all(a.equal(b) for a, b in zip(parts(digits(0)), parts(data), strict=True))
    assert not parts(digits(1))[0].equal(parts(data)[0])
    assert digits(0, test_fraction=0).test is None


def test_digits_are_scikit_learns_digits() -> None:
    path = Path(importlib.util.find_spec("sklearn").origin).parent / "datasets/data/digits.csv.gz"  # type: ignore
    first = gzip.decompress(path.read_bytes()).decode().splitlines()[0].split(",")
    images, labels = parts(digits(0, test_fraction=0))
    assert images[0].flatten().tolist() == [round(int(x) * 255 / 16) for x in first[:64]]
    assert labels[0] == int(first[64])


def test_digits_load_at_once_without_scikit_learn_or_pillow() -> None:
    program = (
        "import sys, time, torch, numpy, dlrun.data.digits as d; t = time.perf_counter(); d.digits(0);"
        "print(time.perf_counter() - t);"
        "assert not {'sklearn', 'torchvision', 'PIL'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.5  # 0.02 s on an idle machine


def test_importing_the_package_imports_no_torch() -> None:
    program = "import sys, dlrun.data, dlrun.augment; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="scikit-learn, which is not installed"):
        digits(0)


def test_synthetic_is_deterministic_balanced_and_learnable() -> None:
    data = synthetic(3, samples=200, classes=4, size=6, channels=1, noise=0.5)
    again = synthetic(3, samples=200, classes=4, size=6, channels=1, noise=0.5)
    assert all(a.equal(b) for a, b in zip(parts(data), parts(again), strict=True))
    assert not parts(synthetic(4, samples=200, classes=4, size=6, channels=1))[0].equal(parts(data)[0])
    assert data.input_shape == (1, 6, 6)
    assert len(data.classes) == 4
    images, labels, test_images, test_labels = parts(data)
    assert labels.bincount().tolist() == [40] * 4
    means = torch.stack([images[labels == c].float().mean(0) for c in range(4)]).flatten(1)
    nearest = torch.cdist(test_images.float().flatten(1), means).argmin(1)
    assert nearest.equal(test_labels)
    with pytest.raises(UserError, match="samples=3 is less than classes=10"):
        DATASETS.build("synthetic", DATASETS.check("synthetic", {"samples": 3})[0] | {"split_seed": 0})


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_absent_sets_say_what_to_set(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"set data.download=true to fetch it into .*, or data.root to the folder"):
        DATASETS.get(name)(root=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST/raw"), ("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")]
)
def test_incomplete_sets_say_what_to_set(name: str, folder: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(DataError, match=r"incomplete or damaged: set data.download=true"):
        DATASETS.get(name)(root=tmp_path)


def test_a_download_that_fails_is_the_users_to_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    def fail(self: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(datasets.CIFAR10, "download", fail)
    with pytest.raises(DataError, match=r"cannot download CIFAR10 to .*: no route to host"):
        DATASETS.get("cifar10")(root=tmp_path, download=True)


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_mnist_files_are_read(name: str, folder: str, tmp_path: Path) -> None:
    raw = tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    random = np.random.default_rng(0)
    written = {}
    for split, n in (("train", 30), ("t10k", 20)):
        images = random.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels = np.arange(n, dtype=np.uint8) % 10
        (raw / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, n, 28, 28) + images.tobytes())
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, n) + labels.tobytes())
        written[split] = images
    data = DATASETS.get(name)(root=tmp_path)
    assert data.input_shape == (1, 28, 28)
    assert (len(data.train), len(data.test), data.val, len(data.classes)) == (30, 20, None, 10)
    assert np.array_equal(data.train.read([3])[0, 0], written["train"][3])
    assert data.test.labels.tolist() == [*range(10), *range(10)]


@pytest.mark.parametrize(
    ("name", "folder", "label", "names", "classes"),
    [
        ("cifar10", "cifar-10-batches-py", "labels", "label_names", 10),
        ("cifar100", "cifar-100-python", "fine_labels", "fine_label_names", 100),
    ],
)
def test_cifar_files_are_read(
    name: str, folder: str, label: str, names: str, classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import datasets

    kind: Any = getattr(datasets, name.upper())
    (tmp_path / folder).mkdir()
    random = np.random.default_rng(0)
    rows = random.integers(0, 256, (6, 3072), dtype=np.uint8)

    def write(file: str, content: object) -> list[str]:
        packed = pickle.dumps(content)
        (tmp_path / folder / file).write_bytes(packed)
        return [file, hashlib.md5(packed, usedforsecurity=False).hexdigest()]

    def batch(file: str) -> list[str]:
        return write(file, {"data": rows, label: list(range(6))})

    # The real names and format; only the checksums are those of these small files.
    monkeypatch.setattr(kind, "train_list", [batch(file) for file, _ in kind.train_list])
    monkeypatch.setattr(kind, "test_list", [batch(file) for file, _ in kind.test_list])
    file, md5 = write(kind.meta["filename"], {names: [f"c{i}" for i in range(classes)]})
    monkeypatch.setattr(kind, "meta", {"filename": file, "key": kind.meta["key"], "md5": md5})
    data = DATASETS.get(name)(root=tmp_path)
    assert data.input_shape == (3, 32, 32)
    assert len(data.classes) == classes
    assert data.classes[1] == "c1"
    assert len(data.train) == 6 * len(kind.train_list)
    # Planes of red, green and blue, row by row, as they lie in the file.
    assert np.array_equal(data.test.read([4])[0].flatten(), rows[4])
    assert data.test.labels.tolist() == list(range(6))


@pytest.mark.parametrize("name", DATASETS.names())
def test_every_set_has_its_file_of_options(name: str) -> None:
    values = yaml.safe_load((CONFIGS / "data" / f"{name}.yaml").read_text())
    entry = DATASETS.entry(name)
    options = {option.name for option in entry.options} - {"split_seed"}
    assert set(values) == COMMON | options
    assert values["name"] == name
    given = {key: values[key] for key in options if values[key] != "???"}
    assert not [problem for problem in DATASETS.check(name, given)[1] if problem[0] in given]
    for option in entry.options:
        if option.name in given:
            assert given[option.name] == option.default
            assert option.doc
    assert entry.summary.endswith(".")


@pytest.mark.parametrize("path", sorted((CONFIGS / "augment").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_pipeline_names_known_options(path: Path) -> None:
    from dlrun.registry import AUGMENTATIONS

    assert path.read_text().startswith("# @package _global_\n")
    tree = yaml.safe_load(path.read_text())
    assert list(tree) == ["augment"]
    for step in tree["augment"]:
        name = step.pop("name")
        assert set(step) == {option.name for option in AUGMENTATIONS.entry(name).options}
        assert not AUGMENTATIONS.check(name, step)[1]
