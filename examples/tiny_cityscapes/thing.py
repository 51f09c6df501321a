"""What a street is made of: coloured polygons in metres, under a label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Part:
    """One polygon of one colour.

    Args:
        points: Corners, ``(n, 3)`` in metres (right, up, forward; the ground is at 0), or
            ``(n, 2)`` in fractions of the image's width and height.
        colour: Blue, green, red from 0 to 255. None: nothing is painted, the label alone counts.
        opacity: Below 1 what lies behind shines through.
    """

    points: np.ndarray
    colour: Colour | None
    opacity: float = 1.0


@dataclass(frozen=True)
class Thing:
    """One annotated object of a frame.

    Args:
        label: Its name in Cityscapes' ``polygons.json``, such as ``'car'`` or ``'persongroup'``.
        parts: What it is painted of, in this order.
        depth: Where it stands, in metres forward: nearer things hide farther ones.
        moving: Whether it moves through the street.
        shadow: Painted before ``parts``, and not part of the object.
        person: CityPersons' name of it (``'pedestrian'``, ``'ignore'``, ...), if it is a person or
            looks like one.
        head: Top of the head, metres.
        feet: Middle between the feet, metres.
    """

    label: str
    parts: tuple[Part, ...]
    depth: float
    moving: bool = False
    shadow: tuple[Part, ...] = ()
    person: str | None = None
    head: np.ndarray | None = None
    feet: np.ndarray | None = None


def shade(colour: Colour, factor: float) -> Colour:
    """A colour, darker or lighter.

    Args:
        colour: Blue, green, red.
        factor: Below 1 darker, above 1 lighter.

    Returns:
        The colour, within 0 to 255.
    """
    blue, green, red = (min(255.0, channel * factor) for channel in colour)
    return blue, green, red


def quad(x: tuple[float, float], y: tuple[float, float]) -> np.ndarray:
    """An upright rectangle in a plane.

    Args:
        x: Left and right.
        y: Bottom and top.

    Returns:
        Its corners, ``(4, 2)``.
    """
    return np.array([(x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1])])


def ellipse(
    centre: tuple[float, float], radii: tuple[float, float], corners: int = 16
) -> np.ndarray:
    """An ellipse as a polygon.

    Args:
        centre: Its middle.
        radii: Half its width and half its height.
        corners: How many corners.

    Returns:
        The corners, ``(corners, 2)``.
    """
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], 1) * radii + centre


def ring(centre: tuple[float, float], outer: float, inner: float) -> np.ndarray:
    """A ring as one polygon, slit open at the right.

    Args:
        centre: Its middle.
        outer: Radius.
        inner: Radius of the hole.

    Returns:
        The corners, ``(n, 2)``.
    """
    angles = np.linspace(0, 2 * np.pi, 21)
    circle = np.stack([np.cos(angles), np.sin(angles)], 1)
    return np.concatenate([circle * outer, circle[::-1] * inner]) + centre


def stick(start: np.ndarray, end: np.ndarray, width: float, taper: float = 1.0) -> np.ndarray:
    """A line with round ends, such as a leg, as a polygon.

    Args:
        start: One end, ``(2,)``.
        end: The other.
        width: Thickness at the start.
        taper: Thickness at the end, as a share of that at the start.

    Returns:
        The corners, ``(n, 2)``.
    """
    start, end = np.asarray(start, float), np.asarray(end, float)
    along = np.arctan2(end[1] - start[1], end[0] - start[0])
    half = np.linspace(-np.pi / 2, np.pi / 2, 6)
    caps = []
    for point, angles, radius in ((end, along + half, taper), (start, along + np.pi + half, 1.0)):
        caps.append(point + width / 2 * radius * np.stack([np.cos(angles), np.sin(angles)], 1))
    return np.concatenate(caps)


def upright(flat: np.ndarray, x: float, z: float, direction: int = 1, y: float = 0.0) -> np.ndarray:
    """Put a flat figure into the street, facing the camera.

    Args:
        flat: Points ``(n, 2)``, metres right and up.
        x: Where its origin stands, to the right.
        z: And forward.
        direction: -1 mirrors it, so that it looks to the left.
        y: Height that its origin is at.

    Returns:
        Points ``(n, 3)``.
    """
    flat = np.asarray(flat, float)
    return np.stack([x + direction * flat[:, 0], y + flat[:, 1], np.full(len(flat), float(z))], 1)


def shadow_of(x: float, z: float, width: float, length: float) -> Part:
    """A soft spot on the ground.

    Args:
        x: Middle, to the right.
        z: Middle, forward.
        width: To the right.
        length: Forward.

    Returns:
        The part, dark and translucent.
    """
    spot = ellipse((x, z), (width / 2, length / 2))
    return Part(np.insert(spot, 1, 0.0, 1), (40, 35, 35), 0.45)
