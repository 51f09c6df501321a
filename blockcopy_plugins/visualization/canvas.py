"""What the drawing functions draw on: an array of pixels, or the planes of a video's picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from blockcopy_plugins.visualization.text import Colour, text_patch

Box = tuple[int, int, int, int]
"""Top, left, bottom and right of a rectangle, px; the last two are outside of it."""

_LUMA = np.array([0.299, 0.587, 0.114])
"""What red, green and blue add to a pixel's grey."""


class Canvas:
    """One picture in one or several planes, some of which may be half as high and wide.

    Colours are those of the caller's pictures, see the subclasses.

    Args:
        planes: uint8 ``(h, w)`` or ``(h, w, 3)`` each, drawn on in place.
        steps: Pixels of the picture to one of the plane: 1 or 2.
    """

    def __init__(self, planes: tuple[np.ndarray, ...], steps: tuple[int, ...]) -> None:
        self.planes, self.steps = planes, steps

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, px."""
        return self.planes[0].shape[:2]

    def values(self, colour: Colour) -> tuple[Any, ...]:
        """A colour as the value of a pixel in each plane."""
        raise NotImplementedError

    def in_planes(self, patch: np.ndarray) -> tuple[np.ndarray, ...]:
        """A small picture, uint8 ``(h, w, 3)``, in planes like these."""
        raise NotImplementedError

    def darken(self, source: Canvas, brightness: float, saturation: float) -> None:
        """Fill this with a canvas of its kind and size, darker and greyer."""
        raise NotImplementedError

    def views(self, box: Box) -> tuple[np.ndarray, ...]:
        """The part of each plane under a rectangle inside the picture."""
        top, left, bottom, right = box
        return tuple(
            plane[top // step : -(-bottom // step), left // step : -(-right // step)]
            for plane, step in zip(self.planes, self.steps, strict=True)
        )

    def fill(self, box: Box, colour: Colour) -> None:
        """Fill a rectangle; what lies outside the picture is dropped."""
        top, left, bottom, right = box
        inside = (max(top, 0), max(left, 0), max(bottom, 0), max(right, 0))
        for view, value in zip(self.views(inside), self.values(colour), strict=True):
            view[:] = value

    def copy_from(self, source: Canvas, box: Box) -> None:
        """Copy a rectangle from the same place in a canvas of the same kind."""
        for view, given in zip(self.views(box), source.views(box), strict=True):
            view[:] = given

    def outline(self, x0: int, y0: int, x1: int, y1: int, colour: Colour, width: int) -> None:
        """Draw the outline of a rectangle, between and through two corners."""
        for plane, step, value in self._with(colour):
            corners = (x0 // step, y0 // step), (x1 // step, y1 // step)
            cv2.rectangle(plane, *corners, value, max(1, width // step))

    def text(
        self,
        words: str,
        size: int,
        foreground: Colour,
        background: Colour,
        padding: tuple[int, int],
    ) -> tuple[np.ndarray, ...]:
        """A line of text in planes, see :func:`.text_patch`; the first has its size in px."""
        return self.in_planes(text_patch(words, size, foreground, background, padding=padding))

    def paste(self, parts: tuple[np.ndarray, ...], top: int, left: int) -> None:
        """Copy a small picture in planes like these; what lies outside is dropped."""
        top, left = (at - at % max(self.steps) for at in (top, left))
        for plane, step, part in zip(self.planes, self.steps, parts, strict=True):
            y, x = top // step, left // step
            y0, x0 = max(y, 0), max(x, 0)
            y1, x1 = min(y + part.shape[0], len(plane)), min(x + part.shape[1], plane.shape[1])
            if y0 < y1 and x0 < x1:
                plane[y0:y1, x0:x1] = part[y0 - y : y1 - y, x0 - x : x1 - x]

    def tint(self, mask: np.ndarray, top: int, left: int, colour: Colour, opacity: float) -> None:
        """Blend a colour over the pixels of a mask, and draw the mask's outline.

        Args:
            mask: uint8 ``(h, w)``, 0 or 1.
            top: Row of the mask's upper edge, a multiple of the steps.
            left: Column of its left edge, likewise.
            colour: The colour.
            opacity: How much it covers, 0 to 1.
        """
        box = (top, left, top + mask.shape[0], left + mask.shape[1])
        shapes = {}
        for step in set(self.steps):
            inside = np.ascontiguousarray(mask[::step, ::step])
            outlines = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
            shapes[step] = inside, outlines
        for view, step, value in zip(self.views(box), self.steps, self.values(colour), strict=True):
            inside, outlines = shapes[step]
            _blend(view, inside, np.full_like(view, value), opacity)
            cv2.drawContours(view, outlines, -1, value, 1)

    def tint_classes(self, labels: np.ndarray, colours: np.ndarray, opacity: float) -> None:
        """Blend the colour of its class over each pixel.

        Args:
            labels: Integers ``(H, W)``; pixels of other numbers than those of ``colours`` stay.
            colours: uint8 ``(K, 3)``.
            opacity: How much the colours cover, 0 to 1.
        """
        known = (labels >= 0) & (labels < len(colours))
        labels = np.where(known, labels, 0)
        values = zip(*(self.values(tuple(colour)) for colour in colours.tolist()), strict=True)
        for plane, step, of_class in zip(self.planes, self.steps, values, strict=True):
            # Thrice as fast as an index.
            tint = np.take(np.array(of_class, np.uint8), labels[::step, ::step], axis=0)
            _blend(plane, known[::step, ::step].astype(np.uint8), tint, opacity)

    def _with(self, colour: Colour) -> Iterator[tuple[np.ndarray, int, Any]]:
        return zip(self.planes, self.steps, self.values(colour), strict=True)


class ArrayCanvas(Canvas):
    """An array of pixels.

    Args:
        image: uint8 ``(H, W, 3)``, drawn on in place.
        bgr: Its channels are blue, green, red, and colours and patches red, green, blue; otherwise
            both have the same order.
    """

    def __init__(self, image: np.ndarray, bgr: bool = False) -> None:
        super().__init__((image,), (1,))
        self.bgr = bgr

    def values(self, colour: Colour) -> tuple[Colour]:
        """See :meth:`Canvas.values`."""
        return (tuple(colour)[::-1] if self.bgr else tuple(colour),)

    def in_planes(self, patch: np.ndarray) -> tuple[np.ndarray]:
        """See :meth:`Canvas.in_planes`."""
        return (patch[..., ::-1] if self.bgr else patch,)

    def darken(self, source: Canvas, brightness: float, saturation: float) -> None:
        """See :meth:`Canvas.darken`."""
        grey = np.tile(_LUMA[::-1] if self.bgr else _LUMA, (3, 1))
        matrix = brightness * (saturation * np.eye(3) + (1 - saturation) * grey)
        cv2.transform(source.planes[0], matrix.astype(np.float32), dst=self.planes[0])


def _blend(region: np.ndarray, inside: np.ndarray, tint: np.ndarray, opacity: float) -> None:
    blended = cv2.addWeighted(region, 1 - opacity, tint, opacity, 0.0)
    cv2.copyTo(blended, inside, dst=region)
