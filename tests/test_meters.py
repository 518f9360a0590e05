"""Metrics that are summed on the device and read now and then."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dlrun import meters
from dlrun.meters import Meters, Reading


def score(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    return {"accuracy": (outputs.argmax(1) == targets).sum()}


def steps(sizes: list[int], seed: int = 0) -> list[tuple[Tensor, int, Tensor, Tensor]]:
    stream = torch.Generator().manual_seed(seed)
    return [
        (torch.rand((), generator=stream), n, torch.randn(n, 3, generator=stream), torch.arange(n) % 3) for n in sizes
    ]


def truth(made: list[tuple[Tensor, int, Tensor, Tensor]]) -> dict[str, float]:
    total = sum(n for _, n, _, _ in made)
    hits = sum(int((o.argmax(1) == t).sum()) for _, _, o, t in made)
    return {"loss": math.fsum(float(loss) * n for loss, n, _, _ in made) / total, "accuracy": hits / total}


SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=12)


@given(sizes=SIZES, cuts=st.sets(st.integers(1, 11)))
def test_any_partition_into_readings_gives_the_means_of_all_samples(sizes: list[int], cuts: set[int]) -> None:
    made, whole, parts = steps(sizes), Meters(score), Meters(score)
    total = Reading({}, 0, [])
    for i, one in enumerate(made, 1):
        whole.add(*one)
        parts.add(*one)
        if i in cuts:
            total += parts.read()
    total += parts.read()
    reading = whole.read()
    assert reading.samples == total.samples == sum(sizes)
    assert reading.means() == pytest.approx(truth(made), rel=1e-12)
    assert total.means() == pytest.approx(truth(made), rel=1e-12)
    assert reading.losses == [float(loss) for loss, _, _, _ in made]


@given(sizes=SIZES, cut=st.integers(0, 12), limit=st.sampled_from([0, 20, 1 << 20]))
def test_saved_in_mid_interval_and_loaded_it_reads_the_very_same(sizes: list[int], cut: int, limit: int) -> None:
    made, whole, first, second = steps(sizes), Meters(score), Meters(score), Meters(score)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meters, "_PENDING_LIMIT", limit)
        for one in made:
            whole.add(*one)
        for one in made[:cut]:
            first.add(*one)
        buffer = io.BytesIO()
        torch.save(first.state_dict(), buffer)
        buffer.seek(0)
        second.load_state_dict(torch.load(buffer, weights_only=True), torch.device("cpu"))
        assert len(second) == len(made[:cut])
        for meter in (first, second):
            for one in made[cut:]:
                meter.add(*one)
    expected = whole.read()
    for meter in (first, second):
        reading = meter.read()
        assert (reading.sums, reading.losses, reading.samples) == (expected.sums, expected.losses, expected.samples)


@given(
    losses=st.lists(st.sampled_from([0.0, 1.5, -2.0, math.nan, math.inf, -math.inf]), min_size=1, max_size=10),
)
def test_the_first_non_finite_step_is_found(losses: list[float]) -> None:
    meter = Meters(score)
    assert meter.first_non_finite() is None
    for loss in losses:
        meter.add(torch.tensor(loss), 2, torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
    expected = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
    assert meter.first_non_finite() == expected
    assert meter.read().first_non_finite() == expected


def test_a_reading_starts_anew() -> None:
    meter = Meters(score)
    for one in steps([3, 3]):
        meter.add(*one)
    assert len(meter) == 2
    assert meter.read().samples == 6
    assert len(meter) == 0
    empty = meter.read({"grad_norm": torch.ones(())})
    assert (empty.samples, empty.means(), empty.losses, empty.extra) == (0, {}, [], {})


def test_scalars_ride_along() -> None:
    meter = Meters(score)
    for one in steps([3, 3]):
        meter.add(*one)
    reading = meter.read({"grad_norm": torch.tensor(2.5), "scale": torch.tensor([8.0], dtype=torch.float64)})
    assert reading.extra == {"grad_norm": 2.5, "scale": 8.0}
    assert set(reading.means()) == {"loss", "accuracy"}


def test_the_means_weigh_samples_not_batches() -> None:
    meter = Meters(score)
    meter.add(torch.tensor(1.0), 30, torch.eye(3).repeat(10, 1), torch.arange(3).repeat(10))
    meter.add(torch.tensor(2.0), 10, torch.zeros(10, 3), torch.ones(10, dtype=torch.int64))
    assert meter.read().means() == {"loss": 1.25, "accuracy": 0.75}


def test_outputs_are_counted_when_they_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counting(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        calls.append(len(outputs))
        return score(outputs, targets)

    monkeypatch.setattr(meters, "_PENDING_LIMIT", 20)
    meter = Meters(counting)
    made = steps([4] * 5)  # 12 numbers each
    for one in made:
        meter.add(*one)
    assert calls == [8, 8]
    assert meter.read().means() == pytest.approx(truth(made))
    assert calls == [8, 8, 4]


def test_counts_are_exact_however_large() -> None:
    meter = Meters(lambda outputs, targets: {"hits": torch.tensor(2**24 + 1)})
    for _ in range(3):
        meter.add(torch.zeros(()), 1, torch.zeros(1, 2), torch.zeros(1))
        meter._count()
    assert meter.read().sums["hits"] == 3 * (2**24 + 1)


def test_low_precision_losses_are_summed_in_double() -> None:
    meter = Meters(score)
    losses = [torch.tensor(x, dtype=torch.bfloat16) for x in (1.0, 2**-7, 2**-7, 2**-7)]
    for loss in losses:
        meter.add(loss, 1, torch.zeros(1, 3), torch.zeros(1, dtype=torch.int64))
    assert meter.read().sums["loss"] == 1 + 3 * 2**-7


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_adding_does_not_wait_for_a_cuda_device() -> None:
    made: list[Any] = [(a.cuda(), n, o.cuda(), t.cuda()) for a, n, o, t in steps([4] * 5)]
    meter = Meters(score)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for one in made:
            meter.add(*one)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert meter.read().samples == 20
