"""What every trial has of its sweep."""

from __future__ import annotations

from typing import Any

from dlrun.config.search import Search

QUIET = ("progress", "tensorboard")
"""Callbacks that a trial goes without: of many trials they would say too much."""


def common(search: Search) -> dict[str, Any]:
    """Path -> value: it says little, and its best checkpoint is that of the score."""
    return {
        **{f"callbacks.{name}": None for name in QUIET},
        "callbacks.checkpoint.monitor": search.settings.metric,
        "callbacks.checkpoint.mode": search.settings.mode,
    }
