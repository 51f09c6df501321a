"""Section ``build``: the extension is compiled for the card that is there, and put in place."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from .section import Section

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGE = _ROOT / "blockcopy_plugins"
_ERROR = re.compile(r"error|fatal|undefined reference|No such file", re.IGNORECASE)


def run(section: Section) -> None:
    """Compile; on a failure say its first error and what works without."""
    import torch

    if not (_ROOT / "setup.py").is_file():
        section.skip(f"{_ROOT} has no setup.py: this is no checkout")
        return
    environment = {"BLOCKCOPY_REQUIRE_EXT": "1", "FORCE_CUDA": "0"}
    if section.device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        environment |= {"FORCE_CUDA": "1", "TORCH_CUDA_ARCH_LIST": f"{major}.{minor}"}
        section.know(architecture=f"sm_{major}{minor}")
    start = time.perf_counter()
    error = build(_PACKAGE, environment, section.seconds_left())
    seconds = time.perf_counter() - start
    kernels = installed_kernels()
    if error is not None:
        section.fail(f"the extension does not compile: {error}")
    section.add(
        f"compiled in {seconds:.0f} s; {kernels}" if error is None else f"what works: {kernels}",
        compiled=error is None, build_seconds=seconds, kernels=kernels,
    )  # fmt: skip
    if error is None and section.device == "cuda":
        section.check("CUDA" in kernels, f"it was compiled without its CUDA kernels: {kernels}")


def build(package: Path, environment: Mapping[str, str], timeout: float) -> str | None:
    """Compile the extension of the checkout that a package lies in, and put it into the package.

    Args:
        package: Folder of ``blockcopy_plugins``.
        environment: Variables for ``setup.py`` beside this process's own.
        timeout: Seconds; infinite for any time.

    Returns:
        The first error of the log, ``None`` where there was none.
    """
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "library"
        command = [sys.executable, "setup.py", "build_ext", f"--build-lib={library}"]
        command += [f"--build-temp={Path(folder) / 'objects'}"]
        try:
            result = subprocess.run(
                command,
                cwd=package.parent,
                env={**os.environ, **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
                timeout=None if timeout == float("inf") else max(timeout, 1),
            )
        except subprocess.TimeoutExpired:
            return f"it took more than the {timeout:.0f} s that were left"
        made = list(library.glob("**/_C*"))
        if result.returncode or not made:
            return first_error(result.stdout) or f"setup.py ended with {result.returncode}"
        for file in made:
            # A process that has the old one loaded keeps it.
            fresh = package / (file.name + ".new")
            shutil.copy(file, fresh)
            os.replace(fresh, package / file.name)
    return None


def first_error(log: str) -> str | None:
    """The first line of a compiler's log that tells of an error.

    Args:
        log: Standard output and error of the build.

    Returns:
        The line, at most 400 characters; ``None`` if there is none.
    """
    for line in log.splitlines():
        # Names of files and flags such as -Werror are no errors.
        words = re.sub(r"\S*[/\\]\S*|-W\S+", "", line)
        if _ERROR.search(words) and "warning" not in words.lower():
            return line.strip()[:400]
    return None


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
