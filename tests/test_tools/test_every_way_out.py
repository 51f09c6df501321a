"""However a tool ends, inputs are as they were, outputs can be used, and nothing else is left.

Real processes, real signals; the files are looked at by FFmpeg's libraries and by json.
"""

from __future__ import annotations

import json
import random
import signal
import time
import warnings

import pytest

pytest.importorskip("mmdet")
pytest.importorskip("av")


from tests.test_tools import killed_tool as killed  # noqa: E402
from tests.test_tools import tiny_detector as tiny  # noqa: E402
from tests.tool_process import ToolProcess, run_tool  # noqa: E402

FRAMES = 1500
INPUTS = ("long.mp4", "tiny.py", "tiny.pth")
TOOLS = {
    "demo_video": (["long.mp4", "out.mp4", "--config", "tiny.py"], ["out.mp4"]),
    "test_video": (
        [
            *("tiny.py", "--video", "long.mp4", "--no-dense-too", "--show-dir", "show"),
            *("--out", "results.json", "--work-dir", "wd"),
        ],
        [
            *("results.json", "results_frames.jsonl", "show/results_curve.png"),
            "show/long_blockcopy.mp4",
        ],
    ),
    "train_policy": (
        ["tiny.py", "--video", "long.mp4", "--work-dir", "policy", "--epochs", "3"],
        [f"policy/{name}" for name in ("policy.pth", "policy_log.json", "policy_curve.png")],
    ),
}
# MMEngine's own logs and its copy of the config.
LOGS = ("wd/", "policy/2", "policy/tiny.py", "policy/vis_data")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tiny.write_config(folder, tiny.write_weights(folder))
    tiny.write_clip(folder / "long.mp4", FRAMES, 1)
    return folder


@pytest.fixture
def place(inputs, tmp_path):
    for name in INPUTS:
        (tmp_path / name).write_bytes((inputs / name).read_bytes())
    text = (tmp_path / "tiny.py").read_text()
    (tmp_path / "tiny.py").write_text(text.replace(str(inputs), str(tmp_path)))
    return tmp_path


def tool_in(place, tool):
    arguments, outputs = TOOLS[tool]
    return killed.KilledTool(tool, arguments, place, INPUTS, outputs, LOGS)


QUICK = [
    ("demo_video", signal.SIGTERM),
    ("test_video", signal.SIGTERM),
    ("train_policy", signal.SIGINT),
]
REST = [
    (tool, number) for tool in TOOLS for number in killed.SIGNALS if (tool, number) not in QUICK
]


@pytest.mark.parametrize(
    ("tool", "number"),
    [*QUICK, *(pytest.param(*one, marks=pytest.mark.weekly) for one in REST)],
)
def test_a_signal_in_the_middle(place, tool, number):
    err = tool_in(place, tool).stop_in_the_middle(number)
    if tool == "test_video":
        results = json.loads((place / "results.json").read_text())
        partial = results["partial"]
        assert partial["reason"] == f"stopped ({signal.Signals(number).name})"
        assert 0 < partial["frames_run"] == results["frames"] < partial["frames_planned"] == FRAMES
        lines = (place / "results_frames.jsonl").read_text().splitlines()
        assert len(lines) == results["frames"]
        assert [json.loads(line)["frame_number"] for line in lines] == list(range(len(lines)))
        assert f"ended after {results['frames']} of {FRAMES} frames" in err


LOST = """
import importlib, sys
sys.path.insert(0, sys.argv[1])
import _stopping
# As if the exception was raised while an object was finalised.
_stopping.StopRequest._take = lambda request, number, frame: setattr(request, "number", number)
tool = importlib.import_module(sys.argv[2])
sys.exit(tool.run(tool.main, tool.parse_args(sys.argv[3:])))
"""


@pytest.mark.parametrize("tool", TOOLS)
def test_a_signal_whose_exception_is_lost_ends_a_tool_between_frames(place, tool):
    process = ToolProcess(["-c", LOST, killed.ROOT / "tools", tool, *TOOLS[tool][0]], place)
    killed.wait_for_frames(process)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM and time.monotonic() - began < 20


def test_a_frame_that_was_run_and_not_shown_does_not_count(place):
    arguments = [*TOOLS["demo_video"][0], "--policy", "all"]
    out, err = killed.stopped_before_showing("demo_video", arguments, place)
    assert out.startswith("2 frames, executed rate 100.0 %") and "the video ends here" in err
    assert killed.frames_of(place / "out.mp4") == 2


@pytest.mark.parametrize(
    "tool", ["demo_video", *(pytest.param(t, marks=pytest.mark.weekly) for t in list(TOOLS)[1:])]
)
def test_kill_leaves_at_most_one_part_file_which_the_next_run_removes(place, tool):
    left = tool_in(place, tool).kill()
    assert left == (tool != "train_policy")  # the videos; a policy is written in no time


def test_a_late_error_keeps_what_was_done(place):
    """A frame of NaN, which the model cannot run, after twenty that it can."""
    (place / "late.py").write_text(
        "import numpy as np\n"
        "class Late:\n"
        "    count = 0\n"
        "    def __call__(self, results):\n"
        "        Late.count += 1\n"
        "        if Late.count > 20:\n"
        "            results['img'] = results['img'] * np.float32('nan')\n"
        "        return results\n"
    )
    (place / "late_config.py").write_text(
        (place / "tiny.py").read_text()
        + "\nimport sys\nsys.path.insert(0, '.')\nfrom mmengine.registry import TRANSFORMS\n"
        "import late\nif TRANSFORMS.get('Late') is None:\n"
        "    TRANSFORMS.register_module(module=late.Late)\n"
        "test_dataloader['dataset']['pipeline'].insert(2, dict(type='mmengine.Late'))\n"
        "del late, sys, TRANSFORMS\n"
    )
    command = [tiny.ROOT / "tools/test_video.py", "late_config.py", *TOOLS["test_video"][0][1:]]
    process = run_tool(command, place)
    assert process.returncode == 2 and "Traceback" not in process.stderr, process.stderr[-3000:]
    results = json.loads((place / "results.json").read_text())
    assert results["frames"] == 20 and results["partial"]["frames_run"] == 20
    assert results["partial"]["reason"].startswith("FrameError")
    assert killed.frames_of(place / "show/long_blockcopy.mp4") == 20


@pytest.mark.weekly
@pytest.mark.parametrize("tool", list(TOOLS))
@pytest.mark.parametrize("number", [*killed.SIGNALS, signal.SIGKILL])
@pytest.mark.parametrize("seed", range(20))
def test_a_signal_at_any_moment(place, tool, number, seed):
    after = random.Random(f"{tool} {number} {seed}").uniform(0.5, 20)
    if number == signal.SIGKILL:
        tool_in(place, tool).kill(after)
    else:
        tool_in(place, tool).stop(number, after)
