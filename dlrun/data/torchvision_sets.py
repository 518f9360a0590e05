"""Reading of the classic data sets through torchvision, with errors that say what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlrun.data.source import ArraySource, ImageData
from dlrun.errors import DataError


def load(name: str, root: Path, folder: str, download: bool) -> ImageData:
    """Read both splits of a data set.

    Args:
        name: of the class in ``torchvision.datasets``.
        root: folder that holds, or will hold, ``folder``.
        folder: where torchvision keeps this set below ``root``.
        download: fetch the files first, if they are not there.

    Raises:
        DataError: if the files are not there, damaged, or cannot be fetched.
    """
    # Before torchvision is imported, which takes a second.
    if not download and not (root / folder).is_dir():
        raise DataError(f"no {name} in {root} (looked for {root / folder}): {_remedy(root)}")
    from torchvision import datasets

    splits = []
    for train in (True, False):
        try:
            splits.append(getattr(datasets, name)(str(root), train=train, download=download))
        except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
            # torchvision's own texts name options of torchvision, so only errors of the network are passed
            # on.
            if download:
                raise DataError(f"cannot download {name} to {root}: {error}") from error
            raise DataError(
                f"{name} in {root / folder} is incomplete or damaged: {_remedy(root)}, or remove that folder first"
            ) from error
    train_source, test_source = (ArraySource(_images(split.data), torch.as_tensor(split.targets)) for split in splits)
    return ImageData(train_source, None, test_source, tuple(splits[0].classes))


def _images(data: Any) -> Tensor:
    """(N, H, W) or (N, H, W, C) to (N, C, H, W)."""
    images = torch.as_tensor(data)
    if images.dim() == 3:
        return images.unsqueeze(1).contiguous()
    return images.permute(0, 3, 1, 2).contiguous()


def _remedy(root: Path) -> str:
    return f"set data.download=true to fetch it into {root}, or data.root to the folder that holds it"
