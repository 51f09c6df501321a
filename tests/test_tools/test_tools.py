"""The tools as a user runs them: real processes, files, exit codes, messages."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

pytest.importorskip("mmdet")

from tests.test_tools import tiny_detector as tiny  # noqa: E402
from tests.tool_process import ToolProcess, run_tool  # noqa: E402

TOOLS = tiny.ROOT / "tools"
KEYS = {
    "model",
    "frames",
    "size",
    "block_size",
    "target",
    "executed_rate",
    "macs_dense",
    "macs_blockcopy",
    "macs_policy",
    "ms_dense",
    "ms_blockcopy",
    "speedup",
    "metrics",
    "fidelity",
    "dense_ops",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tools")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weights = tiny.write_weights(folder)
    tiny.write_config(folder, weights)
    tiny.write_config(folder, weights, "without_hook.py", hook=False)
    for name, frames, seed in (("a", 7, 1), ("b", 5, 2), ("c", 4, 3)):
        tiny.write_clip(folder / f"{name}.mp4", frames, seed)
    return folder


def start(folder, *command, **options):
    """Run a command from nothing in another folder than the clone's, on one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=environment,
        text=True,
        capture_output=True,
        timeout=300,
        **options,
    )


def tool(folder, name, *arguments):
    return run_tool([TOOLS / name, *arguments], folder)


def read(path):
    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def codec(path):
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = sum(1 for _ in container.decode(video=0))
        return stream.codec_context.name, stream.codec_context.pix_fmt, frames


@pytest.fixture(scope="module")
def all_blocks(place):
    """A config without the hook, all blocks, annotations, and a video to look at."""
    tiny.write_coco(place / "a.json", "a", 7)
    done = tool(
        place,
        "test_video.py",
        "without_hook.py",
        "--video",
        "a.mp4",
        "--ann",
        "a.json",
        "--policy",
        "all",
        "--cfg-options",
        "model.test_cfg.rcnn.max_per_img=8",
        "--out",
        "out/all.json",
        "--show-dir",
        "shown",
        "--work-dir",
        "work",
    )
    assert done.returncode == 0, done.stderr
    return done, read(place / "out/all.json")


def test_results_of_all_blocks(all_blocks):
    done, results = all_blocks

    assert set(results) >= KEYS
    assert results["frames"] == 7
    assert results["size"] == list(tiny.SIZE)
    assert results["block_size"] == 128
    assert results["target"] is None
    assert results["executed_rate"] == 1.0
    assert results["macs_blockcopy"] == pytest.approx(results["macs_dense"])
    assert results["fidelity"]["bbox_AP"] > 0.99 and results["fidelity"]["segm_AP"] > 0.99
    dense, sparse = results["metrics"]["dense"], results["metrics"]["blockcopy"]
    assert dense["video/annotated_frames"] == 7
    assert sparse["video/bbox_AP"] == pytest.approx(dense["video/bbox_AP"], abs=1e-3)
    assert results["speedup"] == pytest.approx(results["ms_dense"] / results["ms_blockcopy"])
    assert "no BlockCopyHook" in done.stderr  # said, not silently added


def test_what_a_run_leaves_and_says(place, all_blocks):
    done, results = all_blocks

    assert "speed-up" in done.stdout and "executed rate" in done.stdout
    lines = done.stdout.splitlines()
    written = [line.split(" ", 1)[1] for line in lines if line.startswith("wrote")]
    assert all((place / path).is_file() for path in written)
    assert {Path(path).name for path in written} == {
        "all.json",
        "all_frames.jsonl",
        "all_curve.png",
        "a_blockcopy.mp4",
    }
    assert codec(place / "shown/a_blockcopy.mp4") == ("h264", "yuv420p", 7)
    lines = (place / "out/all_frames.jsonl").read_text().splitlines()
    assert [json.loads(line)["frame_id"] for line in lines] == list(range(7))
    assert "frames: 100%" in done.stderr


def test_policy_is_trained_and_then_used(place):
    trained = start(
        place,
        sys.executable,
        TOOLS / "train_policy.py",
        "tiny.py",
        "--video",
        "a.mp4",
        "b.mp4",
        "--frames",
        "5",
        "--epochs",
        "2",
        "--work-dir",
        "trained",
    )
    assert trained.returncode == 0, trained.stderr
    folder = place / "trained"
    assert (folder / "policy_curve.png").read_bytes()[:4] == b"\x89PNG"
    log = read(folder / "policy_log.json")
    assert len(log["frames"]) == 2 * (5 + 5)
    assert {"executed_rate", "information_gain", "reward"} <= set(log["frames"][-1])
    assert not list(folder.glob("**/epoch_*.pth"))
    assert list(folder.glob("*/vis_data/scalars.json"))

    tested = tool(
        place,
        "test_video.py",
        "tiny.py",
        "--video",
        "a.mp4",
        "--start",
        "2",
        "--frames",
        "3",
        "--policy-checkpoint",
        "trained/policy.pth",
        "--no-dense-too",
        "--out",
        "out/rl.json",
    )
    assert tested.returncode == 0, tested.stderr
    results = read(place / "out/rl.json")
    assert results["frames"] == 3
    assert (results["block_size"], results["target"]) == (tiny.BLOCK, 0.3)
    assert results["fidelity"] is None and results["fidelity_reason"]
    assert results["ms_dense"] is None and results["ms_blockcopy"] > 0
    assert results["timing"]["only_warmup"]
    assert results["macs_policy"] > 0


def under_torchrun(folder, *command):
    """Run two processes by torchrun itself; returns its exit status and messages."""
    module = ["torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    module += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    return start(folder, sys.executable, "-m", *module, *command)


def as_under_torchrun(folder, *command):
    """The same by two forked processes with the variables that torchrun sets."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        group = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
    ranks = [
        ToolProcess(command, folder, {**group, "WORLD_SIZE": "2", "RANK": n, "LOCAL_RANK": n})
        for n in ("0", "1")
    ]
    messages = [rank.communicate()[1] for rank in ranks]
    done = [
        subprocess.CompletedProcess(rank.args, rank.returncode, stderr=said)
        for rank, said in zip(ranks, messages, strict=True)
    ]
    return max(done, key=lambda process: process.returncode != 0)


@pytest.mark.parametrize(
    "launch", [as_under_torchrun, pytest.param(under_torchrun, marks=pytest.mark.slow)]
)
def test_two_processes_give_the_metrics_of_one(place, launch):
    clips = ["--video", "a.mp4", "b.mp4", "c.mp4", "--ann", "a.json", "--work-dir", "work"]
    tiny.write_coco(place / "a.json", "a", 7)
    one = tool(place, "test_video.py", "tiny.py", *clips, "--out", "out/one.json")
    outputs = ["--out", "out/two.json", "--show-dir", "two", "--launcher", "pytorch"]
    two = launch(place, TOOLS / "test_video.py", "tiny.py", *clips, *outputs)
    assert one.returncode == 0, one.stderr
    assert two.returncode == 0, two.stderr

    first, second = read(place / "out/one.json"), read(place / "out/two.json")
    assert (first["processes"], second["processes"]) == (1, 2)
    assert first["frames"] == 16 and 0 < first["executed_rate"] < 1
    same = (
        "frames",
        "size",
        "executed_rate",
        "executed_rate_after_first",
        "macs_dense",
        "macs_blockcopy",
        "mac_frames",
        "metrics",
        "fidelity",
        "videos",
        "dense_ops",
    )
    assert {k: first[k] for k in same} == {k: second[k] for k in same}
    assert first["metrics"]["dense"]["video/annotated_frames"] == 7
    assert len(list((place / "two").glob("*.mp4"))) == 3


MISTAKES = {
    "no config": ("test_video.py", ["nope.py"], "no config file 'nope.py'"),
    "no video file": ("test_video.py", ["tiny.py", "--video", "nope.mp4"], "nope.mp4"),
    "no video": ("test_video.py", ["tiny.py"], "--video"),
    "no checkpoint": ("test_video.py", ["tiny.py", "nope.pth", "--video", "a.mp4"], "nope.pth"),
    "no annotations": (
        "test_video.py",
        ["tiny.py", "--video", "a.mp4", "--ann", "nope.json"],
        "nope.json",
    ),
    "no policy file": (
        "test_video.py",
        ["tiny.py", "--video", "a.mp4", "--policy-checkpoint", "nope"],
        "nope",
    ),
    "unknown policy": (
        "test_video.py",
        ["tiny.py", "--video", "a.mp4", "--policy", "foo"],
        "foo",
    ),
    "wrong policy file": (
        "test_video.py",
        ["tiny.py", "--video", "a.mp4", "--policy-checkpoint", "tiny.pth"],
        "not a policy file",
    ),
    "unknown guard": (
        "test_video.py",
        ["tiny.py", "--video", "a.mp4", "--guards", "MaxAge", "Hald"],
        "no guard 'Hald'. Did you mean 'Hold'",
    ),
    "guard that cannot be read": (
        "test_video.py",
        ["tiny.py", "--video", "a.mp4", "--guards", "dict(MaxAge)"],
        "the guard 'dict(MaxAge)'",
    ),
    "zone outside of the frame": (
        "test_video.py",
        [
            *("tiny.py", "--video", "a.mp4"),
            *("--guards", "dict(type='Ignore', mask=[[0, 0], [999, 0], [999, 9]])"),
        ],
        "corner (999, 0), outside the picture of 160x128 px",
    ),
    "no such frames": (
        "test_video.py",
        ["tiny.py", "--video", "a.mp4", "--start", "99"],
        "lower the start",
    ),
    "not a video": ("test_video.py", ["tiny.py", "--video", "tiny.py"], "tiny.py"),
    "wrong weights": (
        "test_video.py",
        ["tiny.py", "other.pth", "--video", "a.mp4"],
        "the checkpoint 'other.pth' does not fit the model",
    ),
    "no torchrun": (
        "test_video.py",
        ["tiny.py", "--video", "a.mp4", "--launcher", "pytorch"],
        "torchrun",
    ),
    "config without data": ("test_video.py", ["bare.py", "--video", "a.mp4"], "test_dataloader"),
    "no model": ("test_video.py", ["empty.py", "--video", "a.mp4"], "no model"),
    "policy that cannot learn": (
        "train_policy.py",
        ["tiny.py", "--video", "a.mp4", "--policy", "all"],
        "learns nothing",
    ),
    "model that is none": (
        "test_video.py",
        ["tiny.py", "--video", "a.mp4", "--cfg-options", "model=None"],
        "has model = None",
    ),
    "policy without letters": (
        "test_video.py",
        ["tiny.py", "--video", "a.mp4", "--policy", ""],
        "no policy ''",
    ),
    "policy with a call": (
        "test_video.py",
        ["tiny.py", "--video", "a.mp4", "--policy", "dict(type='GainPolicy', target=float('nan'))"],
        "cannot be read; write a name",
    ),
    "score that is none": (
        "test_video.py",
        ["tiny.py", "--video", "a.mp4", "--show-score", "nan"],
        "--show-score must be from 0 to 1, found nan",
    ),
    "annotations that are no file": (
        "test_video.py",
        ["tiny.py", "--video", "a.mp4", "--ann", "/dev/null"],
        "'/dev/null' are neither a file nor a folder",
    ),
    "two hooks": (
        "test_video.py",
        ["two_hooks.py", "--video", "a.mp4"],
        "have 2 BlockCopyHooks",
    ),
    "weights of nothing": (
        "test_video.py",
        ["tiny.py", "nothing.pth", "--video", "a.mp4"],
        "the checkpoint 'nothing.pth' is a dict",
    ),
    "no weights": ("train_policy.py", ["bare_data.py", "--video", "a.mp4"], "CHECKPOINT"),
}


@pytest.fixture(scope="module")
def mistakes(place):
    """All mistakes in one process, since importing the frameworks takes seconds."""
    import torch

    torch.save({"state_dict": {"a": torch.zeros(1)}}, place / "other.pth")
    torch.save({"state_dict": {}}, place / "nothing.pth")
    text = (place / "tiny.py").read_text()
    hook = "dict(type='blockcopy_plugins.BlockCopyHook')"
    (place / "two_hooks.py").write_text(f"_base_ = './tiny.py'\ncustom_hooks = [{hook}] * 2\n")
    (place / "bare.py").write_text("_base_ = './tiny.py'\ntest_dataloader = None\n")
    (place / "bare_data.py").write_text(text.replace("load_from =", "unused ="))
    (place / "empty.py").write_text("a = 1\n")
    script = (
        "import contextlib, importlib, io, json, sys\n"
        f"sys.path.insert(0, {str(TOOLS)!r})\n"
        "found = {}\n"
        "for name, (tool, arguments, _) in json.loads(sys.argv[1]).items():\n"
        "    module = importlib.import_module(tool[:-3])\n"
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

    assert status == 2
    errors = [line for line in stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and MISTAKES[name][2] in errors[0], stderr
    assert "Traceback" not in stderr


def test_a_mistake_ends_the_process_with_status_2(place):
    done = tool(place, "test_video.py", "nope.py")

    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no config file") and not done.stdout


@pytest.mark.parametrize("name", ["test_video.py", "train_policy.py"])
def test_help_explains(place, name):
    done = tool(place, name, "--help")

    assert done.returncode == 0
    text = " ".join(done.stdout.split())
    for word in ("--video", "--frames", "--cfg-options", "policy", "It writes", "executed rate"):
        assert word in text
