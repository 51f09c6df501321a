"""What all tests share: quiet, repeatable property tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# The benchmarks are no part of the package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("ci")


@pytest.fixture(autouse=True)
def _same_random_numbers():
    torch.manual_seed(0)
