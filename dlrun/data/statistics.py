"""What is measured of the training split, and the normalisation that uses it.

Letters used below: N images in all, B in one call, C channels, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from dlrun.data.order import random_words
from dlrun.data.source import ImageSource, SubsetSource, array_of
from dlrun.data.whitening import WHITENINGS, Contrast, Covariance, Whitening, check_whitenable, whiten, whitening_matrix

Kind = Literal["channel", "mean_image", "none", "pca", "zca"]
SAMPLE_IMAGES = 20_000
"""Images that are measured of a set that has to be decoded each time it is read.

The mean over a random sample of n images differs from that over all by less than 1/sqrt(n) of their standard
deviation, two times out of three: here 0.7 %, far below what a network notices."""
_CHUNK_BYTES = 1 << 22
_NO_SPREAD = 1e-7
# So many numbers stay in a processor's cache from one of the three passes over them to the next.
_BLOCK_NUMBERS = 1 << 18


@dataclass(frozen=True, eq=False)
class Statistics:
    """What images are normalised with: ``(y - mean) / std``, where ``y = x / 255``, or ``y = contrast(x)``.

    Attributes:
        kind: ``channel`` one mean and std per channel; ``mean_image`` a mean per pixel and channel, one std
            per channel; ``none`` only the scaling to 0..1; ``pca`` and ``zca`` the mean image is subtracted and the
            rest multiplied by ``matrix``.
        mean: float32 (C, 1, 1), or (C, H, W) for ``mean_image``, ``pca`` and ``zca``; in units of y.
        std: float32 (C, 1, 1), > 0; in units of y. It is the population's (divided by N), and 1 where the
            training images do not vary at all; 1 for ``pca`` and ``zca``.
        contrast: what each image goes through for itself before all else; None: its pixels are scaled to 0..1.
        matrix: float32 (D, D) of ``pca`` and ``zca``, D = C * H * W (:func:`dlrun.data.whitening.whitening_matrix`);
            else None.
    """

    kind: Kind
    mean: Tensor
    std: Tensor
    contrast: Contrast | None = None
    matrix: Tensor | None = None
    # In units of the pixels where there is no contrast, so that normalising is one subtraction and one multiplication.
    _offset: Tensor = field(init=False, repr=False)
    _scale: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        unit = 255 if self.contrast is None else 1
        object.__setattr__(self, "_offset", self.mean * unit)
        object.__setattr__(self, "_scale", 1 / (self.std * unit))

    def to(self, device: torch.device | str) -> Statistics:
        """The same statistics on a device."""
        matrix = None if self.matrix is None else self.matrix.to(device)
        return replace(self, mean=self.mean.to(device), std=self.std.to(device), matrix=matrix)

    @property
    def affine(self) -> tuple[Tensor, Tensor]:
        """(offset, scale), both shaped like mean and std: ``normalize(x)`` is ``(x - offset) * scale``, but for what
        ``contrast`` does before and ``matrix`` after."""
        return self._offset, self._scale

    def normalize(self, images: Tensor) -> Tensor:
        """``(x / 255 - mean) / std``, with ``contrast`` before and ``matrix`` after where there are any.

        It is computed as ``(x - 255 mean) * (1 / (255 std))``: two roundings, the same for every number of
        threads and every memory format. With a matrix, the last bits of an image can depend on how many others come
        with it.

        Args:
            images: (B, C, H, W) of any type, values in 0..255, on the device of the statistics; not changed.

        Returns:
            float32 (B, C, H, W), a new tensor in the memory format of ``images``.

        Raises:
            ValueError: if the mean image has another size than the images.
        """
        if self._offset.shape[1:] != (1, 1) and images.shape[1:] != self._offset.shape:
            raise ValueError(
                f"the mean image is {tuple(self._offset.shape)} but the images are {tuple(images.shape[1:])}"
            )
        offset, scale = self._offset, self._scale
        if not images.is_contiguous():
            # Channels lie innermost: one value per channel would be read in runs of C numbers (measured: 5
            # times slower), so it is written out once for a whole image in the layout of the images.
            offset, scale = (_like_image(part, images) for part in (offset, scale))
        result = torch.empty_like(images, dtype=torch.float32)
        step = len(images) if images.is_cuda else max(1, _BLOCK_NUMBERS // max(1, images[0].numel()))
        for block, pixels in zip(torch.split(result, step), torch.split(images, step), strict=True):
            block.copy_(pixels)
            if self.contrast is not None:
                self.contrast.apply_(block)
            block.sub_(offset).mul_(scale)
        if self.matrix is None:
            return result
        innermost = not images.is_contiguous()
        layout = torch.channels_last if innermost else torch.contiguous_format
        return whiten(result, self.matrix).contiguous(memory_format=layout)

    def agrees(self, other: Statistics) -> bool:
        """Whether both normalise images alike, bit for bit; on any device."""
        matrices = [None if one.matrix is None else one.matrix.cpu() for one in (self, other)]
        same_matrix = matrices[0] is matrices[1] or (
            matrices[0] is not None and matrices[1] is not None and torch.equal(matrices[0], matrices[1])
        )
        return (
            self.contrast == other.contrast
            and torch.equal(self.mean.cpu(), other.mean.cpu())
            and torch.equal(self.std.cpu(), other.std.cpu())
            and same_matrix
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors for a checkpoint."""
        state: dict[str, Any] = {"kind": self.kind, "mean": self.mean.cpu(), "std": self.std.cpu()}
        if self.contrast is not None:
            state["contrast"] = [self.contrast.scale, self.contrast.bias]
        if self.matrix is not None:
            state["matrix"] = self.matrix.cpu()
        return state

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Statistics:
        """Statistics from :meth:`state_dict`.

        Raises:
            ValueError: if the state is not one of statistics.
        """
        whitened = state.get("kind") in WHITENINGS
        wanted = {"kind", "mean", "std", *(["matrix"] if whitened else [])}
        if set(state) - {"contrast"} != wanted or state["kind"] not in get_args(Kind):
            raise ValueError(f"not the state of data statistics: {sorted(state)}")
        contrast = Contrast(*state["contrast"]) if "contrast" in state else None
        return cls(state["kind"], state["mean"], state["std"], contrast, state.get("matrix"))


def _like_image(part: Tensor, images: Tensor) -> Tensor:
    whole = torch.empty_like(images[:1], dtype=torch.float32)
    return whole.copy_(part.expand(whole.shape))


def fit(
    source: ImageSource,
    kind: Kind,
    *,
    contrast: Contrast | None = None,
    epsilon: float = 0.01,
    sample: int = SAMPLE_IMAGES,
) -> Statistics:
    """Measure a source; give it the training split only.

    Images in an array are all measured. Of a source that is no array, as a set too large to be kept decoded,
    a random sample is, always the same one of the same N. Without ``contrast``, sums are of whole numbers, so the
    result is exact for the images measured, and does not depend on their order or the number of threads.

    Args:
        source: N >= 1 images.
        kind: see :class:`Statistics`.
        contrast: applied to each image before it is measured, and normalised.
        epsilon: of the whitening, >= 0 (:func:`dlrun.data.whitening.whitening_matrix`).
        sample: number of images measured at most, >= 1, if the source is no array.

    Raises:
        ValueError: if there are no images, or ``kind`` is unknown, or ``sample`` is less than 1, or the images are too
            large to be whitened or cannot be with this ``epsilon``.
        DataError: if a file cannot be decoded.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got {kind!r}")
    source = measured(source, sample)
    channels = source.image_shape[0]
    if kind == "none":
        return Statistics(kind, torch.zeros(channels, 1, 1), torch.ones(channels, 1, 1), contrast)
    if kind in WHITENINGS:
        check_whitenable(kind, source.image_shape)
    if kind == "pca" or kind == "zca":
        return _whitening(source, kind, contrast, epsilon)
    if contrast is not None:
        return _of_contrast(source, kind, contrast)
    return _of_pixels(source, kind)


def _of_pixels(source: ImageSource, kind: Kind) -> Statistics:
    """Mean and std of ``x / 255``, exact."""
    channels, height, width = source.image_shape
    histogram = np.zeros((channels, 256), dtype=np.int64)
    pixel_sums = np.zeros((channels, height, width), dtype=np.int64)
    for images in chunks(source):
        for c in range(channels):
            histogram[c] += torch.bincount(images[:, c].flatten(), minlength=256).numpy()
        if kind == "mean_image":
            pixel_sums += images.numpy().sum(axis=0, dtype=np.int64)
    n, values = len(source), np.arange(256)
    sums, squares = (histogram @ values).tolist(), (histogram @ values**2).tolist()
    std = []
    for c in range(channels):
        mean_square = Fraction(squares[c], n * height * width)
        if kind == "channel":
            square_of_mean = Fraction(sums[c], n * height * width) ** 2
        else:
            # Python's whole numbers: the squares of sums over a large set do not fit in 64 bits.
            square_of_mean = Fraction(sum(s * s for s in pixel_sums[c].flatten().tolist()), n * n * height * width)
        std.append(math.sqrt(mean_square - square_of_mean) / 255 or 1.0)
    if kind == "channel":
        mean = torch.tensor([s / (255 * n * height * width) for s in sums]).view(channels, 1, 1)
    else:
        mean = torch.from_numpy(pixel_sums / (255 * n)).to(torch.float32)
    return Statistics(kind, mean, torch.tensor(std).view(channels, 1, 1))


def _of_contrast(source: ImageSource, kind: Kind, contrast: Contrast) -> Statistics:
    """Mean and std of ``contrast(x)``, summed in float64 by one thread."""
    channels, height, width = source.image_shape
    sums, squares = np.zeros((channels, height, width)), np.zeros(channels)
    for images in chunks(source):
        values = contrast.apply_(images.to(torch.float32)).numpy().astype(np.float64)
        sums += values.sum(axis=0)
        squares += np.square(values).sum(axis=(0, 2, 3))
    mean = sums / len(source)
    if kind == "channel":
        mean = mean.mean(axis=(1, 2), keepdims=True)
    square_of_mean = np.square(mean).mean(axis=(1, 2))
    std = np.sqrt((squares / (len(source) * height * width) - square_of_mean).clip(min=0))
    std[std < _NO_SPREAD] = 1.0
    mean_image = torch.from_numpy(mean).to(torch.float32)
    return Statistics(kind, mean_image, torch.from_numpy(std).to(torch.float32).view(channels, 1, 1), contrast)


def _whitening(source: ImageSource, kind: Whitening, contrast: Contrast | None, epsilon: float) -> Statistics:
    channels = source.image_shape[0]
    covariance = Covariance(math.prod(source.image_shape))
    for images in chunks(source):
        if contrast is None:
            covariance.add(images, pixels=True)
        else:
            covariance.add(contrast.apply_(images.to(torch.float32)), pixels=False)
    unit = 255.0 if contrast is None else 1.0
    matrix = whitening_matrix(covariance.matrix() / unit**2, kind, epsilon)
    mean = torch.from_numpy(covariance.mean(unit).reshape(source.image_shape)).to(torch.float32)
    return Statistics(kind, mean, torch.ones(channels, 1, 1), contrast, matrix)


def measured(source: ImageSource, sample: int = SAMPLE_IMAGES) -> ImageSource:
    """The images of a source that are measured: all if they are in an array, otherwise a random sample.

    Args:
        source: N images.
        sample: size of the sample, >= 1; it is always the same one of the same N.

    Raises:
        ValueError: if there are no images, or ``sample`` is less than 1.
    """
    if len(source) == 0:
        raise ValueError("there are no images to measure")
    if sample < 1:
        raise ValueError(f"sample must be >= 1, got {sample}")
    if array_of(source) is not None or len(source) <= sample:
        return source
    chosen = random_words(len(source), "statistics").argsort(kind="stable")[:sample]
    # In the order of the source: files of one folder one after the other.
    return SubsetSource(source, torch.from_numpy(np.sort(chosen)))


def chunks(source: ImageSource) -> Iterator[Tensor]:
    """All images of a source in its order, uint8 (B, C, H, W), a few MiB at a time.

    Raises:
        DataError: if a file cannot be decoded.
    """
    channels, height, width = source.image_shape
    step = max(1, _CHUNK_BYTES // (channels * height * width))
    array = array_of(source)
    for start in range(0, len(source), step):
        stop = min(start + step, len(source))
        if array is not None and array[1] is None:
            yield array[0].images[start:stop]
        else:
            yield source.read(range(start, stop))
