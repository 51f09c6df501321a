"""The tools in real processes, on a tiny segmentor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import cv2
import pytest

pytest.importorskip("mmseg")

_HERE = Path(__file__).resolve().parent
from tests.test_tools import tiny_segmentor as tiny  # noqa: E402
from tests.tool_process import run_tool  # noqa: E402

TOOLS = _HERE.parents[1] / "tools"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seg_tools")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weights = tiny.write_weights(folder)
    tiny.write_config(folder, weights)
    tiny.write_config(folder, weights, "without_hook.py", hook=False)
    for name, frames, labelled in (("a", 6, (1, 4)), ("b", 4, (3,)), ("c", 3, ())):
        tiny.write_frames(folder / name, frames, labelled)
    return folder


def start(folder, *command):
    """Run a command from nothing in another folder than the clone's, on one thread."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        capture_output=True,
        timeout=300,
    )


def tool(folder, name, *arguments):
    return run_tool([TOOLS / name, *arguments], folder)


def test_a_config_without_the_hook_with_labels_of_some_frames(place):
    done = start(
        place,
        *(sys.executable, TOOLS / "test_video.py", "without_hook.py"),
        *("--video", "a/frames", "--ann", "a/labels", "--policy", "all"),
        *("--out", "out/all.json", "--show-dir", "shown", "--work-dir", "work"),
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((place / "out/all.json").read_text())
    assert results["frames"] == 6 and results["model"] == "EncoderDecoder"
    assert results["fidelity"] == {"mIoU": 1.0, "aAcc": 1.0}
    dense, sparse = results["metrics"]["dense"], results["metrics"]["blockcopy"]
    assert dense == sparse and dense["video/annotated_frames"] == 2
    assert set(dense) >= {"video/mIoU", "video/aAcc", "video/mAcc"}
    for words in ("mIoU (ground truth)", "pixel accuracy", "fidelity mIoU", "annotated frames"):
        assert words in done.stdout
    assert f"{100 * dense['video/mIoU']:.1f}" in done.stdout
    assert "no BlockCopyHook" in done.stderr
    # Nothing of the frameworks' own talk.
    assert "OneDL" not in done.stdout and "prefix" not in done.stdout + done.stderr
    av = pytest.importorskip("av")
    with av.open(str(place / "shown/frames_blockcopy.mp4")) as video:
        pictures = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(pictures) == 6
    # All blocks were executed, so that only the tint is between the frame and what is shown (and
    # at borders the video's half resolution of colour).
    frame = tiny.picture(2)[0][..., ::-1]
    shown = pictures[2][: frame.shape[0], : frame.shape[1]].astype(int)
    tints = [abs(shown - (frame / 2 + [c / 2 for c in colour])).max(2) for colour in tiny.PALETTE]
    assert (cv2.min(cv2.min(tints[0], tints[1]), tints[2]) < 40).mean() > 0.8


@pytest.mark.slow
def test_a_policy_is_trained_and_then_used(place):
    trained = tool(
        place,
        "train_policy.py",
        "seg.py",
        *("--video", "a/frames", "b/frames", "--epochs", "2", "--work-dir", "trained"),
    )
    assert trained.returncode == 0, trained.stderr
    log = json.loads((place / "trained/policy_log.json").read_text())
    assert len(log["frames"]) == 2 * (6 + 4)
    assert max(record.get("information_gain", 0) for record in log["frames"]) > 0
    tested = tool(
        place,
        "test_video.py",
        "seg.py",
        *("--video", "a/frames", "b/frames", "c/frames"),
        *("--ann", "a/labels", "b/labels", "a/labels"),  # c's frames are named as a's
        *("--policy-checkpoint", "trained/policy.pth", "--out", "out/rl.json", "--frames", "3"),
    )
    assert tested.returncode == 0, tested.stderr
    results = json.loads((place / "out/rl.json").read_text())
    assert results["frames"] == 9 and results["block_size"] == tiny.BLOCK
    assert 0 < results["fidelity"]["mIoU"] <= 1


@pytest.mark.slow
def test_two_processes_give_the_metrics_of_one(place):
    clips = ["--video", "a/frames", "b/frames", "--ann", "a/labels", "b/labels"]
    one = tool(place, "test_video.py", "seg.py", *clips, "--out", "out/one.json")
    two = start(
        place,
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
        *("--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"),
        *(TOOLS / "test_video.py", "seg.py", *clips, "--out", "out/two.json"),
        *("--launcher", "pytorch"),
    )
    assert one.returncode == 0, one.stderr
    assert two.returncode == 0, two.stderr
    first, second = (json.loads((place / f"out/{n}.json").read_text()) for n in ("one", "two"))
    assert (first["processes"], second["processes"]) == (1, 2)
    for key in ("frames", "executed_rate", "metrics", "fidelity", "macs_blockcopy"):
        assert first[key] == second[key]
    assert first["metrics"]["dense"]["video/annotated_frames"] == 3


MISTAKES = {
    "windows": (
        ["slide.py", "--video", "a/frames"],
        "test_cfg=dict(mode='whole')",
    ),
    "boxes for a segmentor": (
        ["seg.py", "--video", "a/frames", "--ann", "boxes.json"],
        "is a segmentor, whose ground truth is a folder",
    ),
    "no labels": (
        ["seg.py", "--video", "a/frames", "--ann", "nope"],
        "no annotation file or folder",
    ),
    "labels of another video": (
        ["seg.py", "--video", "a/frames", "--ann", "other"],
        "no label image",
    ),
    "labels of another kind": (
        ["seg.py", "--video", "a/frames", "--ann", "odd"],
        "holds the labels 0 to 32",
    ),
    "no loader of labels": (
        ["bare.py", "--video", "a/frames", "--ann", "a/labels"],
        "dict(type='LoadAnnotations')",
    ),
    "other weights": (["seg.py", "other.pth", "--video", "a/frames"], "fit the model"),
}


@pytest.fixture(scope="module")
def mistakes(place):
    """All mistakes in one process, since importing the frameworks takes seconds."""
    import torch

    (place / "slide.py").write_text(
        "_base_ = './seg.py'\n"
        "model = dict(test_cfg=dict(mode='slide', crop_size=(64, 64), stride=(32, 32)))\n"
    )
    text = (place / "seg.py").read_text()
    (place / "bare.py").write_text(text.replace("dict(type='LoadAnnotations'),", ""))
    (place / "boxes.json").write_text("{}")
    for name, label in (("other/what_ids.png", 1), ("odd/0001_ids.png", 33)):
        (place / name).parent.mkdir()
        labels = tiny.picture(0)[1]
        labels[5, 5] = label
        cv2.imwrite(str(place / name), labels)
    torch.save({"state_dict": {"a": torch.zeros(1)}}, place / "other.pth")
    script = (
        "import contextlib, importlib, io, json, sys\n"
        f"sys.path.insert(0, {str(TOOLS)!r})\n"
        "module = importlib.import_module('test_video')\n"
        "found = {}\n"
        "for name, (arguments, _) in json.loads(sys.argv[1]).items():\n"
        "    err = io.StringIO()\n"
        "    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):\n"
        "        status = module.run(module.main, module.parse_args(arguments))\n"
        "    found[name] = (status, err.getvalue())\n"
        "print('FOUND' + json.dumps(found))\n"
    )
    done = run_tool(["-c", script, json.dumps(MISTAKES)], place)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rpartition("FOUND")[2])


@pytest.mark.parametrize("name", list(MISTAKES))
def test_a_mistake_gets_one_message_and_no_traceback(mistakes, name):
    status, stderr = mistakes[name]
    assert status == 2, stderr
    errors = [line for line in stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and MISTAKES[name][1] in errors[0], stderr
    assert "Traceback" not in stderr
