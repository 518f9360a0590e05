"""Loaders: the same batches from any start, with any number of workers, resident or streaming."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dlrun.augment.horizontal_flip import horizontal_flip
from dlrun.augment.random_crop import random_crop
from dlrun.data import loaders, plan
from dlrun.data.feed import BatchLoader
from dlrun.data.loaders import ResidentLoader, StreamingLoader, make_loader
from dlrun.data.source import ArraySource, ImageSource, SubsetSource
from dlrun.data.statistics import fit
from dlrun.data.workers import set_up_worker, starting_workers
from dlrun.errors import DataError

FEW = settings(derandomize=True, deadline=None, max_examples=30)
CPU = torch.device("cpu")
N = 45


def array(n: int = N) -> ArraySource:
    random = torch.Generator().manual_seed(n)
    images = torch.randint(0, 256, (n, 3, 8, 8), dtype=torch.uint8, generator=random)
    # The first pixel and the label are the number of the image.
    images[:, :, 0, 0] = torch.arange(n, dtype=torch.uint8)[:, None]
    return ArraySource(images, torch.arange(n))


class Trouble:
    """A source that fails at one image."""

    def __init__(self, how: str) -> None:
        self.inner, self.how = array(), how
        self.labels, self.image_shape = self.inner.labels, self.inner.image_shape

    def __len__(self) -> int:
        return len(self.inner)

    def read(self, indices: Any) -> Tensor:
        if 13 in torch.as_tensor(indices):
            if self.how == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "term":
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGUSR1)
                time.sleep(0.1)
                if signal.getitimer(signal.ITIMER_REAL)[0]:
                    raise DataError("the worker is about to end")
            if self.how == "stuck":
                time.sleep(3600)
            if self.how == "deaf":
                signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP})
                time.sleep(3600)
            if self.how == "data":
                raise DataError("cannot decode the image 13.jpg: it is damaged")
            if self.how == "bug":
                raise RuntimeError("a defect of the source")
        return self.inner.read(indices)


def loader(source: ImageSource | None = None, **options: Any) -> BatchLoader:
    source = array() if source is None else source
    settings: dict[str, Any] = {
        "batch_size": 4,
        "seed": 0,
        "shuffle": True,
        "augment": [random_crop(padding=2), horizontal_flip()],
        "statistics": fit(array(), "channel"),
        "device": CPU,
    }
    return make_loader(source, **(settings | options))


def numbers(batches: Iterator[tuple[Tensor, Tensor]]) -> list[int]:
    return [number for _, targets in batches for number in targets.tolist()]


def same(one: Iterator[tuple[Tensor, Tensor]], other: Iterator[tuple[Tensor, Tensor]]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(x.equal(u) and y.equal(v) for (x, y), (u, v) in pairs)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three batches in a chunk."""
    monkeypatch.setattr(plan, "CHUNK_NUMBERS", 3 * 4 * 3 * 8 * 8)


@FEW
@given(
    n=st.integers(1, 60),
    batch_size=st.integers(1, 70),
    per_chunk=st.integers(1, 5),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    resident=st.booleans(),
    channels_last=st.booleans(),
    draw=st.data(),
)
def test_batches_do_not_depend_on_the_start(
    n: int,
    batch_size: int,
    per_chunk: int,
    shuffle: bool,
    drop_last: bool,
    resident: bool,
    channels_last: bool,
    draw: st.DataObject,
) -> None:
    drop_last = drop_last and n >= batch_size
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "CHUNK_NUMBERS", per_chunk * batch_size * 3 * 8 * 8)
        options = {"batch_size": batch_size, "shuffle": shuffle, "drop_last": drop_last}
        whole = loader(array(n), resident=True, **options)
        other = loader(array(n), resident=resident, channels_last=channels_last, **options)
        epoch = draw.draw(st.integers(0, 3))
        start = draw.draw(st.integers(0, whole.steps_per_epoch))
        batches = list(whole.epoch(epoch))
        assert same(iter(batches[start:]), other.epoch(epoch, start))
    assert len(batches) == whole.steps_per_epoch == (n // batch_size if drop_last else -(-n // batch_size))
    seen = numbers(iter(batches))
    assert len(seen) == len(set(seen)) == whole.num_samples == (n - n % batch_size if drop_last else n)
    assert shuffle or seen == list(range(whole.num_samples))
    for inputs, targets in batches:
        assert (inputs.dtype, targets.dtype) == (torch.float32, torch.int64)
        assert inputs.shape == (len(targets), 3, 8, 8)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("channels_last", [False, True])
def test_resident_and_streaming_with_any_workers_give_the_same_bits(channels_last: bool) -> None:
    source = SubsetSource(array(), torch.arange(40).flip(0))
    resident = loader(source, resident=True, channels_last=channels_last)
    expected = [list(resident.epoch(epoch)) for epoch in range(3)]
    for workers in (0, 1, 2):
        streaming = loader(source, resident=False, workers=workers, channels_last=channels_last)
        for epoch in range(2):
            assert same(iter(expected[epoch]), streaming.epoch(epoch))
        # Out of the order in which the workers read ahead, and from the middle of a chunk.
        assert same(iter(expected[2][5:]), streaming.epoch(2, 5))
        assert same(iter(expected[0][7:]), streaming.epoch(0, 7))
        streaming.close()
        assert same(iter(expected[1]), streaming.epoch(1))
        streaming.close()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert all(inputs.is_contiguous(memory_format=layout) for inputs, _ in expected[0])


def test_images_and_targets_belong_together_and_are_normalised() -> None:
    source, statistics = array(), fit(array(), "mean_image")
    for resident in (True, False):
        for inputs, targets in loader(source, augment=[], statistics=statistics, resident=resident).epoch(3):
            assert inputs.equal(statistics.normalize(source.images[targets]))


def test_order_and_augmentation_change_with_epoch_and_seed() -> None:
    one = loader()
    epochs = [numbers(one.epoch(epoch)) for epoch in range(3)] + [numbers(loader(seed=1).epoch(0))]
    assert len({tuple(order) for order in epochs}) == 4
    still = loader(shuffle=False)
    first, second = next(still.epoch(0)), next(still.epoch(1))
    assert first[1].equal(second[1])
    assert not first[0].equal(second[0])
    assert same(loader(shuffle=False, augment=[]).epoch(0), loader(shuffle=False, augment=[], seed=9).epoch(5))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("resident", [True, False])
def test_alternating_flips_follow_each_sample_through_the_epochs(resident: bool) -> None:
    def epochs(**options: Any) -> list[dict[int, Tensor]]:
        one = loader(resident=resident, **options)
        return [
            {int(number): image for x, y in one.epoch(e) for number, image in zip(y, x, strict=True)} for e in range(3)
        ]

    alternating = {"augment": [horizontal_flip(alternate=True)]}
    plain, (first, second, third) = epochs(augment=[])[0], epochs(**alternating)
    for number, image in plain.items():
        assert first[number].equal(image) or first[number].equal(image.flip(-1))
        assert second[number].equal(first[number].flip(-1))
        assert third[number].equal(first[number])
    assert 0 < sum(first[number].equal(image) for number, image in plain.items()) < len(plain)
    # Also from the middle of a chunk on.
    rest = list(loader(resident=resident, **alternating).epoch(1))[2:]
    assert same(iter(rest), loader(resident=resident, **alternating).epoch(1, 2))


@pytest.mark.parametrize("options", [{"resident": True}, {"resident": False}, {"resident": False, "workers": 1}])
def test_no_global_randomness_is_used(options: dict[str, Any]) -> None:
    state = torch.random.get_rng_state()
    one = loader(**options)
    list(one.epoch(0))
    one.close()
    assert torch.random.get_rng_state().equal(state)


def test_the_source_is_not_changed() -> None:
    source = array()
    for shuffle in (True, False):
        for inputs, _ in loader(source, shuffle=shuffle, resident=True).epoch(0):
            inputs.zero_()
    assert source.images.equal(array().images)


def test_threads_do_not_change_the_bits() -> None:
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(list(loader(batch_size=40).epoch(0)))
    finally:
        torch.set_num_threads(threads)
    assert same(iter(results[0]), iter(results[1]))


def test_the_form_is_chosen_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unknown(Trouble):
        pass

    assert isinstance(loader(), ResidentLoader)
    assert isinstance(loader(SubsetSource(array(), torch.arange(9))), ResidentLoader)
    assert isinstance(loader(Unknown("")), StreamingLoader)
    assert isinstance(loader(Unknown(""), resident=True), ResidentLoader)
    assert isinstance(loader(resident=False), StreamingLoader)
    monkeypatch.setattr(loaders, "RESIDENT_BYTES", N * 3 * 8 * 8 - 1)
    assert isinstance(loader(), StreamingLoader)
    assert isinstance(loader(resident=True), ResidentLoader)


def test_the_splits_share_the_pixels_on_the_cpu() -> None:
    source = array()
    one = loader(SubsetSource(source, torch.arange(9)))
    assert isinstance(one, ResidentLoader)
    assert one._images.data_ptr() == source.images.data_ptr()


def test_wrong_use_is_refused() -> None:
    with pytest.raises(DataError, match="a batch of 64 is larger than the data"):
        loader(batch_size=64, drop_last=True)
    with pytest.raises(DataError, match="no images"):
        loader(SubsetSource(array(), torch.arange(0)))
    with pytest.raises(ValueError, match="batch_size must be >= 1"):
        loader(batch_size=0)
    for resident in (True, False):
        one = loader(resident=resident)
        for position in ((-1, 0), (0, -1), (0, one.steps_per_epoch + 1)):
            with pytest.raises(ValueError, match="no batch"):
                next(one.epoch(*position))
        assert list(one.epoch(0, one.steps_per_epoch)) == []


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_file_is_named_without_the_workers_traceback(workers: int) -> None:
    one = loader(Trouble("data"), workers=workers)
    with pytest.raises(DataError) as caught:
        list(one.epoch(0))
    assert str(caught.value) == "cannot decode the image 13.jpg: it is damaged"


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_defect_keeps_its_traceback(workers: int) -> None:
    with pytest.raises(RuntimeError, match="a defect of the source"):
        list(loader(Trouble("bug"), workers=workers).epoch(0))


@pytest.mark.usefixtures("small_chunks")
def test_a_worker_that_dies_is_an_error_that_says_what_to_try() -> None:
    handler = signal.getsignal(signal.SIGCHLD)
    with pytest.raises(DataError, match=r"a data worker died.*data\.workers=0"):
        list(loader(Trouble("die"), workers=1).epoch(0))
    # Nothing is left behind that would raise in the middle of something else.
    assert signal.getsignal(signal.SIGCHLD) == handler


@pytest.mark.usefixtures("small_chunks")
def test_workers_go_on_through_signals_meant_for_the_run() -> None:
    # The parent's handlers must not run in the workers, and a signal to all processes must not take the data away.
    before = signal.signal(signal.SIGTERM, lambda *_: os._exit(3))
    try:
        one = loader(Trouble("term"), workers=1)
        assert len(numbers(one.epoch(0))) == N
        one.close()
    finally:
        signal.signal(signal.SIGTERM, before)


def _signalled_before_its_set_up() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGUSR1)
    set_up_worker(0)


def test_a_signal_that_finds_a_worker_just_forked_does_not_run_the_parents_handler() -> None:
    numbers_of_signals = (signal.SIGINT, signal.SIGUSR1)
    seen: list[int] = []

    def handle(number: int, frame: object) -> None:
        if os.getpid() != parent:
            os._exit(3)
        seen.append(number)

    parent = os.getpid()
    before = {number: signal.signal(number, handle) for number in numbers_of_signals}
    started: list[BaseProcess] = []
    try:
        with starting_workers(started):
            process = multiprocessing.get_context("fork").Process(target=_signalled_before_its_set_up)
            process.start()
            os.kill(parent, signal.SIGINT)
        assert seen == [signal.SIGINT]
        process.join(30)
        assert process.exitcode == 0
        assert started == [process]
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@pytest.mark.slow
@pytest.mark.usefixtures("small_chunks")
def test_workers_serve_a_parent_that_goes_on_for_long_after_a_signal() -> None:
    one = loader(resident=False, workers=2)
    batches = one.epoch(0)
    seen = numbers(iter([next(batches)]))
    for child in multiprocessing.active_children():
        assert child.pid is not None
        os.kill(child.pid, signal.SIGTERM)
    # Longer than PyTorch waits for anything.
    time.sleep(7)
    assert sorted(seen + numbers(batches)) == list(range(N))
    one.close()


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.slow
@pytest.mark.parametrize("how", ["stuck", "deaf"])
def test_close_ends_workers_whatever_they_are_doing(how: str) -> None:
    one = loader(Trouble(how), workers=2, shuffle=False)
    next(one.epoch(0))
    assert len(multiprocessing.active_children()) == 2
    time.sleep(0.1)
    began = time.monotonic()
    one.close()
    # The stuck ones would take an hour.
    assert time.monotonic() - began < 50
    assert not multiprocessing.active_children()
    # The next ones have heard nothing of it.
    assert len(next(one.epoch(0))[1]) == 4
    one.close()


class Counted:
    """A source that notes in a file what was read, also in a worker."""

    def __init__(self, log: Path) -> None:
        self.inner, self.log = array(), log
        self.labels, self.image_shape = self.inner.labels, self.inner.image_shape

    def __len__(self) -> int:
        return len(self.inner)

    def read(self, indices: Any) -> Tensor:
        with self.log.open("a") as file:
            file.write(f"{int(indices[0])}\n")
        return self.inner.read(indices)

    def reads(self) -> list[int]:
        return [int(line) for line in self.log.read_text().split()]


@pytest.mark.usefixtures("small_chunks")
def test_passes_over_a_split_share_what_was_read_ahead(tmp_path: Path) -> None:
    source = Counted(tmp_path / "log")
    one = loader(source, workers=1, shuffle=False)
    starts = [0, 12, 24, 36]
    assert numbers(one.epoch(0)) == list(range(N))
    time.sleep(0.2)
    # A loader that is used once reads nothing in vain.
    assert source.reads() == starts
    for _ in range(3):
        assert numbers(one.epoch(0)) == list(range(N))
    one.close()
    # Two chunks are under way in one worker.
    reads = source.reads()
    assert reads == (starts * 5)[: len(reads)]
    assert 16 <= len(reads) <= 18
    # From the middle, and then from the start.
    assert numbers(one.epoch(0, 7)) == list(range(28, N))
    assert numbers(one.epoch(0)) == list(range(N))
    one.close()


@pytest.mark.usefixtures("small_chunks")
def test_a_newer_iterator_ends_the_older() -> None:
    one = loader(resident=False)
    old = one.epoch(0)
    next(old)
    assert len(numbers(one.epoch(0))) == N
    with pytest.raises(RuntimeError, match="ended by a newer one"):
        list(old)


@pytest.mark.usefixtures("small_chunks")
def test_workers_live_on_between_epochs_and_end_with_close() -> None:
    one = loader(resident=False, workers=2)
    list(one.epoch(0))
    first = {child.pid for child in multiprocessing.active_children()}
    list(one.epoch(1))
    next(one.epoch(7))
    assert {child.pid for child in multiprocessing.active_children()} == first
    assert len(first) == 2
    one.close()
    assert not multiprocessing.active_children()


PROGRAM = """
import multiprocessing, os, signal, sys, time, torch
from dlrun.data import plan
from dlrun.data.loaders import make_loader
from dlrun.data.statistics import fit
from dlrun.data.synthetic import synthetic

how = sys.argv[1]
plan.CHUNK_NUMBERS = 1
data = synthetic(0).train

class Stuck:
    labels, image_shape = data.labels, data.image_shape
    def __len__(self):
        return len(data)
    def read(self, indices):
        if how == "stuck" and 0 not in indices:
            time.sleep(3600)
        return data.read(indices)

loader = make_loader(Stuck(), batch_size=8, seed=0, shuffle=False, statistics=fit(data, "none"),
                     device=torch.device("cpu"), resident=False, workers=2)
batches = loader.epoch(0)
next(batches)
if how == "stuck":
    time.sleep(0.2)
print(time.time(), *(child.pid for child in multiprocessing.active_children()), flush=True)
if how == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if how == "terminated":
    os.kill(os.getpid(), signal.SIGTERM)
if how == "raised":
    raise SystemExit(3)
"""


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ("plain", 0),
        pytest.param("stuck", 0, marks=pytest.mark.slow),
        pytest.param("raised", 3, marks=pytest.mark.slow),
        pytest.param("killed", -signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param("terminated", -signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_workers_end_with_a_program_that_forgets_close(how: str, status: int, tmp_path: Path) -> None:
    out = tmp_path / "out"
    # Not a pipe: workers would hold it open, and the end of the program could not be told from theirs.
    with out.open("w") as file:
        done = subprocess.run([sys.executable, "-c", PROGRAM, how], stdout=file, stderr=file, timeout=60)
    ended, (began, *workers) = time.time(), out.read_text().split()
    assert done.returncode == status
    # A stuck worker would take an hour.
    assert ended - float(began) < 50
    assert len(workers) == 2
    orphaned = how in ("killed", "terminated")
    while any(running(int(worker)) for worker in workers):
        assert orphaned
        assert time.time() - ended < 50
        time.sleep(0.1)


def running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    # In a container nobody may collect orphans that have ended.
    status = Path(f"/proc/{process}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")


def test_sources_can_be_sent_to_workers() -> None:
    source = SubsetSource(array(), torch.tensor([5, 3]))
    again = pickle.loads(pickle.dumps(source))
    assert again.read([1]).equal(source.read([1]))
    assert again.labels.tolist() == [5, 3]
