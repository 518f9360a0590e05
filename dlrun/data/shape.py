"""What a data set can tell of its images without reading one: their shape and the number of classes.

A data set that can has, beside its factory, a function with the same options, registered by
:func:`tells_shape`. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from dlrun.registry import DATASETS

T = TypeVar("T", bound=Callable[..., "DataShape"])


@dataclass(frozen=True)
class DataShape:
    """What is known of a data set before it is read.

    Attributes:
        input_shape: (C, H, W) of one image.
        classes: K, or None where only reading would tell.
    """

    input_shape: tuple[int, int, int]
    classes: int | None


_TELLERS: dict[Callable[..., Any], Callable[..., DataShape]] = {}


def tells_shape(factory: Callable[..., Any]) -> Callable[[T], T]:
    """Register what tells a data set's shape (decorator).

    The decorated function takes the options of the factory, without the runtime arguments, and reads no image.

    Args:
        factory: the registered factory of the data set.
    """

    def register(teller: T) -> T:
        _TELLERS[factory] = teller
        return teller

    return register


def shape_of(name: str, params: Mapping[str, Any]) -> DataShape | None:
    """The shape of a data set's images; None if it cannot tell without reading them.

    Args:
        name: a registered name.
        params: its checked options.

    Raises:
        UserError: if there is no such data set.
        DataError: if its folder is there but cannot be used.
    """
    teller = _TELLERS.get(DATASETS.get(name))
    return None if teller is None else teller(**params)
