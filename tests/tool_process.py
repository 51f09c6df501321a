"""Tools in processes of their own, forked from one that has imported the frameworks.

Importing MMDetection and MMSegmentation takes longer than what most tests of tools are about. The
process is a real one: its folder, its variables, its signals, its streams, its exit status. How a
tool starts from nothing is tested with ``subprocess``, once for each tool.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import types
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.tool_preload"])


class ToolProcess:
    """A Python program at work, with the methods of ``subprocess.Popen`` that tests use.

    Args:
        command: A script and its arguments, or ``-c``, a program's text and its arguments.
        cwd: The folder in which it runs.
        env: Environment variables that differ from the tests' own.
    """

    def __init__(self, command: Sequence[Any], cwd: Path, env: Mapping[str, str] = {}) -> None:
        self.args = [str(part) for part in command]
        pipes = [_FORKS.Pipe(duplex=False) for _ in range(2)]
        ends = [write for _, write in pipes]
        variables = {**os.environ, **env}
        self._process = _FORKS.Process(target=_run, args=(self.args, str(cwd), variables, *ends))
        self._process.start()
        for end in ends:
            end.close()
        self.stdout, self.stderr = (open(os.dup(read.fileno())) for read, _ in pipes)

    @property
    def returncode(self) -> int | None:
        """Exit status, minus the signal's number where one ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Wait for its end; returns the rest of what it writes to its two streams.

        Raises:
            subprocess.TimeoutExpired: It took longer than ``timeout`` seconds, and was killed.
        """
        with ThreadPoolExecutor(2) as pool, self.stdout, self.stderr:
            out, err = (pool.submit(stream.read) for stream in (self.stdout, self.stderr))
            self._process.join(timeout)
            if self.returncode is None:
                self.kill()
                raise subprocess.TimeoutExpired(self.args, timeout, err.result())
            return out.result(), err.result()


def keep_configs_as_they_are() -> None:
    """Write configs without laying them out: MMEngine does so four times in a run of seconds."""
    with contextlib.suppress(ModuleNotFoundError):
        from yapf.yapflib import yapf_api

        yapf_api.FormatCode = lambda text, **options: (text, True)


def run_tool(
    command: Sequence[Any], cwd: Path, env: Mapping[str, str] = {}, timeout: float = 300
) -> subprocess.CompletedProcess:
    """Run a program to its end, on one thread; arguments as of `ToolProcess`."""
    process = ToolProcess(command, cwd, env)
    out, err = process.communicate(timeout)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def _run(command: list[str], cwd: str, variables: dict[str, str], *streams: Any) -> None:
    """What a new interpreter does with a command line, in the forked process."""
    multiprocessing.set_start_method(None, force=True)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(variables)
    for number, stream in enumerate(streams, start=1):
        os.dup2(stream.fileno(), number)
        stream.close()
    sys.stdout, sys.stderr = open(1, "w"), open(2, "w", buffering=1)
    # As in a terminal: where tests run in the background, Ctrl-C is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)
    keep_configs_as_they_are()
    if command[0] == "-c":
        folder, text, sys.argv = "", command[1], ["-c", *command[2:]]
    else:
        folder, text, sys.argv = os.path.dirname(command[0]), Path(command[0]).read_text(), command
    sys.path[:] = [folder, *variables.get("PYTHONPATH", "").split(os.pathsep), *sys.path]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__file__ = sys.argv[0]
    exec(compile(text, sys.argv[0], "exec"), main.__dict__)
