"""The words of ``dlrun eval`` for test-time augmentation."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from dlrun.commands.request import Request
from dlrun.commands.scoring import Subject, images_of
from dlrun.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from dlrun.views import Views

_WORD_OF = {"crop": ("five_crop", "ten_crop"), "scales": ("multi_scale_ten_crop",), "shift": ("translate",)}
"""Options of the views, each with those that have it."""


def check_tta_words(request: Request) -> None:
    """Check the words of test-time augmentation that need no data.

    Raises:
        UserError: if one is wrong or has no effect.
    """
    from dlrun.views import NAMES

    name = request.reserved.get("tta")
    if name is not None and name not in NAMES:
        raise UserError(f"tta={name}: unknown; {did_you_mean(name, NAMES)}")
    for word, owners in _WORD_OF.items():
        if word in request.reserved and name not in owners:
            raise UserError(f"{word}={request.reserved[word]}: is an option of tta={' and tta='.join(owners)}")


def asked_of(request: Request) -> list[str]:
    """What was asked for beyond the checkpoint itself, for names of files: ``averaged``, ``translate``, ``shift3``."""
    words = [request.reserved[key] for key in ("weights", "tta") if request.reserved.get(key, "auto") != "auto"]
    options = {key: request.reserved[key] for key in _WORD_OF if key in request.reserved}
    return [*words, *(key + "-".join(re.findall(r"\d+", given)) for key, given in options.items())]


def views_for(subject: Subject, request: Request) -> Views | None:
    """How ``tta=`` looks at the images of a checkpoint; None without it.

    Raises:
        UserError: if it does not classify images, or an option is out of range.
    """
    from dlrun.views import make_views

    name = request.reserved.get("tta")
    if name is None:
        return None
    feed = images_of(subject)
    _, height, width = feed.data.input_shape
    scales = request.reserved.get("scales")
    try:
        sides = None if scales is None else [int(word) for word in scales.strip("[]").split(",")]
    except ValueError:
        example = f"scales=[{height},{height + 4}]"
        raise UserError(f"scales={scales}: must be whole numbers of pixels, such as {example}") from None
    try:
        return make_views(
            name,  # type: ignore[arg-type]
            (height, width),
            shift=request.whole("shift") or 1,
            crop=request.whole("crop"),
            scales=sides,
        )
    except ValueError as error:
        raise UserError(f"tta={name}: {error}") from None


def tta_facts(views: Views) -> dict[str, Any]:
    """What a report holds of the views."""
    return {"name": views.name, "views": len(views), "note": views.note}
