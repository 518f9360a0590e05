"""Loaders: batches of normalised images on the device, as a pure function of (seed, epoch, batch number).

The work on the device is done for a *chunk* of several batches at once, so that its fixed costs are shared:
gather, augment, normalise, then each batch is a slice. The size of a chunk depends on the batch and the image
only (:mod:`dlrun.data.plan`), never on the machine, and its randomness is keyed by (seed, epoch, chunk); an
epoch entered in the middle of a chunk computes that chunk whole and skips in it. Both loaders go through the
same chunks and the same :class:`_Finish`, so they give the same batches bit for bit.

    resident    order -> gather uint8 on the device ------------------+
                                                                      +-> augment -> normalise -> slices
    streaming   order -> workers read() uint8 -> copy to the device --+

Letters used below: N images in the source, B images in a batch, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from dlrun.augment.base import Augmentation, Mixing, Place, take
from dlrun.augment.pipeline import Pipeline
from dlrun.data.batch_sizes import BatchSizes
from dlrun.data.feed import BatchLoader
from dlrun.data.order import generator
from dlrun.data.plan import Plan, Plans
from dlrun.data.source import ImageSource, array_of, decoded_bytes
from dlrun.data.statistics import Statistics
from dlrun.data.workers import ReadAhead
from dlrun.errors import DataError

RESIDENT_BYTES = 1 << 30
"""Arrays up to this size are kept on the device unless the configuration says otherwise."""

Batch = tuple[Tensor, Tensor]
"""(inputs, targets), both on the device: float32 (B, C, H, W) normalised, and int64 (B,); where augmentations mix
labels, the share of each class, float32 (B, K). The last batch of an epoch may be smaller; inputs may be views of one
chunk."""


class _Finish:
    """From the uint8 images of a chunk to its batches."""

    def __init__(self, augment: Pipeline, statistics: Statistics) -> None:
        self.augment = augment
        self.statistics = statistics
        self._order: tuple[int, Tensor] | None = None

    def __call__(
        self, images: Tensor, labels: Tensor, plan: Plan, epoch: int, chunk: int, skip: int
    ) -> Iterator[Batch]:
        if self.augment:
            stream = generator(plan.seed, epoch, chunk, images.device)
            place = self._place(plan, epoch, chunk, images.device) if self.augment.placed else None
            images, labels = self.augment(images, labels, stream, place)
        size = plan.batch_size
        rest = slice(skip * size, None) if skip else slice(None)
        if self.statistics.matrix is None:
            inputs = self.statistics.normalize(images[rest])
        else:
            # The last bits of a product can depend on its number of rows: a resumed run must see the same ones.
            inputs = self.statistics.normalize(images)[rest]
        targets = labels[rest]
        return zip(torch.split(inputs, size), torch.split(targets, size), strict=True)

    def _place(self, plan: Plan, epoch: int, chunk: int, device: torch.device) -> Place:
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, plan.order(epoch)
        low, high = plan.bounds(chunk)
        return Place(plan.seed, epoch, self._order[1][low:high].to(device, non_blocking=True))


class ResidentLoader:
    """All images lie on the device as uint8; no workers. See :class:`BatchLoader` and :func:`make_loader`."""

    def __init__(
        self,
        source: ImageSource,
        plans: Plans,
        finish: _Finish,
        device: torch.device,
        channels_last: bool,
    ) -> None:
        plan = plans.of(0)
        self.batch_size, self.num_samples, self.steps_per_epoch = plan.batch_size, plan.num_samples, plan.steps
        self._plans, self._finish, self._device = plans, finish, device
        array = array_of(source)
        rows: Tensor | None = None
        if array is None:
            images, labels = source.read(range(len(source))), source.labels
        else:
            images, labels, rows = array[0].images, array[0].labels, array[1]
        layout = torch.channels_last if channels_last else torch.contiguous_format
        if rows is not None and (device.type != "cpu" or not images.is_contiguous(memory_format=layout)):
            # A copy is made anyway: of the images of this split only.
            images, labels, rows = images.index_select(0, rows), labels.index_select(0, rows), None
        self._images = images.to(device).contiguous(memory_format=layout)
        self._labels = labels.to(device)
        # On the CPU the splits share one array, or one mapped file; these are the rows of this split.
        self._rows = rows

    def steps(self, epoch: int) -> int:
        """See :meth:`BatchLoader.steps`."""
        return self._plans.of(epoch).steps

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """See :meth:`BatchLoader.epoch`."""
        plan = self._plans.of(epoch)
        chunk, skip = plan.enter(epoch, start)
        order = self._order(epoch)
        for number in range(chunk, plan.chunks):
            low, high = plan.bounds(number)
            if order is None:
                images, labels = self._images[low:high], self._labels[low:high]
            else:
                picked = order[low:high]
                images, labels = take(self._images, picked), self._labels.index_select(0, picked)
            yield from self._finish(images, labels, plan, epoch, number, skip)
            skip = 0

    def _order(self, epoch: int) -> Tensor | None:
        plan = self._plans.of(epoch)
        if not plan.shuffle:
            return self._rows
        order = plan.order(epoch)
        if self._rows is not None:
            order = self._rows[order]
        return order.to(self._device, non_blocking=True)

    def close(self) -> None:
        """See :meth:`BatchLoader.close`; there is nothing to end."""


class StreamingLoader:
    """Worker processes read ahead, one chunk at a time each. See :class:`BatchLoader` and
    :func:`make_loader`.

    One iterator at a time: a call of :meth:`epoch` ends the one before. The workers live from epoch to epoch,
    and read ahead across its end.
    """

    def __init__(
        self,
        source: ImageSource,
        plans: Plans,
        finish: _Finish,
        device: torch.device,
        channels_last: bool,
        workers: int,
    ) -> None:
        plan = plans.of(0)
        self.batch_size, self.num_samples, self.steps_per_epoch = plan.batch_size, plan.num_samples, plan.steps
        self._plans, self._finish, self._device = plans, finish, device
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        pin = device.type == "cuda"
        self._reads = ReadAhead(source, self._indices, self._chunks, workers, pin, repeats=not plan.shuffle)

    def _indices(self, epoch: int) -> Iterator[Tensor]:
        plan = self._plans.of(epoch)
        order = plan.order(epoch)
        for chunk in range(plan.chunks):
            low, high = plan.bounds(chunk)
            yield order[low:high]

    def _chunks(self, epoch: int) -> int:
        return self._plans.of(epoch).chunks

    def steps(self, epoch: int) -> int:
        """See :meth:`BatchLoader.steps`."""
        return self._plans.of(epoch).steps

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """See :meth:`BatchLoader.epoch`."""
        plan, device = self._plans.of(epoch), self._device
        chunk, skip = plan.enter(epoch, start)
        if chunk == plan.chunks:
            return
        # Without shuffling all epochs are read alike, as epoch 0: what was read ahead at the end of one serves
        # the next, whatever its number.
        reads = self._reads.chunks(epoch if plan.shuffle else 0, chunk)
        for number, (images, labels) in enumerate(reads, chunk):
            images = images.to(device, non_blocking=True).contiguous(memory_format=self._layout)
            yield from self._finish(images, labels.to(device, non_blocking=True), plan, epoch, number, skip)
            skip = 0

    def close(self) -> None:
        """See :meth:`BatchLoader.close`."""
        self._reads.close()


def make_loader(
    source: ImageSource,
    *,
    batch_size: int | BatchSizes,
    seed: int,
    shuffle: bool,
    augment: Sequence[Augmentation | Mixing] = (),
    num_classes: int | None = None,
    statistics: Statistics,
    device: torch.device,
    resident: bool | None = None,
    workers: int = 0,
    channels_last: bool = False,
    drop_last: bool = False,
    limit: int | None = None,
) -> BatchLoader:
    """Make the loader that fits the source.

    Args:
        source: N images.
        batch_size: B >= 1, the same in all epochs or that of each. Without ``shuffle`` it must be one.
        seed: of the order and the augmentation; a change gives other ones, the same seed the same.
        shuffle: whether each epoch has a random order; otherwise it is that of the source.
        augment: applied one after the other to uint8 images on the device, before normalisation.
        num_classes: K, which augmentations that mix labels need.
        statistics: of the training split.
        device: where the batches are wanted.
        resident: keep all images on the device; None: if they are in an array of at most
            :data:`RESIDENT_BYTES`.
        workers: processes that read, for the streaming form; 0 reads in this process.
        channels_last: give inputs in ``torch.channels_last`` memory format.
        drop_last: leave out the last batch of an epoch if it is smaller than B.
        limit: use only so many batches of an epoch; None: all.

    Raises:
        DataError: if there are no images, or less than one batch and ``drop_last``.
        ValueError: if ``batch_size`` or ``workers`` is out of range, or the number of classes is needed.
    """
    total = len(source)
    sizes = BatchSizes(((0, batch_size),)) if isinstance(batch_size, int) else batch_size
    if min(size for _, size in sizes.sizes) < 1 or workers < 0:
        raise ValueError(f"batch_size must be >= 1 and workers >= 0, got {batch_size} and {workers}")
    if total == 0:
        raise DataError("there are no images to load")
    if drop_last and total < sizes.largest:
        raise DataError(
            f"a batch of {sizes.largest} is larger than the data ({total} images), so no batch is left: "
            f"set data.batch_size to {total} or less, or data.drop_last=false"
        )
    channels, height, width = source.image_shape
    plans = Plans(
        sizes,
        image_numbers=channels * height * width,
        seed=seed,
        shuffle=shuffle,
        total=total,
        drop_last=drop_last,
        limit=limit,
    )
    finish = _Finish(Pipeline(augment, num_classes), statistics.to(device))
    if resident is None:
        resident = array_of(source) is not None and decoded_bytes(source) <= RESIDENT_BYTES
    if resident:
        return ResidentLoader(source, plans, finish, device, channels_last)
    return StreamingLoader(source, plans, finish, device, channels_last, workers)
