"""Containers whose metadata say how frames are to be shown, against FFmpeg's own tools."""

from __future__ import annotations

import itertools
import pickle
import shutil
import subprocess
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from blockcopy_plugins.datasets import LiveSource, VideoReader
from blockcopy_plugins.datasets.display_matrix import Orientation, orientation_of_matrix
from blockcopy_plugins.datasets.image_file import read_image
from blockcopy_plugins.errors import FrameError

SIZE = (32, 48)


def picture(number=0):
    """Four quarters of different grey, so that each of the eight ways to lay it looks different."""
    image = np.zeros((*SIZE, 3), np.uint8)
    image[:16, :24], image[:16, 24:], image[16:, :24], image[16:, 24:] = 40, 100, 160, 220
    image[2:6, 2:6] = 10 * number
    return image


def write(path, frames=3, rate=10, times=None, codec="libx264", pixels="yuv420p", ratio=None):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"crf": "5", "bf": "0"})
        stream.height, stream.width, stream.pix_fmt = *SIZE, pixels
        if ratio is not None:
            stream.codec_context.sample_aspect_ratio = ratio
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 90000)
        for n in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(n), format="bgr24")
            if times is not None:
                frame.pts, frame.time_base = round(90000 * times[n]), Fraction(1, 90000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def set_matrix(path, matrix):
    """Write a display matrix into the header of the track, as a camera does."""
    content = bytearray(path.read_bytes())
    a, b, c, d = (v << 16 for v in matrix)
    values = (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    at = content.index(b"tkhd") + 4 + 40
    content[at : at + 36] = b"".join((v & 0xFFFFFFFF).to_bytes(4, "big") for v in values)
    path.write_bytes(content)
    return path


def by_ffmpeg(path):
    """The first frame as FFmpeg's own tool shows it."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("no ffmpeg here; the same by hand is tested beside")
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-frames:v", "1", "-c:v", "ppm"]
    data = subprocess.run([*command, "-f", "image2pipe", "-"], capture_output=True, check=True)
    kind, size, most, pixels = data.stdout.split(b"\n", 3)
    width, height = map(int, size.split())
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)[..., ::-1]


UPRIGHT = [(a, 0, 0, d) for a, d in itertools.product((1, -1), repeat=2)]
TURNED = [(0, b, c, 0) for b, c in itertools.product((1, -1), repeat=2)]


@pytest.mark.parametrize("matrix", UPRIGHT + TURNED)
def test_turned_and_mirrored_as_ffmpeg_shows_it(tmp_path, matrix):
    path = set_matrix(write(tmp_path / "v.mp4"), matrix)
    expected = by_ffmpeg(path)
    reader = VideoReader(path)
    assert reader.shape == expected.shape[:2]
    assert np.abs(reader.read(0).astype(int) - expected).mean() < 4
    with LiveSource(path) as source:
        assert np.abs(next(source).image.astype(int) - expected).mean() < 4


@pytest.mark.parametrize("matrix", UPRIGHT + TURNED)
def test_a_frame_is_given_as_decoded_if_it_is_shown_like_that(tmp_path, matrix):
    with LiveSource(set_matrix(write(tmp_path / "video.mp4"), matrix)) as source:
        for frame in source:
            if matrix != (1, 0, 0, 1):
                assert frame.decoded is None
                continue
            # Grey, so that its luma says it all: 16 to 235.
            luma = frame.decoded.frame.to_ndarray()[: SIZE[0]].astype(float)
            assert np.abs((luma - 16) * 255 / 219 - frame.image[..., 1]).max() <= 2
            copied = pickle.loads(pickle.dumps(frame))  # PyAV's frames cannot be pickled
            assert copied.decoded.frame is None and (copied.image == frame.image).all()


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((1, 0, 0, 1), lambda p: p),
        ((-1, 0, 0, 1), lambda p: p[:, ::-1]),
        ((1, 0, 0, -1), lambda p: p[::-1]),
        ((-1, 0, 0, -1), lambda p: p[::-1, ::-1]),
        ((0, 1, -1, 0), lambda p: np.rot90(p, -1)),
        ((0, -1, 1, 0), lambda p: np.rot90(p)),
        ((0, 1, 1, 0), lambda p: p.swapaxes(0, 1)),
        ((0, -1, -1, 0), lambda p: p[::-1, ::-1].swapaxes(0, 1)),
    ],
)
def test_a_matrix_moves_each_pixel_where_it_says(matrix, expected):
    """(x, y) goes to (a x + c y, b x + d y), moved to where all are positive."""
    a, b, c, d = (v << 16 for v in matrix)
    found = orientation_of_matrix((a, b, 0, c, d, 0, 0, 0, 1 << 30))
    np.testing.assert_array_equal(found.apply(picture()), expected(picture()))
    assert found.swaps == (matrix[0] == 0)


def test_matrices_that_say_nothing():
    assert orientation_of_matrix((0,) * 9) == Orientation()
    assert orientation_of_matrix((46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30)).turns == 0


def test_motion_of_a_mirrored_video_is_refused(tmp_path):
    path = set_matrix(write(tmp_path / "v.mp4", frames=6), (-1, 0, 0, 1))
    with pytest.raises(FrameError, match="mirrored"):
        VideoReader(path, motion=True).read_motion(2)


@pytest.mark.parametrize("ratio", [None, Fraction(1), Fraction(16, 11), Fraction(3, 4)])
@pytest.mark.parametrize("turned", [False, True])
def test_pixels_that_are_not_square(tmp_path, ratio, turned):
    path = write(tmp_path / "v.mp4", ratio=ratio)
    if turned:
        set_matrix(path, (0, 1, -1, 0))
    expected = None if ratio in (None, 1) else (1 / ratio if turned else ratio)
    assert VideoReader(path).sample_aspect_ratio == expected
    with LiveSource(path) as source:
        list(source)
        assert source.sample_aspect_ratio == expected


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv422p10le", "yuv444p", "gray10le", "yuv420p12le"])
def test_bit_depths(tmp_path, pixels):
    codec = "ffv1"
    if codec not in av.codecs_available:
        pytest.skip("no ffv1")
    path = write(tmp_path / "v.mkv", codec=codec, pixels=pixels)
    assert np.abs(VideoReader(path).read(0).astype(int) - picture()).max() <= 6


@pytest.mark.parametrize(
    "times",
    [
        [n / 90000 for n in range(5)],
        [n / 1000 for n in range(5)],
        [0, 1 / 30, 2 / 30, 0.5, 1.0],
        [3600.0 * n for n in range(5)],
    ],
)
def test_times_of_frames_are_those_of_the_container(tmp_path, times):
    path = write(tmp_path / "v.mkv", frames=5, times=times)
    with av.open(str(path)) as container:
        expected = [frame.time for frame in container.decode(video=0)]
    reader = VideoReader(path)
    found = []
    for n in range(5):
        reader.read(n)
        found.append(reader.time(n))
    assert found == expected
    with LiveSource(path) as source:
        assert [frame.time for frame in source] == expected


ODD_NAMES = [
    *("2021-05-01T12:30:00.mp4", "cam:1.mp4", "50%.mp4", "a%03d.mp4", "a|b.mp4", "#1 cam.mp4"),
    *("a b's.mp4", "-x.mp4", "e\u0301t\u00e9.mp4", "[cam1].mp4", "data:x.mp4", "pipe:0.mp4"),
    *("file:y.mp4", "concat:a.mp4", "http:z.mp4", "a?b=c.mp4"),
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_that_ffmpeg_reads_in_its_own_way(tmp_path, monkeypatch, name):
    from blockcopy_plugins.visualization import VideoWriter

    monkeypatch.chdir(tmp_path)
    with VideoWriter(name) as video:
        for n in range(2):
            video.write(picture(n))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    for spelling in (name, f"./{name}", tmp_path / name):
        assert len(VideoReader(spelling)) == 2
        with LiveSource(spelling) as source:
            assert len(list(source)) == 2


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_their_exif_data_say(tmp_path, suffix, orientation):
    image = Image.fromarray(picture(3)[..., ::-1])
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"0{suffix}"
    image.save(path, exif=exif, lossless=True, quality=98, subsampling=0)
    with Image.open(path) as stored:
        assert stored.getexif()[0x0112] == orientation
        wanted = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))[..., ::-1]
    found = read_image(path)
    assert found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted).max() <= 2


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_images_of_other_kinds_of_pixels(tmp_path, mode):
    grey = picture(3)[..., 0]
    suffix = ".jpg" if mode == "CMYK" else ".png"
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        palette = {"palette": Image.Palette.ADAPTIVE} if mode == "P" else {}
        image = Image.fromarray(picture(3)).convert(mode, **palette)
    image.save(tmp_path / f"0{suffix}", quality=98)
    wanted = grey if mode != "1" else np.asarray(image.convert("L"))
    found = read_image(tmp_path / f"0{suffix}").astype(int)
    assert found.shape == (*SIZE, 3)
    assert np.abs(found - wanted[..., None]).max() <= 2


def with_cover(path, video):
    """Audio with a cover picture, as music has it, and the video if there is one."""
    cover = path.with_name("cover.jpg")
    Image.fromarray(np.full((64, 64, 3), 7, np.uint8)).save(cover)
    inputs = ["-f", "lavfi", "-i", "sine=duration=0.5", "-i", str(cover)]
    maps = ["-map", "0:a", "-map", "1:v"]
    marks = ["-disposition:v:0", "attached_pic"]
    if video is not None:
        inputs, maps = [*inputs, "-i", str(video)], [*maps, "-map", "2:v"]
        marks += ["-disposition:v:1", "0"]
    command = ["ffmpeg", "-v", "error", *inputs, *maps, "-c:v", "copy", "-c:a", "aac", *marks]
    subprocess.run([*command, str(path)], check=True)
    return path


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg here")
def test_a_cover_picture_is_no_video(tmp_path):
    music = with_cover(tmp_path / "music.m4a", None)
    with av.open(str(music)) as container:
        assert len(container.streams.video) == 1
    for reader in (lambda: len(VideoReader(music)), lambda: LiveSource(music)):
        with pytest.raises(FrameError, match="music.m4a.*a cover picture and no video"):
            reader()
    film = with_cover(tmp_path / "film.mp4", write(tmp_path / "plain.mp4"))
    with av.open(str(film)) as container:
        assert sorted(stream.width for stream in container.streams.video) == [48, 64]
    reader = VideoReader(film)
    assert reader.shape == SIZE and len(reader) == 3


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg here")
@pytest.mark.parametrize("limits", ["tv", "pc"])
@pytest.mark.parametrize("matrix", ["bt709", "smpte170m", "bt2020nc", None])
def test_colours_are_those_of_the_stated_matrix_and_range(tmp_path, matrix, limits):
    """Flat colours, against what went in and against FFmpeg's own tool."""
    colours = np.uint8([[200, 30, 30], [30, 200, 30], [30, 30, 200], [250, 250, 250], [5, 5, 5]])
    image = colours.repeat(16, 0)[:, None].repeat(64, 1)
    scale = {"smpte170m": "bt601", "bt2020nc": "bt2020", None: "bt601"}.get(matrix, matrix)
    filters = f"scale=out_color_matrix={scale}:out_range={limits},format=yuv420p"
    tags = ["-color_range", limits] + (["-colorspace", matrix] if matrix else [])
    path = tmp_path / "v.mp4"
    subprocess.run(
        ["ffmpeg", "-v", "error", "-f", "rawvideo", "-pix_fmt", "bgr24", "-s", "64x80", "-i", "-"]
        + ["-vf", filters, "-c:v", "libx264", "-qp", "0", *tags, str(path)],
        input=image.tobytes(),
        check=True,
    )
    inside = np.arange(8, 80, 16)  # away from the edges, over which colour is spread
    shown = by_ffmpeg(path)[inside, 8].astype(int)
    with LiveSource(path) as source:
        live = next(source).image
    for found in (VideoReader(path).read(0), live):
        found = found[inside, 8].astype(int)
        assert np.abs(found - colours).max() <= 5  # rounded in YUV and halved in colour
        assert np.abs(found - shown).max() <= 3
