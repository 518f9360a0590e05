"""Plain trees as YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

# libyaml's is ten times faster, but a PyYAML that was built without it has none.
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def as_yaml(tree: Mapping[str, Any]) -> str:
    """A plain tree as YAML, its keys in their order."""
    text: str = yaml.dump(dict(tree), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text
