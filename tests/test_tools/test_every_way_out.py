"""However a tool ends, inputs are as they were, outputs can be used, and nothing else is left.

Real processes, real signals; the files are looked at by FFmpeg's libraries and by json.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

pytest.importorskip("mmdet")
av = pytest.importorskip("av")

_spec = importlib.util.spec_from_file_location(
    "tiny_detector", Path(__file__).resolve().parent / "tiny_detector.py"
)
tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny)

FRAMES = 1500
TOOLS = {
    "demo_video": ["long.mp4", "out.mp4", "--config", "tiny.py"],
    "test_video": [
        *("tiny.py", "--video", "long.mp4", "--no-dense-too", "--show-dir", "show"),
        *("--out", "results.json", "--work-dir", "wd"),
    ],
    "train_policy": ["tiny.py", "--video", "long.mp4", "--work-dir", "policy", "--epochs", "3"],
}
INPUTS = ("long.mp4", "tiny.py", "tiny.pth")


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


def begin(place, tool, *more):
    def as_in_a_terminal():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)

    return subprocess.Popen(
        [sys.executable, str(tiny.ROOT / f"tools/{tool}.py"), *TOOLS[tool], *more],
        cwd=place,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=as_in_a_terminal,
    )


def wait_for_frames(process):
    """Until the progress bar tells of a frame."""
    said, began = "", time.monotonic()
    while not any(
        f"frames: {d}" in said.replace(" ", "").replace("frames:", "frames: ")
        and "frame/s" in said
        and "?frame/s" not in said[-40:]
        for d in "0123456789"
    ):
        said += os.read(process.stderr.fileno(), 200).decode(errors="replace")
        assert process.poll() is None and time.monotonic() - began < 240, said
    time.sleep(0.5)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check(place, before, tool):
    """What is there is what may be there; returns the names of what the tool wrote."""
    assert {name: digest(place / name) for name in INPUTS} == before
    wrote = set()
    for path in place.rglob("*"):
        name = str(path.relative_to(place))
        if path.is_dir() or name in INPUTS or "__pycache__" in name:
            continue
        if name.startswith(("wd/", "policy/2", "policy/tiny.py", "policy/vis_data")):
            continue  # MMEngine's own logs and its copy of the config
        assert ".part" not in name, name
        wrote.add(name)
        if path.suffix == ".mp4":
            with av.open(str(path)) as container:
                assert sum(1 for _ in container.decode(video=0)) > 0, name
        elif path.suffix == ".json":
            found = json.loads(path.read_text())
            assert found["partial"], name
        elif path.suffix == ".pth":
            import torch

            assert set(torch.load(path, weights_only=True)) == {"policy", "state_dict"}
    allowed = {
        "demo_video": {"out.mp4"},
        "test_video": {
            *("results.json", "results_frames.jsonl", "show/results_curve.png"),
            "show/long_blockcopy.mp4",
        },
        "train_policy": {
            f"policy/{name}" for name in ("policy.pth", "policy_log.json", "policy_curve.png")
        },
    }[tool]
    assert wrote <= allowed, wrote - allowed
    return wrote, allowed


def stop(place, tool, number, at_frames=True, after=None):
    before = {name: digest(place / name) for name in INPUTS}
    process = begin(place, tool)
    if at_frames:
        wait_for_frames(process)
    else:
        time.sleep(after)
    process.send_signal(number)
    out, err = process.communicate(timeout=240)
    assert "Traceback" not in err, err[-3000:]
    wrote, allowed = check(place, before, tool)
    return process.returncode, out, err, wrote, allowed


QUICK = [
    ("demo_video", signal.SIGTERM),
    ("test_video", signal.SIGTERM),
    ("train_policy", signal.SIGINT),
]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
REST = [(tool, number) for tool in TOOLS for number in SIGNALS if (tool, number) not in QUICK]


@pytest.mark.parametrize(
    ("tool", "number"),
    [*QUICK, *(pytest.param(*one, marks=pytest.mark.slow) for one in REST)],
)
def test_a_signal_in_the_middle(place, tool, number):
    status, out, err, wrote, allowed = stop(place, tool, number)
    ctrl_c_ends_a_recording = tool == "demo_video" and number == signal.SIGINT
    assert status == (0 if ctrl_c_ends_a_recording else 128 + number), err[-2000:]
    assert wrote == allowed and "wrote" in out
    if tool == "demo_video":  # what is said to be done is what is shown
        with av.open(str(place / "out.mp4")) as container:
            assert out.startswith(f"{sum(1 for _ in container.decode(video=0))} frames, ")
    if tool == "test_video":
        results = json.loads((place / "results.json").read_text())
        partial = results["partial"]
        assert partial["reason"] == f"stopped ({signal.Signals(number).name})"
        assert 0 < partial["frames_run"] == results["frames"] < partial["frames_planned"] == FRAMES
        lines = (place / "results_frames.jsonl").read_text().splitlines()
        assert len(lines) == results["frames"]
        assert [json.loads(line)["frame_number"] for line in lines] == list(range(len(lines)))
        assert f"ended after {results['frames']} of {FRAMES} frames" in err


def test_kill_leaves_one_part_file_which_the_next_run_removes(place):
    process = begin(place, "demo_video")
    wait_for_frames(process)
    process.kill()
    process.communicate(timeout=60)
    left = [path.name for path in place.iterdir() if path.name not in INPUTS]
    left = [name for name in left if name != "__pycache__"]
    assert len(left) == 1 and left[0].startswith(".out.") and left[0].endswith(".part.mp4")
    process = begin(place, "demo_video", "--frames", "2")
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert not list(place.glob(".out*")) and (place / "out.mp4").exists()


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
    process = subprocess.run(
        [
            *(sys.executable, str(tiny.ROOT / "tools/test_video.py"), "late_config.py"),
            *TOOLS["test_video"][1:],
        ],
        cwd=place,
        text=True,
        capture_output=True,
        timeout=240,
    )
    assert process.returncode == 2 and "Traceback" not in process.stderr, process.stderr[-3000:]
    results = json.loads((place / "results.json").read_text())
    assert results["frames"] == 20 and results["partial"]["frames_run"] == 20
    assert results["partial"]["reason"].startswith("FrameError")
    with av.open(str(place / "show/long_blockcopy.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 20


@pytest.mark.slow
@pytest.mark.parametrize("tool", list(TOOLS))
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("seed", range(20))
def test_a_signal_at_any_moment(place, tool, number, seed):
    after = random.Random(f"{tool} {number} {seed}").uniform(0.5, 20)
    stop(place, tool, number, at_frames=False, after=after)
