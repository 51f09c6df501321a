"""Reads an image file whole, or says what is wrong with it."""

from __future__ import annotations

import os

import cv2
import numpy as np


class UnreadableImage(Exception):
    """What is wrong with an image file, as the end of a sentence (``it is empty (0 bytes)``)."""


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an image, turned as its EXIF data say.

    The file is decoded from memory: of one that is cut off, OpenCV then gives nothing, where from
    the disk it gives a picture whose lower part is grey.

    Args:
        path: The file.

    Returns:
        uint8, shape (H, W, 3), BGR.

    Raises:
        UnreadableImage: The file is missing, empty, cut off, corrupt or no image.
    """
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise UnreadableImage(f"it cannot be opened ({error.strerror or error})") from error
    if not len(content):
        raise UnreadableImage("it is empty (0 bytes)")
    try:
        image = cv2.imdecode(content, cv2.IMREAD_COLOR)
    except cv2.error as error:  # an image of more pixels than OpenCV reads, say
        raise UnreadableImage(f"OpenCV cannot decode it ({str(error.err).strip()})") from error
    if image is None:
        raise UnreadableImage(
            f"its {len(content)} bytes cannot be decoded: it is cut off, corrupt or no image"
        )
    return image
