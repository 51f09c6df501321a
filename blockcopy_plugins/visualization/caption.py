"""The bar of figures under a frame."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.visualization._checks import check_image
from blockcopy_plugins.visualization.canvas import ArrayCanvas
from blockcopy_plugins.visualization.text import Colour, text_patch

_BACKGROUND: Colour = (24, 26, 30)
_WORDS: Colour = (170, 176, 184)
_FIGURES: Colour = (255, 255, 255)
_TRACK: Colour = (70, 74, 82)
_BAR: Colour = (255, 200, 0)


@dataclass(frozen=True)
class FrameCaption:
    """The figures that the bar shows for a frame; those that are None are left out.

    Attributes:
        frame (int | None): Number of the frame.
        executed_rate (float | None): Executed blocks / all blocks, 0 to 1; drawn as a gauge too.
        target (float | None): The executed rate that the policy should hold, a tick on the gauge.
        milliseconds (float | None): Time of the frame in ms.
        speed_up (float | None): Dense time / this time.
        title (str | None): Comes first, e.g. the model or ``'dense'``.
    """

    frame: int | None = None
    executed_rate: float | None = None
    target: float | None = None
    milliseconds: float | None = None
    speed_up: float | None = None
    title: str | None = None

    def __post_init__(self) -> None:
        for name in ("executed_rate", "target"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(
                    f"{name} must be a share from 0 to 1, but got {value}; divide a percentage "
                    "by 100"
                )


def draw_caption(
    image: np.ndarray,
    caption: FrameCaption,
    *,
    text_size: int | None = None,
    bgr: bool = False,
) -> np.ndarray:
    """Adds a bar of figures below a picture; the picture itself stays as it is.

    The figures are in columns of fixed width, so that they do not jump from frame to frame. Those
    for which the picture is too narrow are left out, the last first.

    Args:
        image (np.ndarray): uint8 (H, W, 3), RGB (BGR with ``bgr=True``).
        caption (FrameCaption): The figures.
        text_size (int | None): Type size in px; None takes one that suits the picture's width.
        bgr (bool): The image is BGR. Defaults to False.

    Returns:
        np.ndarray: A new picture, uint8 (H + bar, W, 3); the bar's height depends only on
        ``text_size`` and the picture's width, and is even if H is.

    Raises:
        FrameError: If the image is not uint8 (H, W, 3).
    """
    check_image(image)
    bar = caption_bar(image.shape[1], caption, text_size)
    return np.concatenate([image, bar[..., ::-1] if bgr else bar], axis=0)


def bar_height(width: int, text_size: int | None = None) -> int:
    """Height of the bar below a picture of that width, px; even."""
    return 2 * round((text_size or _text_size(width)) * 1.1)


def caption_bar(width: int, caption: FrameCaption, text_size: int | None = None) -> np.ndarray:
    """The bar alone, uint8 (:func:`bar_height`, width, 3), RGB."""
    size = text_size or _text_size(width)
    bar = np.empty((bar_height(width, text_size), width, 3), np.uint8)
    bar[0] = _BACKGROUND
    bar[1:] = bar[0]  # a sixth of the time of writing the colour everywhere

    x = size // 2
    if caption.title is not None:
        x = _put(bar, x, caption.title, size, _FIGURES)
    if caption.frame is not None:
        x = _put_figure(bar, x, "frame", f"{caption.frame}", "0000", "", size)
    if caption.executed_rate is not None:
        figure = f"{100 * caption.executed_rate:.0f} %"
        x = _put_figure(bar, x, "executed", figure, "100 %", "", size)
        x = _put_gauge(bar, x, caption.executed_rate, caption.target, size)
    if caption.milliseconds is not None:
        x = _put_figure(bar, x, "", f"{caption.milliseconds:.0f}", "0000", "ms", size)
    if caption.speed_up is not None:
        # The letter x: Pillow's own typeface has no multiplication sign.
        _put_figure(bar, x, "", f"{caption.speed_up:.1f}x", "00.0x", "as fast", size)
    return bar


def _text_size(width: int) -> int:
    return int(np.clip(width / 42, 11, 28))


def _width(text: str, size: int) -> int:
    return text_patch(text, size, _WORDS, _BACKGROUND, padding=(0, 0)).shape[1]


def _put(bar: np.ndarray, x: int, text: str, size: int, colour: Colour) -> int:
    patch = text_patch(text, size, colour, _BACKGROUND, padding=(0, 0))
    if x + patch.shape[1] > bar.shape[1]:
        return bar.shape[1]  # no room: nothing more is drawn either
    ArrayCanvas(bar).paste((patch,), (bar.shape[0] - patch.shape[0]) // 2, x)
    return x + patch.shape[1] + size


def _put_figure(
    bar: np.ndarray, x: int, before: str, figure: str, widest: str, after: str, size: int
) -> int:
    """Writes words and a right-aligned figure in a column wide enough for ``widest``."""
    space = size // 3
    start = x + (_width(before, size) + space if before else 0)
    end = start + max(_width(widest, size), _width(figure, size))
    total = end + (space + _width(after, size) if after else 0)
    if total > bar.shape[1]:
        return bar.shape[1]
    if before:
        _put(bar, x, before, size, _WORDS)
    _put(bar, end - _width(figure, size), figure, size, _FIGURES)
    if after:
        _put(bar, end + space, after, size, _WORDS)
    return total + size


def _put_gauge(bar: np.ndarray, x: int, share: float, target: float | None, size: int) -> int:
    x -= size // 2
    width, height = 6 * size, max(4, size // 2)
    if x + width > bar.shape[1]:
        return bar.shape[1]
    top = (bar.shape[0] - height) // 2
    bar[top : top + height, x : x + width] = _TRACK
    bar[top : top + height, x : x + round(share * width)] = _BAR
    if target is not None:
        tick = x + round(target * width)
        cv2.line(bar, (tick, top - 3), (tick, top + height + 2), _FIGURES, 2)
    return x + width + size
