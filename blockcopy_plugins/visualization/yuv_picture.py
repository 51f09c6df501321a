"""Pictures as H.264 stores them, drawn on and encoded without becoming RGB in between."""

from __future__ import annotations

from functools import lru_cache

import av
import cv2
import numpy as np

from blockcopy_plugins.visualization.canvas import Canvas
from blockcopy_plugins.visualization.text import Colour, text_patch

# Numbers of ISO/IEC 23091-2 (the same in H.264): of matrices, and what red and blue add to luma.
BT709, BT601 = 1, 6
_LUMA_OF = {BT709: (0.2126, 0.0722), BT601: (0.299, 0.114)}
# Of colour matrices, as FFmpeg numbers them. It takes BT.601 where none is stated.
_MATRIX_OF = {1: BT709, 2: BT601, 5: BT601, 6: BT601}
_STATED_OR_NOT = (0, 1)  # limited range: luma 16 to 235


class YuvPicture(Canvas):
    """A picture in planes of luma and of two chromas at half height and width (yuv420p).

    Its values are in limited range. Colours and patches that are drawn on it are red, green, blue.

    Args:
        frame: The frame in whose memory the planes are; for a part of a picture, the whole one's.
        planes: Its luma and its two chromas.
        matrix: :data:`BT709` or :data:`BT601`.
    """

    def __init__(self, frame: av.VideoFrame, planes: tuple[np.ndarray, ...], matrix: int) -> None:
        super().__init__(planes, (1, 2, 2))
        self.frame, self.matrix = frame, matrix

    @classmethod
    def empty(cls, height: int, width: int, matrix: int = BT709) -> YuvPicture:
        """A picture without content; odd heights and widths are rounded up, as the format needs."""
        frame = av.VideoFrame(width + width % 2, height + height % 2, "yuv420p")
        return cls(frame, _planes_of(frame), matrix)

    @classmethod
    def of_array(cls, image: np.ndarray, bgr: bool = False, matrix: int = BT709) -> YuvPicture:
        """Convert a picture, uint8 ``(H, W, 3)``; an odd last row or column is repeated once."""
        height, width = image.shape[:2]
        if height % 2 or width % 2:
            odd = (0, height % 2, 0, width % 2)
            image = cv2.copyMakeBorder(image, *odd, cv2.BORDER_REPLICATE)
        picture = cls.empty(height, width, matrix)
        for plane, part in zip(picture.planes, _converted(image, bgr, matrix), strict=True):
            plane[:] = part
        return picture

    @classmethod
    def of_decoded(cls, frame: av.VideoFrame | None) -> YuvPicture | None:
        """The planes of a decoded frame, for reading only: later frames may be made from it.

        Returns:
            None if there is no frame, or if it is not in such planes.
        """
        if frame is None or frame.format.name != "yuv420p" or frame.width % 2 or frame.height % 2:
            return None
        matrix = _MATRIX_OF.get(int(frame.colorspace))
        upside_down = any(plane.line_size < plane.width for plane in frame.planes)
        if matrix is None or upside_down or int(frame.color_range) not in _STATED_OR_NOT:
            return None
        return cls(frame, _planes_of(frame), matrix)

    def part(self, top: int, height: int, left: int = 0, width: int | None = None) -> YuvPicture:
        """A rectangle of the picture that shares its memory; ``top`` and ``left`` are even."""
        right = self.shape[1] if width is None else left + width
        return YuvPicture(self.frame, self.views((top, left, top + height, right)), self.matrix)

    def resized(self, shape: tuple[int, int]) -> YuvPicture:
        """The picture in another (even) height and width, px."""
        picture = YuvPicture.empty(*shape, self.matrix)
        for given, plane in zip(self.planes, picture.planes, strict=True):
            cv2.resize(given, plane.shape[::-1], dst=plane, interpolation=cv2.INTER_AREA)
        return picture

    def values(self, colour: Colour) -> tuple[int, ...]:
        """See :meth:`.Canvas.values`."""
        return _value(tuple(colour), self.matrix)

    def in_planes(self, patch: np.ndarray) -> tuple[np.ndarray, ...]:
        """See :meth:`.Canvas.in_planes`."""
        return _converted(patch, False, self.matrix)

    def text(
        self,
        words: str,
        size: int,
        foreground: Colour,
        background: Colour,
        padding: tuple[int, int],
    ) -> tuple[np.ndarray, ...]:
        """See :meth:`.Canvas.text`."""
        return _text(words, size, foreground, background, padding, self.matrix)

    def darken(self, source: Canvas, brightness: float, saturation: float) -> None:
        """See :meth:`.Canvas.darken`."""
        for given, plane, factor, zero in zip(
            source.planes,
            self.planes,
            (brightness, brightness * saturation, brightness * saturation),
            (16, 128, 128),
            strict=True,
        ):
            cv2.convertScaleAbs(given, plane, factor, (1 - factor) * zero)


def beside(pictures: list[YuvPicture], gap: int = 4, colour: Colour = (24, 26, 30)) -> YuvPicture:
    """Put pictures of the same height and matrix next to each other.

    Args:
        pictures: At least one.
        gap: Free px between two, even.
        colour: Colour of the gap.
    """
    if len(pictures) == 1:
        return pictures[0]
    widths = [picture.shape[1] for picture in pictures]
    height, matrix = pictures[0].shape[0], pictures[0].matrix
    whole = YuvPicture.empty(height, sum(widths) + gap * (len(widths) - 1), matrix)
    whole.fill((0, 0, *whole.shape), colour)
    left = 0
    for picture, width in zip(pictures, widths, strict=True):
        box = (0, 0, height, width)
        whole.part(0, height, left, width).copy_from(picture, box)
        left += width + gap
    return whole


def _planes_of(frame: av.VideoFrame) -> tuple[np.ndarray, ...]:
    return tuple(
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
        for plane in frame.planes
    )


@lru_cache(maxsize=8)
def _coefficients(matrix: int) -> np.ndarray:
    """float32 (3, 4): luma and chromas of red, green, blue and 1."""
    red, blue = _LUMA_OF[matrix]
    luma = np.array([red, 1 - red - blue, blue])
    by_blue = (np.array([0, 0, 1]) - luma) / (2 * (1 - blue))
    by_red = (np.array([1, 0, 0]) - luma) / (2 * (1 - red))
    rows = np.stack([219 * luma, 224 * by_blue, 224 * by_red]) / 255
    return np.hstack([rows, [[16], [128], [128]]]).astype(np.float32)


@lru_cache(maxsize=512)
def _value(colour: Colour, matrix: int) -> tuple[int, ...]:
    return tuple(np.rint(_coefficients(matrix) @ np.array([*colour, 1])).astype(int).tolist())


# Most texts of a video are those of the frame before.
@lru_cache(maxsize=512)
def _text(
    words: str,
    size: int,
    foreground: Colour,
    background: Colour,
    padding: tuple[int, int],
    matrix: int,
) -> tuple[np.ndarray, ...]:
    patch = text_patch(words, size, foreground, background, padding=padding)
    return _converted(patch, False, matrix)


def _converted(image: np.ndarray, bgr: bool, matrix: int) -> tuple[np.ndarray, ...]:
    """Luma and chromas of a picture; the chromas of an odd height or width are rounded up."""
    coefficients = _coefficients(matrix)
    if bgr:
        coefficients = coefficients[:, [2, 1, 0, 3]]
    luma = cv2.extractChannel(cv2.transform(image, coefficients), 0)
    size = tuple(-(-length // 2) for length in image.shape[1::-1])
    half = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, by_blue, by_red = cv2.split(cv2.transform(half, coefficients))
    return luma, by_blue, by_red
