"""tools/demo_video.py as a user runs it: real processes, the written video, messages."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")
av = pytest.importorskip("av")
cv2 = pytest.importorskip("cv2")

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools/demo_video.py"
from tests.test_integrations import tiny_projects as projects  # noqa: E402
from tests.tool_process import ToolProcess, run_tool  # noqa: E402

SUMMARY = r"{frames} frames, executed rate {rate} %, [\d.]+ ms per frame"


AUXILIARY = """
model['auxiliary_head'] = dict(
    type='FCNHead', in_channels=32, in_index=2, channels=8, num_convs=1, num_classes=3,
    norm_cfg=dict(type='BN'))
"""


def write_uneven(path):
    """Five frames at 30 a second, then three at 2 a second, then one after an hour."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"bf": "0"})
        (stream.height, stream.width), stream.pix_fmt = projects.SIZE, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 90000)
        stamps = [*range(0, 15000, 3000), *range(45000, 180000, 45000), 3600 * 90000]
        for stamp, image in zip(stamps, projects.pictures(len(stamps)), strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts, frame.time_base = stamp, Fraction(1, 90000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    projects.write_detector(folder, hook=True)
    projects.write_segmentor(folder)
    projects.tiny_detector.write_clip(folder / "clip.mp4", 9, seed=1)
    (folder / "frames").mkdir()
    for i, frame in enumerate(projects.pictures(6)):
        cv2.imwrite(str(folder / f"frames/{i}.png"), frame)
    # Weights as others save them, and without those of a head that no test runs.
    saved = torch.load(folder / "tiny.pth")["state_dict"]
    torch.save(
        {"model": {f"module._orig_mod.{k}": v for k, v in saved.items()}}, folder / "theirs.pth"
    )
    with open(folder / "segmentor.py") as file:
        (folder / "auxiliary.py").write_text(file.read() + AUXILIARY)
    write_uneven(folder / "uneven.mp4")
    (folder / "12:30:00.mp4").write_bytes((folder / "clip.mp4").read_bytes())
    # A film whose frames change their size.
    for i, size in enumerate([(96, 128)] * 3 + [(64, 64)] * 2):
        data = cv2.imencode(".jpg", projects.pictures(1, seed=i, size=size)[0])[1].tobytes()
        with open(folder / "sizes.mjpeg", "ab") as file:
            file.write(data)
    (folder / "no_video.mp4").write_text("no video")
    return folder


def start(folder, *arguments):
    """Run the tool from nothing."""
    return subprocess.run(
        [sys.executable, *map(str, (TOOL, *arguments))],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        capture_output=True,
        timeout=300,
    )


def decoded(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        rate = float(stream.average_rate)
        return [f.to_ndarray(format="bgr24") for f in container.decode(video=0)], rate


# Arguments of runs that are all made in one process, since importing the frameworks takes seconds.
DETECTOR, SEGMENTOR = ["--config", "detector.py"], ["--config", "segmentor.py"]
NTH = ["--policy", "dict(type='EveryNthFramePolicy', n=4)"]
RUNS = {
    "detector": ["clip.mp4", "out/det.mp4", *DETECTOR, *NTH, "--dense-too", "--show-score", "0.4"],
    "segmentor": ["frames", "seg.mp4", *SEGMENTOR, "--policy", "none", "--block-size", "32"],
    "part": ["clip.mp4", "part.mp4", *DETECTOR, "--start", "3", "--frames", "4", *NTH],
    "sizes": ["sizes.mjpeg", "sizes.mp4", *DETECTOR, "--policy", "none"],
    "uneven": ["uneven.mp4", "uneven_out.mp4", *DETECTOR, "--policy", "none"],
    "colons": ["12:30:00.mp4", "out:1.mp4", *DETECTOR, *NTH],
    "weights of others": ["clip.mp4", "theirs.mp4", *DETECTOR, *NTH, "--checkpoint", "theirs.pth"],
    "auxiliary head": ["frames", "aux.mp4", "--config", "auxiliary.py", "--policy", "none"],
    "compare": ["clip.mp4", "two.mp4", *DETECTOR, *NTH, "--compare", "copy", "move"],
    "guards": [
        *("clip.mp4", "guards.mp4", *DETECTOR, "--policy", "none"),
        *("--guards", "dict(type='MaxAge', frames=2)"),
    ],
}
MISTAKES = {
    "no input": (["nope.mp4", "o.mp4", *DETECTOR], "nope.mp4"),
    "no camera": (
        ["rtsp://admin:s3cret@127.0.0.1:1/x", "o.mp4", *DETECTOR],
        "'rtsp://***@127.0.0.1:1/x'",
    ),
    "no video": (["no_video.mp4", "o.mp4", *DETECTOR], "no_video.mp4"),
    "no config": (["clip.mp4", "o.mp4", "--config", "nope.py"], "no config file 'nope.py'"),
    "no weights": (["clip.mp4", "o.mp4", *DETECTOR, "--checkpoint", "nope.pth"], "nope.pth"),
    "wrong weights": (["clip.mp4", "o.mp4", *DETECTOR, "--checkpoint", "seg.pth"], "fit the model"),
    "no mp4": (["clip.mp4", "o.avi", *DETECTOR], ".mp4"),
    "policy": (["clip.mp4", "o.mp4", *DETECTOR, "--policy", "foo"], "foo"),
    "policy file": (["clip.mp4", "o.mp4", *DETECTOR, "--policy-checkpoint", "x"], "train_policy"),
    "block size": (["clip.mp4", "o.mp4", *DETECTOR, "--block-size", "0"], "block_size=0"),
    "block size in words": (["clip.mp4", "o.mp4", *DETECTOR, "--block-size", "big"], "or 'auto'"),
    "score": (["clip.mp4", "o.mp4", *DETECTOR, "--show-score", "3"], "--show-score"),
    "start": (["clip.mp4", "o.mp4", *DETECTOR, "--start", "50"], "lower the start"),
    "frames": (["clip.mp4", "o.mp4", *DETECTOR, "--frames", "0"], "frames=0"),
}
_DRIVER = """
import contextlib, io, json, sys
sys.path.insert(0, sys.argv[1])
import demo_video
found = {}
for name, arguments in json.loads(sys.argv[2]).items():
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
        status = demo_video.run(demo_video.main, demo_video.parse_args(arguments))
    found[name] = (status, out.getvalue(), err.getvalue())
print('FOUND' + json.dumps(found))
"""


@pytest.fixture(scope="module")
def runs(place):
    everything = {**RUNS, **{name: arguments for name, (arguments, _) in MISTAKES.items()}}
    done = run_tool(["-c", _DRIVER, TOOL.parent, json.dumps(everything)], place)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rpartition("FOUND")[2])


def test_video_of_a_detector(place, runs):
    status, out, err = runs["detector"]
    assert status == 0, err
    # Frames 0, 4 and 8 of nine.
    summary = SUMMARY.format(frames=9, rate=r"33\.3")
    assert re.search(summary + r", dense [\d.]+ ms, speed-up [\d.]+ x\n", out), out
    assert out.endswith("wrote out/det.mp4\n")
    assert "frames: 100%" in err and "note:" not in err

    frames, rate = decoded(place / "out/det.mp4")
    height, width = projects.SIZE
    assert len(frames) == 9 and rate == 10 and frames[0].shape[1] == width
    assert frames[0].shape[0] > height  # the bar of figures
    # Frame 1 is skipped: dark and grey; frame 4 is executed and as bright as frame 0.
    bright = [frame[:height].mean() for frame in frames]
    assert bright[1] < 0.8 * bright[0] and bright[4] > 0.9 * bright[0]
    with av.open(str(place / "clip.mp4")) as container:
        plain = next(container.decode(video=0)).to_ndarray(format="bgr24")
    assert (np.abs(frames[0][:height].astype(int) - plain) > 60).any(), "no detection is drawn"


def test_two_ways_side_by_side(place, runs):
    status, out, err = runs["compare"]
    assert status == 0, err
    for way in ("copy", "move"):
        assert re.search(f"{way}: " + SUMMARY.format(frames=9, rate=r"33\.3"), out), out
    frames, _ = decoded(place / "two.mp4")
    height, width = projects.SIZE
    assert len(frames) == 9 and frames[0].shape[1] == 2 * width + 4
    left, right = (
        np.stack([frame[:height, part].astype(int) for frame in frames])
        for part in (slice(width), slice(width + 4, None))
    )
    apart = (np.abs(left - right).max(-1) > 60).mean((1, 2))
    # Whole frames are the same on both sides but for the compression; behind the first, boxes move.
    assert apart[[0, 4, 8]].max() < 0.002 and apart[1:4].min() > 0.01


def test_video_of_a_segmentor_from_a_folder(place, runs):
    status, out, err = runs["segmentor"]
    assert status == 0, err
    assert re.search(SUMMARY.format(frames=6, rate=r"16\.7"), out), out
    assert "no BlockCopyHook" in err
    frames, _ = decoded(place / "seg.mp4")
    assert len(frames) == 6
    picture = projects.pictures(1)[0].astype(float)
    shown = frames[0][: projects.SIZE[0]].astype(float)
    # Half the picture, half the colours of the classes (BGR).
    palette = np.array(projects.tiny_segmentor.PALETTE)[:, ::-1]
    tint = np.abs((2 * shown - picture)[..., None, :] - palette).sum(-1)
    assert np.median(tint.min(-1)) < 60


def test_part_of_a_video(place, runs):
    status, out, err = runs["part"]
    assert status == 0, err
    assert re.search(SUMMARY.format(frames=4, rate=r"25\.0"), out), out
    assert len(decoded(place / "part.mp4")[0]) == 4


def times(path):
    with av.open(str(path)) as container:
        return [frame.time for frame in container.decode(video=0)]


def test_frames_are_shown_when_the_film_shows_them(place, runs):
    status, _, err = runs["uneven"]
    assert status == 0, err
    stated = times(place / "uneven.mp4")
    assert stated[-1] == 3600 and len(stated) == 9
    assert times(place / "uneven_out.mp4") == pytest.approx(stated, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "output"), [("colons", "out:1.mp4"), ("weights of others", "theirs.mp4")]
)
def test_names_and_weights_of_others_change_nothing(place, runs, name, output):
    status, out, err = runs[name]
    assert status == 0 and out.endswith(f"wrote {output}\n"), err
    # The same film by the same model: what is drawn is the same, but for the times in the caption.
    height = projects.SIZE[0]
    found, wanted = (decoded(place / path)[0] for path in (output, "two.mp4"))
    width = projects.SIZE[1]
    for one, other in zip(found, wanted, strict=True):
        apart = np.abs(one[:height, :width].astype(int) - other[:height, :width])
        assert apart.mean() < 3


def test_weights_without_those_of_an_auxiliary_head(place, runs):
    status, out, err = runs["auxiliary head"]
    assert status == 0 and out.startswith("6 frames"), err


def test_frames_that_change_their_size(place, runs):
    status, out, err = runs["sizes"]
    assert status == 0, err
    # Two of five are first frames of a stream.
    assert re.search(SUMMARY.format(frames=5, rate=r"40\.0"), out), out
    assert len({frame.shape for frame in decoded(place / "sizes.mp4")[0]}) == 1


def test_guards(runs):
    status, out, err = runs["guards"]
    assert status == 0, err
    # Every other one of nine, the first among them.
    assert re.search(SUMMARY.format(frames=9, rate=r"55\.6"), out), out


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_end_in_one_message(place, runs, name):
    status, out, err = runs[name]
    assert status == 2 and out == ""
    messages = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(messages) == 1 and MISTAKES[name][1] in messages[0], err
    assert "Traceback" not in err and "s3cret" not in err
    assert not list(place.glob("o.*")) and not list(place.glob(".o.*"))


def test_without_a_config_it_is_the_demo_detector(place):
    """One process just as a newcomer starts it."""
    clip = ROOT / "demo/vtest_excerpt.mp4"
    done = start(place, clip, "demo.mp4", "--frames", "3")
    assert done.returncode == 0, done.stderr
    assert "note: no --config is given: this is the demo's detector" in done.stderr
    told = re.search(
        SUMMARY.format(frames=3, rate=r"[\d.]+")
        + r"\n([\d.]+) s in all: the model ([\d.]+) s, .* ([\d.]+) s\n([\d.]+) ms of processor "
        r"time .* inputs ([\d.]+) ms, reading ([\d.]+) ms, drawing ([\d.]+) ms, encoding "
        r"([\d.]+) ms\nwrote demo.mp4$",
        done.stdout.strip(),
    )
    assert told, done.stdout
    total, model, beside, cpu, *parts = map(float, told.groups())
    assert 0 < model <= total and beside <= total
    assert all(parts) and abs(cpu - sum(parts)) <= 0.3  # each rounded to 0.1
    assert 3 * (parts[2] + parts[3]) / 1e3 <= beside + 0.1  # the same, but for waits
    assert len(decoded(place / "demo.mp4")[0]) == 3


class Camera(BaseHTTPRequestHandler):
    """Goes on until somebody stops it."""

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        pictures = [cv2.imencode(".jpg", p)[1].tobytes() for p in projects.pictures(20)]
        i = 0
        while not self.server.stop.wait(0.1):
            data = pictures[i % 20]
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            try:
                self.wfile.write(head.encode() + data + b"\r\n")
            except OSError:
                return
            i += 1


def test_camera_until_ctrl_c(place):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    server.stop = threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/live"
        process = ToolProcess([TOOL, address, "live.mp4", *DETECTOR, "--policy", "none"], place)
        said, began = "", time.monotonic()
        while not re.search(r"frames: [1-9]\d*frame", said):  # it is at work
            said += process.stderr.read(1)
            assert process.poll() is None and time.monotonic() - began < 120, said
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        stopped = time.monotonic()
        out, err = process.communicate(timeout=60)
        assert time.monotonic() - stopped < 15
    finally:
        server.stop.set()
        server.shutdown()
        thread.join()
        server.server_close()
    assert process.returncode == 0, err
    assert "note: stopped; the video ends here" in err
    found = re.search(r"^(\d+) frames, (?:\d+ dropped, )?executed rate ", out)
    assert found, out
    frames, rate = decoded(place / "live.mp4")
    # As long as it took, at the rate of the video, however few frames there were.
    assert rate == 25 and 1.4 < len(frames) / 25 < stopped - began
    assert int(found[1]) < len(frames) / 1.5
    assert not list(place.glob(".live*"))


def test_help_is_quick_and_explains(place):
    began = time.monotonic()
    done = start(place, "--help")
    assert done.returncode == 0 and time.monotonic() - began < 5
    for word in ("IN", "OUT", "rtsp://", "--config", "--policy-checkpoint", "--dense-too"):
        assert word in done.stdout
