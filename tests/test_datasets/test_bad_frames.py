"""One rule for frames that cannot be read: skipped, their places held, counted, said."""

from __future__ import annotations

import os
import random

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcopy_plugins.datasets import FrameFolder, LiveSource, VideoReader
from blockcopy_plugins.datasets.video_listing import list_video, skipped_frames
from blockcopy_plugins.errors import BadFrameError, BlockCopyError, FrameError

SIZE = (48, 64)


def picture(number, size=SIZE):
    """A picture that tells its number by the grey level of its middle."""
    image = np.random.default_rng(number).integers(0, 40, (*size, 3), dtype=np.uint8)
    image[size[0] // 4 : -size[0] // 4, size[1] // 4 : -size[1] // 4] = 60 + 8 * number
    return image


def number_of(image):
    height, width = image.shape[:2]
    middle = image[height // 2 - 4 : height // 2 + 4, width // 2 - 4 : width // 2 + 4]
    return round((float(middle.mean()) - 60) / 8)


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "no image": lambda path: path.write_bytes(b"x" * 3000),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4]),
    "last byte missing": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "another size": lambda path: cv2.imwrite(str(path), picture(0, (24, 32))),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a link to nothing": lambda path: (path.unlink(), path.symlink_to("gone")),
}


def make_folder(folder, count, suffix):
    folder.mkdir(parents=True)
    for n in range(count):
        cv2.imwrite(str(folder / f"{n:03d}{suffix}"), picture(n))
    return folder


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif", ".ppm"])
@pytest.mark.parametrize("damage", list(DAMAGE))
@pytest.mark.parametrize("which", [(3,), (0, 1), (7,)])
def test_an_image_of_a_folder(tmp_path, suffix, damage, which):
    folder = make_folder(tmp_path / "f", 8, suffix)
    for number in which:
        DAMAGE[damage](folder / f"{number:03d}{suffix}")
    right = [n for n in range(8) if n not in which]

    listed = list_video(str(folder), "f")
    assert (list(listed.numbers), sorted(listed.bad)) == (right, list(which))
    assert listed.shape == SIZE and listed.reference.length == 8
    told = skipped_frames([listed])
    assert told["count"] == len(which)
    assert f"{which[0]:03d}{suffix}" in told["videos"][0]["frames"][0]["reason"]
    frames = FrameFolder(folder)
    for number in right:
        assert number_of(frames.read(number)) == number
    with LiveSource(folder) as source:
        live = [(frame.index, number_of(frame.image)) for frame in source]
        assert live == [(n, n) for n in right] and source.corrupt == len(which)
    with pytest.raises(BadFrameError, match=rf"{which[0]:03d}.*without strict_frames"):
        list_video(str(folder), "f", strict=True)
    with LiveSource(folder, strict_frames=True) as source, pytest.raises(BadFrameError):
        list(source)
    # What is not selected is not looked at.
    assert list_video(str(folder), "f", frames=(2, 3), strict=True).numbers == range(2, 3)


def test_nothing_that_can_be_read_is_an_error(tmp_path):
    folder = make_folder(tmp_path / "f", 3, ".png")
    for path in folder.iterdir():
        path.write_bytes(b"")
    with pytest.raises(FrameError, match="none of the 3 .*can be read.*000.png"):
        list_video(str(folder), "f")
    with LiveSource(folder) as source, pytest.raises(FrameError, match="none of 3 frames"):
        list(source)


CODECS = {
    "mjpeg": ("mjpeg", ".avi", "yuvj420p", 0),
    "mpeg4": ("mpeg4", ".mp4", "yuv420p", 0),
    "B frames": ("mpeg4", ".mkv", "yuv420p", 2),
    "h264": ("libx264", ".mp4", "yuv420p", 0),
    "h264 with B frames": ("libx264", ".mkv", "yuv420p", 3),
    "transport stream": ("libx264", ".ts", "yuv420p", 3),
}
COUNT, GROUP = 20, 5


def write(path, codec, pixels, b_frames):
    with av.open(str(path), "w") as container:
        options = {"crf": "5", "x264-params": "scenecut=0"} if codec == "libx264" else {}
        stream = container.add_stream(codec, rate=10, options=options)
        stream.height, stream.width, stream.pix_fmt = *SIZE, pixels
        stream.codec_context.gop_size = GROUP
        stream.codec_context.max_b_frames = b_frames
        stream.codec_context.bit_rate = 8_000_000
        for n in range(COUNT):
            frame = av.VideoFrame.from_ndarray(picture(n), format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def packets_of(path):
    with av.open(str(path)) as container:
        return [(p.pos, bytes(p), p.is_keyframe) for p in container.demux(video=0) if p.size]


@pytest.mark.parametrize("name", [n for n in CODECS if n != "transport stream"])
@pytest.mark.parametrize("victim", [0, 5, 7, 19])
def test_a_packet_of_a_file(tmp_path, name, victim):
    codec, suffix, pixels, b_frames = CODECS[name]
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    if (name, victim) == ("B frames", 0):
        pytest.skip("FFmpeg's decoder then gives frames in another order than they are shown")
    path = write(tmp_path / f"clip{suffix}", codec, pixels, b_frames)
    _, packet, _ = packets_of(path)[victim]
    content = path.read_bytes()
    assert content.count(packet) == 1
    # Beyond all repair, and no start code in it.
    path.write_bytes(content.replace(packet, b"\xff" * len(packet)))
    reader = VideoReader(path)
    bad = set(reader.bad_frames())
    # Frames of the group that refer to the packet may be gone with it; none outside of it.
    assert len(bad) <= GROUP + b_frames + 1
    right = [n for n in range(len(reader)) if n not in bad]
    for number in right:
        # A frame that refers to a damaged one may look odd; a key frame and what follows may not.
        if number < victim - b_frames or number > victim + GROUP + b_frames:
            assert number_of(reader.read(number)) == number
    if victim < COUNT - GROUP:
        assert len(reader) == COUNT
    with LiveSource(path) as source:
        assert [frame.index for frame in source] == right and source.corrupt == len(bad)
    if bad:
        with pytest.raises(BadFrameError, match="clip"):
            list_video(str(path), "clip", strict=True)
        with LiveSource(path, strict_frames=True) as source, pytest.raises(BadFrameError):
            list(source)


@pytest.mark.parametrize("name", list(CODECS))
@pytest.mark.parametrize("share", [0.5, 0.8, 1.0])
def test_a_file_that_is_cut_off_gives_what_came(tmp_path, name, share):
    """As many frames as FFmpeg's libraries give when they are asked to the very end."""
    codec, suffix, pixels, b_frames = CODECS[name]
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    path = write(tmp_path / f"whole{suffix}", codec, pixels, b_frames)
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    expected = 0
    try:
        container = av.open(str(cut))
    except av.error.FFmpegError:  # an MP4 without its index
        with pytest.raises(FrameError, match="cut off"):
            len(VideoReader(cut))
        return
    with container:
        stream = container.streams.video[0]
        decoder = container.demux(stream)
        while True:
            try:
                packet = next(decoder)
            except (StopIteration, av.error.FFmpegError):
                break
            try:
                expected += len(packet.decode())
            except av.error.FFmpegError:
                continue
        try:
            expected += len(stream.codec_context.decode(None))
        except av.error.FFmpegError:
            pass
    reader = VideoReader(cut)
    good = len(reader) - len(reader.bad_frames())
    assert good == expected
    with LiveSource(cut) as source:
        assert sum(1 for _ in source) == expected


@given(st.sets(st.integers(0, 11), max_size=11))
def test_arrays_that_did_not_come(missing):
    frames = [None if n in missing else picture(n) for n in range(12)]
    with LiveSource(frames) as source:
        assert [f.index for f in source] == [n for n in range(12) if n not in missing]
        assert source.corrupt == len(missing)
    if missing:
        with LiveSource(frames, strict_frames=True) as source:
            with pytest.raises(BadFrameError, match=f"frame {min(missing)} failed"):
                list(source)


def check_mutated(path, content, seed):
    rng = random.Random(seed)
    data = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(data))
        how = rng.random()
        if how < 0.5:
            data[at] = rng.randrange(256)
        elif how < 0.8:
            data[at : at + rng.randint(1, 300)] = rng.randbytes(rng.randint(0, 300))
        else:
            del data[at + rng.randint(0, 40) :]
            if not data:
                data = bytearray(b"\x00")
    path.write_bytes(data)
    try:
        listed = list_video(str(path), "fuzz")
        with LiveSource(str(path)) as source:
            shown = [frame.index for frame in source if frame.image.shape[:2] == listed.shape]
    except BlockCopyError as error:
        assert path.name in str(error), (seed, error)
        return
    assert shown == list(listed.numbers), seed


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    found = {}
    for name, (codec, suffix, pixels, b_frames) in CODECS.items():
        if codec in av.codecs_available:
            path = write(folder / f"{name}{suffix}", codec, pixels, b_frames)
            found[name] = (suffix, path.read_bytes())
    return found


def test_mutated_videos_give_the_same_frames_to_all_readers_or_an_error(tmp_path, originals):
    for seed in range(60):
        suffix, content = list(originals.values())[seed % len(originals)]
        check_mutated(tmp_path / f"fuzz{suffix}", content, seed)


@pytest.mark.weekly
def test_thousands_of_mutated_videos(tmp_path, originals):
    for seed in range(1000, 3000):
        suffix, content = list(originals.values())[seed % len(originals)]
        check_mutated(tmp_path / f"fuzz{suffix}", content, seed)
