"""From image files of any size and mode to uint8 arrays of one shape.

Letters used below: N files in all, B in one read, C channels, S pixels of height and width.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dlrun.data.folder_listing import printable
from dlrun.data.workers import ending_workers, naming_dead_workers, set_up_worker, starting_workers
from dlrun.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

_BLOCK = 256
_INLINE = 512
"""Up to so many files are decoded in this process: workers would take longer to start."""


@dataclass(frozen=True)
class Form:
    """The form all images are brought into.

    Attributes:
        size: S.
        fit: ``crop`` scales the short side to S and cuts out the centre; ``resize`` scales both sides to S,
            which changes the proportions.
        channels: C; 1 grey, 3 colour.
    """

    size: int
    fit: Literal["crop", "resize"]
    channels: Literal[1, 3]


class Undecodable(Exception):
    """A file is not a readable image; the text is the reason."""


def decode(path: str, form: Form) -> NDArray[np.uint8]:
    """Decode one file.

    Scaling averages over the pixels (no aliasing). Transparent parts are laid over white; 16-bit grey is
    scaled to 8 bits; a photo is turned as its camera noted.

    Args:
        path: of the file.
        form: what is wanted.

    Returns:
        uint8 (C, S, S).

    Raises:
        Undecodable: with the reason.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            # Large JPEGs are decoded at a fraction of their size, at least twice the size wanted.
            opened.draft(None, (2 * form.size, 2 * form.size))
            image: Image.Image = ImageOps.exif_transpose(opened) if "exif" in opened.info else opened
            image = _fit(_to_mode(image, "L" if form.channels == 1 else "RGB"), form)
            pixels = np.asarray(image)
    except Exception as error:
        # Decoders raise all kinds of errors on damaged bytes: SyntaxError, struct.error, IndexError...
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        elif os.path.getsize(path) == 0:
            reason = "the file is empty"
        raise Undecodable(reason or type(error).__name__) from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    from PIL import Image

    if image.mode == mode:
        return image
    if image.mode.startswith("I"):
        # 16 bits in one channel: Pillow would cut off at 255.
        wide = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("pixels are floating-point numbers of unknown range")
    elif "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        coloured = image.convert("RGBA")
        image = Image.new("RGBA", image.size, "white")
        image.alpha_composite(coloured)
    return image.convert(mode)


def _fit(image: Image.Image, form: Form) -> Image.Image:
    from PIL import Image

    size = form.size
    if image.size == (size, size):
        return image
    box = None
    if form.fit == "crop":
        # The centred square of the original that becomes the result: scaling and cutting in one step.
        short = min(image.size)
        left, top = (image.width - short) // 2, (image.height - short) // 2
        box = (left, top, left + short, top + short)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)


class FileSource:
    """Images that are decoded when they are read. An :class:`~dlrun.data.source.ImageSource`.

    Args:
        root: folder of the files.
        names: N paths relative to ``root``.
        labels: int64 (N,) or (N, K).
        form: what the images are brought into.
    """

    def __init__(self, root: Path, names: Sequence[str], labels: Tensor, form: Form) -> None:
        self.root, self.form = str(root), form
        # One array and not a list of texts: workers share its memory with their parent.
        # As bytes, which is what a file system holds: a name need not be UTF-8.
        self.names = np.array([os.fsencode(name) for name in names])
        self.labels = labels
        self.image_shape = (int(form.channels), form.size, form.size)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> str:
        """Path of one file."""
        return os.path.join(self.root, os.fsdecode(self.names[index]))

    def read(self, indices: Sequence[int] | Tensor) -> Tensor:
        """See :meth:`ImageSource.read <dlrun.data.source.ImageSource.read>`."""
        numbers = torch.as_tensor(indices, dtype=torch.int64).tolist()
        images, bad = self.try_read(numbers)
        for number, reason in bad:
            raise undecodable(self.path(number), reason)
        return images

    def try_read(self, indices: Sequence[int]) -> tuple[Tensor, list[tuple[int, str]]]:
        """Decode some files and go on past those that cannot be.

        Returns:
            uint8 (B, C, S, S), black where a file failed; and (index, reason) of these.
        """
        images = np.zeros((len(indices), *self.image_shape), dtype=np.uint8)
        bad = []
        for place, index in enumerate(indices):
            try:
                images[place] = decode(self.path(index), self.form)
            except Undecodable as error:
                bad.append((index, str(error)))
        return torch.from_numpy(images), bad


def undecodable(path: str, reason: str) -> DataError:
    """The error for a file that cannot be decoded."""
    return DataError(
        f"cannot decode the image {printable(path)}: {reason}; "
        "repair or remove it, or set data.on_error=skip to go on without it"
    )


def decode_all(
    source: FileSource, stop_at_error: bool, keep: bool = True
) -> tuple[NDArray[np.uint8] | None, list[tuple[int, str]]]:
    """Decode every file once, on all cores.

    Args:
        source: N files.
        stop_at_error: raise at the first file that cannot be decoded.
        keep: whether the pixels are wanted, or only to know which files can be decoded.

    Returns:
        uint8 (N, C, S, S) or None; and (index, reason) of the files that cannot be decoded, which are black.

    Raises:
        DataError: naming the first file that cannot be decoded, if ``stop_at_error``.
    """
    array = np.empty((len(source), *source.image_shape), dtype=np.uint8) if keep else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = 0 if len(source) <= _INLINE or cores == 1 else min(cores, 16)
    loader: DataLoader[tuple[Tensor, list[tuple[int, str]]]] = DataLoader(
        _Blocks(source, keep),
        batch_size=None,
        num_workers=workers,
        collate_fn=_unchanged,
        worker_init_fn=set_up_worker,
        generator=torch.Generator(),
    )
    bad: list[tuple[int, str]] = []
    processes: list[BaseProcess] = []
    with starting_workers(processes):
        blocks = iter(loader)
    try:
        with naming_dead_workers():
            for number, (images, failed) in enumerate(blocks):
                if failed and stop_at_error:
                    raise undecodable(source.path(failed[0][0]), failed[0][1])
                bad += failed
                if array is not None:
                    array[number * _BLOCK : number * _BLOCK + len(images)] = images.numpy()
    finally:
        with ending_workers(processes):
            # The workers end with their iterator, which a traceback would keep alive.
            del blocks
    return array, bad


class _Blocks(Dataset[tuple[Tensor, list[tuple[int, str]]]]):
    def __init__(self, source: FileSource, keep: bool) -> None:
        self.source, self.keep = source, keep

    def __len__(self) -> int:
        return -(-len(self.source) // _BLOCK)

    def __getitem__(self, number: int) -> tuple[Tensor, list[tuple[int, str]]]:
        images, bad = self.source.try_read(range(number * _BLOCK, min((number + 1) * _BLOCK, len(self.source))))
        return images if self.keep else images[:0], bad


def _unchanged(item: object) -> object:
    return item
