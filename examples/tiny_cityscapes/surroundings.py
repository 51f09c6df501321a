"""What stands along a street: ground, buildings, trees, poles, signs, benches."""

from __future__ import annotations

import numpy as np

from examples.tiny_cityscapes.thing import (
    Colour,
    Part,
    Thing,
    ellipse,
    quad,
    ring,
    shade,
    shadow_of,
    stick,
    upright,
)

FAR = 160.0
_GREY = (120, 122, 122)


def screen(label: str, x: tuple[float, float], y: tuple[float, float], depth: float) -> Thing:
    """A rectangle of the image itself, for which nothing is painted.

    Args:
        label: Its name.
        x: Left and right, fractions of the image's width.
        y: Top and bottom, fractions of its height.
        depth: Its place in the order.

    Returns:
        The thing.
    """
    return Thing(label, (Part(quad(x, y), None),), depth)


def bonnet() -> Thing:
    """The car that the camera is in: its bonnet at the lower edge of the image."""
    x = np.linspace(0.0, 1.0, 25)
    arc = np.stack([x, 0.995 - 0.055 * np.sqrt(np.clip(1 - ((x - 0.5) / 0.52) ** 2, 0, 1))], 1)
    body = np.concatenate([arc, [(1.0, 1.1), (0.0, 1.1)]])
    shine = np.concatenate([arc + (0, 0.012), arc[::-1] + (0, 0.02)])
    parts = (Part(body, (52, 48, 46)), Part(shine, (120, 112, 105)))
    return Thing("ego vehicle", parts, 0.0)


def strip(
    label: str,
    x: tuple[float, float],
    z: tuple[float, float],
    colour: Colour,
    depth: float = FAR,
    height: float = 0.0,
) -> Thing:
    """A rectangle of ground.

    Args:
        label: ``'road'``, ``'sidewalk'``, ``'terrain'``.
        x: From left to right, metres.
        z: From near to far.
        colour: Of its paint.
        depth: Its place in the order.
        height: Of a kerb, above the road.

    Returns:
        The thing.
    """
    return Thing(label, tuple(_ground(x, z, colour, height)), depth)


def markings(x: tuple[float, float], crossing: float, middle: float) -> tuple[Part, ...]:
    """White lines on a road: between the lanes, and a zebra crossing.

    Args:
        x: The road's left and right edge.
        crossing: Where the zebra's middle is, forward.
        middle: Where the line between the lanes is, to the right.

    Returns:
        The parts, to be added to the road's.
    """
    white = (205, 208, 208)
    parts: list[Part] = []
    for start in np.arange(2.0, FAR, 6.0):
        if abs(start + 1.5 - crossing - 4.5) > 9.0:
            parts += _ground((middle - 0.07, middle + 0.07), (start, start + 3.0), white)
    for left in np.arange(x[0] + 0.3, x[1] - 0.4, 1.0):
        parts += _ground((left, left + 0.5), (crossing - 1.6, crossing + 1.6), white)
    parts += _ground((middle + 0.2, x[1] - 0.1), (crossing - 2.6, crossing - 2.3), white)
    return tuple(parts)


def slabs(x: tuple[float, float], z: tuple[float, float]) -> tuple[Part, ...]:
    """The joints between a sidewalk's slabs, and its kerb stone.

    Args:
        x: The sidewalk's edge at the road, and the other one.
        z: From near to far.

    Returns:
        The parts, to be added to the sidewalk's.
    """
    dark = (140, 143, 148)
    parts: list[Part] = []
    for at in np.arange(z[0], min(z[1], 45.0), 1.5):
        parts += _ground((x[0], x[1]), (at, at + 0.06), dark)
    inside = np.sign(x[1] - x[0])
    for at in np.arange(x[0], x[1], 1.4 * inside):
        parts += _ground((at, at + 0.05 * inside), z, dark)
    parts += _ground((x[0], x[0] + 0.22 * inside), z, (196, 198, 200))
    return tuple(parts)


def building(
    random: np.random.Generator, x: float, z: tuple[float, float], height: float, colour: Colour
) -> Thing:
    """A house at the side of the street.

    Args:
        random: Source of its windows' looks.
        x: Its front, to the right (negative: on the left).
        z: From near to far.
        height: Metres.
        colour: Of its walls.

    Returns:
        The house.
    """
    side = np.sign(x)

    def front(along: tuple[float, float], up: tuple[float, float]) -> np.ndarray:
        return np.insert(quad(along, up), 0, x, 1)[:, [0, 2, 1]]

    near = np.insert(quad((x, x + side * 25.0), (0.0, height)), 2, z[0], 1)
    parts = [Part(near, shade(colour, 0.72)), Part(front(z, (0.0, height)), colour)]
    parts.append(Part(front(z, (0.0, 0.5)), shade(colour, 0.6)))
    parts.append(Part(front(z, (height - 0.5, height)), shade(colour, 0.8)))
    count = max(1, int((z[1] - z[0]) / 2.6))
    wide = (z[1] - z[0]) / count
    shop = bool(random.random() < 0.6)
    for column in range(count):
        start = z[0] + column * wide
        if shop:
            glass = shade((90, 85, 80), float(random.uniform(0.8, 1.6)))
            parts.append(Part(front((start + 0.2, start + wide - 0.2), (0.6, 2.7)), glass))
        for floor in np.arange(3.6, height - 1.8, 3.0):
            frame = front((start + 0.55, start + wide - 0.55), (floor, floor + 1.7))
            glass = front((start + 0.65, start + wide - 0.65), (floor + 0.1, floor + 1.6))
            lit = random.random() < 0.08
            tone = (150, 205, 225) if lit else shade((105, 92, 78), random.uniform(0.7, 1.25))
            parts += [Part(frame, shade(colour, 1.25)), Part(glass, tone)]
    if shop:
        awning = tuple(random.uniform(40, 200, 3))
        parts.append(Part(front((z[0] + 0.2, z[1] - 0.2), (2.75, 3.15)), awning))
    # The side that faces the camera.
    for across in np.arange(2.0, 18.0, 3.2):
        for floor in np.arange(3.6, height - 1.8, 3.0):
            pane = quad((x + side * across, x + side * (across + 1.3)), (floor, floor + 1.6))
            parts.append(Part(np.insert(pane, 2, z[0], 1), shade((100, 90, 78), 0.8)))
    return Thing("building", tuple(parts), z[0])


def wall(label: str, x: tuple[float, float], z: float, height: float, colour: Colour) -> Thing:
    """A wall or a fence across, facing the camera.

    Args:
        label: ``'wall'`` or ``'fence'``.
        x: Left and right.
        z: Forward.
        height: Metres.
        colour: Of its stones or slats.

    Returns:
        The thing.
    """
    if label == "fence":
        slats = np.arange(x[0], x[1], 0.3)
        flat = [quad((at, at + 0.17), (0.0, height)) for at in slats]
        flat += [quad(x, (at, at + 0.12)) for at in (0.3 * height, 0.8 * height)]
        parts = [Part(np.insert(points, 2, z, 1), colour) for points in flat]
    else:
        parts = [Part(np.insert(quad(x, (0.0, height)), 2, z, 1), colour)]
        for row, up in enumerate(np.arange(0.0, height, 0.3)):
            for at in np.arange(x[0] + 0.4 * (row % 2), x[1], 0.8):
                stone = quad((at, min(at + 0.74, x[1])), (up, min(up + 0.25, height)))
                tone = 1.08 + 0.06 * ((row * 7 + int(at * 10)) % 3)
                parts.append(Part(np.insert(stone, 2, z, 1), shade(colour, tone)))
    return Thing(label, tuple(parts), z)


def tree(random: np.random.Generator, x: float, z: float, height: float) -> Thing:
    """A tree.

    Args:
        random: Source of its leaves.
        x: Of the trunk, to the right, metres.
        z: Forward.
        height: Metres.

    Returns:
        The tree.
    """
    trunk = (55, 75, 95)
    parts = [Part(upright(stick((0, 0), (0, 0.6 * height), 0.3, 0.5), x, z), trunk)]
    crown, spread = 0.68 * height, 0.26 * height
    for leaf in range(90):
        angle, reach = random.uniform(0, 2 * np.pi), np.sqrt(random.random())
        centre = (reach * spread * np.cos(angle), crown + reach * 1.1 * spread * np.sin(angle))
        radius = random.uniform(0.12, 0.3) * spread
        # Darker inside and below, lighter on top.
        light = 0.75 + 0.35 * (centre[1] - crown) / spread + 0.25 * random.random()
        green = shade((45, 105, 85), light * (0.85 if leaf < 40 else 1.1))
        parts.append(Part(upright(ellipse(centre, (radius, 0.8 * radius), 9), x, z), green))
    return Thing("vegetation", tuple(parts), z, shadow=(shadow_of(x, z, 3.0, 1.6),))


def hedge(random: np.random.Generator, x: tuple[float, float], z: float, height: float) -> Thing:
    """Bushes in a row, across.

    Args:
        random: Where their leaves come from.
        x: Left and right.
        z: Forward.
        height: Metres.

    Returns:
        The bushes.
    """
    parts = [Part(np.insert(quad(x, (0.0, 0.75 * height)), 2, z, 1), (40, 80, 65))]
    for _ in range(int(12 * (x[1] - x[0]) / height)):
        centre = (random.uniform(*x), height * (0.15 + 0.7 * random.random()))
        radius = height * random.uniform(0.1, 0.22)
        green = shade((45, 100, 80), 0.65 + 0.5 * centre[1] / height + 0.2 * random.random())
        leaf = ellipse(centre, (radius, 0.8 * radius), 9)
        parts.append(Part(np.insert(leaf, 2, z, 1), green))
    return Thing("vegetation", tuple(parts), z)


def sign(kind: str, x: float, z: float) -> list[Thing]:
    """A pole with a traffic sign.

    Args:
        kind: ``'round'``, ``'triangle'`` or ``'square'``.
        x: To the right, metres.
        z: Forward.

    Returns:
        The pole and the sign.
    """
    red, white, blue, black = (50, 45, 205), (235, 235, 235), (180, 95, 40), (40, 40, 40)
    middle = (0.0, 2.45)
    if kind == "round":
        flat = [(ellipse(middle, (0.34, 0.34), 24), red), (ellipse(middle, (0.24, 0.24)), white)]
        flat.append((quad((-0.12, 0.12), (2.41, 2.49)), black))
    elif kind == "triangle":
        corners = np.array([(-0.4, -0.25), (0.4, -0.25), (0.0, 0.45)])
        flat = [(corners + middle, red), (corners * 0.62 + middle, white)]
        flat.append((quad((-0.03, 0.03), (2.38, 2.56)), black))
    else:
        flat = [(quad((-0.34, 0.34), (2.12, 2.78)), blue)]
        flat.append((np.array([(-0.2, 2.2), (0.2, 2.2), (0.0, 2.68)]), white))
    parts = tuple(Part(upright(points, x, z), colour) for points, colour in flat)
    return [_pole(x, z, 2.9), Thing("traffic sign", parts, z - 0.05)]


def traffic_light(x: float, z: float, lamp: str) -> list[Thing]:
    """A pole with a traffic light.

    Args:
        x: To the right, metres.
        z: Forward.
        lamp: ``'red'``, ``'amber'`` or ``'green'``: the one that is lit.

    Returns:
        The pole and the light.
    """
    flat = [(quad((-0.2, 0.2), (2.35, 3.35)), (38, 40, 40))]
    lamps = {"red": (60, 60, 240), "amber": (60, 190, 250), "green": (120, 220, 90)}
    for place, (name, colour) in enumerate(lamps.items()):
        tone = colour if name == lamp else shade(colour, 0.25)
        flat.append((ellipse((0.0, 3.17 - 0.32 * place), (0.12, 0.12)), tone))
    parts = tuple(Part(upright(points, x, z), colour) for points, colour in flat)
    return [_pole(x, z, 2.6), Thing("traffic light", parts, z - 0.05)]


def street_lamp(x: float, z: float) -> Thing:
    """A lamp that reaches over the road.

    Args:
        x: To the right, metres.
        z: Forward.

    Returns:
        The lamp, labelled as the pole it hangs on.
    """
    inside = -np.sign(x)
    flat = [
        stick((0, 0), (0, 6.6), 0.16, 0.7),
        stick((0, 6.6), (1.6 * inside, 7.0), 0.11),
        stick((1.3 * inside, 6.95), (2.0 * inside, 7.0), 0.22),
    ]
    return Thing("pole", tuple(Part(upright(points, x, z), _GREY) for points in flat), z)


def bench(x: float, z: float) -> Thing:
    """A bench, which Cityscapes has no class for: ``'static'``.

    Args:
        x: Middle, to the right, metres.
        z: Forward.

    Returns:
        The bench.
    """
    wood = (60, 100, 140)
    flat = [
        (quad((-0.85, 0.85), (0.55, 0.7)), wood),
        (quad((-0.85, 0.85), (0.76, 0.92)), wood),
        (quad((-0.9, 0.9), (0.4, 0.48)), shade(wood, 0.8)),
        (quad((-0.78, -0.68), (0.0, 0.9)), (60, 60, 60)),
        (quad((0.68, 0.78), (0.0, 0.9)), (60, 60, 60)),
    ]
    parts = tuple(Part(upright(points, x, z), colour) for points, colour in flat)
    return Thing("static", parts, z + 0.2, shadow=(shadow_of(x, z, 1.8, 0.6),))


def poster_stand(x: float, z: float, skin: Colour, coat: Colour) -> list[Thing]:
    """A stand with a poster of a person, whom CityPersons has as an ignored region.

    Args:
        x: Middle, to the right, metres.
        z: Forward.
        skin: Of the face on the poster.
        coat: And below it.

    Returns:
        The stand, and the person on it: both ``'static'`` in Cityscapes.
    """
    stand = [
        (quad((-0.7, 0.7), (0.25, 2.6)), (75, 75, 75)),
        (quad((-0.1, 0.1), (0.0, 0.3)), (75, 75, 75)),
        (quad((-0.62, 0.62), (0.35, 2.5)), (215, 205, 180)),
    ]
    figure = [
        (stick((0.0, 0.7), (0.0, 1.35), 0.62), coat),
        (ellipse((0.0, 1.9), (0.24, 0.34)), skin),
        (ellipse((0.0, 2.12), (0.26, 0.16)), (40, 45, 60)),
    ]
    return [
        Thing("static", tuple(Part(upright(points, x, z), colour) for points, colour in stand), z),
        Thing(
            "static",
            tuple(Part(upright(points, x, z), colour) for points, colour in figure),
            z - 0.05,
            person="ignore",
        ),
    ]


def _pole(x: float, z: float, height: float) -> Thing:
    flat = [(stick((0, 0), (0, height), 0.11), _GREY), (ring((0, 0.1), 0.1, 0.02), _GREY)]
    return Thing("pole", tuple(Part(upright(points, x, z), colour) for points, colour in flat), z)


def _ground(
    x: tuple[float, float], z: tuple[float, float], colour: Colour, height: float = 0.0
) -> list[Part]:
    return [Part(np.insert(quad(x, z), 1, height, 1), colour)]
