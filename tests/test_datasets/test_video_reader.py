"""VideoReader and FrameFolder against one pass of OpenCV's sequential decoding."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import pickle

import av
import cv2
import numpy as np
import pytest

from blockcopy_plugins.datasets import FrameFolder, VideoReader, open_frames
from blockcopy_plugins.errors import BadFrameError, FrameError

SIZE = (48, 64)


def moving_frames(count, size=SIZE, seed=0):
    generator = np.random.default_rng(seed)
    background = cv2.resize(
        generator.integers(0, 255, (6, 8, 3), dtype=np.uint8), size[::-1], interpolation=1
    )
    frames = []
    for i in range(count):
        frame = background.copy()
        cv2.rectangle(frame, (i % size[1], 10), (i % size[1] + 8, 20), (0, 0, 255), -1)
        cv2.putText(frame, str(i), (4, 40), 0, 0.6, (255, 255, 255), 1)
        frames.append(frame)
    return frames


def write_video(path, frames, codec="mpeg4", gop=12, b_frames=0, rate=10, pixels="yuv420p"):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else pixels
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = b_frames
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="bgr24")))
        container.mux(stream.encode())
    return path


def decode_by_opencv(path):
    capture, frames = cv2.VideoCapture(str(path)), []
    while True:
        found, frame = capture.read()
        if not found:
            return frames
        frames.append(frame)


def close_to(frame, expected):
    # Two decoders convert YUV to BGR with other roundings.
    return np.abs(frame.astype(int) - expected.astype(int)).mean() < 2


CODECS = [("mpeg4", ".mp4", 2), ("mpeg4", ".avi", 0), ("mjpeg", ".avi", 0), ("libx264", ".mp4", 3)]


@pytest.mark.parametrize(("codec", "suffix", "b_frames"), CODECS)
def test_any_order_of_reading_gives_the_frame_of_that_number(tmp_path, codec, suffix, b_frames):
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    path = write_video(
        tmp_path / f"clip{suffix}", moving_frames(37), codec, gop=10, b_frames=b_frames
    )
    expected = decode_by_opencv(path)
    # Neighbours must differ by more than the tolerance, or the test could not tell them apart.
    assert all(not close_to(a, b) for a, b in zip(expected, expected[1:], strict=False))
    reader = VideoReader(path)
    assert len(reader) == len(expected) == 37
    assert reader.shape == SIZE
    order = np.random.default_rng(1).permutation(37).tolist() + [3, 3, 4, 36, 0, 0, 1]
    for index in order:
        assert close_to(reader.read(index), expected[index]), index
    again = list(reader.frames(5, 30, 7))
    assert len(again) == 4
    for frame, index in zip(again, (5, 12, 19, 26), strict=True):
        np.testing.assert_array_equal(frame, reader.read(index))
    assert sum(1 for _ in reader.frames()) == 37
    assert sum(1 for _ in reader.frames(step=5)) == 8


def test_sequential_reading_opens_the_file_once(tmp_path, monkeypatch):
    path = write_video(tmp_path / "clip.avi", moving_frames(10))
    opened = []
    original = av.open
    monkeypatch.setattr(
        av, "open", lambda p, **options: (opened.append(p), original(p, **options))[1]
    )
    reader = VideoReader(path)
    for index in (0, 1, 2, 2, 3, 7, 9):
        reader.read(index)
    assert len(opened) == 1
    reader.read(0)
    assert len(opened) == 2


@pytest.mark.parametrize(("codec", "pixels"), [("mpeg4", "yuv420p"), ("rawvideo", "bgr24")])
@pytest.mark.parametrize("size", [SIZE, (46, 66)])  # without and with padding of rows
def test_frames_belong_to_the_caller(tmp_path, codec, pixels, size):
    frames = moving_frames(3, size)
    reader = VideoReader(write_video(tmp_path / "clip.avi", frames, codec, pixels=pixels))
    first = reader.read(0)
    before = first.copy()
    second = reader.read(1)
    kept = second.copy()
    second[:] = 0
    np.testing.assert_array_equal(first, before)
    np.testing.assert_array_equal(reader.read(1), kept)
    for frame in (first, second, reader.read(2)):
        assert frame.flags.c_contiguous
        assert frame.flags.writeable
    if codec == "rawvideo":
        np.testing.assert_array_equal(kept, frames[1])


def test_copies_and_pickles_read_on_their_own(tmp_path):
    reader = VideoReader(write_video(tmp_path / "clip.avi", moving_frames(12)))
    fifth = reader.read(5)
    for other in (pickle.loads(pickle.dumps(reader)), copy.deepcopy(reader)):
        np.testing.assert_array_equal(other.read(5), fifth)
        np.testing.assert_array_equal(other.read(2), reader.read(2))
    with reader:
        reader.read(3)
    np.testing.assert_array_equal(reader.read(5), fifth)


def _read_in_child(reader, indices, queue):
    frames = [reader.read(i) for i in indices]
    gc.collect()  # frees what was garbage at the fork
    queue.put(frames)


def test_a_forked_process_does_not_share_the_position(tmp_path):
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("no fork here")
    path = write_video(tmp_path / "clip.mp4", moving_frames(30), b_frames=2)
    expected = list(VideoReader(path).frames())
    reader = VideoReader(path)
    reader.read(9)  # opened before the fork
    gc.disable()
    for _ in range(3):
        garbage = [VideoReader(path)]
        garbage[0].read(4)
        garbage.append(garbage)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_read_in_child, args=(reader, [10, 11, 4, 29], queue))
    child.start()
    gc.enable()
    got = queue.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0
    for frame, index in zip(got, (10, 11, 4, 29), strict=True):
        np.testing.assert_array_equal(frame, expected[index])
    for index in range(10, 30):
        np.testing.assert_array_equal(reader.read(index), expected[index])


def test_a_cut_off_file_has_the_frames_that_can_be_decoded(tmp_path, caplog):
    path = write_video(tmp_path / "clip.avi", moving_frames(60), gop=5)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    reader = VideoReader(path)
    decoded = len(decode_by_opencv(path))
    assert 0 < decoded < 60
    assert len(reader) == decoded
    assert reader.read(decoded - 1).shape == (*SIZE, 3)
    with pytest.raises(FrameError, match=rf"frame {decoded} of .*clip.avi.*after {decoded} frames"):
        reader.read(decoded)
    reader.read(0)  # and the reader goes on working


def test_a_wrong_stated_length_is_found_out(tmp_path, caplog):
    path = write_video(tmp_path / "clip.avi", moving_frames(8))
    content = bytearray(path.read_bytes())
    # dwLength of the AVI's stream header, 32 bytes after the fourcc 'strh', its size and 'vids'.
    at = content.index(b"strh") + 8 + 32
    assert int.from_bytes(content[at : at + 4], "little") == 8
    content[at : at + 4] = (1000).to_bytes(4, "little")
    path.write_bytes(content)
    reader = VideoReader(path)
    assert reader.stated_length == 1000
    assert reader.frame_rate == 10
    assert reader.count(stop=5) == 5
    with caplog.at_level("WARNING"):
        assert len(reader) == 8
    assert "states 1000 frames, of which 8" in caplog.text
    assert reader.count(stop=5) == 5
    assert reader.count(stop=50) == 8


def test_a_corrupt_packet_holds_the_place_of_its_frame(tmp_path, caplog):
    path = write_video(tmp_path / "clip.avi", moving_frames(20), "mjpeg")
    expected = decode_by_opencv(path)
    content = bytearray(path.read_bytes())
    movie = content.index(b"movi")
    starts = [i for i in range(movie, len(content)) if content[i : i + 4] == b"00dc"]
    size = int.from_bytes(content[starts[5] + 4 : starts[5] + 8], "little")
    content[starts[5] + 8 : starts[5] + 8 + size] = b"\x55" * size
    path.write_bytes(content)
    reader = VideoReader(path)
    with caplog.at_level("WARNING"):
        assert len(reader) == 20
    assert "corrupt packets" in caplog.text
    assert list(reader.bad_frames()) == [5] and reader.bad_frames(6) == {}
    for index in (*range(5), *range(6, 20), 4, 6, 19):
        assert close_to(reader.read(index), expected[index])
    for again in (reader, VideoReader(path)):
        with pytest.raises(BadFrameError, match="frame 5 of .*clip.avi.* cannot be decoded"):
            again.read(5)
        assert close_to(again.read(6), expected[6])
    assert sum(1 for _ in reader.frames()) == 19


@pytest.mark.parametrize("matrix", [(0, 1, -1, 0), (0, -1, 1, 0), (-1, 0, 0, -1)])
def test_frames_are_turned_as_the_container_says(tmp_path, matrix):
    path = write_video(tmp_path / "phone.mp4", moving_frames(4))
    content = bytearray(path.read_bytes())
    a, b, c, d = (v << 16 for v in matrix)
    values = (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    at = content.index(b"tkhd") + 4 + 40  # the display matrix of a version 0 track header
    content[at : at + 36] = b"".join((v & 0xFFFFFFFF).to_bytes(4, "big") for v in values)
    path.write_bytes(content)
    expected = decode_by_opencv(path)
    reader = VideoReader(path)
    assert reader.shape == expected[0].shape[:2] == (SIZE[::-1] if matrix[0] == 0 else SIZE)
    for index, frame in enumerate(expected):
        assert close_to(reader.read(index), frame)
        assert not close_to(reader.read(index), frame[::-1, ::-1])


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", r"empty \(0 bytes\)"), (b"no video at all" * 100, "FFmpeg cannot open")],
)
def test_files_that_are_no_video(tmp_path, content, message):
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    with pytest.raises(FrameError, match=message) as error:
        len(VideoReader(path))
    assert "broken.mp4" in str(error.value)


def test_missing_files_and_images(tmp_path):
    with pytest.raises(FrameError, match="no video file.*gone.mp4"):
        VideoReader(tmp_path / "gone.mp4")
    with pytest.raises(FrameError, match="gone"):
        open_frames(tmp_path / "gone")
    cv2.imwrite(str(tmp_path / "a1.png"), moving_frames(1)[0])
    with pytest.raises(FrameError, match="is an image.*folder"):
        open_frames(tmp_path / "a1.png")
    with pytest.raises(IndexError):
        VideoReader(write_video(tmp_path / "clip.avi", moving_frames(2))).read(-1)


def test_a_folder_is_read_in_natural_order(tmp_path):
    frames = moving_frames(12)
    for i, frame in enumerate(frames):
        cv2.imwrite(str(tmp_path / f"frame{i}.png"), frame)
    (tmp_path / "notes.txt").write_text("not a frame")
    (tmp_path / ".hidden.png").write_bytes(b"")
    folder = open_frames(tmp_path)
    assert isinstance(folder, FrameFolder)
    assert len(folder) == 12
    assert folder.count(5) == 5
    assert folder.names[1:3] == ("frame1.png", "frame2.png")
    for i, frame in enumerate(folder):
        np.testing.assert_array_equal(frame, frames[i])
    np.testing.assert_array_equal(next(folder.frames(3, 9, 2)), frames[3])
    with pytest.raises(FrameError, match="contains 12 images"):
        folder.read(12)


def test_folders_that_cannot_be_a_video(tmp_path):
    with pytest.raises(FrameError, match=r"contains no image.*'folder/\*\.mp4'"):
        FrameFolder(tmp_path)
    with pytest.raises(FrameError, match="no folder"):
        FrameFolder(tmp_path / "gone")
    cv2.imwrite(str(tmp_path / "1.png"), moving_frames(1)[0])
    cv2.imwrite(str(tmp_path / "2.png"), moving_frames(1, size=(50, 64))[0])
    (tmp_path / "3.png").write_bytes(b"")
    (tmp_path / "4.png").write_bytes(b"no picture")
    folder = FrameFolder(tmp_path)
    with pytest.raises(FrameError, match=r"2\.png.* is 50x64 px.*48x64"):
        folder.read(1)
    for index in (2, 3):
        with pytest.raises(BadFrameError, match=rf"{index + 1}\.png.*cannot be read"):
            folder.read(index)
    assert list(folder.bad_frames()) == [1, 2, 3]


def test_frames_of_another_size_are_bad_and_keep_their_numbers(tmp_path):
    # Two MJPEG streams of different sizes, one after the other, in one raw file.
    path = tmp_path / "mixed.mjpeg"
    parts = [
        cv2.imencode(".jpg", f)[1].tobytes()
        for f in moving_frames(4) + moving_frames(4, size=(96, 128))
    ]
    path.write_bytes(b"".join(parts))
    reader = VideoReader(path)
    with pytest.raises(BadFrameError, match=r"frame 4 .* is 96x128 px.*first.*48x64.*re-encode"):
        reader.read(4)
    assert len(list(reader.frames())) == 4
    assert len(VideoReader(path)) == 8 and list(VideoReader(path).bad_frames()) == [4, 5, 6, 7]
    assert VideoReader(path).count(stop=4) == 4
