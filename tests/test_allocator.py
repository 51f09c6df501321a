"""Pages that are kept: seen from outside, in a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_PROGRAM = """
import psutil, torch
import blockcopy_plugins as bc
if {retain}:
    print(bc.retain_pages())
else:
    print("as it was")
held = torch.ones(64 * 2**18)
del held
print(psutil.Process().memory_info().rss)
"""


def run(retain: bool) -> tuple[str, int]:
    environment = {"PATH": "/usr/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(retain=retain)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    said, resident = done.stdout.splitlines()
    return said, int(resident)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another libc has other settings")
def test_pages_of_a_freed_tensor_stay():
    said, kept = run(retain=True)
    assert said == "glibc, pages retained (mallopt)"
    _, without = run(retain=False)
    assert kept - without > 48 * 2**20  # 64 MiB were freed


def test_a_preloaded_allocator_is_left_alone(monkeypatch):
    import blockcopy_plugins as bc

    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/libjemalloc.so.2")
    assert bc.retain_pages() == "jemalloc (LD_PRELOAD)"
