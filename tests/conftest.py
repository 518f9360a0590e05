"""What every test can rely on: one thread, fixed seeds, and repeatable property tests."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("repeatable")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Random numbers do not depend on the tests that ran before."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
