"""Drawing on the planes of a video's picture, against arithmetic on whole pictures in floats."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

av = pytest.importorskip("av")
pytest.importorskip("cv2")

from blockcopy_plugins.datasets.live_frame import DecodedFrame  # noqa: E402
from blockcopy_plugins.errors import FrameError  # noqa: E402
from blockcopy_plugins.integrations.common.drawing import draw_frame  # noqa: E402
from blockcopy_plugins.visualization import FrameCaption, VideoWriter  # noqa: E402
from blockcopy_plugins.visualization.overlay import blocks_onto, detections_onto  # noqa: E402
from blockcopy_plugins.visualization.palette import key_colour  # noqa: E402
from blockcopy_plugins.visualization.segmentation import segmentation_onto  # noqa: E402
from blockcopy_plugins.visualization.yuv_picture import (  # noqa: E402
    BT601,
    BT709,
    YuvPicture,
    beside,
)

KR_KB = {BT709: (0.2126, 0.0722), BT601: (0.299, 0.114)}


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Colours (RGB) that change little from pixel to pixel, as chroma at half size needs."""
    small = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, 4, 5))).float()
    large = torch.nn.functional.interpolate(small[None], (height, width), mode="bicubic")[0]
    return large.clamp(0, 255).round().byte().permute(1, 2, 0).contiguous().numpy()


def noisy(height: int, width: int, matrix: int = BT709, seed: int = 0) -> YuvPicture:
    picture, random = YuvPicture.empty(height, width, matrix), np.random.default_rng(seed)
    for plane in picture.planes:
        plane[:] = random.integers(16, 236, plane.shape)
    return picture


def copies(picture: YuvPicture) -> list[np.ndarray]:
    return [plane.astype(float) for plane in picture.planes]


def in_yuv(rgb, matrix: int) -> np.ndarray:
    """Luma and chromas of colours (..., 3), floats, as BT.601 and BT.709 define them."""
    kr, kb = KR_KB[matrix]
    red, green, blue = np.moveaxis(np.asarray(rgb, float) / 255, -1, 0)
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    by_blue, by_red = (blue - luma) / (2 * (1 - kb)), (red - luma) / (2 * (1 - kr))
    return np.stack([16 + 219 * luma, 128 + 224 * by_blue, 128 + 224 * by_red], -1)


def halved(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values) // 2, 2, -1, 2).mean((1, 3))


def assert_near(picture: YuvPicture, expected: list[np.ndarray], tolerance: float = 1.0) -> None:
    for plane, wanted in zip(picture.planes, expected, strict=True):
        assert np.abs(plane - wanted).max() <= tolerance


@pytest.mark.parametrize("matrix", [BT601, BT709])
@pytest.mark.parametrize("bgr", [False, True])
def test_an_array_is_converted_as_the_standard_says(matrix, bgr):
    image = np.random.default_rng(0).integers(0, 256, (30, 44, 3), np.uint8)
    given = image[..., ::-1] if bgr else image
    luma, by_blue, by_red = np.moveaxis(in_yuv(image, matrix), -1, 0)
    picture = YuvPicture.of_array(given, bgr, matrix)
    assert picture.shape == (30, 44) and picture.matrix == matrix
    # Halving and converting are each rounded.
    assert_near(picture, [luma, halved(by_blue), halved(by_red)], 1.3)


def test_the_last_row_and_column_of_an_odd_size_are_repeated():
    image = smooth(21, 33)
    padded = np.pad(image, ((0, 1), (0, 1), (0, 0)), "edge")
    picture, expected = YuvPicture.of_array(image), YuvPicture.of_array(padded)
    assert picture.shape == (22, 34)
    assert_near(picture, copies(expected), 0)


def test_skipped_blocks_keep_a_share_of_light_and_colour():
    source, target = noisy(40, 60), YuvPicture.empty(40, 60)
    grid = np.random.default_rng(1).random((4, 6)) < 0.5
    before = copies(source)
    blocks_onto(target, source, grid, 10, brightness=0.6, saturation=0.25, line_colour=None)
    executed = np.kron(grid, np.ones((10, 10), bool))
    for plane, given, factor, zero, step in zip(
        target.planes, before, (0.6, 0.15, 0.15), (16, 128, 128), (1, 2, 2), strict=True
    ):
        inside = executed[::step, ::step]
        np.testing.assert_array_equal(plane[inside], given[inside])
        assert np.abs(plane - (zero + factor * (given - zero)))[~inside].max() <= 1
    assert_near(source, before, 0)


def test_the_line_is_in_the_skipped_blocks_beside_executed_ones():
    target, source = YuvPicture.empty(40, 40), YuvPicture.of_array(np.full((40, 40, 3), 90, "u1"))
    grid = np.zeros((4, 4), bool)
    grid[1, 1:3] = grid[2, 1] = grid[0, 0] = grid[3, 3] = True  # two of them in corners
    colour = (255, 200, 0)
    blocks_onto(target, source, grid, 10, line_colour=colour, line_width=2)
    executed = np.kron(grid, np.ones((10, 10), bool))
    line = np.zeros((40, 40), bool)
    for y, x in np.argwhere(executed):
        line[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3] = True
    line &= ~executed
    for plane, value, step in zip(target.planes, in_yuv(colour, BT709), (1, 2, 2), strict=True):
        drawn = line[::step, ::step]
        assert np.abs(plane[drawn] - value).max() <= 1
        assert (np.abs(plane[~drawn] - value) > 1).all()


def test_a_mask_is_blended_and_outlined_wherever_it_is():
    colour = in_yuv(key_colour(0), BT601)
    masks = np.zeros((2, 40, 50), bool)
    masks[0, 11:24, 13:30] = True  # odd edges, and nothing outside its box
    masks[1, 30:36, 5:12] = masks[1, 3:8, 40:48] = True  # nowhere near its box
    boxes = np.array([[13, 11, 29, 23], [20, 26, 24, 28]])
    for mask, box in zip(masks, boxes, strict=True):
        picture = noisy(40, 50, BT601)
        before = copies(picture)
        detections_onto(picture, box[None], masks=mask[None], mask_opacity=0.4, line_width=1)
        y, x = (edges.reshape(-1) for edges in np.mgrid[box[1] : box[3] + 1, box[0] : box[2] + 1])
        on_edge = (y == box[1]) | (y == box[3]) | (x == box[0]) | (x == box[2])
        for plane, given, value, step in zip(
            picture.planes, before, colour, (1, 2, 2), strict=True
        ):
            inside = mask[::step, ::step]
            padded = np.pad(inside, 1)
            inner = inside & padded[:-2, 1:-1] & padded[2:, 1:-1]
            inner &= padded[1:-1, :-2] & padded[1:-1, 2:]
            expected = np.where(inside, 0.6 * given + 0.4 * value, given)
            expected[inside & ~inner] = value
            expected[y[on_edge] // step, x[on_edge] // step] = value
            assert np.abs(plane - expected).max() <= 1


def test_classes_are_blended_and_unknown_ones_left():
    picture, palette = noisy(20, 30), [(200, 0, 0), (0, 100, 50), (9, 80, 255)]
    before, labels = copies(picture), np.random.default_rng(2).integers(-1, 4, (20, 30))
    segmentation_onto(picture, labels, palette=palette, opacity=0.3)
    for channel, (plane, given, step) in enumerate(
        zip(picture.planes, before, (1, 2, 2), strict=True)
    ):
        classes = labels[::step, ::step]
        known = (classes >= 0) & (classes < 3)
        colours = in_yuv(palette, BT709)[..., channel][np.where(known, classes, 0)]
        expected = np.where(known, 0.7 * given + 0.3 * colours, given)
        assert np.abs(plane - expected).max() <= 1
        np.testing.assert_array_equal(plane[~known], given[~known])


@pytest.mark.parametrize("size", [(48, 64), (47, 63)])
@pytest.mark.parametrize("from_decoder", [False, True])
def test_a_frame_is_drawn_as_its_parts_say(size, from_decoder):
    """The picture of all executed blocks is the frame, with labels, and the bar below it."""
    image = smooth(*size)
    decoded = None
    if from_decoder:
        decoded = DecodedFrame(YuvPicture.of_array(image, matrix=BT601).frame)
    caption = FrameCaption(frame=3, executed_rate=0.5)
    grid, block = torch.ones(2, 2, dtype=torch.bool), (32.0, 32.0)
    whole = draw_frame(image[..., ::-1], grid, block, caption, decoded=decoded)
    even = tuple(side + side % 2 for side in size)
    assert whole.shape[1] == even[1] and whole.shape[0] > even[0] and whole.shape[0] % 2 == 0
    matrix = BT601 if from_decoder and size == even else BT709
    assert whole.matrix == matrix
    expected = YuvPicture.of_array(image, matrix=matrix)
    assert_near(whole.part(0, even[0]), copies(expected), 0)
    background = in_yuv((24, 26, 30), matrix)
    for plane, value in zip(whole.planes, background, strict=True):
        assert np.abs(plane[-1] - value).max() <= 1
    grid[0, 0] = False
    darker = draw_frame(image[..., ::-1], grid, block, caption, decoded=decoded)
    assert darker.planes[0][:32, :32].mean() < 0.8 * whole.planes[0][:32, :32].mean()
    np.testing.assert_array_equal(darker.planes[0][36:, 36:], whole.planes[0][36:, 36:])


@pytest.mark.parametrize(
    ("pixels", "size", "colours", "limits", "matrix"),
    [
        ("yuv420p", (64, 48), 1, 1, BT709),
        ("yuv420p", (64, 48), 2, 0, BT601),  # nothing stated
        ("yuv420p", (64, 48), 5, 1, BT601),
        ("yuv420p", (64, 48), 9, 1, None),  # BT.2020
        ("yuv420p", (64, 48), 1, 2, None),  # full range
        ("yuv420p", (63, 48), 1, 1, None),
        ("yuv422p", (64, 48), 1, 1, None),
        ("yuv420p10le", (64, 48), 1, 1, None),
    ],
)
def test_planes_of_a_decoder_are_used_where_they_mean_the_same(
    pixels, size, colours, limits, matrix
):
    frame = av.VideoFrame(*size, pixels)
    frame.colorspace, frame.color_range = colours, limits
    picture = YuvPicture.of_decoded(frame)
    assert (picture and picture.matrix) == matrix
    if matrix:
        picture.planes[1][3, 5] = 77
        assert bytes(frame.planes[1])[3 * frame.planes[1].line_size + 5] == 77
    assert YuvPicture.of_decoded(None) is None


def test_pictures_beside_each_other():
    left, right = noisy(20, 30, seed=1), noisy(20, 16, seed=2)
    whole = beside([left, right], gap=4)
    assert whole.shape == (20, 50)
    for plane, one, two, step in zip(
        whole.planes, left.planes, right.planes, (1, 2, 2), strict=True
    ):
        np.testing.assert_array_equal(plane[:, : 30 // step], one)
        np.testing.assert_array_equal(plane[:, 34 // step :], two)
    assert beside([left]) is left


@pytest.mark.parametrize("matrix", [BT601, BT709])
@pytest.mark.parametrize("quick", [False, True])
def test_what_was_drawn_is_what_the_file_shows(tmp_path, matrix, quick):
    drawn = []
    with VideoWriter(tmp_path / "out.mp4", fps=10, quick=quick) as video:
        for shift in range(12):
            picture = YuvPicture.of_array(smooth(96, 128, seed=shift // 6), matrix=matrix)
            picture.fill((8 * shift % 64, 20, 8 * shift % 64 + 16, 60), (250, 90, 10))
            drawn.append(copies(picture))
            video.write(picture)
        array = smooth(96, 128)  # converted with the matrix of the first picture
        drawn.append(copies(YuvPicture.of_array(array, matrix=matrix)))
        video.write(array)
    with av.open(str(tmp_path / "out.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (int(context.colorspace), int(context.color_range)) == (matrix, 1)
        found = [YuvPicture.of_decoded(frame) for frame in container.decode(video=0)]
    assert len(found) == len(drawn)
    for picture, expected in zip(found, drawn, strict=True):
        for plane, wanted in zip(picture.planes, expected, strict=True):
            assert 10 * np.log10(255**2 / np.mean((plane - wanted) ** 2)) > 36


def test_a_picture_of_another_matrix_than_the_first_is_converted(tmp_path):
    image = smooth(64, 96)
    with VideoWriter(tmp_path / "out.mp4", fps=Fraction(10), crf=4) as video:
        video.write(YuvPicture.of_array(image, matrix=BT601))
        video.write(YuvPicture.of_array(image, matrix=BT709))
    with av.open(str(tmp_path / "out.mp4")) as container:
        first, second = (YuvPicture.of_decoded(frame) for frame in container.decode(video=0))
    assert_near(second, copies(first), 6)


def test_a_part_of_a_picture_is_no_frame(tmp_path):
    with VideoWriter(tmp_path / "out.mp4") as video:
        with pytest.raises(FrameError, match="part of 64x20 pixels"):
            video.write(noisy(40, 64).part(0, 20))
        video.write(noisy(40, 64))
