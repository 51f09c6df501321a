"""The CUDA sources compile, for every architecture that nvcc knows; no GPU is needed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

CUDA_OPS = Path(__file__).resolve().parents[2] / "cuda_ops"
KERNELS = sorted(CUDA_OPS.glob("cuda/*.cu"))
BINDINGS = sorted(CUDA_OPS.glob("cuda/*.cpp"))
# Those that keep sums in registers.
RECKONING = ("reduce_picture", "block_moments", "block_divergence")
NVCC = shutil.which("nvcc")
OLDEST_ARCHITECTURE = 75
# Turing, A100, consumer Ampere, Ada, Hopper, Blackwell. CUDA 12.8 and newer know all of them.
REQUIRED = (75, 80, 86, 89, 90, 100)

pytestmark = pytest.mark.skipif(
    NVCC is None or not KERNELS, reason="needs nvcc on PATH and the cuda_ops folder"
)


def nvcc(*arguments: str) -> str:
    result = subprocess.run(
        [NVCC, *arguments], capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def compile_flags() -> list[str]:
    return ["-std=c++17", "-O3", "-Werror", "all-warnings", f"-I{CUDA_OPS / 'include'}"]


def architectures() -> list[str]:
    found = [int(number) for number in re.findall(r"sm_(\d+)\b", nvcc("--list-gpu-code"))]
    return [f"sm_{number}" for number in sorted(set(found)) if number >= OLDEST_ARCHITECTURE]


def test_there_are_kernels():
    assert {path.stem for path in KERNELS} >= {"gather", "scatter", *RECKONING}


@pytest.mark.parametrize("source", KERNELS, ids=lambda path: path.name)
def test_kernels_compile(source, tmp_path):
    known = architectures()
    architecture = "sm_80" if "sm_80" in known else known[0]
    output = tmp_path / "kernel.o"
    nvcc(*compile_flags(), f"-arch={architecture}", "-c", str(source), "-o", str(output))
    assert output.stat().st_size > 0


@pytest.mark.weekly
@pytest.mark.parametrize("source", KERNELS, ids=lambda path: path.name)
def test_kernels_make_one_file_for_all_architectures(source, tmp_path):
    """As ``setup.py`` builds them where TORCH_CUDA_ARCH_LIST names them all."""
    known = architectures()
    version = re.search(r"release (\d+)\.(\d+)", nvcc("--version"))
    wanted = [number for number in REQUIRED if f"sm_{number}" in known]
    if (int(version.group(1)), int(version.group(2))) >= (12, 8):
        assert wanted == list(REQUIRED)
    targets = [f"-gencode=arch=compute_{n},code=sm_{n}" for n in wanted]
    newest = wanted[-1]
    targets.append(f"-gencode=arch=compute_{newest},code=compute_{newest}")
    output = tmp_path / "kernel.fatbin"
    nvcc(*compile_flags(), *targets, "-fatbin", str(source), "-o", str(output))
    single = tmp_path / "single.fatbin"
    nvcc(*compile_flags(), targets[0], "-fatbin", str(source), "-o", str(single))
    assert output.stat().st_size > (len(wanted) - 1) * single.stat().st_size / 2


@pytest.mark.weekly
@pytest.mark.parametrize("source", KERNELS, ids=lambda path: path.name)
def test_kernels_compile_for_every_architecture(source, tmp_path):
    known = architectures()
    assert known
    for architecture in known:
        output = tmp_path / f"{architecture}.o"
        nvcc(*compile_flags(), f"-arch={architecture}", "-c", str(source), "-o", str(output))
        assert output.stat().st_size > 0


@pytest.mark.parametrize("source", KERNELS, ids=lambda path: path.name)
def test_kernels_spill_no_registers(source, tmp_path):
    """The widest grids of threads must fit: local memory would cost more than the work."""
    output = tmp_path / "kernel.cubin"
    command = [NVCC, *compile_flags(), "-arch=sm_80", "-cubin", "-Xptxas", "-v", str(source)]
    result = subprocess.run(
        [*command, "-o", str(output)], capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, result.stderr
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", result.stderr)
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", result.stderr)]
    assert len(spills) >= 5 and all(pair == ("0", "0") for pair in spills)
    # Four blocks of 256 threads on a multiprocessor; of the one that keeps most sums, two.
    blocks = 2 if source.stem == "block_moments" else 4
    assert max(registers) <= 65536 // 256 // blocks


@pytest.mark.parametrize("source", KERNELS, ids=lambda path: path.name)
def test_kernels_move_16_bytes_at_a_time(source, tmp_path):
    output = tmp_path / "kernel.ptx"
    nvcc(*compile_flags(), "-ptx", str(source), "-o", str(output))
    code = output.read_text()
    assert re.search(r"ld\.global(\.nc)?\.v4\.u32", code)
    if source.stem not in ("reduce_picture", "block_divergence"):  # Their results are small.
        assert re.search(r"st\.global\.v4\.u32", code)


@pytest.mark.parametrize("source", BINDINGS, ids=lambda path: path.name)
def test_bindings_compile(source, tmp_path):
    include = Path(torch.__file__).parent / "include"
    if not (include / "c10" / "cuda" / "CUDAStream.h").is_file():
        pytest.skip("this PyTorch comes without the headers of c10/cuda")
    # A CPU build of PyTorch lacks only this generated header, which has no content of interest.
    generated = tmp_path / "c10" / "cuda" / "impl" / "cuda_cmake_macros.h"
    generated.parent.mkdir(parents=True)
    generated.write_text("#pragma once\n")
    nvcc(
        "-std=c++20",
        "-O0",
        f"-I{CUDA_OPS / 'include'}",
        f"-I{include}",
        f"-I{tmp_path}",
        "-c",
        str(source),
        "-o",
        str(tmp_path / "bindings.o"),
    )
