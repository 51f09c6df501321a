"""Reads an image file completely, or says what is wrong with it."""

from __future__ import annotations

import io
import os

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

_ORIENTATION = 0x0112  # the tag of EXIF
# For each value, the axes that are reversed at the end, and whether rows become columns before.
_TURNS = {
    2: ((1,), False),
    3: ((0, 1), False),
    4: ((0,), False),
    5: ((), True),
    6: ((1,), True),
    7: ((0, 1), True),
    8: ((0,), True),
}


class UnreadableImage(Exception):
    """What is wrong with an image file, as the end of a sentence (``it is empty (0 bytes)``)."""


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an image, turned as its EXIF data say.

    The file is decoded from memory: if a file is cut off, OpenCV then returns nothing, whereas from
    the disk it returns a picture whose lower part is grey.

    Returns:
        uint8, shape (H, W, 3), BGR.

    Raises:
        UnreadableImage: If the file is missing, empty, cut off, corrupt or not an image.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise UnreadableImage("it is not a file")  # reading a pipe would never end
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise UnreadableImage(f"it cannot be opened ({error.strerror or error})") from error
    if not len(content):
        raise UnreadableImage("it is empty (0 bytes)")
    try:
        image = cv2.imdecode(content, cv2.IMREAD_COLOR)
    except cv2.error as error:  # for example, an image with more pixels than OpenCV reads
        raise UnreadableImage(f"OpenCV cannot decode it ({str(error.err).strip()})") from error
    if image is None:
        raise UnreadableImage(
            f"its {len(content)} bytes cannot be decoded: it is cut off, corrupt or not an image"
        )
    return _upright(image, content) if content[8:12].tobytes() == b"WEBP" else image


def _upright(image: np.ndarray, content: np.ndarray) -> np.ndarray:
    """Turn a WebP image as its EXIF data say, which OpenCV does for all other formats."""
    try:
        with Image.open(io.BytesIO(content)) as header:
            orientation = header.getexif().get(_ORIENTATION)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return image  # all of its pixels are there
    reversed_axes, swaps = _TURNS.get(orientation, ((), False))
    turned = image.transpose(1, 0, 2) if swaps else image
    return np.ascontiguousarray(np.flip(turned, reversed_axes))
