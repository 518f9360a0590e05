"""One component from its section of the configuration."""

from __future__ import annotations

from typing import Any

from dlrun.config.schema import ComponentConfig
from dlrun.registry import Registry


def make(registry: Registry[Any], chosen: ComponentConfig, **runtime: Any) -> Any:
    """The component that a section of the configuration chose, built with its options."""
    return registry.build(chosen.name, chosen.params, **runtime)
