"""Views of an image at test time: what a net is shown beside, or instead of, the image itself.

A view has the size of the image, because that is what the net was trained on: what is cut out of an image is scaled up
to it. Letters: B images, C channels, H x W pixels; L = min(H, W).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

Name = Literal["flip", "translate", "five_crop", "ten_crop", "multi_scale_ten_crop"]
NAMES: tuple[str, ...] = get_args(Name)
IMAGENET_SCALES = (224, 256, 384, 480, 640)
"""Shorter sides that He et al. scale an image to before they cut out 224 pixels."""
SMALL_SCALES = (8, 9, 10, 11, 12)
"""The same for small images, where 8 is the image: a part of 224/640 of one would hold a third of the object."""
SMALL = 128
"""Images with fewer pixels on a side are small."""

View = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Views:
    """The views of one kind, each with what it counts.

    Attributes:
        name: of the kind.
        note: the sizes that were chosen, for people.
        parts: (weight, images (B, C, H, W) float -> view of the same shape); the weights add up to 1.
    """

    name: str
    note: str
    parts: tuple[tuple[float, View], ...]

    def __call__(self, images: Tensor) -> Iterator[tuple[float, Tensor]]:
        """The views of some images, one after the other, so that memory holds one."""
        return ((weight, view(images)) for weight, view in self.parts)

    def __len__(self) -> int:
        return len(self.parts)


def make_views(
    name: Name,
    size: tuple[int, int],
    *,
    shift: int = 1,
    crop: int | None = None,
    scales: Sequence[int] | None = None,
) -> Views:
    """The views of a kind.

    - flip: the image and its mirror image.
    - translate: these count half; the other half are both, moved by ``shift`` pixels up and left, and down and right,
      with the border reflected. For small images whose net was trained with random shifts.
    - five_crop: the four corners and the centre, ``crop`` pixels wide, scaled up to the size of the image.
    - ten_crop: these and their mirror images.
    - multi_scale_ten_crop: ten crops at each of several scales. A scale is the shorter side, in pixels, that the image
      is brought to before pieces of its former size are cut out of it.

    Args:
        name: the kind.
        size: (H, W) of the images.
        shift: of translate, in pixels, >= 1.
        crop: of five_crop and ten_crop: shorter side of a crop in pixels, in [1, L]; None: 7/8 of L, as 224 of 256.
        scales: of multi_scale_ten_crop: each >= L; None: L times 224, 256, 384, 480 and 640 over 224 for images from
            :data:`SMALL` pixels on, and L times 8, 9, 10, 11 and 12 over 8 for smaller ones.

    Raises:
        ValueError: if an option is out of range.

    Source: Krizhevsky et al. 2012, "ImageNet classification with deep convolutional neural networks", section 4.1 (ten
        crops of 224 out of 256); He et al. 2016, "Deep residual learning for image recognition", section 3.4 (scales;
        there over the whole image, here ten crops of it); Jordan 2024, "94% on CIFAR-10 in 3.29 seconds" (translate)
    """
    shorter = min(size)
    if name == "flip":
        return Views(name, "", _evenly(_and_mirrored([_same])))
    if name == "translate":
        if not 1 <= shift < shorter:
            raise ValueError(f"shift={shift}: must be in 1 to {shorter - 1}, less than the image")
        moved = _and_mirrored([_moved(shift, 0), _moved(shift, 2 * shift)])
        half = [(weight / 2, view) for weight, view in _evenly(_and_mirrored([_same]))]
        parts = (*half, *((weight / 2, view) for weight, view in _evenly(moved)))
        return Views(name, f"by {shift} {'pixel' if shift == 1 else 'pixels'}", parts)
    if name in ("five_crop", "ten_crop"):
        side = round(shorter * 7 / 8) if crop is None else crop
        if not 1 <= side <= shorter:
            raise ValueError(f"crop={side}: must be in 1 to {shorter}, the side of the images")
        cuts = _crops(size, side / shorter)
        chosen = cuts if name == "five_crop" else _and_of_mirror(cuts)
        return Views(name, f"{side} of {shorter} pixels", _evenly(chosen))
    sides = _default_scales(shorter) if scales is None else list(scales)
    if not sides or min(sides) < shorter or len(set(sides)) < len(sides):
        raise ValueError(f"scales={sides}: must be different sizes from {shorter} pixels on, the side of the images")
    groups = [_evenly(_and_of_mirror(_crops(size, shorter / side))) for side in sides]
    return Views(
        name,
        f"at {', '.join(map(str, sides))} pixels",
        tuple((weight / len(groups), view) for group in groups for weight, view in group),
    )


def _default_scales(side: int) -> list[int]:
    known = SMALL_SCALES if side < SMALL else IMAGENET_SCALES
    return list(dict.fromkeys(round(side * scale / known[0]) for scale in known))


def _evenly(views: Sequence[View]) -> tuple[tuple[float, View], ...]:
    return tuple((1 / len(views), view) for view in views)


def _and_mirrored(views: Sequence[View]) -> list[View]:
    """The views, and each as it is in a mirror."""

    def mirrored(view: View) -> View:
        return lambda images: view(images).flip(-1)

    return [*views, *(mirrored(view) for view in views)]


def _and_of_mirror(views: Sequence[View]) -> list[View]:
    """The views, and the same of the mirror image."""

    def of_mirror(view: View) -> View:
        return lambda images: view(images.flip(-1))

    return [*views, *(of_mirror(view) for view in views)]


def _same(images: Tensor) -> Tensor:
    return images


def _moved(shift: int, offset: int) -> View:
    def view(images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        padded = F.pad(images, (shift,) * 4, mode="reflect")
        return padded[..., offset : offset + height, offset : offset + width]

    return view


def _crops(size: tuple[int, int], part: float) -> list[View]:
    """Corners and centre, in the order of torchvision's five_crop; the whole image alone if that is all there is."""
    (height, width), (h, w) = size, (max(1, round(side * part)) for side in size)
    if (h, w) == size:
        return [_same]
    middle = round((height - h) / 2), round((width - w) / 2)
    corners = [(0, 0), (0, width - w), (height - h, 0), (height - h, width - w), middle]
    return [_crop(top, left, h, w) for top, left in corners]


def _crop(top: int, left: int, height: int, width: int) -> View:
    def view(images: Tensor) -> Tensor:
        piece = images[..., top : top + height, left : left + width]
        whole = F.interpolate(piece, size=images.shape[-2:], mode="bilinear", align_corners=False)
        layout = torch.channels_last if images.is_contiguous(memory_format=torch.channels_last) else None
        return whole if layout is None else whole.contiguous(memory_format=layout)

    return view
