"""What the tests of setup.py share."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import setuptools

ROOT = Path(__file__).resolve().parents[2]
SETUP = ROOT / "setup.py"
SWITCHES = ("BLOCKCOPY_NO_EXT", "BLOCKCOPY_REQUIRE_EXT", "BLOCKCOPY_NATIVE", "FORCE_CUDA")
TOOLKIT = ("TORCH_CUDA_ARCH_LIST", "CUDA_HOME", "CUDA_PATH")


@pytest.fixture
def run_setup(monkeypatch):
    """Returns a function that executes setup.py without building: (arguments, its functions)."""
    if not SETUP.is_file():
        pytest.skip("setup.py is not here: the tests run against an installed package")
    for name in SWITCHES + TOOLKIT:
        # Set first: what setup.py sets itself is then undone too.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.chdir(ROOT)
    calls = []
    monkeypatch.setattr(setuptools, "setup", lambda **options: calls.append(options))

    def run() -> tuple[dict, dict]:
        functions = runpy.run_path(str(SETUP))
        return calls[-1], functions

    return run
