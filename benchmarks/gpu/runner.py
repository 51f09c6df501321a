"""Runs the sections of the GPU check, each in a process of its own, and gathers what they find."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .section import FAILED, SKIPPED
from .sections import SECTIONS

_ROOT = Path(__file__).resolve().parents[2]
_GRACE = 15  # seconds beyond a section's deadline before it is ended


def device_here() -> str:
    """``'cuda'`` where torch finds a GPU, else ``'cpu'``; asked in another process."""
    code = "import torch; print('cuda' if torch.cuda.is_available() else 'cpu')"
    return _python(code) or "cpu"


def machine_here(device: str) -> dict[str, Any]:
    """What the check runs on, or the error where the package cannot be imported."""
    code = (
        "import json; from benchmarks.machine import describe;"
        f"print(json.dumps(describe('system default', [{device!r}])))"
    )
    text = _python(code)
    return json.loads(text) if text else {"error": "blockcopy_plugins cannot be imported"}


def fingerprint() -> str:
    """Of all sources that the check is about: it tells whether two results are of the same."""
    digest = hashlib.sha256()
    for folder in ("blockcopy_plugins", "cuda_ops", "benchmarks"):
        for path in sorted((_ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".cpp", ".cu", ".cuh", ".h", ".inc"):
                digest.update(str(path.relative_to(_ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def earlier_sections(path: Path, results: dict[str, Any]) -> dict[str, Any]:
    """What a file holds of sections that were run before, if they still stand.

    Args:
        path: Of the file, which need not be there.
        results: Of this run: machine and sources must be those of the file.
    """
    try:
        before = json.loads(path.read_text())
        same = before["sources"] == results["sources"] and all(
            before["machine"][key] == results["machine"][key] for key in ("gpu", "torch")
        )
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return before["sections"] if same else {}


def run_sections(
    names: Sequence[str], device: str, minutes: float, results: dict[str, Any], write
) -> int:
    """Run sections, one after the other.

    Args:
        names: Of ``SECTIONS``.
        device: ``'cuda'`` or ``'cpu'``.
        minutes: For all of them.
        results: What is gathered; each section is put into its ``'sections'``.
        write: Called with nothing after each of them.

    Returns:
        Exit status: 0, or the sum of the failed sections' numbers, see :func:`number_of`.
    """
    end = time.time() + 60 * minutes
    status = 0
    for name in names:
        plan = SECTIONS[name]
        print(f"\n== {name}: {plan.what}", flush=True)
        left = end - time.time()
        if left < plan.needs:
            found = {"status": SKIPPED, "reason": f"{left:.0f} s are left, {plan.needs} are needed"}
            print(f"   skipped: {found['reason']}", flush=True)
        else:
            behind = names[names.index(name) + 1 :]
            deadline = max(end - (plan.leaves if behind else 0), time.time() + plan.needs)
            found = _run(name, device, min(deadline, end))
        results["sections"][name] = found
        if found["status"] == FAILED:
            status += number_of(name)
        write()
    return status


def number_of(name: str) -> int:
    """A section's share of the exit status: 1, 2, 4, ... in the order of ``SECTIONS``."""
    return 2 ** list(SECTIONS).index(name)


def summary(results: dict[str, Any]) -> str:
    """A line for each section."""
    lines = []
    for name, found in results["sections"].items():
        text = f"{found['status']}{', cut short' if found.get('cut_short') else ''}"
        if "seconds" in found:
            text += f", {found['seconds']:.0f} s"
        if "reason" in found:
            text += f": {found['reason']}"
        lines.append(f"{name:10} {text}")
        lines += [f"{'':10} - {failure}" for failure in found.get("failures", ())]
    return "\n".join(lines)


def _run(name: str, device: str, deadline: float) -> dict[str, Any]:
    """One section in a process of its own, which is ended if it overruns."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "section.json"
        command = [sys.executable, "-m", "benchmarks.gpu", name, "--device", device]
        command += ["--file", str(file), "--deadline", repr(deadline)]
        start = time.time()
        process = subprocess.Popen(
            command,
            cwd=_ROOT,
            env=_environment() | _threads(device),
            start_new_session=True,
            stdin=subprocess.DEVNULL,
        )
        try:
            code = process.wait(deadline - time.time() + _GRACE)
            problem = f"its process ended with {code}" if code not in (0, 1) else None
        except subprocess.TimeoutExpired:
            problem = f"it did not end {_GRACE} s after its time was over"
        finally:
            # What it started goes too: on an error here, or Ctrl-C, nothing is left behind.
            _end(process)
        found = json.loads(file.read_text()) if file.exists() else {"status": FAILED, "rows": []}
        if problem is not None:
            found["status"] = FAILED
            found.setdefault("failures", []).append(problem)
            print(f"   FAILED: {problem}", flush=True)
        found["seconds"] = round(time.time() - start, 1)
        return found


def _end(process: subprocess.Popen) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _python(code: str) -> str | None:
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=_ROOT,
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout.strip() if result.returncode == 0 else None


def _threads(device: str) -> dict[str, str]:
    """Without a GPU maps are so small that threads would wait for each other more than work."""
    return {"OMP_NUM_THREADS": "1"} if device == "cpu" else {}


def _environment() -> dict[str, str]:
    """This checkout before any other that is installed."""
    paths = [str(_ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
