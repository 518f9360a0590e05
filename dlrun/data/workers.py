"""Reading ahead in worker processes, in a given order, from any position.

Letters used below: N images in the source, B in one chunk, C channels, H x W pixels.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from types import FrameType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dlrun.data.source import ImageSource
from dlrun.errors import DataError, UserError

END_SECONDS = 2.0
"""How long a worker may take to end when its parent wants it to; then it is killed."""
_END = signal.SIGUSR2
"""What a parent sends to its own workers: end within :data:`END_SECONDS`."""
_FOR_THE_RUN = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Signals whose meaning the parent decides; a worker has none of its own for them."""


class ReadAhead:
    """Reads the chunks of one epoch after the other, always a few ahead of what was asked for.

    The order is asked for epoch by epoch, without end, so that reading goes on while the last chunks of an
    epoch are in use. Workers are started at the first chunk and kept.

    Where every epoch is the same, the one after an epoch is that epoch again. Its chunks are read ahead from
    the second pass on only: many loaders are used for one pass, and what was read beyond it would be lost.

    Args:
        source: what to read; sent to the workers.
        order: epoch -> the indices of its chunks, int64 (B,) each.
        chunks: epoch -> how many chunks ``order`` gives, >= 1.
        workers: number of processes; 0 reads in this process when asked.
        pin: read into page-locked memory, for copies to a GPU that do not wait.
        repeats: whether ``order`` is the same for every epoch.
    """

    def __init__(
        self,
        source: ImageSource,
        order: Callable[[int], Iterator[Tensor]],
        chunks: Callable[[int], int],
        workers: int,
        pin: bool,
        repeats: bool = False,
    ) -> None:
        self._source, self._order, self._count = source, order, chunks
        self._workers, self._pin, self._repeats = workers, pin, repeats
        self._processes: list[BaseProcess] = []
        self._loader: DataLoader[tuple[Tensor, Tensor] | UserError] | None = None
        self._stream: Iterator[tuple[Tensor, Tensor] | UserError] | None = None
        self._keys = _Restartable()
        self._next = (0, 0)
        self._reader = 0
        # Whether reading began before, and whether what is read now ends with the epoch.
        self._begun = self._once = False

    def chunks(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The chunks of an epoch from number ``start`` on.

        Yields:
            (images, labels): uint8 (B, C, H, W), int64 (B,).

        Raises:
            DataError: if a file cannot be decoded, or a worker died.
            RuntimeError: if another call or :meth:`close` came since.
        """
        self._reader += 1
        mine = self._reader
        for chunk in range(start, self._count(epoch)):
            if self._reader != mine:
                raise RuntimeError("this iterator was ended by a newer one, or by close()")
            yield self._read(epoch, chunk)

    def _read(self, epoch: int, chunk: int) -> tuple[Tensor, Tensor]:
        try:
            with naming_dead_workers():
                if self._stream is None or self._next != (epoch, chunk):
                    self._next = (epoch, chunk)
                    self._stream = self._start()
                item = next(self._stream)
        except BaseException:
            self.close()
            raise
        if isinstance(item, UserError):
            self.close()
            raise item
        if chunk + 1 < self._count(epoch):
            self._next = (epoch, chunk + 1)
        else:
            self._next = (epoch if self._repeats else epoch + 1, 0)
            if self._once:
                self._stream = None
        return item

    def _start(self) -> Iterator[tuple[Tensor, Tensor] | UserError]:
        self._once = self._repeats and not self._begun
        self._begun = True
        keys = _Keys(self._order, self._next, self._once)
        reads = _Reads(self._source)
        if self._workers == 0:
            return (reads[key] for key in keys)
        if self._loader is None:
            self._loader = DataLoader(
                reads,
                batch_size=None,
                sampler=self._keys,
                num_workers=self._workers,
                persistent_workers=True,
                pin_memory=self._pin,
                collate_fn=_unchanged,
                worker_init_fn=set_up_worker,
                # Without its own generator a DataLoader draws from the global one, and would change the run.
                generator=torch.Generator(),
            )
        self._keys.now = keys
        _OPEN.add(self)
        with starting_workers(self._processes):
            return iter(self._loader)

    def close(self) -> None:
        """End the workers, within seconds whatever they are doing, and forget the position."""
        self._reader += 1
        _OPEN.discard(self)
        with ending_workers(self._processes):
            # The iterator of a DataLoader ends its workers when nothing refers to it.
            self._stream = None
            self._loader = None
        self._processes = []


_OPEN: weakref.WeakSet[ReadAhead] = weakref.WeakSet()
_STARTED: weakref.WeakSet[BaseProcess] = weakref.WeakSet()


def _end_at_exit(parent: int) -> None:
    # A process that was forked from this one must leave its workers alone.
    if os.getpid() == parent:
        for reader in list(_OPEN):
            reader.close()
        with ending_workers([process for process in _STARTED if process.is_alive()]):
            pass


class _Reads(Dataset[tuple[Tensor, Tensor] | UserError]):
    def __init__(self, source: ImageSource) -> None:
        self.source = source

    def __getitem__(self, key: NDArray[np.int64]) -> tuple[Tensor, Tensor] | UserError:
        indices = torch.from_numpy(key)
        try:
            return self.source.read(indices), self.source.labels.index_select(0, indices)
        except UserError as error:
            # As a value: raised in a worker, it would come back wrapped in the worker's traceback.
            return error


class _Keys:
    def __init__(self, order: Callable[[int], Iterator[Tensor]], position: tuple[int, int], once: bool) -> None:
        self.order, self.position, self.once = order, position, once

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        epoch, skip = self.position
        while True:
            for chunk, indices in enumerate(self.order(epoch)):
                if chunk >= skip:
                    # An array is sent to a worker as bytes; a tensor would drag the whole order into shared
                    # memory.
                    yield indices.numpy()
            if self.once:
                return
            epoch, skip = epoch + 1, 0


class _Restartable(Sampler[NDArray[np.int64]]):
    """A DataLoader keeps its sampler for life; this one can be given a new position."""

    now: _Keys

    def __init__(self) -> None:
        pass

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        return iter(self.now)


def _unchanged(item: object) -> object:
    return item


@contextmanager
def starting_workers(started: list[BaseProcess]) -> Iterator[None]:
    """Start workers in this block: keep the process as it was before.

    PyTorch sets a handler that raises an error in the middle of anything, such as the writing of a
    checkpoint, when a worker dies. It is taken out again; the death is noticed when data are next waited for,
    within five seconds.

    Signals that are meant for the run are held back from the thread that forks: a worker that was just forked still
    has its parent's handlers, and lets signals in (:func:`set_up_worker`) once it has its own.

    Args:
        started: the processes that were started are added to it, for :func:`ending_workers`.
    """
    # Handlers can be set in the main thread only, and PyTorch sets its own there only.
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD)
    others = set(multiprocessing.active_children())
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_THE_RUN)
    try:
        with warnings.catch_warnings():
            # Python 3.12 warns that forking a process with threads may deadlock: workers take no lock of
            # their parent.
            warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)
            yield
    finally:
        new = set(multiprocessing.active_children()) - others
        started += new
        _STARTED.update(new)
        if main and before is not None:
            signal.signal(signal.SIGCHLD, before)
        # What is registered last is called first: multiprocessing itself would send SIGTERM, which workers
        # ignore, and then wait for them without end.
        atexit.unregister(_end_at_exit)
        atexit.register(_end_at_exit, os.getpid())
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def ending_workers(processes: Sequence[BaseProcess]) -> Iterator[None]:
    """Let go of what keeps workers running in this block; those that do not end are killed after it."""
    # First, as PyTorch waits five seconds for each worker that is in the middle of a long read.
    for process in processes:
        if process.pid is not None and process.is_alive():
            with suppress(ProcessLookupError):
                os.kill(process.pid, _END)
    deadline = time.monotonic() + END_SECONDS
    try:
        yield
    finally:
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join(END_SECONDS)


@contextmanager
def naming_dead_workers() -> Iterator[None]:
    """Turn PyTorch's error about a worker that died into one that says what to do.

    Raises:
        DataError: if a worker died in the block.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        raise DataError(
            f"{str(error).strip()} - a data worker died, often because the machine has no memory left: "
            "try fewer data.workers, or data.workers=0 to see the reason"
        ) from error


def set_up_worker(worker: int) -> None:
    """Give a worker signal handlers of its own (it was forked with those of the parent).

    Ctrl-C and a scheduler's signals go to the whole group of processes: the parent decides what they mean,
    and needs its data until it stops, which may be after a long evaluation. A worker therefore ignores
    SIGINT, SIGUSR1 and SIGTERM as long as its parent lives. It ends when its parent says so
    (:func:`ending_workers`) and within seconds after its parent has ended, in whatever way (PyTorch's workers
    look for it between reads, every five seconds).
    """
    parent = os.getppid()

    def end_if_orphaned(number: int, frame: FrameType | None) -> None:
        if os.getppid() != parent:
            os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, end_if_orphaned)
    signal.signal(_END, _end_soon)
    # They were held back since before the fork (starting_workers).
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FOR_THE_RUN)


def _end_soon(number: int, frame: FrameType | None) -> None:
    # The kernel does it, even if the worker is stuck in a read.
    if signal.getitimer(signal.ITIMER_REAL)[0] == 0:
        signal.setitimer(signal.ITIMER_REAL, END_SECONDS)
