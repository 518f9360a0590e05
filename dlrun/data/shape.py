"""What a data set can tell of its samples without reading one: the shape of images, the length of chunks of text.

A data set that can has, beside its factory, a function with the same options, registered by
:func:`tells_shape`. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from dlrun.registry import DATASETS

T = TypeVar("T", bound=Callable[..., "DataShape | TextShape"])


@dataclass(frozen=True)
class DataShape:
    """What is known of a data set before it is read.

    Attributes:
        input_shape: (C, H, W) of one image.
        classes: K, or None where only reading would tell.
    """

    input_shape: tuple[int, int, int]
    classes: int | None


@dataclass(frozen=True)
class TextShape:
    """What is known of a text before it is read.

    Attributes:
        sequence_length: T, tokens in a chunk.
        vocabulary: V, or None where only reading would tell.
        labelled: whether the text has classes or tags, so that these are what a head scores, and not the vocabulary.
    """

    sequence_length: int
    vocabulary: int | None
    labelled: bool = False


_TELLERS: dict[Callable[..., Any], Callable[..., DataShape | TextShape]] = {}


def tells_shape(factory: Callable[..., Any]) -> Callable[[T], T]:
    """Register what tells a data set's shape (decorator).

    The decorated function takes the options of the factory, without the runtime arguments, and reads no sample.

    Args:
        factory: the registered factory of the data set.
    """

    def register(teller: T) -> T:
        _TELLERS[factory] = teller
        return teller

    return register


def shape_of(name: str, params: Mapping[str, Any]) -> DataShape | TextShape | None:
    """The shape of a data set's samples; None if it cannot tell without reading them.

    Args:
        name: a registered name.
        params: its checked options.

    Raises:
        UserError: if there is no such data set.
        DataError: if its folder is there but cannot be used.
    """
    teller = _TELLERS.get(DATASETS.get(name))
    return None if teller is None else teller(**params)
