"""Colours that stay the same for the same key, and are easy to tell apart."""

from __future__ import annotations

import colorsys

# Steps around the colour circle by the golden ratio: any run of keys is spread evenly.
_GOLDEN = 0.6180339887498949
# Begins with a warm orange, far from the blue of shadows and the green of trees.
_FIRST_HUE = 0.06


def key_colour(key: int) -> tuple[int, int, int]:
    """The colour of a class or an instance.

    Args:
        key (int): A class label or an instance number; may be negative.

    Returns:
        tuple[int, int, int]: Red, green and blue, 0 to 255. The same for the same key, always.
    """
    hue = (_FIRST_HUE + int(key) * _GOLDEN) % 1.0
    # Distant keys can land on neighbouring hues, so these differ in strength as well.
    saturation = (0.85, 0.65, 0.95)[int(key) % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)
