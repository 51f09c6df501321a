"""Which kernels are used, what is said about it, and what setup.py decides to build."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from blockcopy_plugins.ops import extension_status, has_extension

ROOT = Path(__file__).resolve().parents[2]

# Runs gather and scatter_ and prints what was used. A prelude comes before it.
PROBE = """
import torch
from blockcopy_plugins import ops
state = torch.arange(4.0).view(1, 1, 2, 2)
table = torch.tensor([[1, 0]], dtype=torch.int32)
block = torch.zeros(1, 3, dtype=torch.int32)
assert ops.gather(state, block, table, table).flatten().tolist() == [3, 2, 1, 0]
ops.scatter_(state, torch.full((1, 1, 1, 1), 9.0), block)
assert state.flatten().tolist() == [9, 1, 2, 3]
print(ops.has_extension(), '|', ops.extension_status())
"""
NOT_THERE = "import sys; sys.modules['blockcopy_plugins._C'] = None"
BROKEN = """
import importlib.abc, sys
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == 'blockcopy_plugins._C':
            raise ImportError('_C.so: undefined symbol: _ZN3c10')
sys.meta_path.insert(0, Finder())
"""


def probe(prelude: str = "", **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", prelude + PROBE],
        cwd=os.path.dirname(sys.executable),  # of a folder with a package in it Python takes that
        env={**os.environ, "BLOCKCOPY_DISABLE_EXTENSION": "", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_status_fits_what_is_used():
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key("blockcopy::gather", "CPU")
    assert has_extension() == has_kernel
    assert extension_status().startswith("loaded, with CPU") == has_kernel


def test_disabled_by_environment():
    output = probe(BLOCKCOPY_DISABLE_EXTENSION="1")
    assert output == "False | disabled by the environment variable BLOCKCOPY_DISABLE_EXTENSION"


def test_zero_does_not_disable():
    built = importlib.util.find_spec("blockcopy_plugins._C") is not None
    assert probe(BLOCKCOPY_DISABLE_EXTENSION="0").startswith(str(built))


def test_not_built():
    output = probe(NOT_THERE)
    assert output.startswith("False | not built (")
    assert "pip install" in output


def test_built_but_broken():
    output = probe(BROKEN)
    assert output.startswith("False | built, but it does not load with PyTorch")
    assert "undefined symbol: _ZN3c10" in output
    assert "rebuild" in output


def test_setup_names_every_source(run_setup, monkeypatch):
    monkeypatch.setenv("CXX", sys.executable)  # any program that exists stands for a compiler
    (extension,) = run_setup()[0]["ext_modules"]
    assert extension.name == "blockcopy_plugins._C"
    expected = {"cuda_ops/register.cpp", "cuda_ops/checks.cpp"}
    expected |= {path.relative_to(ROOT).as_posix() for path in ROOT.glob("cuda_ops/cpu/*.cpp")}
    assert expected <= set(extension.sources)
    assert all((ROOT / source).is_file() for source in extension.sources)
    assert all(Path(folder).is_dir() for folder in extension.include_dirs[:1])


def test_setup_without_extension(run_setup, monkeypatch):
    monkeypatch.setenv("BLOCKCOPY_NO_EXT", "1")
    with pytest.warns(UserWarning, match="without its compiled kernels"):
        options, _ = run_setup()
    assert options == {}
    monkeypatch.setenv("BLOCKCOPY_REQUIRE_EXT", "1")
    with pytest.raises(SystemExit, match="BLOCKCOPY_REQUIRE_EXT is set"):
        run_setup()


def test_setup_without_torch(run_setup, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.warns(UserWarning, match="PyTorch cannot be imported"):
        assert run_setup()[0] == {}


def test_setup_without_compiler(run_setup, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.warns(UserWarning, match="no C\\+\\+ compiler was found"):
        assert run_setup()[0] == {}
