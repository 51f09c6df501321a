"""A street, drawn by chance: what stands where, who moves, and how."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np

from blockcopy_plugins.errors import ConfigError
from examples.tiny_cityscapes import people, surroundings, vehicles
from examples.tiny_cityscapes.people import Looks
from examples.tiny_cityscapes.thing import Thing
from examples.tiny_cityscapes.view import View

# Frames per second of Cityscapes' videos.
FRAME_RATE = 17.0
CAMERAS = ("fixed", "moving")

# The road's edges and the house fronts, metres to the right of the camera.
_ROAD = (-5.6, 4.0)
_HOUSES = (-10.0, 8.6)
_LANE_LINE = -1.8
_PAINT = (
    (60, 55, 170),
    (165, 160, 155),
    (60, 58, 55),
    (150, 95, 40),
    (225, 225, 225),
    (80, 120, 60),
    (40, 150, 205),
)
_WALLS = (
    (150, 185, 205),
    (165, 180, 185),
    (130, 150, 190),
    (180, 190, 180),
    (120, 160, 185),
    (190, 195, 205),
)

# What moves, as a function of the seconds since the annotated frame and of the camera's place.
_Mover = Callable[[float, tuple[float, float, float]], list[Thing]]


class Street:
    """A street scene over time; time 0 is the annotated frame.

    A zebra crossing lies before the camera and a side street behind it. People cross and walk on
    the sidewalks (two of them hide most of a third at time 0), cyclists and cars come from the side
    street, others drive ahead and towards the camera.

    Args:
        random: Source of all choices.
        camera: ``'fixed'``, or ``'moving'``: rolls forward at 2 m/s and sways a little.

    Raises:
        ConfigError: If there is no such camera.
    """

    def __init__(self, random: np.random.Generator, camera: str = "fixed") -> None:
        if camera not in CAMERAS:
            raise ConfigError(f"camera must be one of {CAMERAS}, but got {camera!r}")
        self.camera = camera
        self.crossing = float(random.uniform(10.5, 12.5))
        self.junction = (self.crossing + 3.2, self.crossing + 12.0)
        self._random = random
        self._ground = self._lay_ground()
        self._fixed = [*self._build_houses(), *self._furnish(), *self._park()]
        self._movers: list[_Mover] = [*self._people(), *self._traffic()]
        tile = random.standard_normal((256, 256)).astype(np.float32)
        rough = np.pad(random.standard_normal((32, 32)).astype(np.float32), 2, mode="wrap")
        rough = cv2.resize(rough, (288, 288))[16:272, 16:272]  # it repeats without a seam
        self._tile = 5.0 * tile + 4.0 * rough
        self._clouds = random.standard_normal((12, 9)).astype(np.float32)

    def view(self, time: float, size: tuple[int, int]) -> View:
        """The camera at a time.

        Args:
            time: Seconds since the annotated frame.
            size: Height and width of the image, px.
        """
        if self.camera == "fixed":
            return View(size)
        return View(size, 0.04 * math.sin(7 * time), 2.0 * time, 0.004 * math.sin(11 * time))

    def things(self, time: float) -> list[Thing]:
        """Everything in the street at a given time.

        Args:
            time: Seconds since the annotated frame.

        Returns:
            The things, farthest first: the order in which they are painted and annotated.
        """
        camera = self.view(time, (1, 1)).position
        standing: list[Thing] = []
        for thing in self._fixed:
            standing += thing(time, camera) if callable(thing) else [thing]
        for mover in self._movers:
            standing += mover(time, camera)
        # Behind the camera's front, where a car would fill the image.
        standing = [thing for thing in standing if thing.depth - camera[2] > 1.0]
        return [
            surroundings.screen("sky", (0.0, 1.0), (0.0, 1.0), math.inf),
            *self._ground,
            *sorted(standing, key=lambda thing: -thing.depth),
            surroundings.bonnet(),
            surroundings.screen("out of roi", (0.0, 0.004), (0.0, 1.0), 0.0),
            surroundings.screen("out of roi", (0.996, 1.0), (0.0, 1.0), 0.0),
            surroundings.screen("rectification border", (0.0, 1.0), (0.0, 0.008), 0.0),
        ]

    def backdrop(self, size: tuple[int, int]) -> np.ndarray:
        """The sky.

        Args:
            size: Height and width of the image, px.

        Returns:
            uint8 ``(H, W, 3)``.
        """
        height, width = size
        down = np.clip(np.linspace(0, 1 / View.HORIZON, height), 0, 1)[:, None, None]
        blue = (1 - down) * (214, 172, 128) + down * (228, 218, 208)
        clouds = cv2.resize(self._clouds, (width, height), interpolation=cv2.INTER_CUBIC)
        clouds = np.clip(0.35 * clouds, 0, 0.8)[..., None]
        return (blue + clouds * (np.array([244, 242, 240]) - blue)).astype(np.uint8)

    def texture(self, view: View) -> np.ndarray:
        """The roughness of the ground, as `Painter.paint` takes it.

        Args:
            view: The camera.
        """
        return view.ground_texture(self._tile)

    # ---------------------------------------------------------------------------------- what stands

    def _lay_ground(self) -> list[Thing]:
        asphalt, stone, grass = (98, 96, 95), (165, 168, 172), (70, 135, 105)
        left, right = _ROAD
        near, far = self.junction
        end = surroundings.FAR
        road = surroundings.strip("road", _ROAD, (0.0, end), asphalt)
        side = surroundings.strip("road", (-70.0, 70.0), self.junction, asphalt)
        lines = surroundings.markings(_ROAD, self.crossing, _LANE_LINE)
        things = [replace(road, parts=(*road.parts, *side.parts, *lines))]
        for edge, houses in ((left, _HOUSES[0]), (right, _HOUSES[1])):
            out = 70.0 * np.sign(edge)
            for along, across in (
                ((0.0, near), (near - 3.0, near)),
                ((far, end), (far, far + 3.0)),
            ):
                walk = surroundings.strip("sidewalk", (edge, houses), along, stone)
                corner = surroundings.strip("sidewalk", (edge, out), across, stone)
                joints = surroundings.slabs((edge, houses), along)
                things.append(replace(walk, parts=(*walk.parts, *corner.parts, *joints)))
        # A park on the left behind the junction.
        things.append(surroundings.strip("terrain", (-70.0, left - 2.2), (far + 3.0, 70.0), grass))
        return things

    def _build_houses(self) -> list[Thing]:
        random = self._random
        houses = []
        for side, x in enumerate(_HOUSES):
            gap = (self.junction[0] - 3.0, 70.0 if side == 0 else self.junction[1] + 3.0)
            for start, stop in ((3.0, gap[0]), (gap[1], 125.0)):
                while stop - start > 4.0:
                    end = min(stop, start + float(random.uniform(8.0, 15.0)))
                    height = float(random.uniform(9.0, 17.0))
                    colour = _WALLS[random.integers(len(_WALLS))]
                    house = surroundings.building(random, x, (start, end), height, colour)
                    # House fronts run along the street: all else stands before them.
                    houses.append(replace(house, depth=surroundings.FAR + start))
                    start = end
        return houses

    def _furnish(self) -> list[Thing]:
        random = self._random
        left, right = _ROAD
        near, far = self.junction
        things: list[Thing] = [
            surroundings.hedge(random, (-40.0, 40.0), 124.0, 7.0),
            surroundings.wall("fence", (-34.0, left - 2.6), 69.0, 1.6, (75, 95, 110)),
            surroundings.wall("wall", (-34.0, _HOUSES[0] + 1.0), far + 14.0, 1.5, (120, 135, 150)),
            *surroundings.traffic_light(right + 0.5, self.crossing - 2.2, "red"),
            *surroundings.traffic_light(left - 0.5, far + 0.6, "red"),
            *surroundings.sign("round", right + 0.5, far + 1.4),
            *surroundings.sign("triangle", right + 0.6, far + 22.0),
            *surroundings.sign("square", left - 0.5, self.crossing - 0.6),
            surroundings.street_lamp(right + 0.6, far + 8.0),
            surroundings.street_lamp(left - 0.7, far + 24.0),
            *surroundings.poster_stand(
                float(random.uniform(6.6, 7.4)),
                far + 2.4,
                (130, 160, 215),
                tuple(random.uniform(60, 210, 3)),
            ),
        ]
        for z in np.arange(far + 5.0, 66.0, 9.0):
            x = float(random.uniform(-9.0, left - 1.8))
            things.append(surroundings.tree(random, x, float(z), float(random.uniform(6.0, 8.5))))
            things.append(
                surroundings.tree(random, x - 7.0, float(z) + 4.0, float(random.uniform(7.0, 10.0)))
            )
        things.append(surroundings.tree(random, right + 3.6, far + 15.0, 6.5))
        # A bench at the edge of the park, with somebody on it.
        x, z = float(random.uniform(-8.6, -7.2)), far + 4.0
        things.append(surroundings.bench(x, z))
        things.append(people.sitting_person(self._somebody(), x, z, int(random.choice((-1, 1)))))
        things.append(people.bicycle((60, 60, 60), right + 1.3, far + 4.5, -1))
        return things

    def _park(self) -> list[_Mover]:
        """Cars at the kerb: they stand, yet one sees other faces of them from another place."""
        far = self.junction[1]
        parked = []
        for z in (far + 5.0, far + 11.5, far + 30.0):
            parked.append(self._stands(vehicles.CAR, 2.8, z + self._shift(0.6), 0.0))
        parked.append(self._stands(vehicles.TRUCK, 2.7, far + 20.0, math.pi))
        return parked

    # ----------------------------------------------------------------------------------- who moves

    def _people(self) -> list[_Mover]:
        random = self._random
        far = self.junction[1]
        movers: list[_Mover] = []
        # Two who cross one after the other; at time 0 somebody is seen through the gap.
        x, side = float(random.uniform(-3.4, -1.6)), int(random.choice((-1, 1)))
        gap, near = float(random.uniform(0.31, 0.36)), self.crossing - 0.5
        movers.append(self._crosses(x - gap, near, side * 1.35))
        movers.append(self._crosses(x + gap, near + 0.1, side * 1.35))
        movers.append(self._walks(x * (near + 0.9) / near, near + 0.9, -1.1))
        # One whom nothing hides.
        movers.append(self._crosses(float(random.uniform(1.0, 2.4)), self.crossing + 0.2, 1.4))
        # A couple that comes closer, the one behind the other's shoulder.
        x, z = float(random.uniform(-7.0, -6.4)), float(random.uniform(12.5, 13.5))
        movers.append(self._walks(x, z, -1.2))
        behind = x * (z + 0.5) / z + float(random.choice((-1.0, 1.0)) * random.uniform(0.17, 0.23))
        movers.append(self._walks(behind, z + 0.5, -1.2))
        for x_range, z in (
            ((4.6, 5.4), far + 8.0),
            ((6.4, 8.0), far + 12.0),
            ((5.0, 7.0), far + 19.0),
            ((-7.2, -6.4), far + 7.0),
            ((-7.2, -6.2), far + 16.0),
            ((-7.4, -6.4), far + 29.0),
        ):
            speed = float(random.choice((-1.0, 1.0)) * random.uniform(1.1, 1.5))
            movers.append(self._walks(float(random.uniform(*x_range)), z + self._shift(1.5), speed))
        # Those who stand.
        waiting = people.pedestrian(self._somebody(), _ROAD[1] + 0.5, far + 0.9, 0.0, -1, False)
        bending = people.bending_person(self._somebody(), 5.6 + self._shift(0.5), far + 6.2, 1)
        crowd = [
            people.pedestrian(self._somebody(), 5.2 + 0.38 * i, far + 25.0 - 0.2 * i, 0.0, 0, False)
            for i in range(5)
        ]
        standing = [waiting, bending, people.group(crowd)]
        return [*movers, lambda time, camera: standing]

    def _traffic(self) -> list[_Mover]:
        random = self._random
        near, far = self.junction
        side = int(random.choice((-1, 1)))
        movers = [
            self._rides(float(random.uniform(-2.0, 3.0)), near + 1.0, 4.2 * side),
            self._rides(float(random.uniform(4.0, 7.5)), near + 2.2, -3.6 * side),
            self._drives(vehicles.CAR, float(random.uniform(-6.5, -2.0)), near + 3.6, 6.5, 0.0),
            self._drives(vehicles.CAR, float(random.uniform(1.0, 7.0)), near + 6.6, -7.5, 0.0),
            self._drives(vehicles.CAR, 0.0, far + 12.0 + self._shift(2.0), 0.0, 5.0),
            self._drives(vehicles.CAR, -3.7, far + 8.0 + self._shift(2.0), 0.0, -4.0),
            self._drives(vehicles.BUS, -3.8, far + 24.0 + self._shift(2.0), 0.0, -5.0),
        ]
        return movers

    def _somebody(self) -> Looks:
        return Looks.draw(self._random)

    def _paint(self) -> tuple[float, float, float]:
        return _PAINT[self._random.integers(len(_PAINT))]

    def _shift(self, reach: float) -> float:
        return float(self._random.uniform(-reach, reach))

    def _crosses(self, x: float, z: float, speed: float) -> _Mover:
        looks, start = self._somebody(), float(self._random.uniform(0, 1.5))
        side = 1 if speed > 0 else -1

        def at(time: float, camera: tuple[float, float, float]) -> list[Thing]:
            walked = start + abs(speed) * time
            return [people.pedestrian(looks, x + speed * time, z, walked, side)]

        return at

    def _walks(self, x: float, z: float, speed: float) -> _Mover:
        looks, start = self._somebody(), float(self._random.uniform(0, 1.5))

        def at(time: float, camera: tuple[float, float, float]) -> list[Thing]:
            return [people.pedestrian(looks, x, z + speed * time, start + abs(speed) * time)]

        return at

    def _rides(self, x: float, z: float, speed: float) -> _Mover:
        looks, start = self._somebody(), float(self._random.uniform(0, 2.0))
        side = 1 if speed > 0 else -1

        def at(time: float, camera: tuple[float, float, float]) -> list[Thing]:
            ridden = start + abs(speed) * time
            return people.cyclist(looks, x + speed * time, z, ridden, side)

        return at

    def _drives(
        self, build: vehicles.Build, x: float, z: float, across: float, along: float
    ) -> _Mover:
        colour, heading = self._paint(), math.atan2(across, along)

        def at(time: float, camera: tuple[float, float, float]) -> list[Thing]:
            place = x + across * time, z + along * time
            return vehicles.vehicle(build, colour, *place, heading, camera, moving=True)

        return at

    def _stands(self, build: vehicles.Build, x: float, z: float, heading: float) -> _Mover:
        colour = self._paint()
        return lambda time, camera: vehicles.vehicle(build, colour, x, z, heading, camera)
