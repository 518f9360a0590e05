"""``dlrun show augment config=...``: training images before and after the configured augmentation, as a PNG."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dlrun.commands.request import Request
from dlrun.config.load import load_config
from dlrun.config.schema import Config
from dlrun.errors import EXIT_DONE, UserError

_IMAGES, _DRAWS = 8, 7
_FILE = "augment.png"


def show_augment(request: Request) -> int:
    """Write a contact sheet of the configured augmentation.

    Raises:
        UserError: if the configuration is wrong or has no augmentation, the data are missing, or the file cannot be
            written.
    """
    config, _ = load_config(request.reserved.get("config"), request.overrides)
    if not config.augment:
        raise UserError(
            "there is no augmentation to show: choose one with augment=NAME (crop_flip, colour, mixup), or "
            "'augment=[horizontal_flip]'; `dlrun show augment NAME` tells the options of one"
        )
    images, draws = request.whole("images") or _IMAGES, request.whole("draws") or _DRAWS
    output = Path(request.reserved.get("output", _FILE)).expanduser()
    _draw(config, images, draws, output)
    print(output)
    return EXIT_DONE


def _draw(config: Config, images: int, draws: int, output: Path) -> None:
    # torch is imported here: a mistake in the configuration was told before, within half a second.
    import torch

    from dlrun.assembly import build_feed
    from dlrun.commands.explaining import explaining
    from dlrun.contact_sheet import captions, draw

    # Nothing is normalised here, so nothing has to be measured for it.
    plain = replace(config, data=replace(config.data, normalize="none"))
    with explaining(config):
        feed = build_feed(plain, torch.device("cpu"))
        shown = feed.augmented(images, draws)
    assert shown is not None
    assert feed.classes is not None
    heading = f"{config.data.name}: " + ", ".join(
        str(step.params.get("transform", step.name)) for step in config.augment
    )
    names = feed.classes
    # An image may also have several labels: 0 or 1 for each.
    found = [[int(label)] if label.dim() == 0 else label.nonzero().flatten().tolist() for label in shown.labels]
    titles = [", ".join(names[k] for k in labels) for labels in found]
    try:
        draw(output, shown.images, titles, captions(shown.targets, names), heading)
    except OSError as error:
        raise UserError(
            f"{output}: cannot be written: {error.strerror}; choose another file with output=PATH"
        ) from None
