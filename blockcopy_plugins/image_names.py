"""File names: which are images, and the natural order of numbered names."""

from __future__ import annotations

import os
import re

IMAGE_SUFFIXES = frozenset(
    (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
)


def is_image(path: str) -> bool:
    """Whether the file name ends like an image's.

    Args:
        path: A file name; the file need not exist.
    """
    return os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key that orders ``frame2`` before ``frame10``.

    Args:
        name: A file name or path.

    Returns:
        A key that compares numbers in the name by value, everything else as text.
    """
    parts = re.split(r"([0-9]+)", name)
    # Tagged, so that a number never meets a text in a comparison.
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in parts if part)
