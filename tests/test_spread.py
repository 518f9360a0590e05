"""Means, intervals and tests over runs: against scipy, by hand, and in words."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers import Dlrun
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dlrun.spread import Spread, difference, paired_difference, quantile, spread

VALUES = st.lists(st.floats(-100, 100).map(lambda x: round(x, 3)), min_size=2, max_size=8)


def measured(values: list[float]) -> Spread:
    found = spread(values)
    assert found is not None
    return found


def test_golden_spread() -> None:
    found = measured([2.0, 4.0, 6.0])
    assert (found.mean, found.std) == (4.0, 2.0)
    assert found.standard_error == pytest.approx(1.1547005)
    # t(0.975, 2) = 4.3026527, t(0.975, 4) = 2.7764451
    assert found.interval == pytest.approx((4 - 4.9682759, 4 + 4.9682759))
    assert found.noise == pytest.approx(2.7764451 * 2 * math.sqrt(2 / 3))
    assert quantile(1e9) == pytest.approx(1.959964, abs=1e-6)


def test_what_has_no_spread() -> None:
    alone = measured([0.3])
    assert (alone.mean, alone.std, alone.standard_error, alone.interval, alone.noise) == (0.3, None, None, None, None)
    assert measured([0.1, 0.1, 0.1]).std == 0.0
    assert spread([]) is None
    assert spread([1.0, math.nan]) is None
    assert spread([1.0, math.inf]) is None
    with pytest.raises(ValueError, match="at least two runs"):
        difference(alone, measured([1.0, 2.0]))


@given(values=VALUES)
def test_the_interval_is_that_of_scipy(values: list[float]) -> None:
    found = measured(values)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert found.std == pytest.approx(np.std(values, ddof=1), abs=1e-9)
    if found.std:
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert found.interval == pytest.approx((low, high), rel=1e-6, abs=1e-9)


@pytest.mark.filterwarnings("ignore:Precision loss")  # scipy, where one side does not vary
@given(first=VALUES, second=VALUES)
def test_the_difference_is_welchs_test(first: list[float], second: list[float]) -> None:
    one, other = measured(first), measured(second)
    found, back = difference(one, other), difference(other, one)
    assert (back.value, back.half, back.p) == (-found.value, pytest.approx(found.half), pytest.approx(found.p))
    if not (one.std or other.std):
        assert found.effect is None
        assert found.p == (1.0 if found.value == 0 else 0.0)
        return
    expected = stats.ttest_ind(second, first, equal_var=False)
    assert found.p == pytest.approx(expected.pvalue, abs=1e-9)
    low, high = expected.confidence_interval(0.95)
    assert (found.value - found.half, found.value + found.half) == pytest.approx((low, high), rel=1e-6, abs=1e-7)
    if abs(found.p - 0.05) > 1e-9:
        assert found.certain == (found.p < 0.05)


def test_folds_are_compared_pair_by_pair_with_the_corrected_variance() -> None:
    found = paired_difference(measured([0.8, 0.9, 0.7]), measured([0.82, 0.93, 0.71]))
    # Differences 0.02, 0.03, 0.01: mean 0.02, s 0.01; t(0.975, 2) = 4.3026527.
    assert found.value == pytest.approx(0.02)
    assert found.half == pytest.approx(4.3026527 * 0.01 * math.sqrt(1 / 3 + 1 / 2))
    assert found.effect == pytest.approx(2.0)
    assert not found.certain


def make_set(folder: Path, accuracies: list[float], **tree: Any) -> Path:
    key = "fold" if "folds" in tree else "seed"
    for i, accuracy in enumerate(accuracies, key == "fold"):
        run = folder / f"{key}_{i}"
        run.mkdir(parents=True)
        (run / "config.yaml").write_text("")
        metrics = {"train/accuracy": 1.0, "val/accuracy": accuracy, "val/loss": 1 - accuracy}
        (run / "results.json").write_text(json.dumps({"last": metrics, "step": 3, "epochs": 1}))
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": {"name": "digits", "split_seed": 0}, **tree}))
    return folder


def test_compare_says_in_words_what_is_noise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dlrun = Dlrun(capsys)
    a = str(make_set(tmp_path / "a", [0.90, 0.91, 0.92], seeds=3))
    b = str(make_set(tmp_path / "b", [0.95, 0.96, 0.97, 0.96], seeds=4))
    c = str(make_set(tmp_path / "c", [0.90, 0.93, 0.92], seeds=3))
    done = dlrun("compare", a, b)
    assert done.code == 0, done.text
    assert "val/accuracy: B is higher by 5.00% +- 1.99%" in done.out
    assert "val/loss: B is lower by 0.0500 +- 0.0199" in done.out
    assert "train/" not in done.out
    assert "within the noise" not in done.out
    done = dlrun("compare", a, c)
    assert "val/accuracy: the difference of 0.67% +- 3.12% is within the noise" in done.out
    found = json.loads(dlrun("compare", a, b, "--json").out)["val/accuracy"]
    expected = stats.ttest_ind([0.95, 0.96, 0.97, 0.96], [0.90, 0.91, 0.92], equal_var=False)
    assert found["p"] == pytest.approx(expected.pvalue)
    assert found["certain"] is True
    assert found["first"] == {"n": 3, "mean": pytest.approx(0.91), "std": pytest.approx(0.01)}


def test_compare_refuses_what_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dlrun = Dlrun(capsys)
    seeds = str(make_set(tmp_path / "seeds", [0.90, 0.91, 0.92], seeds=3))
    folds = str(make_set(tmp_path / "folds", [0.90, 0.91, 0.92], folds=3))
    more = str(make_set(tmp_path / "more", [0.90, 0.91, 0.92, 0.93], folds=4))
    one = str(make_set(tmp_path / "one", [0.90], seeds=3))
    for words, message in (
        ((seeds,), "needs two folders"),
        ((seeds, folds), "one folder holds seeds and the other folds"),
        ((folds, more), "divide the data differently"),
        ((seeds, one), "1 of its runs are done, and a comparison needs two; dlrun train resume="),
        ((seeds, str(tmp_path / "none")), "is not a folder of several runs"),
        ((seeds, f"{seeds}/seed_0"), "is not a folder of several runs"),
    ):
        done = dlrun("compare", *words)
        assert done.code == 2, done.text
        assert message in done.err
    assert dlrun("compare", folds, folds).code == 0


def test_folds_are_paired_only_where_they_hold_the_same_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dlrun = Dlrun(capsys)

    def folds(name: str, index: int = 0, label: int = 1, place: str = "/a/cat/1.png", **data: Any) -> str:
        chosen = {"name": "digits", "split_seed": 0, "batch_size": 8, "root": "/a", **data}
        folder = make_set(tmp_path / name, [0.90, 0.91], folds=2, data=chosen)
        for run in folder.glob("fold_*"):
            np.savez(run / "out_of_fold.npz", index=np.array([3, index]), label=np.array([0, label]), path=[place])
        return str(folder)

    plain = folds("plain")
    assert (
        dlrun("compare", plain, folds("same", place="/b/cat/1.png", root="/b", batch_size=4, normalize="zca")).code == 0
    )
    others = {
        "index": folds("index", index=1),
        "label": folds("label", label=2),
        "file": folds("file", place="/a/dog/1.png"),
        "noise": folds("noise", noise=0.9),
        "seed": folds("seed", split_seed=1),
    }
    for name, other in others.items():
        done = dlrun("compare", plain, other)
        assert done.code == 2, name
        assert "divide the data differently" in done.err
