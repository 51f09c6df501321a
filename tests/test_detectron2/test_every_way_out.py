"""However a tool ends that runs a model of Detectron2, what is left can be used."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
import torch

pytest.importorskip("detectron2")
pytest.importorskip("av")

ROOT = Path(__file__).resolve().parents[2]


DEMO = ROOT / "demo/vtest_excerpt.mp4"
from demo.convert_to_detectron2 import convert  # noqa: E402
from tests.test_tools import killed_tool as killed  # noqa: E402

INPUTS = ("long.mp4", "lazy.py", "weights.pth")
TOOLS = {
    "detectron2_video": (
        ["--config-file", "lazy.py", "--input", "long.mp4", "--output", "out.mp4"],
        ["out.mp4"],
    ),
    "test_video": (
        [
            *("lazy.py", "--video", "long.mp4", "--no-dense-too", "--show-dir", "show"),
            *("--out", "results.json"),
        ],
        [
            *("results.json", "results_frames.jsonl", "show/results_curve.png"),
            "show/long.mp4",
        ],
    ),
    "train_policy": (
        ["lazy.py", "--video", "long.mp4", "--work-dir", "policy", "--epochs", "3"],
        [f"policy/{name}" for name in ("policy.pth", "policy_log.json", "policy_curve.png")],
    ),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """The demo's detector on small pictures of its clip, again and again."""
    import cv2

    from blockcopy_plugins.datasets import VideoReader
    from blockcopy_plugins.visualization import VideoWriter

    folder = tmp_path_factory.mktemp("inputs")
    weights = convert(ROOT / "demo/maskrcnn_vtest.pth")
    torch.save({"model": weights}, folder / "weights.pth")
    text = (ROOT / "configs/detectron2/mask_rcnn_R_18_thin_vtest.py").read_text()
    small = ("short_edge_length=576, max_size=768", "short_edge_length=144, max_size=192")
    named = ("work_dirs/maskrcnn_vtest_detectron2.pth", "weights.pth")
    for old, new in (small, named):
        assert old in text
        text = text.replace(old, new)
    (folder / "lazy.py").write_text(text)
    pictures = [cv2.resize(frame, (192, 144)) for frame in list(VideoReader(DEMO))[:20]]
    with VideoWriter(folder / "long.mp4", fps=10, bgr=True) as video:
        for number in range(1500):
            video.write(pictures[number % len(pictures)])
    return folder


@pytest.fixture
def place(inputs, tmp_path):
    for name in INPUTS:
        (tmp_path / name).write_bytes((inputs / name).read_bytes())
    return tmp_path


def tool_in(place, tool):
    arguments, outputs = TOOLS[tool]
    return killed.KilledTool(tool, arguments, place, INPUTS, outputs)


QUICK = [("detectron2_video", signal.SIGHUP), ("test_video", signal.SIGINT)]
REST = [
    (tool, number) for tool in TOOLS for number in killed.SIGNALS if (tool, number) not in QUICK
]


@pytest.mark.parametrize(
    ("tool", "number"),
    [*QUICK, *(pytest.param(*one, marks=pytest.mark.weekly) for one in REST)],
)
def test_a_signal_in_the_middle(place, tool, number):
    tool_in(place, tool).stop_in_the_middle(number)


def test_a_frame_that_was_run_and_not_shown_does_not_count(place):
    arguments = [*TOOLS["detectron2_video"][0], "--policy", "all"]
    out, err = killed.stopped_before_showing("detectron2_video", arguments, place)
    assert out.startswith("2 frames, executed rate 100.0 %") and "the video ends here" in err
    assert killed.frames_of(place / "out.mp4") == 2


@pytest.mark.parametrize("tool", [pytest.param(t, marks=pytest.mark.weekly) for t in TOOLS])
def test_kill_leaves_at_most_one_part_file_which_the_next_run_removes(place, tool):
    left = tool_in(place, tool).kill()
    assert left == (tool != "train_policy")  # the videos; a policy is written in no time


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
