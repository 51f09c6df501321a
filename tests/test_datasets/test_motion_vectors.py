"""Motion vectors of videos whose motion is known, as the readers export them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

av = pytest.importorskip("av")

from blockcopy_plugins.datasets import LiveSource, VideoReader, open_frames  # noqa: E402
from blockcopy_plugins.datasets.display_matrix import Orientation  # noqa: E402
from blockcopy_plugins.datasets.motion_accumulator import MotionAccumulator  # noqa: E402
from blockcopy_plugins.datasets.video_decoder import VideoDecoder  # noqa: E402
from blockcopy_plugins.errors import ConfigError, FrameError, StateError  # noqa: E402

SIZE = (128, 160)  # 8 x 10 macroblocks
CODECS = [
    pytest.param("mpeg4", 0, {}, id="MPEG-4"),
    pytest.param("libx264", 0, {"x264-params": "ref=1"}, id="H.264"),
    pytest.param(
        "libx264", 2, {"x264-params": "ref=1:b-adapt=0:b-pyramid=none"}, id="H.264, B frames"
    ),
]


def texture(height, width, seed=0):
    """Soft noise, in which a block fits at one place alone."""
    draw = np.random.default_rng(seed)
    fine = draw.integers(40, 216, (height // 4 + 2, width // 4 + 2)).astype(np.float64)
    fine = np.kron(fine, np.ones((4, 4)))
    for axis in (0, 1):
        fine = sum(np.roll(fine, shift, axis) for shift in range(-2, 3)) / 5
    return np.repeat(fine[:height, :width, None], 3, 2).astype(np.uint8)


def pan(count, x, y, size=SIZE):
    """Pictures whose content moves by (x, y) px a frame."""
    large = texture(size[0] + count * abs(y), size[1] + count * abs(x))
    pictures = []
    for index in range(count):
        top = index * -y if y < 0 else (count - index) * y
        left = index * -x if x < 0 else (count - index) * x
        pictures.append(large[top : top + size[0], left : left + size[1]].copy())
    return pictures


def square(count, x, start=(48, 16), side=32, size=SIZE):
    """A square that moves to the right by x px a frame, before a background that stands still."""
    background, thing = texture(*size), 255 - texture(side, side, 1)
    pictures = []
    for index in range(count):
        picture = background.copy()
        left = start[1] + index * x
        picture[start[0] : start[0] + side, left : left + side] = thing
        pictures.append(picture)
    return pictures


def write(path, pictures, codec="mpeg4", b_frames=0, options=None, gop=250, pixels=None):
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=dict(options or {}))
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels or ("yuvj420p" if codec == "mjpeg" else "yuv420p")
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = b_frames
        stream.bit_rate = 4_000_000
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode())
    return path


def fields_of(path):
    reader = VideoReader(path, motion=True)
    return [reader.read_motion(index) for index in range(reader.count())]


def between(fields, start, end):
    return (fields[end].displacement - fields[start].displacement).numpy()


@pytest.mark.parametrize("shift", [(3, 0), (-2, 4)])
@pytest.mark.parametrize(("codec", "b_frames", "options"), CODECS)
def test_a_pan_adds_up(tmp_path, codec, b_frames, options, shift):
    path = write(tmp_path / "clip.mkv", pan(13, *shift), codec, b_frames, options)
    fields = fields_of(path)
    assert len(fields) == 13 and fields[0].size == SIZE and fields[0].cell == 16
    # How many B frames lie between two references is known from the second one on.
    for start, end in ((0, 12), (3, 4), (3, 8), (5, 7), (8, 12)):
        # What comes into view at the edges is new.
        inner = between(fields, start, end)[2:-2, 2:-2]
        expected = np.array(shift) * (end - start)
        assert np.abs(np.median(inner, (0, 1)) - expected).max() <= 0.5
        right = np.abs(inner - expected).max(-1) <= 1
        assert right.mean() > 0.8


@pytest.mark.parametrize(("codec", "b_frames", "options"), CODECS)
def test_a_square_moves_where_it_is_and_nothing_else_does(tmp_path, codec, b_frames, options):
    path = write(tmp_path / "clip.mkv", square(10, 8), codec, b_frames, options)
    fields = fields_of(path)
    for end in range(1, 10):
        moved = np.hypot(*np.moveaxis(between(fields, end - 1, end), -1, 0))
        changed = (moved >= 1) | (fields[end].renewed > fields[end - 1].renewed).numpy()
        # Now at 16 + 8 * end, before that 8 px to the left.
        first, last = (16 + 8 * (end - 1)) // 16, (16 + 8 * end + 31) // 16
        outside = np.ones((8, 10), bool)
        # An encoder may take what lies beside the square along.
        outside[2:6, max(first - 1, 0) : last + 2] = False
        assert not changed[outside].any()
        assert changed[3:5, (16 + 8 * end + 15) // 16].all()  # whole macroblocks of the square


def test_what_leaves_counts_where_it_was(tmp_path):
    path = write(tmp_path / "clip.mkv", square(3, 48, start=(48, 16)))
    fields = fields_of(path)
    moved = between(fields, 1, 2)
    was, now = moved[3:5, 4:6], moved[3:5, 7:9]  # 64..96 px, then 112..144
    seen = np.concatenate((was.reshape(-1, 2), now.reshape(-1, 2)))
    renewed = (fields[2].renewed > fields[1].renewed)[3:5][:, [4, 5, 7, 8]].numpy()
    far = np.hypot(seen[:, 0], seen[:, 1]).reshape(2, 2, 2).transpose(1, 0, 2).reshape(2, 4) > 8
    # The search of an encoder may not reach that far; then it codes the macroblocks anew.
    assert (far | renewed).all()


def test_vectors_of_a_frame():
    """By hand, with what FFmpeg exports of a frame of H.264."""
    from blockcopy_plugins.datasets.motion_accumulator import _displacements

    kind = [("source", "i4"), ("w", "u1"), ("h", "u1"), ("dst_x", "i2"), ("dst_y", "i2")]
    kind += [("motion_x", "i4"), ("motion_y", "i4"), ("motion_scale", "u2")]
    vectors = np.array(
        [
            (-1, 16, 16, 8, 8, 0, 0, 4),  # stands still
            (-1, 8, 16, 20, 8, -16, 0, 4),  # half a macroblock moves by 4 px, the other does not
            (-1, 8, 16, 28, 8, 0, 0, 4),
            (1, 16, 16, 40, 8, 0, 8, 4),  # 2 px down until the next reference, in half of the time
            (-1, 16, 16, 8, 24, -4, -4, 4),  # has a vector of either kind
            (1, 16, 16, 8, 24, 400, 400, 4),
            (-1, 16, 16, 40, 24, -128, 0, 4),  # comes from 32 px further left
            (-1, 16, 16, 60, 24, 0, 0, 4),  # beyond the edge of a picture of 50 px
        ],
        dtype=kind,
    )
    moved, has_vector = _displacements(vectors, (2, 3), ahead=2.0)
    assert has_vector.tolist() == [[True, True, True], [True, False, True]]
    assert moved[0].tolist() == [[0, 0], [2, 0], [0, 4]]
    # The last cell has two vectors, of which one stands still. What it shows was in the first.
    assert moved[1].tolist() == [[32, 0], [0, 0], [16, 0]]


def test_any_order_of_reading(tmp_path):
    path = write(tmp_path / "clip.mkv", pan(12, 3, 0), gop=5)
    expected = fields_of(path)
    reader = VideoReader(path, motion=True)
    for index in (3, 3, 9, 4, 11, 0, 2):
        picture = reader.read(index)
        found = reader.read_motion(index)
        assert torch.equal(found.displacement, expected[index].displacement)
        assert torch.equal(found.renewed, expected[index].renewed)
        np.testing.assert_array_equal(picture, VideoReader(path).read(index))
    again = pickle.loads(pickle.dumps(reader))
    assert torch.equal(again.read_motion(7).displacement, expected[7].displacement)
    with pytest.raises(FrameError, match="frame 12 of .* cannot be decoded"):
        reader.read_motion(12)
    with pytest.raises(ConfigError, match="VideoReader.path, motion=True."):
        VideoReader(path).read_motion(0)


def test_a_live_source_loses_nothing_with_dropped_frames(tmp_path):
    path = write(tmp_path / "clip.mkv", pan(40, 3, 0))
    expected = fields_of(path)
    with LiveSource(path, drop=True) as source:
        source.export_motion()
        frames = [next(source)]
        while source._ahead._thread.is_alive():
            pass
        frames += list(source)
        assert source.dropped > 30
    assert frames[-1].index == 39
    for frame in frames:
        assert torch.equal(frame.motion.displacement, expected[frame.index].displacement)
    with LiveSource(path) as source:
        assert next(source).motion is None
        with pytest.raises(StateError, match="before the first one"):
            source.export_motion()


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_key_frames(tmp_path, codec):
    """Motion stands still over them, and what has changed there is new."""
    pictures = [texture(*SIZE)] * 20
    lit = pictures[0].copy()
    lit[32:64, 96:144] = np.minimum(lit[32:64, 96:144], 200) + 50
    pictures[10:] = [lit] * 10
    path = write(tmp_path / "clip.mkv", pictures, codec, gop=5, options={"sc_threshold": "0"})
    fields = fields_of(path)
    for index in (5, 10, 15):
        reader = VideoReader(path, motion=True)
        reader.read(index)
        assert reader._frame.key_frame
    renewed = [(b.renewed - a.renewed).numpy() for a, b in zip(fields, fields[1:], strict=False)]
    expected = np.zeros((8, 10), np.int64)
    expected[2:4, 6:9] = 1
    np.testing.assert_array_equal(renewed[9], expected)
    assert not any(new.any() for index, new in enumerate(renewed) if index != 9)
    assert np.abs(between(fields, 0, 19)).max() < 1


def test_motion_goes_on_after_a_key_frame(tmp_path):
    fields = fields_of(write(tmp_path / "clip.mkv", pan(16, 3, 0), gop=5))
    inner = between(fields, 0, 15)[2:-2, 2:-2]
    # Key frames 5, 10 and 15 tell nothing of the motion up to them, but that all has changed.
    np.testing.assert_allclose(np.median(inner, (0, 1)), (36, 0), atol=1)
    for index in (5, 10, 15):
        new = (fields[index].renewed - fields[index - 1].renewed).numpy()
        assert new[2:-2, 2:-2].mean() > 0.5


def test_a_cut_is_all_new(tmp_path):
    pictures = [texture(*SIZE, seed=1)] * 5 + [texture(*SIZE, seed=2)] * 5
    fields = fields_of(write(tmp_path / "clip.mkv", pictures, "libx264"))
    new = (fields[5].renewed - fields[4].renewed).numpy()
    assert new.mean() > 0.9
    assert not (fields[9].renewed - fields[5].renewed).numpy().any()


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [SIZE, (120, 150)])
def test_turned_pictures(tmp_path, turns, size):
    """The field of a turned picture is that of the picture that was coded, turned."""
    decoder = VideoDecoder(str(write(tmp_path / "clip.mkv", square(4, 6, size=size))))
    decoder.export_motion()
    for _ in range(4):
        decoder.next()
    plain = decoder._motion.field()
    field = decoder._motion.field(turns)
    shape = (size[1], size[0]) if turns % 2 else size
    assert field.size == shape
    marked = {}
    for row in range(plain.renewed.shape[0]):
        for column in range(plain.renewed.shape[1]):
            # Paint the cell on a picture that reaches over the edge, and turn that.
            tall, wide = (16 * cells for cells in plain.renewed.shape)
            painted = np.zeros((tall, wide), bool)
            painted[16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = True
            turned = np.rot90(painted, turns)
            top, left = np.argwhere(turned)[0]
            # Where the picture itself begins in what was turned.
            inside = np.zeros((tall, wide), bool)
            inside[: size[0], : size[1]] = True
            corner = np.argwhere(np.rot90(inside, turns))[0]
            vector = plain.displacement[row, column].numpy()
            for _ in range(turns):
                vector = np.array((vector[1], -vector[0]))
            marked[(top - corner[0], left - corner[1])] = vector
    for row in range(field.renewed.shape[0]):
        for column in range(field.renewed.shape[1]):
            place = (16 * row + field.origin[1], 16 * column + field.origin[0])
            np.testing.assert_array_equal(field.displacement[row, column], marked[place])
    assert np.abs(plain.displacement.numpy()).max() >= 6


def test_the_reader_turns_it_with_the_pictures(tmp_path, monkeypatch):
    path = write(tmp_path / "clip.mkv", pan(4, 6, 0))
    name = "blockcopy_plugins.datasets.video_decoder.orientation_of"
    monkeypatch.setattr(name, lambda frame: Orientation(turns=1))
    reader = VideoReader(path, motion=True)
    assert reader.read(3).shape == (*SIZE[::-1], 3)
    field = reader.read_motion(3)
    assert field.size == SIZE[::-1]
    # What moved to the right moves up.
    assert np.abs(np.median(field.displacement[2:-2, 2:-2], (0, 1)) - (0, -18)).max() < 1


def test_pictures_of_another_size_begin_anew(tmp_path):
    """Also where they have as many macroblocks."""
    decoders = [
        VideoDecoder(str(write(tmp_path / f"{size[0]}.mkv", pan(4, 6, 0, size))))
        for size in (SIZE, (120, 150))
    ]
    for decoder in decoders:
        decoder.export_motion()
    motion = decoders[0]._motion
    for decoder in decoders:
        motion.add(decoder._decode())
        assert not motion.field().displacement.any() and not motion.field().renewed.any()
        for _ in range(3):
            motion.add(decoder._decode())
        assert motion.field().displacement.abs().max() >= 18
    assert motion.field().size == (120, 150)


def test_a_frame_that_failed_fails_again(tmp_path, monkeypatch):
    """The next one does not take its number."""
    path = str(tmp_path / "clip.mkv")
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for index, picture in enumerate(pan(6, 3, 0)):
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
            frame.pict_type = av.video.frame.PictureType.I if index < 2 else 0
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert VideoReader(path, motion=True).read_motion(5).renewed.any()
    monkeypatch.setattr("blockcopy_plugins.datasets.motion_accumulator._ALL_WITHOUT", 2)
    reader = VideoReader(path, motion=True)
    for _ in range(2):
        with pytest.raises(FrameError, match="all of its first 2 frames"):
            reader.read(1)


def test_sources_without_motion_vectors(tmp_path):
    pictures = square(20, 4)
    reader = VideoReader(write(tmp_path / "clip.avi", pictures, "mjpeg"), motion=True)
    for _ in range(2):
        with pytest.raises(FrameError, match="clip.avi' has no motion vectors: its codec, mjpeg.*"):
            reader.read(0)
    # A file all of whose frames are key frames turns out to be one.
    reader = VideoReader(write(tmp_path / "keys.mkv", pictures, gop=1), motion=True)
    for _ in range(2):
        with pytest.raises(FrameError, match="all of its first 12 frames are key frames.*libx264"):
            list(reader)
        assert reader.read(0).shape == (*SIZE, 3)
    assert len(list(VideoReader(tmp_path / "keys.mkv"))) == 20
    (tmp_path / "folder").mkdir()
    for index in range(2):
        av.VideoFrame.from_ndarray(pictures[index], format="bgr24").save(
            str(tmp_path / "folder" / f"{index}.png")
        )
    with pytest.raises(FrameError, match="folder' has no motion vectors: it is a folder of images"):
        open_frames(tmp_path / "folder", motion=True)
    for source, words in (
        (tmp_path / "folder", "folder' has no motion vectors: its frames are pictures"),
        (pictures, "'list' has no motion vectors"),
        (tmp_path / "clip.avi", "its codec, mjpeg, codes each frame by itself"),
    ):
        with LiveSource(source) as opened, pytest.raises(FrameError, match=words):
            opened.export_motion()


def test_a_codec_that_ffmpeg_gives_no_vectors_of(tmp_path):
    path = write(
        tmp_path / "clip.mkv", square(8, 4), "libx265", options={"x265-params": "log-level=none"}
    )
    with pytest.raises(FrameError, match="FFmpeg gives none for its codec, hevc"):
        list(VideoReader(path, motion=True))


def test_before_the_first_frame():
    with pytest.raises(FrameError, match="no frame of 'clip' was read yet"):
        MotionAccumulator("clip", "h264", lambda frame: None).field()
