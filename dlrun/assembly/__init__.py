"""The only place that turns configuration into objects."""

from dlrun.assembly.data import build_data, build_feed
from dlrun.assembly.model import DATA_INIT_SAMPLES, build_model, find_head, init_from_data
from dlrun.assembly.run import Prepared, build_fit, prepare
from dlrun.assembly.training import (
    build_callbacks,
    build_optimizer,
    build_regularizer,
    build_schedule,
    build_task,
    check_fit,
    check_monitors,
    check_targets,
)

__all__ = [
    "DATA_INIT_SAMPLES",
    "Prepared",
    "build_callbacks",
    "build_data",
    "build_feed",
    "build_fit",
    "build_model",
    "build_optimizer",
    "build_regularizer",
    "build_schedule",
    "build_task",
    "check_fit",
    "check_monitors",
    "check_targets",
    "find_head",
    "init_from_data",
    "prepare",
]
