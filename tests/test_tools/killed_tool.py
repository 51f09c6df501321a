"""Tools as real processes that are sent real signals, and what they may leave behind."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av

from tests.tool_process import ToolProcess, run_tool

ROOT = Path(__file__).resolve().parents[2]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STOPPED_BEFORE_SHOWING = """
import importlib, signal, sys
sys.path.insert(0, sys.argv[1])
from _pictures_thread import PicturesThread
tool, calls, real = importlib.import_module(sys.argv[2]), [], PicturesThread.run
def stopped(*arguments):
    calls.append(arguments)
    if len(calls) == 3:
        signal.raise_signal(signal.SIGINT)
    return real(*arguments)
PicturesThread.run = stopped
sys.exit(tool.run(tool.main, tool.parse_args(sys.argv[3:])))
"""
_PART = re.compile(r"\.[^/]+\.[0-9a-f]{8}\.part(\.\w+)?")


@dataclass(frozen=True)
class KilledTool:
    """A command line, and the files around it.

    Attributes:
        script: Name below tools/, without its ending.
        arguments: Of the command line; paths are relative to the folder.
        place: The folder in which it runs.
        inputs: Files there that must stay as they are.
        outputs: Files that a run which was stopped among its frames writes.
        more: Names that may be there besides begin with one of these.
    """

    script: str
    arguments: Sequence[str]
    place: Path
    inputs: Sequence[str]
    outputs: Sequence[str]
    more: tuple[str, ...] = ()

    def begin(self, *more: str, from_nothing: bool = False) -> subprocess.Popen | ToolProcess:
        """Start it as a terminal does; imports of the frameworks are there but ``from_nothing``."""
        script = ROOT / f"tools/{self.script}.py"
        if not from_nothing:
            return ToolProcess([script, *self.arguments, *more], self.place)

        def as_in_a_terminal():
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL)

        return subprocess.Popen(
            [sys.executable, str(script), *self.arguments, *more],
            cwd=self.place,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=as_in_a_terminal,
        )

    def stop(self, number: int, after: float | None = None) -> tuple[int, str, str, set[str]]:
        """Send it a signal, among its frames or after so many seconds, and look at what is left.

        Returns:
            Status, what it said on both streams, and the names of the files that it wrote.
        """
        before = self.digests()
        process = self.begin(from_nothing=after is not None)
        if after is None:
            wait_for_frames(process)
        else:
            time.sleep(after)
        process.send_signal(number)
        out, err = process.communicate(timeout=240)
        assert "Traceback" not in err, err[-3000:]
        assert self.digests() == before
        return process.returncode, out, err, self.check()

    def stop_in_the_middle(self, number: int) -> str:
        """Stop it among its frames; what it did is there, and said. Returns its stderr."""
        status, out, err, wrote = self.stop(number)
        records = "out.mp4" in self.outputs
        # Ctrl-C is how a recording of a camera is ended.
        ended = records and number == signal.SIGINT
        assert status == (0 if ended else 128 + number), err[-2000:]
        assert wrote == set(self.outputs) and "wrote" in out
        if records:  # what is said to be done is what is shown
            assert out.startswith(f"{frames_of(self.place / 'out.mp4')} frames, ")
        return err

    def kill(self, after: float | None = None) -> int:
        """Kill it, see that little is left, and that its next run removes that.

        Args:
            after: Seconds, or None for among its frames.

        Returns:
            The number of unfinished files that it left.
        """
        before = self.digests()
        process = self.begin(from_nothing=after is not None)
        if after is None:
            wait_for_frames(process)
        else:
            time.sleep(after)
        process.kill()
        process.communicate(timeout=60)
        assert self.digests() == before
        self.check(parts=1)
        left = len(self.unfinished())
        process = self.begin("--frames", "2")
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0 and "Traceback" not in err, err[-3000:]
        assert self.digests() == before and not self.unfinished()
        written = {str(path.relative_to(self.place)) for path in self.place.rglob("*")}
        assert set(self.outputs) <= written, out
        return left

    def unfinished(self) -> list[str]:
        """Names of the files that a tool was about to write."""
        return [path.name for path in self.place.rglob("*") if _PART.fullmatch(path.name)]

    def digests(self) -> dict[str, str]:
        """Of the inputs."""
        return {
            name: hashlib.sha256((self.place / name).read_bytes()).hexdigest()
            for name in self.inputs
        }

    def check(self, parts: int = 0) -> set[str]:
        """Assert that what is there is what may be there, and can be used.

        Args:
            parts: So many unfinished files may be there, as after kill -9.

        Returns:
            The names of the files that were written.
        """
        wrote, unfinished = set(), []
        for path in self.place.rglob("*"):
            name = str(path.relative_to(self.place))
            if path.is_dir() or name in self.inputs or "__pycache__" in name:
                continue
            if self.more and name.startswith(self.more):
                continue
            if _PART.fullmatch(path.name):
                unfinished.append(name)
                continue
            wrote.add(name)
            if path.suffix == ".mp4":
                assert frames_of(path) > 0, name
            elif path.suffix == ".json":
                assert parts or json.loads(path.read_text())["partial"], name
            elif path.suffix == ".pth":
                import torch

                assert set(torch.load(path, weights_only=True)) == {"policy", "state_dict"}
        assert len(unfinished) <= parts, unfinished
        assert wrote <= set(self.outputs), wrote - set(self.outputs)
        return wrote


def stopped_before_showing(script: str, arguments: Sequence[str], place: Path) -> tuple[str, str]:
    """Run a tool that gets Ctrl-C once its third frame was run, before that is shown.

    Returns:
        What it said on both streams.
    """
    command = ["-c", _STOPPED_BEFORE_SHOWING, ROOT / "tools", script, *arguments]
    done = run_tool(command, place)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def wait_for_frames(process: subprocess.Popen | ToolProcess) -> None:
    """Until the progress bar tells of a frame."""
    said, began = "", time.monotonic()
    while not re.search(r"frames: *\d.*[0-9.](s/frame|frame/s)", said[-400:]):
        said += os.read(process.stderr.fileno(), 200).decode(errors="replace")
        assert process.poll() is None and time.monotonic() - began < 240, said
    time.sleep(0.5)


def frames_of(video: Path) -> int:
    """Number of frames that FFmpeg decodes."""
    with av.open(str(video)) as container:
        return sum(1 for _ in container.decode(video=0))
