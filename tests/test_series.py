"""``folds=`` and ``seeds=``: splits, results, sets that are killed and resumed, and wrong input."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import TINY, Dlrun, compose_faster, forgetting_plugins, write
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from running import ForkServer, equal, fork_server
from test_resume import MLP, TRAIN

from dlrun import checkpoint
from dlrun.config.load import load_config
from dlrun.data import image_folder
from dlrun.data.source import ArraySource, ImageData, SubsetSource
from dlrun.data.splits import fold_of, split_off_fold
from dlrun.errors import DataError
from dlrun.members import outcome_of

SPLITS = ("data.split_seed=3", "data.samples=61")


@pytest.fixture
def dlrun(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dlrun:
    monkeypatch.chdir(tmp_path)
    compose_faster(monkeypatch)
    return Dlrun(capsys)


def the_set(place: Path) -> Path:
    """The only folder in ``place/runs``."""
    (path,) = (place / "runs").iterdir()
    return path


def table(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return {row["run"]: row for row in csv.DictReader(file)}


# The splits


@given(
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=5),
    folds=st.integers(2, 7),
    seed=st.integers(0, 3),
)
def test_folds_divide_the_samples_evenly_in_every_class(counts: list[int], folds: int, seed: int) -> None:
    labels = torch.cat([torch.full((count,), c, dtype=torch.int64) for c, count in enumerate(counts)])
    labels = labels[torch.randperm(len(labels))]
    if len(labels) < folds:
        with pytest.raises(ValueError, match="folds must be in"):
            fold_of(labels, folds, seed)
        return
    numbers = fold_of(labels, folds, seed)
    assert set(numbers.tolist()) == set(range(1, folds + 1))
    for chosen in (numbers, *(numbers[labels == c] for c in range(len(counts)))):
        sizes = torch.bincount(chosen, minlength=folds + 1)[1:]
        assert sizes.max() - sizes.min() <= 1
    assert numbers.equal(fold_of(labels, folds, seed))


def test_folds_depend_on_the_split_seed_and_are_the_same_on_every_machine() -> None:
    labels = torch.arange(12) % 3
    assert fold_of(labels, 3, 0).tolist() == [2, 2, 1, 3, 3, 2, 1, 1, 3, 1, 2, 3]
    many = torch.arange(200) % 4
    assert not fold_of(many, 5, 0).equal(fold_of(many, 5, 1))
    # Each class in an order of its own, so neighbours in the data are not neighbours in a fold.
    assert not fold_of(many, 5, 0).equal(torch.arange(200) // 4 % 5 + 1)


def test_the_folds_of_data_are_a_partition_and_the_test_split_stays() -> None:
    images = ArraySource(torch.zeros(30, 1, 2, 2, dtype=torch.uint8), torch.arange(30) % 3)
    whole = ImageData(
        SubsetSource(images, torch.arange(5, 30)), None, SubsetSource(images, torch.arange(5)), ("a",) * 3
    )
    held_out = []
    for fold in range(1, 5):
        data = split_off_fold(whole, fold, 4, 0)
        assert isinstance(data.train, SubsetSource)
        assert isinstance(data.val, SubsetSource)
        assert data.test is whole.test
        assert sorted([*data.train.indices.tolist(), *data.val.indices.tolist()]) == list(range(5, 30))
        held_out += data.val.indices.tolist()
    assert sorted(held_out) == list(range(5, 30))
    with pytest.raises(DataError, match="validation split of their own"):
        split_off_fold(split_off_fold(whole, 1, 4, 0), 1, 4, 0)
    with pytest.raises(DataError, match="only 25 training images to divide; set folds to 25 or less"):
        split_off_fold(whole, 1, 26, 0)


# Sets


def test_a_cross_validation_of_ordinary_runs(dlrun: Dlrun, tmp_path: Path) -> None:
    done = dlrun("train", *TINY, *SPLITS, "folds=3", "seed=4")
    assert done.code == 0, done.text
    folder = the_set(tmp_path)
    assert re.fullmatch(r"\d{8}-\d{6}_synthetic_folds3_[0-9a-f]{6}", folder.name)
    rows = table(folder)
    assert list(rows) == ["fold_1", "fold_2", "fold_3"]
    assert {row["status"] for row in rows.values()} == {"done"}
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["kind"], summary["status"]) == ("folds", "done")
    for name, measured in summary["metrics"].items():
        values = [float(row[name]) for row in rows.values()]
        assert measured == {
            "n": 3,
            "mean": pytest.approx(np.mean(values)),
            "std": pytest.approx(np.std(values, ddof=1)),
        }
    assert "standard deviation" in done.out
    assert "fold 2 of 3" in done.out
    # The predictions are those of each fold's checkpoint for the images that it did not learn from.
    with np.load(folder / "out_of_fold.npz") as file:
        arrays = dict(file)
    assert len(set(arrays["index"].tolist())) == len(arrays["index"]) == 61 - 12
    np.testing.assert_allclose(arrays["probabilities"].sum(1), 1, atol=1e-5)
    for fold in (1, 2, 3):
        run = folder / f"fold_{fold}"
        assert dlrun("eval", f"checkpoint={run}", "split=val").code == 0
        scores = json.loads((run / "eval_val_best.json").read_text())
        of_fold = arrays["fold"] == fold
        right = arrays["probabilities"].argmax(1) == arrays["label"]
        assert scores["samples"] == of_fold.sum()
        assert scores["accuracy"] == pytest.approx(right[of_fold].mean())
        picked = arrays["probabilities"][of_fold, arrays["label"][of_fold]]
        assert scores["loss"] == pytest.approx(-np.log(picked).mean(), rel=1e-4)
    pooled = float((arrays["probabilities"].argmax(1) == arrays["label"]).mean())
    assert summary["out_of_fold"] == {"samples": 49, "accuracy": pytest.approx(pooled)}
    with (folder / "out_of_fold.csv").open(newline="") as listing:
        lines = list(csv.DictReader(listing))
    assert [int(line["index"]) for line in lines] == arrays["index"].tolist()


def test_out_of_fold_predictions_name_the_files(dlrun: Dlrun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_folder, "ARRAY_BYTES", 1)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(7):
            pixels = np.full((4, 4, 3), 20 * i + (100 if name == "dog" else 0), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    words = ("data=image_folder", "data.root=photos", "data.size=4", "data.workers=0", "data.cache=cache")
    words = (
        *words,
        *(word for word in TINY if not re.match(r"data=|data.(samples|classes)", word)),
        "data.batch_size=4",
    )
    done = dlrun("train", *words, "folds=2")
    assert done.code == 0, done.text
    with np.load(the_set(tmp_path) / "out_of_fold.npz") as file:
        paths, labels, classes = file["path"], file["label"], file["classes"]
    assert len(set(paths.tolist())) == len(paths) > 8
    assert [Path(path).parent.name for path in paths] == classes[labels].tolist()


def test_a_run_of_a_set_is_what_it_would_be_alone(dlrun: Dlrun, tmp_path: Path) -> None:
    assert dlrun("train", *TINY, *SPLITS, "folds=3", "run.root=sets/folds").code == 0
    assert dlrun("train", *TINY, *SPLITS, "seeds=[7,3]", "run.root=sets/seeds").code == 0
    (folds,), (seeds,) = (list((tmp_path / "sets" / kind).iterdir()) for kind in ("folds", "seeds"))
    assert sorted(path.name for path in seeds.glob("seed_*")) == ["seed_3", "seed_7"]
    for member, words in ((folds / "fold_2", ("folds=3", "fold=2")), (seeds / "seed_3", ("seed=3",))):
        assert dlrun("train", *TINY, *SPLITS, *words, f"run.root=alone/{member.name}").code == 0
        (alone,) = (tmp_path / "alone" / member.name).iterdir()
        assert (alone / "metrics.jsonl").read_bytes() == (member / "metrics.jsonl").read_bytes()
        assert outcome_of(alone).metrics == outcome_of(member).metrics
        typed = (member / "overrides.txt").read_text().splitlines()
        assert load_config(None, typed)[0].to_tree() == {
            **yaml.safe_load((member / "config.yaml").read_text()),
            "run": {"root": str(tmp_path / "sets" / member.parent.parent.name), "name": ""},
        }


def test_seeds_count_on_from_the_seed_and_tell_the_noise(dlrun: Dlrun, tmp_path: Path) -> None:
    done = dlrun("train", *TINY, *SPLITS, "seeds=3", "seed=5")
    assert done.code == 0, done.text
    folder = the_set(tmp_path)
    rows = table(folder)
    assert list(rows) == ["seed_5", "seed_6", "seed_7"]
    values = [float(row["val/loss"]) for row in rows.values()]
    measured = json.loads((folder / "summary.json").read_text())["metrics"]["val/loss"]
    s = np.std(values, ddof=1)
    # Student's t, two-sided 95 %: 4.302653 with 2 degrees of freedom, 2.776445 with 4.
    assert measured["standard_error"] == pytest.approx(s / np.sqrt(3))
    assert measured["interval"][1] - measured["mean"] == pytest.approx(4.302653 * s / np.sqrt(3), rel=1e-6)
    assert measured["noise"] == pytest.approx(2.776445 * s * np.sqrt(2 / 3), rel=1e-6)
    assert "Two settings with 3 seeds each that differ by less than `noise below` cannot be told apart" in done.out
    # The splits are those of split_seed: the same for every seed.
    states = [checkpoint.load(folder / name / "checkpoints/last.pt") for name in rows]
    assert states[0]["data"]["statistics"]["mean"].equal(states[1]["data"]["statistics"]["mean"])
    # Nothing is left to do, and nothing is done again.
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")}
    again = dlrun("train", f"resume={folder}")
    assert again.code == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")} == before


@pytest.mark.slow
def test_folds_of_images_with_several_labels(dlrun: Dlrun, tmp_path: Path) -> None:
    words = ("data.several_labels=true", "task=multilabel_classification", "loss=binary_cross_entropy")
    done = dlrun("train", *TINY, *words, "folds=3", "trainer.epochs=3")
    assert done.code == 0, done.text
    folder = the_set(tmp_path)
    with np.load(folder / "out_of_fold.npz") as found:
        index, label, predicted = found["index"], found["label"], found["predicted"]
        assert predicted.tolist() == (found["probabilities"] > 0.5).tolist()
    assert len(set(index.tolist())) == len(index) == 48
    assert 1 <= label.sum(1).min() < label.sum(1).max()
    told = json.loads((folder / "summary.json").read_text())["out_of_fold"]
    assert told["accuracy"] == pytest.approx((label == predicted).all(1).mean())
    with (folder / "out_of_fold.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name.startswith("p(")]
    for row, there in zip(rows, label, strict=True):
        assert row["label"].split("; ") == [name[2:-1] for name, one in zip(names, there, strict=True) if one]


@pytest.mark.slow
def test_seeds_are_added_to_a_set(dlrun: Dlrun, tmp_path: Path) -> None:
    assert dlrun("train", *TINY, "seed=5", "seeds=2").code == 0
    folder = the_set(tmp_path)
    before = {path: path.read_bytes() for path in folder.rglob("seed_*/checkpoints/*.pt")}
    for words, seeds in ((("seeds=3",), [5, 6, 7]), (("seeds=[2,5,6,7]",), [2, 5, 6, 7]), ((), [2, 5, 6, 7])):
        done = dlrun("train", f"resume={folder}", *words)
        assert done.code == 0, done.text
        assert list(table(folder)) == [f"seed_{seed}" for seed in seeds]
        assert json.loads((folder / "summary.json").read_text())["metrics"]["val/loss"]["n"] == len(seeds)
    assert {path: path.read_bytes() for path in before} == before
    # An added run is the one that it would have been by itself.
    assert dlrun("train", *TINY, "seed=7", "run.root=alone").code == 0
    (alone,) = (tmp_path / "alone").iterdir()
    files = [checkpoint.load(path / "checkpoints/last.pt")["model"] for path in (alone, folder / "seed_7")]
    assert equal(*files)


@pytest.mark.slow
def test_seeds_of_a_language_model(dlrun: Dlrun, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("so it goes, on and on and on. " * 40)
    words = ("config=char_rnn", "data.path=book.txt", "model.hidden_size=8", "trainer.epochs=1", "data.batch_size=4")
    words = (*words, "data.sequence_length=10", "schedule.warmup=0ep", "device=cpu", "callbacks.tensorboard=null")
    done = dlrun("train", *words, "seeds=2")
    assert done.code == 0, done.text
    assert len(table(the_set(tmp_path))) == 2
    done = dlrun("train", *words, "folds=2", "run.root=other")
    assert done.code == 2
    assert "folds=2: cross-validation is for images" in done.err
    assert "seeds=2" in done.err
    assert not (tmp_path / "other").exists()


FAILING = """
from dlrun.registry import CALLBACKS
from dlrun.train.fit import Callback
from dlrun.errors import UserError

@CALLBACKS.register
class fails(Callback):
    \"\"\"Ends the run of one fold.\"\"\"
    def __init__(self, *, kind: str = "defect") -> None:
        self.kind = kind
    def epoch_end(self, fit) -> None:
        if fit.config.fold == 2:
            raise UserError("as asked") if self.kind == "user" else RuntimeError("as asked")
"""


@pytest.mark.parametrize(("kind", "code"), [pytest.param("user", 2, marks=pytest.mark.slow), ("defect", 1)])
def test_one_failing_fold_is_told_and_the_others_end(dlrun: Dlrun, tmp_path: Path, kind: str, code: int) -> None:
    write(tmp_path, fails_py=FAILING)
    with forgetting_plugins():
        words = ("train", *TINY, "folds=3", "plugins=[fails.py]", f"callbacks.fails.kind={kind}")
        done = dlrun(*words)
        assert done.code == code, done.text
        folder = the_set(tmp_path)
        assert "fold 2 of 3 failed:" in done.err
        assert "as asked" in done.err
        assert f"{folder.name}/fold_2/log.txt" in done.err
        assert "as asked" in (folder / "fold_2/log.txt").read_text()
        rows = table(folder)
        assert [row["status"] for row in rows.values()] == ["done", "failed", "done"]
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["status"] == "failed"
        assert "as asked" in summary["runs"][1]["error"]
        assert summary["metrics"]["val/loss"]["n"] == 2
        # It is tried again, from its checkpoint.
        assert dlrun("train", f"resume={folder}").code == code


def test_an_experiment_that_cannot_start_leaves_no_folder(dlrun: Dlrun, tmp_path: Path) -> None:
    done = dlrun("train", *TINY, "folds=3", "data.batch_size=1000")
    assert done.code == 2
    assert "data.batch_size=1000 is larger than the training split (32 samples)" in done.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("folds=1",), "folds: must be a whole number >= 2, got 1"),
        (("folds=100",), "folds=100: there are only 48 training images to divide; set folds to 48 or less"),
        (("folds=3", "fold=4"), "fold: must be in 1..3 (folds), got 4"),
        (("fold=2",), "fold: says which part of a cross-validation to hold out, so folds is needed too"),
        (("folds=3", "seeds=2"), "seeds: cannot be joined with folds"),
        (("folds=3", "data.val_fraction=0.2"), "data.val_fraction: has no effect with folds"),
        (("seeds=1",), "seeds: must be a whole number >= 2 or a list"),
        (("seeds=[1,1]",), "seeds: must be a number >= 2, or a list of at least two different seeds, got [1, 1]"),
        (("seeds=[3]",), "at least two different seeds, got [3]"),
        (("seeds=[-1,2]",), "seeds: must be"),
        (("seeds=2", f"seed={2**63 - 1}"), "are not all below 2^63"),
    ],
)
def test_wrong_input_is_told(dlrun: Dlrun, tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    done = dlrun("train", *TINY, *words)
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "runs").exists()


def test_a_set_is_resumed_as_it_was_begun_and_evaluated_run_by_run(dlrun: Dlrun, tmp_path: Path) -> None:
    assert dlrun("train", *TINY, "seeds=2").code == 0
    folder = the_set(tmp_path)
    for words, message in (
        (("seeds=null",), "seeds: was 2, now None"),
        (("seeds=[1,2,3]",), "seeds: seeds can be added to a set, but [0] of it would be gone"),
        (("folds=2", "seeds=null"), "folds: was None, now 2"),
        (("trainer.epochs=2",), "trainer.epochs: was 1, now 2; runs that are done were made with it"),
    ):
        done = dlrun("train", f"resume={folder}", *words)
        assert done.code == 2
        assert message in done.err
    done = dlrun("eval", f"checkpoint={folder}")
    assert done.code == 2
    assert "the folder holds 2 runs; give one of them" in done.err
    assert dlrun("eval", f"checkpoint=[{folder}/seed_0,{folder}/seed_1]").code == 0


# Killed and resumed

KILLED = (*TRAIN, *MLP, "folds=3", "trainer.epochs=2")  # of 15 steps, three times


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with fork_server() as server:
        yield server


@pytest.fixture(scope="module")
def whole(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set that is left alone."""
    place = tmp_path_factory.mktemp("whole")
    assert server.run(place, *KILLED) == 0
    return the_set(place)


def assert_same_set(folder: Path, whole: Path) -> None:
    for name in ("results.csv", "summary.json", "out_of_fold.npz", "out_of_fold.csv"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    for member in ("fold_1", "fold_2", "fold_3"):
        assert (folder / member / "metrics.jsonl").read_bytes() == (whole / member / "metrics.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("step", [4, 29, 50, 88])
def test_a_set_that_is_killed_and_resumed_ends_like_one_left_alone(
    server: ForkServer, whole: Path, tmp_path: Path, step: int
) -> None:
    assert server.run(tmp_path, *KILLED, step=step) == -9
    folder = the_set(tmp_path)
    assert not (folder / "summary.json").exists()
    assert server.run(tmp_path, "train", f"resume=runs/{folder.name}") == 0
    assert_same_set(folder, whole)


@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGINT", marks=pytest.mark.slow)])
def test_a_signal_stops_the_whole_set(server: ForkServer, whole: Path, tmp_path: Path, name: str) -> None:
    assert server.run(tmp_path, *KILLED, step=35, signal_name=name) == 75
    folder = the_set(tmp_path)
    text = (tmp_path / "output.txt").read_text()
    assert f"stopped     received {name}: fold 2 of 3 is interrupted" in text
    assert f"go on with  dlrun train resume=runs/{folder.name}\n" in text
    assert not (folder / "fold_3").exists()
    assert server.run(tmp_path, "train", "resume=auto") == 0
    assert_same_set(folder, whole)
