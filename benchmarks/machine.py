"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from blockcopy_plugins import ops

_ROOT = Path(__file__).resolve().parent.parent


def describe(allocator: str, devices: Sequence[str] = ("cpu",)) -> dict:
    """Machine, versions and settings, for the head of a JSON file.

    Args:
        allocator: What :func:`blockcopy_plugins.retain_pages` returned.
        devices: Those that are measured.
    """
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "allocator": allocator,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gpu": _gpu() if "cuda" in devices else None,
        "extension": ops.has_extension(),
        "commit": _commit(),
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = {}
        for line in info.read_text().splitlines():
            key, _, value = line.partition(":")
            found.setdefault(key.strip(), value.strip())
        name = found.get("model name", platform.machine())
        # Virtual machines hide the name; family and model still tell the generation.
        return f"{name} (family {found.get('cpu family', '?')}, model {found.get('model', '?')})"
    return platform.processor() or platform.machine()


def _gpu() -> dict | None:
    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    return {
        "name": found.name,
        "compute_capability": f"{found.major}.{found.minor}",
        "memory_gib": round(found.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "tf32_convolutions": torch.backends.cudnn.allow_tf32,
    }


def _commit() -> str | None:
    try:
        run = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=_ROOT, capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=_ROOT, capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    if run.returncode:
        return None
    return run.stdout.strip() + (" + changes" if changed.stdout.strip() else "")


def in_a_line(machine: dict[str, Any]) -> str:
    """A machine as :func:`describe` has it, in a line of Markdown."""
    gpu = f"{machine['gpu']['name']}, " if machine.get("gpu") else ""
    plural = "" if machine["threads"] == 1 else "s"
    return (
        f"*{machine['cpu']}, {gpu}{machine['threads']} thread{plural}, torch {machine['torch']}, "
        f"allocator: {machine['allocator']}, load before {machine['load_1min']}.*"
    )
