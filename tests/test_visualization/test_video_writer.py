"""The written files, read back with PyAV."""

from __future__ import annotations

import errno
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av")

from blockcopy_plugins.errors import ConfigError, FrameError, StateError  # noqa: E402
from blockcopy_plugins.visualization import VideoWriter  # noqa: E402

STRIPES = ((200, 30, 30), (30, 180, 40), (40, 50, 210))


def striped_frame(height: int, width: int, shift: int = 0) -> np.ndarray:
    """Three vertical stripes of STRIPES' colours (RGB), in an order that ``shift`` turns."""
    frame = np.empty((height, width, 3), np.uint8)
    for i in range(3):
        frame[:, i * width // 3 : (i + 1) * width // 3] = STRIPES[(i + shift) % 3]
    return frame


def read(path: Path) -> tuple[dict, list[np.ndarray]]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        facts = {
            "codec": stream.codec_context.name,
            "pix_fmt": stream.pix_fmt,
            "size": (stream.height, stream.width),
            "rate": stream.average_rate,
            "seconds": stream.duration * stream.time_base,
        }
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return facts, frames


def test_the_file_is_browser_ready_h264_with_the_frames_in_order(tmp_path):
    frames = [striped_frame(48, 96, shift) for shift in range(7)]
    path = tmp_path / "new" / "folder" / "out.mp4"
    with VideoWriter(path, fps=10) as video:
        for frame in frames:
            video.write(frame)
    facts, decoded = read(path)
    assert facts == {
        "codec": "h264",
        "pix_fmt": "yuv420p",
        "size": (48, 96),
        "rate": 10,
        "seconds": Fraction(7, 10),
    }
    assert len(decoded) == 7
    for frame, back in zip(frames, decoded, strict=True):
        for x in (16, 48, 80):  # the middles of the stripes, away from the blurred edges
            assert np.abs(back[24, x].astype(int) - frame[24, x]).max() <= 12
    content = path.read_bytes()
    assert 0 < content.find(b"moov") < content.find(b"mdat"), "the index is not in front"


def test_bgr_frames_give_the_same_colours(tmp_path):
    frame = striped_frame(32, 96)
    with VideoWriter(tmp_path / "bgr.mp4", bgr=True) as video:
        video.write(frame[..., ::-1])
    (back,) = read(tmp_path / "bgr.mp4")[1]
    for x in (16, 48, 80):
        assert np.abs(back[16, x].astype(int) - frame[16, x]).max() <= 12


@pytest.mark.parametrize(("size", "padded"), [((33, 65), (34, 66)), ((32, 65), (32, 66))])
def test_odd_sizes_repeat_the_last_row_and_column(tmp_path, size, padded):
    with VideoWriter(tmp_path / "odd.mp4", crf=1) as video:
        video.write(striped_frame(*size))
        assert video.frame_size == size
    facts, (back,) = read(tmp_path / "odd.mp4")
    assert facts["size"] == padded
    assert np.abs(back[-1, -1].astype(int) - STRIPES[2]).max() <= 12
    assert np.abs(back[0, 5].astype(int) - STRIPES[0]).max() <= 12


def test_a_fractional_rate_is_kept(tmp_path):
    with VideoWriter(tmp_path / "ntsc.mp4", fps=30000 / 1001) as video:
        for _ in range(3):
            video.write(striped_frame(32, 48))
    assert read(tmp_path / "ntsc.mp4")[0]["rate"] == Fraction(30000, 1001)


class Boom(Exception):
    pass


@pytest.mark.parametrize("frames", [0, 1, 40])
def test_an_exception_leaves_nothing(tmp_path, frames):
    with pytest.raises(Boom), VideoWriter(tmp_path / "out.mp4") as video:
        for _ in range(frames):
            video.write(striped_frame(32, 48))
        raise Boom
    assert list(tmp_path.iterdir()) == []


def test_an_exception_leaves_the_older_video(tmp_path):
    path = tmp_path / "out.mp4"
    with VideoWriter(path) as video:
        video.write(striped_frame(32, 48))
    before = path.read_bytes()
    with pytest.raises(Boom), VideoWriter(path) as video:
        video.write(striped_frame(64, 64))
        raise Boom
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_name_appears_only_at_the_end(tmp_path):
    path = tmp_path / "out.mp4"
    video = VideoWriter(path).open()
    for _ in range(60):
        video.write(striped_frame(32, 48))
        assert not path.exists()
    assert video.close() == path
    assert list(tmp_path.iterdir()) == [path]
    assert len(read(path)[1]) == 60
    video.close()  # again: nothing happens
    assert path.exists()


def test_a_video_without_frames_is_an_error(tmp_path):
    with pytest.raises(StateError, match="no frame was written"), VideoWriter(tmp_path / "o.mp4"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_frame_of_another_size_is_an_error_that_names_both(tmp_path):
    with pytest.raises(FrameError, match="frame 1 is 48x34 pixels.* has 48x32"):  # noqa: SIM117
        with VideoWriter(tmp_path / "out.mp4") as video:
            video.write(striped_frame(32, 48))
            video.write(striped_frame(34, 48))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((32, 48), np.uint8),
        np.zeros((3, 32, 48), np.uint8),
        np.zeros((32, 48, 3), np.float32),
        np.zeros((32, 48, 4), np.uint8),
        np.zeros((0, 48, 3), np.uint8),
        [[0, 0, 0]],
    ],
)
def test_what_is_no_frame_is_refused(tmp_path, frame):
    with pytest.raises(FrameError, match=r"uint8 numpy array of shape \(H, W, 3\)"):  # noqa: SIM117
        with VideoWriter(tmp_path / "out.mp4") as video:
            video.write(frame)


def test_writing_outside_the_block_is_an_error(tmp_path):
    video = VideoWriter(tmp_path / "out.mp4")
    with pytest.raises(StateError, match="not open"):
        video.write(striped_frame(32, 48))


def test_a_path_that_cannot_be_written_fails_before_the_first_frame(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError), VideoWriter(tmp_path / "file" / "out.mp4"):
        pytest.fail("the block must not be entered")
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(IsADirectoryError, match="folder"), VideoWriter(tmp_path / "folder.mp4"):
        pytest.fail("the block must not be entered")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"path": "out.avi"}, "ends in .mp4"),
        ({"fps": 0}, "fps"),
        ({"fps": float("nan")}, "fps"),
        ({"crf": 52}, "crf"),
    ],
)
def test_settings_out_of_range_are_refused(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        VideoWriter(**{"path": "out.mp4", **kwargs})


def times_of(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        times = [frame.time for frame in container.decode(video=0)]
        return times, float(stream.duration * stream.time_base)


@pytest.mark.parametrize(
    "times",
    [
        [n / 90000 for n in range(6)],
        [n / 1000 for n in range(6)],
        [0, 1 / 30, 2 / 30, 0.5, 1.0, 7.5],
        [3600.0 * n for n in range(4)],
        [100.0, 100.5, 101.25],
    ],
)
def test_frames_are_shown_at_their_times(tmp_path, times):
    with VideoWriter(tmp_path / "out.mp4", fps=10) as video:
        for shift, time in enumerate(times):
            video.write(striped_frame(32, 48, shift), time)
    found, seconds = times_of(tmp_path / "out.mp4")
    assert found == pytest.approx([time - times[0] for time in times], abs=1e-5)
    assert seconds >= found[-1]


def test_times_that_do_not_follow_each_other(tmp_path):
    with VideoWriter(tmp_path / "out.mp4", fps=10) as video:
        for time in (0.0, 0.2, 0.1, None, float("nan"), 1e9):
            video.write(striped_frame(32, 48), time)
    found, _ = times_of(tmp_path / "out.mp4")
    assert len(found) == 6 and found == sorted(set(found))
    assert found[2] > 0.2 and found[4] - found[3] == pytest.approx(0.1)


@pytest.mark.parametrize("frames", [1, 2, 40])
def test_a_partial_video_is_kept_where_asked(tmp_path, frames):
    with pytest.raises(Boom), VideoWriter(tmp_path / "out.mp4", keep_partial=True) as video:
        for shift in range(frames):
            video.write(striped_frame(32, 48, shift))
        raise Boom
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert len(read(tmp_path / "out.mp4")[1]) == frames
    with pytest.raises(Boom), VideoWriter(tmp_path / "none.mp4", keep_partial=True):
        raise Boom
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


@pytest.mark.parametrize(
    ("frames", "limit"),
    [(400, 400_000), (30, 150_000)],
    ids=["while it is written", "while it is closed"],
)
def test_a_full_disk_ends_the_video_with_what_could_be_written(tmp_path, frames, limit):
    """Written by a process that may write so many bytes to a file and no more."""
    import subprocess
    import sys

    code = """
import resource, signal, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from blockcopy_plugins.visualization import VideoWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]),) * 2)
random = np.random.default_rng(0)
written = 0
try:
    with VideoWriter(sys.argv[2], fps=10, keep_partial=True) as video:
        for _ in range(int(sys.argv[3])):
            video.write(random.integers(0, 255, (96, 128, 3), dtype=np.uint8))
except OSError as error:
    print('SAID', error)
"""
    root = Path(__file__).resolve().parents[2]
    path = tmp_path / "out.mp4"
    done = subprocess.run(
        [sys.executable, "-c", code, str(root), str(path), str(frames), str(limit)],
        text=True,
        capture_output=True,
    )
    assert "SAID" in done.stdout and "Make room" in done.stdout, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    with av.open(str(path)) as container:
        assert 3 <= sum(1 for _ in container.decode(video=0)) < frames


def test_a_disk_with_room_for_nothing_is_said_with_the_video(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device", "file:.part.mp4")

    path = tmp_path / "out.mp4"
    path.write_text("older")
    writer = "blockcopy_plugins.visualization.video_writer"
    monkeypatch.setattr(f"{writer}._with_index_in_front", full)
    monkeypatch.setattr(f"{writer}._can_be_played", lambda path: False)
    with pytest.raises(OSError, match=r"out\.mp4 \(No space left.*its 1 frames.*Make room"):
        with VideoWriter(path) as video:
            video.write(striped_frame(32, 48, 0))
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("out.mp4", "older")]


def test_no_room_for_a_second_copy_leaves_the_video_whole(tmp_path, monkeypatch, caplog):
    def full(source, target):
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("blockcopy_plugins.visualization.video_writer._with_index_in_front", full)
    with VideoWriter(tmp_path / "out.mp4") as video:
        for shift in range(7):
            video.write(striped_frame(32, 48, shift))
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert len(read(tmp_path / "out.mp4")[1]) == 7
    assert "out.mp4 is complete" in caplog.text and "No space left" in caplog.text


def test_a_torn_end_is_not_called_whole_where_there_is_no_room_for_a_copy(tmp_path, monkeypatch):
    """FFmpeg closes a file on a full disk without an error, and there is no room for another."""

    def full(source, target):
        with source.open("r+b") as file:
            file.truncate(source.stat().st_size - 8000)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("blockcopy_plugins.visualization.video_writer._with_index_in_front", full)
    draw = np.random.default_rng(0)
    with (
        pytest.raises(OSError, match=r"could not be finished.*Make room"),
        VideoWriter(tmp_path / "out.mp4", fps=10) as video,
    ):
        for _ in range(400):
            video.write(draw.integers(0, 255, (32, 48, 3), dtype=np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert 100 < sum(1 for _ in container.decode(video=0)) < 400


def test_pixels_that_are_not_square(tmp_path):
    with VideoWriter(tmp_path / "out.mp4", sample_aspect_ratio=Fraction(16, 11)) as video:
        video.write(striped_frame(32, 48))
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(16, 11)
