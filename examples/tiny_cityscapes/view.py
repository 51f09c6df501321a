"""The camera: from things in metres to pixels, and from pixels to objects' outlines."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from examples.tiny_cityscapes.thing import Thing

# Nearer than this, metres, nothing is seen.
_NEAR = 0.6
# Painted so many times as large and then scaled down, which smooths the edges.
_OVER = 2
# What is far away fades into this.
_HAZE = np.array([205.0, 198.0, 190.0])
_HAZE_LENGTH = 170.0
# Bits of a pixel's fraction in OpenCV's drawing functions.
_BITS = 4


@dataclass(frozen=True)
class View:
    """A camera that looks forward along the street.

    Args:
        size: Height and width of the image, px.
        x: Where the camera is, to the right, metres.
        z: And forward.
        tilt: How far the horizon is off its place, as a fraction of the image's height.
    """

    size: tuple[int, int]
    x: float = 0.0
    z: float = 0.0
    tilt: float = 0.0

    HEIGHT = 1.35
    FOCAL = 0.9
    HORIZON = 0.42

    @property
    def position(self) -> tuple[float, float, float]:
        """Right, up, forward, metres."""
        return self.x, self.HEIGHT, self.z

    @property
    def horizon(self) -> float:
        """Row of the horizon, px."""
        return (self.HORIZON + self.tilt) * self.size[0]

    def project(self, points: np.ndarray) -> np.ndarray:
        """Where points are in the image.

        Args:
            points: ``(n, 3)`` in metres, or ``(n, 2)`` in fractions of the image's size.

        Returns:
            ``(m, 2)``: column and row, px. A polygon is cut off in front of the camera, so that
            m may differ from n; it is 0 where all of it is behind the camera.
        """
        height, width = self.size
        if points.shape[1] == 2:
            return points * (width, height)
        local = points - (self.x, 0.0, self.z)
        if (local[:, 2] < _NEAR).any():
            local = _cut(local)
        scale = self.FOCAL * width / local[:, 2]
        columns = width / 2 + scale * local[:, 0]
        rows = self.horizon + scale * (self.HEIGHT - local[:, 1])
        return np.stack([columns, rows], 1)

    def ground_texture(self, tile: np.ndarray) -> np.ndarray:
        """A pattern that lies on the ground.

        Args:
            tile: Values around 0, float32 ``(n, n)``, one for 5 cm of ground.

        Returns:
            What to add to the enlarged image, float32; 0 above the horizon.
        """
        height, width = (_OVER * side for side in self.size)
        rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
        below = np.maximum(rows - _OVER * self.horizon, 1e-3)
        focal = self.FOCAL * width
        forward = focal * self.HEIGHT / below
        right = (columns - width / 2) * forward / focal + self.x
        scale = len(tile) / 20.0
        values = cv2.remap(
            tile,
            (right * scale) % len(tile),
            ((forward + self.z) * scale) % len(tile),
            cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_WRAP,
        )
        # Far away a pixel covers many of the tile's values, whose mean is 0.
        return np.where(rows > _OVER * self.horizon, values * np.minimum(1.0, 6.0 / forward), 0)

    def outline(self, thing: Thing) -> np.ndarray | None:
        """The outline that somebody who labels the image would draw.

        Args:
            thing: The object.

        Returns:
            Columns and rows of its corners, int32 ``(n, 2)``, within the image; None where it has
            fewer than 4 pixels there.
        """
        height, width = self.size
        mask = np.zeros((height, width), np.uint8)
        for part in thing.parts:
            points = self.project(part.points)
            if len(points) > 2:
                # Pixel centres are at integers in OpenCV, and at halves here.
                cv2.fillPoly(mask, [_fixed(points - 0.5)], 1, shift=_BITS)
        found, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        if not found:
            return None
        largest = max(found, key=cv2.contourArea)
        return largest[:, 0] if len(largest) > 2 and cv2.contourArea(largest) >= 4 else None


class Painter:
    """Paints the frames of a clip.

    Args:
        backdrop: The sky, uint8 ``(H, W, 3)``.
    """

    def __init__(self, backdrop: np.ndarray) -> None:
        height, width = backdrop.shape[:2]
        self._sky = cv2.resize(backdrop, (_OVER * width, _OVER * height))
        # What does not change from frame to frame is projected once.
        self._projected: dict[int, tuple[View, Thing, list[_Polygon]]] = {}

    def paint(self, things: list[Thing], view: View, texture: np.ndarray) -> np.ndarray:
        """Paint a frame.

        Args:
            things: In the order in which they hide each other, farthest first.
            view: The camera.
            texture: What `View.ground_texture` gives.

        Returns:
            The frame, uint8 ``(H, W, 3)``, blue, green, red.
        """
        height, width = view.size
        canvas = self._sky.copy()
        grounded = False
        projected = {}
        for thing in things:
            if not grounded and thing.label not in ("sky", "road", "sidewalk", "terrain"):
                canvas = np.clip(canvas + texture[..., None], 0, 255).astype(np.uint8)
                grounded = True
            known = self._projected.get(id(thing))
            if known is None or known[0] != view:
                known = view, thing, _polygons(thing, view)
            projected[id(thing)] = known
            for polygon in known[2]:
                _fill(canvas, polygon)
        self._projected = projected
        return cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)


# Corners in the enlarged image, in fixed point; colour; opacity.
_Polygon = tuple[np.ndarray, tuple[float, float, float], float]


def _polygons(thing: Thing, view: View) -> list[_Polygon]:
    height, width = view.size
    found = []
    for part in (*thing.shadow, *thing.parts):
        if part.colour is None:
            continue
        points = view.project(part.points)
        if len(points) < 3:
            continue
        low, high = points.min(0), points.max(0)
        if high[0] < 0 or high[1] < 0 or low[0] > width or low[1] > height:
            continue
        colour = np.array(part.colour, float)
        if part.points.shape[1] == 3:
            distance = max(0.0, part.points[:, 2].min() - view.z)
            fade = 1 - np.exp(-distance / _HAZE_LENGTH)
            colour += fade * (_HAZE - colour)
        found.append((_fixed(_OVER * points - 0.5), tuple(colour.tolist()), part.opacity))
    return found


def _fill(canvas: np.ndarray, polygon: _Polygon) -> None:
    corners, colour, opacity = polygon
    if opacity == 1.0:
        cv2.fillPoly(canvas, [corners], colour, shift=_BITS)
        return
    left, top = np.maximum((corners.min(0) >> _BITS) - 1, 0)
    right, bottom = np.maximum((corners.max(0) >> _BITS) + 2, 0)
    piece = canvas[top:bottom, left:right]
    if not piece.size:
        return
    mask = np.zeros(piece.shape[:2], np.uint8)
    cv2.fillPoly(mask, [corners - (np.array([left, top]) << _BITS)], 1, shift=_BITS)
    mixed = piece + opacity * (np.array(colour) - piece)
    piece[mask > 0] = mixed[mask > 0].astype(np.uint8)


def _fixed(points: np.ndarray) -> np.ndarray:
    """Pixels as fixed-point integers; far outside the image it no longer matters where."""
    return np.round(np.clip(points, -2e4, 2e4) * (1 << _BITS)).astype(np.int32)


def _cut(points: np.ndarray) -> np.ndarray:
    """The part of a polygon that is in front of the camera."""
    out = []
    for start, end in zip(points, np.roll(points, -1, 0), strict=True):
        inside, next_inside = start[2] >= _NEAR, end[2] >= _NEAR
        if inside:
            out.append(start)
        if inside != next_inside:
            out.append(start + (end - start) * (_NEAR - start[2]) / (end[2] - start[2]))
    return np.array(out).reshape(-1, 3)
