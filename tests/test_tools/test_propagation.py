"""Moved outputs through tools/test_video.py and VideoInferencer: a real process, a coded video."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("mmdet")
pytest.importorskip("av")

from tests.test_tools import tiny_detector as tiny  # noqa: E402
from tests.tool_process import run_tool  # noqa: E402

POLICY = "dict(type='EveryNthFramePolicy', n=3)"


def write_pan(path: Path, frames: int = 7, speed: int = 4) -> Path:
    """A textured picture that moves to the right, coded in H.264."""
    import av

    height, width = tiny.SIZE
    small = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    world = cv2.resize(small, (3 * width, 2 * height), interpolation=cv2.INTER_CUBIC)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"bf": "0", "crf": "18"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(frames):
            left = width - speed * index
            picture = np.ascontiguousarray(world[30 : 30 + height, left : left + width])
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("moved")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weights = tiny.write_weights(folder)
    tiny.write_config(folder, weights)
    write_pan(folder / "pan.mp4")
    return folder


def test_video(folder, *arguments):
    command = [tiny.ROOT / "tools/test_video.py", "tiny.py", "--video", "pan.mp4"]
    done = run_tool([*command, "--policy", POLICY, "--out", "out.json", *arguments], folder)
    return done, json.loads((folder / "out.json").read_text()) if not done.returncode else None


test_video.__test__ = False


@pytest.mark.parametrize("motion", ["DISMotion", "CodecMotion"])
def test_the_tool_moves_and_says_what_it_did(place, motion):
    done, results = test_video(place, "--propagate", "move", "--motion", motion)
    assert done.returncode == 0, done.stderr
    found = results["propagation"]
    assert (found["propagate"], found["motion"]) == ("move", motion)
    # Frames 0, 3 and 6 are whole; the others needed no network.
    assert found["frames"] == 6 and found["repeated"] == 4
    assert found["moved"] + found["unknown"] == 4 and found["moved"] >= 3
    assert found["checks"] >= 1 and 0 <= found["agreement_copied"] <= 1
    assert f"outputs           move by {motion}" in done.stdout


def test_copying_is_the_default_and_motion_alone_an_error(place):
    done, results = test_video(place)
    assert done.returncode == 0, done.stderr
    assert results["propagation"]["propagate"] == "copy"
    assert results["propagation"]["moved"] == 0
    done, _ = test_video(place, "--motion", "DISMotion")
    assert done.returncode == 2 and "propagate='copy' moves nothing" in done.stderr


def test_an_inferencer_reads_the_vectors_of_its_sources(place):
    from blockcopy_plugins import VideoInferencer

    options = dict(
        block_size=32,
        policy=dict(type="EveryNthFramePolicy", n=3),
        propagate="move",
        motion="CodecMotion",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with VideoInferencer(str(place / "tiny.py"), options, device="cpu") as inferencer:
            outputs = list(inferencer(str(place / "pan.mp4")))
            report = inferencer.handle.propagation.report()
    boxes = [output.prediction.pred_instances.bboxes for output in outputs]
    assert len(boxes) == 7 and report.repeated == 4 and report.moved >= 3
    # What the encoder says of the whole picture, to a fraction of a pixel.
    width = tiny.SIZE[1]
    inside = (boxes[0][:, 0] > 20) & (boxes[0][:, 2] < width - 20)
    assert inside.any()
    for box in boxes[0][inside]:
        moved = boxes[1] - box
        nearest = moved.abs().sum(1).argmin()
        assert -0.5 <= moved[nearest][0] <= 6 and moved[nearest][1].abs() < 2
