"""What an exported file says about itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from dlrun import __version__
from dlrun.data.statistics import Statistics
from dlrun.export.subject import Input, Scores

MARK = "dlrun"
"""Key with the version of dlrun; only files of dlrun have it."""
BARE_NETWORK: dict[str, str] = {"input": "normalized", "scores": "logits"}
"""What a file of weights alone says of its input and output, whatever a graph beside it takes and gives."""


def describe(
    config: Mapping[str, Any],
    *,
    step: int,
    classes: Sequence[str],
    input_shape: Sequence[int],
    statistics: Statistics,
    given: Input,
    scores: Scores,
) -> dict[str, str]:
    """The metadata of an image classifier; docs/export.md lists the keys.

    The configuration stands there as its hash only: its paths are nobody's business where the file goes. The hash
    begins with the letters that end the name of the run folder.

    Args:
        config: plain tree of the experiment.
        step: of the checkpoint.
        classes: names in the order of the scores.
        input_shape: (C, H, W) of one image.
        statistics: of the training images.
        given: what goes in.
        scores: what comes out.
    """
    options = {key: value for key, value in config["model"].items() if key != "name"}
    return {
        MARK: __version__,
        "model": config["model"]["name"],
        "model_options": json.dumps(options),
        "classes": json.dumps(list(classes), ensure_ascii=False),
        "input": given,
        "input_shape": json.dumps(list(input_shape)),
        "scores": scores,
        "statistics": json.dumps(
            {"kind": statistics.kind, "mean": _exact(statistics.mean), "std": _exact(statistics.std)}
        ),
        "step": str(step),
        "config_sha256": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
    }


def _exact(values: Tensor) -> Any:
    """Nested lists with the shape of float32 values, in the fewest digits that give them back bit for bit."""
    rows = values.numpy()
    return [_exact(part) for part in values] if rows.ndim else float(str(rows))
