"""What every exported file says about itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from dlrun import __version__

MARK = "dlrun"
"""Key with the version of dlrun; only files of dlrun have it."""


def describe(config: Mapping[str, Any], model: str, options: Mapping[str, Any], step: int) -> dict[str, str]:
    """The metadata that do not depend on the kind of the network; docs/export.md lists all keys.

    The configuration stands there as its hash only: its paths are nobody's business where the file goes. The hash
    begins with the letters that end the name of the run folder, unless a resume changed the configuration.

    Args:
        config: plain tree of the experiment.
        model: registered name of the network.
        options: the network's own, plain values.
        step: of the checkpoint.
    """
    return {
        MARK: __version__,
        "model": model,
        "model_options": json.dumps(options),
        "step": str(step),
        "config_sha256": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
    }
