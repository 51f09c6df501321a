"""Tests that need a GPU, skipped where there is none.

``BLOCKCOPY_TEST_DEVICE=cpu`` runs them on the CPU, with recorded ops in place of CUDA graphs: so
that what they say can be checked on any machine, before a GPU is there.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import blockcopy_plugins as bc
from benchmarks.gpu.recording_backend import with_graphs

DEVICE = torch.device(os.environ.get("BLOCKCOPY_TEST_DEVICE", "cuda"))


def pytest_collection_modifyitems(items):
    if DEVICE.type == "cuda" and not torch.cuda.is_available():
        here = Path(__file__).parent
        for item in items:
            if here in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture(autouse=True)
def _exact_float32():
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(scope="session")
def device() -> torch.device:
    return DEVICE


@pytest.fixture()
def convert():
    """``convert(net, **options)``: to blocks, on the device, with its kind of graphs."""

    def convert(net, **options):
        net = bc.blockcopy_(net.eval().to(DEVICE), bc.BlockCopyConfig(**options))
        if DEVICE.type != "cuda":
            with_graphs(net)
        return net

    return convert
