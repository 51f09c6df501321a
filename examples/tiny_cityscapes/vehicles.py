"""Cars, buses and trucks: a body and a cabin on it, as boxes of which one sees some faces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from examples.tiny_cityscapes.thing import Colour, Part, Thing, ellipse, shade

_GLASS = (95, 80, 65)
_BLACK = (35, 33, 33)


@dataclass(frozen=True)
class Build:
    """The measures of a kind of vehicle, metres.

    Args:
        label: Cityscapes' name of it.
        length: From bumper to bumper.
        width: From side to side.
        body: Height of the lower edge and of the upper edge of the body.
        cabin: Where the cabin stands on the body: its back and front at the bottom, and at the
            top, along the length from the middle (forward is positive). None: no cabin.
        height: Of the roof.
        wheels: Where the axles are, along the length.
        radius: Of the wheels.
        windows: Rows of windows of a body without a cabin: their lower and upper edge.
    """

    label: str
    length: float
    width: float
    body: tuple[float, float]
    cabin: tuple[float, float, float, float] | None
    height: float
    wheels: tuple[float, float]
    radius: float
    windows: tuple[float, float] | None = None


CAR = Build("car", 4.3, 1.8, (0.25, 0.85), (-2.0, 1.1, -1.5, 0.35), 1.45, (-1.3, 1.35), 0.32)
BUS = Build("bus", 10.5, 2.5, (0.35, 3.0), None, 3.0, (-3.2, 3.4), 0.48, (1.4, 2.5))
TRUCK = Build("truck", 7.0, 2.3, (0.5, 2.9), None, 2.9, (-2.2, 2.4), 0.45)


def vehicle(
    build: Build,
    colour: Colour,
    x: float,
    z: float,
    heading: float,
    camera: tuple[float, float, float],
    moving: bool = False,
) -> list[Thing]:
    """A vehicle as the camera sees it.

    Args:
        build: Its kind.
        colour: Of the paint.
        x: Middle, to the right, metres.
        z: Middle, forward.
        heading: Radians; 0 drives away from the camera, pi / 2 to the right.
        camera: Where the camera is: right, up, forward.
        moving: Whether it drives.

    Returns:
        The vehicle, and its license plate where one sees it.
    """
    forward = np.array([np.sin(heading), 0.0, np.cos(heading)])
    right = np.array([np.cos(heading), 0.0, -np.sin(heading)])

    def place(points: np.ndarray) -> np.ndarray:
        """From (forward, right, up) of the vehicle to the street's metres."""
        points = np.asarray(points, float)
        out = np.outer(points[:, 0], forward) + np.outer(points[:, 1], right)
        return out + np.array([x, 0.0, z]) + np.outer(points[:, 2], [0.0, 1.0, 0.0])

    eye = np.asarray(camera) - (x, 0.0, z)
    eye = np.array([eye @ forward, eye @ right, camera[1]])
    length, width = build.length / 2, build.width / 2
    parts = _box((-length, length), width, (-length, length), width, build.body, colour, eye)
    if build.cabin is not None:
        back, front, top_back, top_front = build.cabin
        parts += _box(
            (back, front),
            width,
            (top_back, top_front),
            0.8 * width,
            (build.body[1], build.height),
            colour,
            eye,
            glass=True,
        )
    side = np.sign(eye[1]) * width
    if abs(eye[1]) > width:
        parts += _side(build, side)
    end = 1 if eye[0] > 0 else -1
    plate = None
    if abs(eye[0]) > length:
        parts += _end(build, end, colour)
        middle, low = end * (length + 0.02), build.body[0] + 0.12
        corners = [(-0.26, low), (0.26, low), (0.26, low + 0.12), (-0.26, low + 0.12)]
        plate = np.array([(middle, across, up) for across, up in corners])
    ground = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    spot = np.array([(a * (length + 0.1), b * (width + 0.12), 0.0) for a, b in ground])
    # Nearest corner: what stands beside a vehicle is not hidden by its far end.
    depth = z - abs(forward[2]) * length * 0.8 - abs(right[2]) * width
    things = [
        Thing(
            label=build.label,
            parts=tuple(Part(place(points), paint) for points, paint in parts),
            depth=depth,
            moving=moving,
            shadow=(Part(place(spot), (30, 28, 28), 0.6),),
        )
    ]
    if plate is not None:
        white = Part(place(plate), (225, 225, 225))
        things.append(Thing("license plate", (white,), depth - 1e-3, moving=moving))
    return things


_Parts = list[tuple[np.ndarray, Colour]]


def _box(
    bottom: tuple[float, float],
    half: float,
    top: tuple[float, float],
    top_half: float,
    heights: tuple[float, float],
    colour: Colour,
    eye: np.ndarray,
    glass: bool = False,
) -> _Parts:
    """The faces that the eye sees of a box that narrows towards the top."""
    low, high = heights
    lower = [(bottom[i], j * half, low) for i, j in ((0, -1), (1, -1), (1, 1), (0, 1))]
    upper = [(top[i], j * top_half, high) for i, j in ((0, -1), (1, -1), (1, 1), (0, 1))]
    parts: _Parts = []
    if eye[2] > high:
        parts.append((np.array(upper), shade(colour, 1.15)))
    for face, light in ((0, 0.8), (1, 0.95), (2, 0.8), (3, 0.95)):
        after = (face + 1) % 4
        corners = np.array([lower[face], lower[after], upper[after], upper[face]])
        normal = np.cross(corners[1] - corners[0], corners[3] - corners[0])
        if normal @ (eye - corners[0]) <= 0:
            continue
        parts.append((corners, shade(colour, light)))
        if glass:
            middle = corners.mean(0)
            pane = middle + (corners - middle) * 0.82
            if face in (0, 2):  # two panes on a side
                split = (pane[0] + pane[1]) / 2, (pane[3] + pane[2]) / 2
                gap = (pane[1] - pane[0]) * 0.03
                parts.append((np.array([pane[0], split[0] - gap, split[1] - gap, pane[3]]), _GLASS))
                parts.append((np.array([split[0] + gap, pane[1], pane[2], split[1] + gap]), _GLASS))
            else:
                parts.append((pane, shade(_GLASS, 1.25)))
    return parts


def _side(build: Build, side: float) -> _Parts:
    """Wheels and what else is on a vehicle's side."""
    parts: _Parts = []

    def flat(points: np.ndarray, out: float = 1.0) -> np.ndarray:
        return np.insert(np.asarray(points, float), 1, side * out, 1)

    for axle in build.wheels:
        centre = (axle, build.radius)
        for radius, colour in ((1.15, _BLACK), (0.62, (150, 150, 150)), (0.2, _BLACK)):
            circle = ellipse(centre, (build.radius * radius, build.radius * radius))
            parts.append((flat(circle, 1.01), colour))
    if build.windows is not None:
        low, high = build.windows
        edges = np.linspace(-build.length / 2 + 0.3, build.length / 2 - 0.3, 8)
        for start, end in zip(edges[:-1], edges[1:], strict=True):
            pane = [(start, low), (end - 0.15, low), (end - 0.15, high), (start, high)]
            parts.append((flat(pane), _GLASS))
    elif build.cabin is not None:
        door = (build.cabin[1] + build.cabin[0]) / 2
        low, high = build.body
        seam = [(door, low + 0.1), (door + 0.03, low + 0.1), (door + 0.03, high), (door, high)]
        parts.append((flat(seam), (60, 60, 60)))
    return parts


def _end(build: Build, end: int, colour: Colour) -> _Parts:
    """Lights, bumper and, of a bus or truck, the window of the end that one sees."""
    parts: _Parts = []
    out, half = end * (build.length / 2 + 0.01), build.width / 2
    low, high = build.body

    def face(y: tuple[float, float], z: tuple[float, float], paint: Colour) -> None:
        corners = [(out, y[0], z[0]), (out, y[1], z[0]), (out, y[1], z[1]), (out, y[0], z[1])]
        parts.append((np.array(corners), paint))

    face((-half, half), (low, low + 0.18), shade(colour, 0.55))
    if build.cabin is None:
        face((-0.85 * half, 0.85 * half), (0.55 * high, 0.88 * high), _GLASS)
        lamps = (low + 0.25, low + 0.5)
    else:
        lamps = (low + 0.3, low + 0.5)
        if end > 0:
            face((-0.5 * half, 0.5 * half), (low + 0.26, low + 0.46), _BLACK)
    lamp = (200, 240, 250) if end > 0 else (50, 40, 215)
    for side in (-1, 1):
        inner, outer = sorted((side * 0.62 * half, side * 0.95 * half))
        face((inner, outer), lamps, lamp)
    return parts
