"""Section ``build``: the extension is compiled for the card that is there, and put in place."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .section import Section

_ROOT = Path(__file__).resolve().parents[2]


def run(section: Section) -> None:
    """Compile; on a failure say its first error and what works without."""
    if not (_ROOT / "setup.py").is_file():
        section.skip(f"{_ROOT} has no setup.py: this is no checkout")
        return
    start = time.perf_counter()
    error = build(_ROOT, section.device == "cuda", section.seconds_left())
    seconds = time.perf_counter() - start
    kernels = installed_kernels()
    if error is None and section.device == "cuda" and "CPU and CUDA" not in kernels:
        error = f"it was compiled without its CUDA kernels: {kernels}"
    if error is not None:
        section.fail(error)
    section.add(
        f"{seconds:.0f} s; what works: {kernels}",
        compiled=error is None, build_seconds=seconds, kernels=kernels,
    )  # fmt: skip


def build(checkout: Path, with_cuda: bool, timeout: float = float("inf")) -> str | None:
    """Compile the extension of a checkout, and put it into its package.

    Args:
        checkout: Folder of ``setup.py``.
        with_cuda: It is an error if the CUDA kernels cannot be compiled.
        timeout: Seconds.

    Returns:
        The first error of what could not be compiled, ``None`` where all could.
    """
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "library"
        command = [sys.executable, "setup.py", "build_ext", f"--build-lib={library}"]
        command += [f"--build-temp={Path(folder) / 'objects'}"]
        try:
            result = subprocess.run(
                command,
                cwd=checkout,
                # Whatever the caller's shell asks for: a failure is told by the note.
                env={**os.environ, "BLOCKCOPY_REQUIRE_EXT": "0", "FORCE_CUDA": "0"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
                timeout=None if timeout == float("inf") else max(timeout, 1),
            )
        except subprocess.TimeoutExpired:
            return f"it took more than the {timeout:.0f} s that were left"
        if result.returncode:
            return f"setup.py failed: {result.stdout.strip().splitlines()[-1]}"
        made = [path for path in library.glob("blockcopy_plugins/*") if path.is_file()]
        for file in made:
            # A process that has the old one loaded keeps it.
            target = checkout / "blockcopy_plugins" / file.name
            fresh = target.with_name(file.name + ".new")
            shutil.copy(file, fresh)
            os.replace(fresh, target)
        note = next((json.loads(f.read_text()) for f in made if f.name == "_build.json"), {})
    if not note:
        # No compiler, say: setup.py has then nothing to build, and its last words tell why.
        return f"nothing was built: {result.stdout.strip().splitlines()[-1]}"
    if note["extension"]:
        return f"the extension: {note['extension']}"
    return f"the CUDA kernels: {note['cuda']}" if with_cuda and note["cuda"] else None


def installed_kernels() -> str:
    """Which kernels a fresh process finds, or the error of its import."""
    code = "from blockcopy_plugins import ops; print(ops.extension_status())"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        return f"nothing: {result.stderr.strip().splitlines()[-1]}"
    return result.stdout.strip()
