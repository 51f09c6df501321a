"""``python -m blockcopy_plugins.info``: what this machine and installation offer the package."""

from __future__ import annotations

import importlib.util
import platform

import torch

from . import __version__, ops


def environment() -> dict[str, str]:
    """Facts for a bug report, in the order in which they are to be read."""
    facts = {
        "blockcopy_plugins": __version__,
        "native kernels": "yes" if ops.has_extension() else f"no ({ops.extension_status()})",
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
        "CUDA": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "Python": platform.python_version(),
        "machine": platform.machine(),
    }
    for name in ("mmengine", "mmcv", "mmdet", "mmseg", "detectron2"):
        found = importlib.util.find_spec(name) is not None
        facts[name] = importlib.import_module(name).__version__ if found else "not installed"
    return facts


if __name__ == "__main__":
    for name, value in environment().items():
        print(f"{name:<18} {value}")
