"""A forked tool does what one that is started does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.tool_process import ToolProcess, run_tool

SAYS_ALL = """
import os, sys
print(sys.argv, os.getcwd(), os.environ.get("MORE"), __name__, "blockcopy_plugins" in sys.modules)
print("to the other stream", file=sys.stderr)
from beside import value
sys.exit(value)
"""


@pytest.mark.parametrize("value", ["None", "0", "7", "'a text'"])
def test_it_is_as_if_it_was_started(tmp_path, value):
    (tmp_path / "tool.py").write_text(SAYS_ALL)
    (tmp_path / "beside.py").write_text(f"value = {value}\n")
    (tmp_path / "elsewhere").mkdir()
    command, more = [tmp_path / "tool.py", "a", "b c"], {"MORE": "of it"}
    found = run_tool(command, tmp_path / "elsewhere", more)
    wanted = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path / "elsewhere",
        env={**os.environ, **more},
        capture_output=True,
        text=True,
    )
    assert found.stdout == wanted.stdout and found.stderr == wanted.stderr
    assert found.returncode == wanted.returncode


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, -15), (signal.SIGKILL, -9), (signal.SIGINT, 5)]
)
def test_signals_come_through(tmp_path, number, status):
    text = (
        "import sys, time\n"
        "try:\n    print('here', flush=True)\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    sys.exit(5)\n"
    )
    process = ToolProcess(["-c", text], tmp_path)
    assert process.poll() is None and process.stdout.readline() == "here\n"
    process.send_signal(number)
    assert process.communicate() == ("", "") and process.returncode == status


def test_one_that_does_not_end_is_killed(tmp_path):
    with pytest.raises(subprocess.TimeoutExpired):
        run_tool(["-c", "import time; time.sleep(60)"], tmp_path, timeout=0.5)
