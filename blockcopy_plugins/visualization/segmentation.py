"""The class of each pixel, drawn on a frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from blockcopy_plugins.errors import ConfigError, FrameError
from blockcopy_plugins.visualization._checks import check_image, describe, to_numpy
from blockcopy_plugins.visualization.canvas import ArrayCanvas, Canvas
from blockcopy_plugins.visualization.palette import key_colour


def draw_segmentation(
    image: np.ndarray,
    labels: Any,
    *,
    palette: Sequence[Sequence[int]] | None = None,
    opacity: float = 0.5,
    bgr: bool = False,
) -> np.ndarray:
    """Tints each pixel with the colour of its class.

    Args:
        image (np.ndarray): uint8 (H, W, 3), RGB (BGR with ``bgr=True``).
        labels (Tensor | np.ndarray): (h, w), class index of each pixel; if the size differs from
            the image's, they are resized. Pixels of a class beyond the palette, or below 0, stay as
            they are.
        palette (Sequence | None): Red, green and blue of each class, 0 to 255, as in the metainfo
            of MMSegmentation's datasets. None takes colours that are easy to tell apart.
        opacity (float): How much the colours cover, 0 to 1. Defaults to 0.5.
        bgr (bool): The image is BGR. Defaults to False.

    Returns:
        np.ndarray: A new picture, uint8 (H, W, 3).

    Raises:
        FrameError: If the image is not uint8 (H, W, 3), or the labels are not (h, w).
        ConfigError: If ``opacity`` is not from 0 to 1, or the palette is not (K, 3).
    """
    check_image(image)
    picture = np.array(image, order="C")
    segmentation_onto(ArrayCanvas(picture, bgr), labels, palette=palette, opacity=opacity)
    return picture


def segmentation_onto(
    canvas: Canvas,
    labels: Any,
    *,
    palette: Sequence[Sequence[int]] | None = None,
    opacity: float = 0.5,
) -> None:
    """Like :func:`draw_segmentation`, on a canvas, in place."""
    if not 0 <= opacity <= 1:
        raise ConfigError(f"opacity must be from 0 to 1, but got {opacity}")
    labels = to_numpy(labels)
    if labels.ndim != 2 or 0 in labels.shape:
        raise FrameError(f"labels must have shape (h, w), but got {describe(labels)}")
    labels = labels.astype(np.int32)
    if labels.shape != canvas.shape:
        labels = cv2.resize(labels, canvas.shape[::-1], interpolation=cv2.INTER_NEAREST)
    if palette is None:
        palette = [key_colour(key) for key in range(max(int(labels.max()) + 1, 1))]
    colours = np.asarray(palette)
    if colours.ndim != 2 or colours.shape[1] != 3:
        raise ConfigError(
            f"the palette must have one (red, green, blue) per class, but got {describe(colours)}"
        )
    canvas.tint_classes(labels, colours.astype(np.uint8), opacity)
