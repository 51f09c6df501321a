"""Section ``sanitizer``: the parity of the kernels again, each access to memory watched.

On a GPU by compute-sanitizer's memcheck and racecheck; without one by the compiler's address and
undefined-behaviour sanitizers, over the kernels' threads on the host.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from .section import Section

_ROOT = Path(__file__).resolve().parents[2]
_PARITY = ("-m", "benchmarks.gpu", "parity", "--quick")


def run(section: Section) -> None:
    """Run the tools that are installed."""
    found = list(_host_tools(section) if section.small else _device_tools())
    if not found:
        tool = "a C++ compiler with libasan" if section.small else "compute-sanitizer"
        section.skip(f"{tool} is not installed")
        return
    for name, command, environment in found:
        section.need(20)
        start = time.perf_counter()
        code, text = _run(command, environment, section.seconds_left())
        seconds = time.perf_counter() - start
        if code is None:
            section.cut_short(f"{name} took more than the time that was left")
            return
        section.check(code == 0, f"{name} ended with {code}: {_summary(text)}")
        verdict = "nothing found" if code == 0 else "SEE ABOVE"
        section.add(f"{name}: {verdict}, {seconds:.0f} s", tool=name, code=code, took=seconds)


def _device_tools() -> Iterator[tuple[str, Sequence[str], dict[str, str]]]:
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return
    # The allocator of torch hands out pieces of large blocks, in which no access is out of bounds.
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    for name in ("memcheck", "racecheck"):
        command = [tool, "--tool", name, "--error-exitcode", "97", sys.executable, *_PARITY]
        yield name, [*command, "--device", "cuda"], environment


def _host_tools(section: Section) -> Iterator[tuple[str, Sequence[str], dict[str, str]]]:
    compiler = shutil.which("g++")
    if compiler is None:
        return
    query = [compiler, "-print-file-name=libasan.so"]
    library = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    if not os.path.isabs(library):  # The bare name: there is none.
        return
    environment = {
        "LD_PRELOAD": library,
        # Python never gives all back; and a compiler started from here is not ours to watch.
        "ASAN_OPTIONS": "detect_leaks=0",
    }
    flags = "-fsanitize=address,undefined -fno-sanitize-recover=all"
    command = [sys.executable, *_PARITY, "--device", "cpu", f"--emulation-flags={flags}"]
    yield "address and undefined-behaviour sanitizers on the host", command, environment


def _run(
    command: Sequence[str], environment: dict[str, str], seconds: float
) -> tuple[int | None, str]:
    try:
        result = subprocess.run(
            command,
            cwd=_ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            timeout=None if seconds == float("inf") else max(seconds, 1),
        )
    except subprocess.TimeoutExpired:
        return None, ""
    return result.returncode, result.stdout


def _summary(text: str) -> str:
    """The lines that say what was found."""
    marks = ("ERROR", "Invalid", "runtime error", "Race", "FAILED", "Error:")
    lines = [line.strip() for line in text.splitlines() if any(mark in line for mark in marks)]
    return " / ".join(lines[:4] or text.strip().splitlines()[-3:])
