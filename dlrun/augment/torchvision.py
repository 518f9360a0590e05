"""Any transform of torchvision, one image at a time.

Letters used below: B images in one call, C channels, H x W pixels.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2 as library

from dlrun.augment.base import Augmentation, channels_innermost
from dlrun.augment.draws import on_host
from dlrun.augment.planes import WHITE
from dlrun.errors import UserError, did_you_mean
from dlrun.registry import AUGMENTATIONS

_MIXES = {"MixUp": "mixup", "CutMix": "cutmix"}
_TRIALS = 8


def transforms() -> list[str]:
    """Names of the transforms of ``torchvision.transforms.v2``, without those that mix labels."""
    known = (name for name, found in vars(library).items() if isinstance(found, type) and name not in _MIXES)
    return sorted(
        name for name in known if issubclass(getattr(library, name), library.Transform) and name != "Transform"
    )


def one_by_one(images: Tensor, transform: library.Transform, seeds: Tensor) -> Tensor:
    """Apply a transform to each image, with a seed of its own for torch's global generators, which stay as they were.

    Args:
        images: (B, C, H, W) uint8 in 0..255; or float in the same units, which the transform sees in 0..1.
        transform: keeps shape and type.
        seeds: int64 (B,) on the CPU, >= 0.

    Returns:
        A new tensor like ``images``.

    Raises:
        UserError: if the transform changes shape or type, or refuses such images.
    """
    result = torch.empty_like(images)
    scale = WHITE if images.is_floating_point() else None
    with _own_randomness(images.device) as generators:
        for image, target, seed in zip(images, result, seeds.tolist(), strict=True):
            for generator in generators:
                generator.manual_seed(seed)
            target.copy_(_transformed(image, transform, scale))
    return result


def _transformed(image: Tensor, transform: library.Transform, scale: float | None) -> Tensor:
    name = type(transform).__name__
    try:
        changed = transform(image.clone() if scale is None else image / scale)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"augment torchvision: {name} cannot take images of shape {tuple(image.shape)} and type "
            f"{str(image.dtype).removeprefix('torch.')}: {error}"
        ) from error
    if not isinstance(changed, Tensor) or changed.shape != image.shape or changed.dtype != image.dtype:
        given = f"{tuple(changed.shape)} {changed.dtype}" if isinstance(changed, Tensor) else type(changed).__name__
        raise UserError(
            f"augment torchvision: {name} makes {given} of images of {tuple(image.shape)} {image.dtype}, but must keep "
            "shape and type: choose options that do (such as size), or another transform"
        )
    return changed if scale is None else changed * scale


@contextmanager
def _own_randomness(device: torch.device) -> Iterator[list[torch.Generator]]:
    """The global generators that a transform may draw from, which are as before after the block."""
    generators = [torch.default_generator]
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        # Its state is two numbers on the host: nothing waits for the device.
        generators.append(torch.cuda.default_generators[index])
    states = [generator.get_state() for generator in generators]
    try:
        yield generators
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


@AUGMENTATIONS.register
def torchvision(
    input_shape: tuple[int, int, int], *, transform: str, options: dict[str, Any] | None = None
) -> Augmentation:
    """Any transform of torchvision.transforms.v2, applied to one image after the other.

    What dlrun has itself is many times faster (`dlrun list augmentations`). The transform gets uint8 images in 0..255,
    or float images in 0..1, and must keep their shape and type. It draws from torch's global generators, which are
    seeded for each image from the run's seed, and are as they were afterwards.

    Args:
        input_shape: (C, H, W) of one image.
        transform: its name, such as RandomPosterize.
        options: its arguments by name; null: its defaults.

    Raises:
        ValueError: if there is no such transform or option, or the transform refuses its options.
        UserError: if it does not keep shape and type of the images, or cannot take them.

    Source: https://docs.pytorch.org/vision/stable/transforms.html
    """
    built = _build(transform, options or {})
    # A transform that does not fit is refused before the run begins. Some change an image only now and then.
    one_by_one(torch.zeros(_TRIALS, *input_shape, dtype=torch.uint8), built, torch.arange(_TRIALS))
    return _OneByOne(built)


def _build(name: str, options: dict[str, Any]) -> library.Transform:
    if name in _MIXES:
        raise ValueError(f"{name} mixes labels too; use the augmentation {_MIXES[name]}")
    known = transforms()
    if name not in known:
        raise ValueError(f"torchvision has no transform {name!r}; {did_you_mean(name, known)}")
    found = getattr(library, name)
    arguments = [parameter for parameter in inspect.signature(found).parameters if parameter != "self"]
    for option in options:
        if option not in arguments:
            hint = did_you_mean(option, arguments) or "it has no options"
            raise ValueError(f"torchvision's {name} has no option {option!r}; {hint}")
    try:
        built: library.Transform = found(**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"torchvision's {name} refuses its options: {error}") from error
    return built


class _OneByOne:
    def __init__(self, transform: library.Transform) -> None:
        self.transform = transform

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        seeds = torch.randint(2**62, (len(images),), generator=on_host(generator))
        # A transform sees one layout, so that its results do not depend on that of the images.
        result = one_by_one(images.contiguous(), self.transform, seeds)
        return result.contiguous(memory_format=torch.channels_last) if channels_innermost(images) else result
