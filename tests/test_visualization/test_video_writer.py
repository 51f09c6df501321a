"""The written files, read back with PyAV."""

from __future__ import annotations

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
