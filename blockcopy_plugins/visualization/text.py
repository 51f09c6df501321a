"""Readable text on pictures: smooth type on a filled background."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]


def text_patch(
    text: str,
    size: int,
    foreground: Colour,
    background: Colour,
    *,
    padding: tuple[int, int] = (2, 4),
) -> np.ndarray:
    """Renders one line of text.

    Args:
        text (str): The line.
        size (int): Type size in px.
        foreground (tuple): Colour of the letters, in the channel order of the target picture.
        background (tuple): Colour behind them.
        padding (tuple[int, int]): Free px above and below, and left and right.

    Returns:
        np.ndarray: uint8 (h, w, 3), read-only; h depends only on ``size`` and ``padding``, so that
        patches of different texts line up.
    """
    return _rendered(text, size, tuple(foreground), tuple(background), padding)


# Most texts of a video are those of the frame before.
@lru_cache(maxsize=512)
def _rendered(
    text: str, size: int, foreground: Colour, background: Colour, padding: tuple[int, int]
) -> np.ndarray:
    font = _font(size)
    ascent, descent = font.getmetrics()
    width = max(1, round(font.getlength(text))) + 2 * padding[1]
    height = ascent + descent + 2 * padding[0]
    patch = Image.new("RGB", (width, height), background)
    ImageDraw.Draw(patch).text((padding[1], padding[0]), text, fill=foreground, font=font)
    found = np.array(patch)
    found.flags.writeable = False
    return found


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def text_colour_on(background: Colour) -> Colour:
    """Black or white, whichever reads better on a colour.

    Args:
        background (tuple): Red, green, blue, 0 to 255.

    Returns:
        tuple[int, int, int]: ``(0, 0, 0)`` or ``(255, 255, 255)``.
    """
    red, green, blue = background
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)
