"""People and riders: figures of sticks and ellipses that walk, sit, bend and pedal."""

from __future__ import annotations

from dataclasses import dataclass

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

# Length in metres of a step with both legs.
_STRIDE = 1.5
_SKIN = ((140, 170, 225), (110, 145, 205), (70, 100, 150), (150, 180, 235))
_HAIR = ((30, 35, 45), (40, 60, 90), (80, 130, 170), (150, 150, 155), (25, 25, 25))
_COATS = (
    (60, 60, 190),
    (170, 80, 40),
    (70, 130, 60),
    (40, 160, 210),
    (50, 50, 55),
    (160, 160, 165),
    (130, 60, 120),
    (200, 200, 205),
)
_TROUSERS = ((110, 70, 45), (45, 45, 50), (70, 85, 110), (120, 125, 130), (90, 50, 35))


@dataclass(frozen=True)
class Looks:
    """What a person looks like.

    Args:
        height: Metres.
        skin: Colour of face and hands.
        hair: Colour.
        coat: Colour.
        trousers: Colour.
        bag: Whether there is a bag on the back.
    """

    height: float
    skin: Colour
    hair: Colour
    coat: Colour
    trousers: Colour
    bag: bool

    @classmethod
    def draw(cls, random: np.random.Generator) -> Looks:
        """Somebody.

        Args:
            random: Source of the choices.
        """

        def one_of(colours: tuple[Colour, ...]) -> Colour:
            return colours[random.integers(len(colours))]

        return cls(
            height=float(random.uniform(1.6, 1.88)),
            skin=one_of(_SKIN),
            hair=one_of(_HAIR),
            coat=one_of(_COATS),
            trousers=one_of(_TROUSERS),
            bag=bool(random.random() < 0.4),
        )


def pedestrian(
    looks: Looks, x: float, z: float, walked: float, direction: int = 0, moving: bool = True
) -> Thing:
    """Somebody who walks, or stands.

    Args:
        looks: What the person looks like.
        x: Position to the right, metres.
        z: Forward.
        walked: Metres on the way so far: the phase of the legs.
        direction: 1 to the right, -1 to the left, 0 towards the camera or away from it.
        moving: False: stands.

    Returns:
        The person, ``'pedestrian'`` in CityPersons.
    """
    phase = 2 * np.pi * walked / _STRIDE if moving else np.pi
    if direction:
        flat, head, feet = _from_the_side(looks, phase, moving)
    else:
        flat, head, feet = _from_the_front(looks, phase, moving)
    # The lower foot is on the ground.
    lift = -min(points[:, 1].min() for points, _ in flat)
    side = direction or 1
    return Thing(
        label="person",
        parts=tuple(Part(upright(points, x, z, side, lift), colour) for points, colour in flat),
        depth=z,
        moving=moving,
        shadow=(shadow_of(x, z, 0.8, 0.5),),
        person="pedestrian",
        head=upright([head], x, z, side, lift)[0],
        feet=upright([(feet, -lift)], x, z, side, lift)[0],
    )


def sitting_person(looks: Looks, x: float, z: float, direction: int) -> Thing:
    """Somebody who sits, as on a bench of 0.45 m.

    Args:
        looks: What the person looks like.
        x: Position to the right, metres.
        z: Forward.
        direction: 1 looks to the right, -1 to the left.

    Returns:
        The person.
    """
    hip, knee, foot = (0.0, 0.52), (0.42, 0.5), (0.4, 0.05)
    shoulder = (-0.06, 1.02)
    flat = [
        (stick(hip, knee, 0.17), looks.trousers),
        (stick(knee, foot, 0.13), shade(looks.trousers, 0.85)),
        (ellipse((0.46, 0.05), (0.12, 0.05)), (30, 30, 35)),
        (stick(hip, shoulder, 0.32), looks.coat),
        (stick((-0.05, 0.98), (0.12, 0.66), 0.11), shade(looks.coat, 0.8)),
        (stick((0.12, 0.66), (0.36, 0.6), 0.09), shade(looks.coat, 0.8)),
        *_head((-0.02, 1.3), looks, profile=True),
    ]
    parts = tuple(Part(upright(points, x, z, direction), colour) for points, colour in flat)
    return Thing("person", parts, z, person="sitting person")


def bending_person(looks: Looks, x: float, z: float, direction: int) -> Thing:
    """Somebody who bends down to the ground.

    Args:
        looks: What the person looks like.
        x: Position to the right, metres.
        z: Forward.
        direction: 1 looks to the right, -1 to the left.

    Returns:
        The person, ``'person (other)'`` in CityPersons.
    """
    hip, shoulder, hand = (-0.15, 0.92), (0.38, 0.92), (0.42, 0.3)
    flat = [
        (stick((-0.05, 0.06), hip, 0.17), shade(looks.trousers, 0.85)),
        (stick((0.05, 0.06), hip, 0.18), looks.trousers),
        (ellipse((0.04, 0.05), (0.15, 0.05)), (30, 30, 35)),
        (stick(hip, shoulder, 0.34, 0.9), looks.coat),
        (stick((0.36, 0.86), hand, 0.1), shade(looks.coat, 0.8)),
        *_head((0.6, 0.8), looks, profile=True),
    ]
    parts = tuple(Part(upright(points, x, z, direction), colour) for points, colour in flat)
    return Thing("person", parts, z, shadow=(shadow_of(x, z, 0.9, 0.5),), person="person (other)")


def group(members: list[Thing]) -> Thing:
    """People that cannot be told apart: one object, labelled ``persongroup``.

    Args:
        members: The people, farthest first.

    Returns:
        The group.
    """
    return Thing(
        label="persongroup",
        parts=tuple(part for member in members for part in member.parts),
        depth=members[-1].depth,
        moving=any(member.moving for member in members),
        shadow=tuple(part for member in members for part in member.shadow),
        person="person group",
    )


def cyclist(looks: Looks, x: float, z: float, ridden: float, direction: int) -> list[Thing]:
    """Somebody on a bicycle, seen from the side.

    Args:
        looks: What the rider looks like.
        x: Position to the right, metres.
        z: Forward.
        ridden: Metres on the way so far: the angle of wheels and pedals.
        direction: 1 rides to the right, -1 to the left.

    Returns:
        The bicycle and the rider before it.
    """
    wheel = ridden / 0.34
    crank, hip = np.array([-0.02, 0.3]), np.array([-0.2, 0.98])
    pedals = [
        crank + 0.17 * np.array([np.cos(a), -np.sin(a)]) for a in (wheel / 2, wheel / 2 + np.pi)
    ]
    shoulder, hand = np.array([0.18, 1.46]), np.array([0.46, 1.06])
    legs = []
    for pedal, colour in zip(pedals, (shade(looks.trousers, 0.75), looks.trousers), strict=True):
        knee = _knee(hip, pedal, 0.45)
        legs += [
            (stick(hip, knee, 0.17, 0.8), colour),
            (stick(knee, pedal, 0.13, 0.7), colour),
            (ellipse(tuple(pedal + (0.05, -0.02)), (0.12, 0.045)), (30, 30, 35)),
        ]
    flat = [
        *legs[:3],
        (stick(hip, shoulder, 0.3, 0.95), looks.coat),
        *legs[3:],
        (stick(shoulder - (0, 0.06), hand, 0.1), shade(looks.coat, 0.8)),
        (ellipse(tuple(hand), (0.05, 0.05)), looks.skin),
        *_head((0.27, 1.68), looks, profile=True, helmet=True),
    ]
    low = min(pedal[1] for pedal in pedals) - 0.06
    rider = Thing(
        label="rider",
        parts=tuple(Part(upright(points, x, z, direction), colour) for points, colour in flat),
        depth=z - 0.01,
        moving=True,
        person="rider",
        head=upright([(0.27, 1.85)], x, z, direction)[0],
        feet=upright([(0.0, low)], x, z, direction)[0],
    )
    return [bicycle(shade(looks.coat, 1.3), x, z, direction, wheel, moving=True), rider]


def bicycle(
    colour: Colour, x: float, z: float, direction: int, angle: float = 0.4, moving: bool = False
) -> Thing:
    """A bicycle, seen from the side.

    Args:
        colour: Of the frame.
        x: Position to the right, metres.
        z: Forward.
        direction: 1 points to the right, -1 to the left.
        angle: Of the wheels, radians.
        moving: Whether somebody rides it.

    Returns:
        The bicycle.
    """
    back, front, crank = (-0.55, 0.34), (0.55, 0.34), (-0.02, 0.3)
    seat, bar = (-0.22, 0.88), (0.42, 0.92)
    black = (35, 35, 35)
    flat = []
    for centre in (back, front):
        for spoke in range(3):
            turn = angle + spoke * np.pi / 3
            tip = 0.32 * np.array([np.cos(turn), -np.sin(turn)])
            flat.append((stick(centre - tip, centre + tip, 0.025), (170, 170, 170)))
        flat.append((ring(centre, 0.35, 0.28), black))
    tubes = ((back, crank), (back, seat), (crank, seat), (crank, bar), (seat, bar), (bar, front))
    flat += [(stick(a, b, 0.06), colour) for a, b in tubes]
    flat += [
        (stick((-0.34, 0.93), (-0.12, 0.92), 0.08), black),
        (stick(bar, (0.46, 1.05), 0.05), black),
        (stick((0.4, 1.06), (0.52, 1.04), 0.06), black),
    ]
    return Thing(
        label="bicycle",
        parts=tuple(Part(upright(points, x, z, direction), paint) for points, paint in flat),
        depth=z,
        moving=moving,
        shadow=(shadow_of(x, z, 1.7, 0.5),),
    )


# ---------------------------------------------------------------------------------------- figures

_Flat = list[tuple[np.ndarray, Colour]]


def _from_the_side(
    looks: Looks, phase: float, moving: bool
) -> tuple[_Flat, tuple[float, float], float]:
    """Parts in metres around the hips' foot, top of the head, middle of the feet."""
    size = looks.height / 1.75
    swing = 0.42 if moving else 0.06
    hip, shoulder = np.array([0.0, 0.9]), np.array([0.03, 1.42])
    legs, feet = [], []
    for offset, colour in ((np.pi, shade(looks.trousers, 0.75)), (0.0, looks.trousers)):
        thigh = swing * np.sin(phase + offset)
        bend = 0.75 * swing * max(0.0, np.cos(phase + offset)) + 0.08
        knee = hip + 0.44 * np.array([np.sin(thigh), -np.cos(thigh)])
        foot = knee + 0.42 * np.array([np.sin(thigh - bend), -np.cos(thigh - bend)])
        feet.append(foot)
        legs += [
            (stick(hip, knee, 0.18, 0.8), colour),
            (stick(knee, foot, 0.14, 0.7), colour),
            (ellipse((foot[0] + 0.06, foot[1] - 0.01), (0.13, 0.05)), (30, 30, 35)),
        ]
    arms = []
    for offset, colour in ((0.0, shade(looks.coat, 0.7)), (np.pi, shade(looks.coat, 0.85))):
        turn = 0.8 * swing * np.sin(phase + offset)
        elbow = shoulder - (0.02, 0.06) + 0.28 * np.array([np.sin(turn), -np.cos(turn)])
        hand = elbow + 0.26 * np.array([np.sin(turn + 0.3), -np.cos(turn + 0.3)])
        arms.append(
            [
                (stick(shoulder - (0.02, 0.06), elbow, 0.12), colour),
                (stick(elbow, hand, 0.1, 0.8), colour),
                (ellipse(tuple(hand), (0.045, 0.05)), looks.skin),
            ]
        )
    bag = [(stick((-0.2, 1.1), (-0.2, 1.34), 0.22), shade(looks.trousers, 1.2))]
    flat = [
        *arms[0],
        *legs,
        *(bag if looks.bag else []),
        (stick(hip - (0, 0.04), shoulder - (0.02, 0.06), 0.27, 1.05), looks.coat),
        *arms[1],
        *_head((0.05, 1.6), looks, profile=True),
    ]
    flat = [(points * size, colour) for points, colour in flat]
    middle = (feet[0][0] + feet[1][0]) / 2
    return flat, (0.05 * size, 1.76 * size), middle * size


def _from_the_front(
    looks: Looks, phase: float, moving: bool
) -> tuple[_Flat, tuple[float, float], float]:
    """As from the side, but towards the camera."""
    size = looks.height / 1.75
    swing = 1.0 if moving else 0.0
    legs, arms = [], []
    for side in (-1, 1):
        lift = 0.09 * swing * max(0.0, np.sin(phase + (side > 0) * np.pi))
        colour = looks.trousers if side > 0 else shade(looks.trousers, 0.85)
        foot = (0.1 * side, 0.05 + lift)
        legs += [
            (stick((0.08 * side, 0.9), (0.1 * side, 0.48 + lift / 2), 0.18, 0.85), colour),
            (stick((0.1 * side, 0.48 + lift / 2), foot, 0.14, 0.75), colour),
            (ellipse((foot[0], foot[1] - 0.01), (0.07, 0.05)), (30, 30, 35)),
        ]
        hand = (0.27 * side, 0.82 + 0.05 * swing * np.sin(phase + (side < 0) * np.pi))
        arms += [
            (stick((0.2 * side, 1.38), hand, 0.12, 0.8), shade(looks.coat, 0.8)),
            (ellipse(hand, (0.05, 0.06)), looks.skin),
        ]
    torso = np.array([(-0.19, 0.86), (0.19, 0.86), (0.24, 1.4), (0.12, 1.47), (-0.12, 1.47)])
    torso = np.concatenate([torso, [(-0.24, 1.4)]])
    flat = [*legs, *arms, (torso, looks.coat)]
    if looks.bag:
        strap = shade(looks.trousers, 1.2)
        flat += [(stick((0.12, 1.45), (-0.2, 0.95), 0.05), strap)]
        flat += [(quad((-0.31, -0.12), (0.75, 0.98)), strap)]
    flat += _head((0.0, 1.6), looks, profile=False)
    flat = [(points * size, colour) for points, colour in flat]
    return flat, (0.0, 1.76 * size), 0.0


def _head(centre: tuple[float, float], looks: Looks, profile: bool, helmet: bool = False) -> _Flat:
    x, y = centre
    hair = (40, 70, 200) if helmet else looks.hair
    top = ellipse((x - 0.02 * profile, y + 0.05), (0.115, 0.11))
    top = top[top[:, 1] >= y + 0.015]
    back = ellipse((x - 0.06, y), (0.065, 0.09)) if profile else top
    return [
        (stick((x, y - 0.16), (x, y - 0.05), 0.09), shade(looks.skin, 0.85)),
        (ellipse((x, y), (0.1, 0.14)), looks.skin),
        (back, hair),
        (top, hair),
    ]


def _knee(hip: np.ndarray, foot: np.ndarray, bone: float) -> np.ndarray:
    """Where the knee is if thigh and shin are both ``bone`` long."""
    between = foot - hip
    distance = np.hypot(*between)
    out = np.sqrt(max(0.0, bone**2 - (distance / 2) ** 2))
    forward = np.array([-between[1], between[0]]) / distance
    return (hip + foot) / 2 + out * forward
