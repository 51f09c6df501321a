"""Ground truth of a frame: Cityscapes' polygons and label images, and CityPersons' boxes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from examples.tiny_cityscapes.labels import PERSONS, label_of
from examples.tiny_cityscapes.thing import Thing
from examples.tiny_cityscapes.view import View

# Width of CityPersons' full boxes, as a share of their height.
_ASPECT = 0.41
# Objects that show fewer pixels are not annotated.
_FEWEST_PIXELS = 4


@dataclass(frozen=True)
class Person:
    """A row of CityPersons' annotations.

    Args:
        category: One of `PERSONS`.
        instance_id: In the ``instanceIds`` image; 24 for a group, 0 for an ignored region.
        bbox: Whole body: left, top, width, height, px.
        bbox_vis: Visible part, likewise; zeros for a group, as in the public package.
    """

    category: str
    instance_id: int
    bbox: tuple[int, int, int, int]
    bbox_vis: tuple[int, int, int, int]


@dataclass(frozen=True)
class Annotation:
    """Ground truth of a frame.

    Args:
        objects: Labels and outlines ``(n, 2)``, farthest first, as in ``polygons.json``.
        label_ids: uint8 ``(H, W)``.
        train_ids: uint8 ``(H, W)``.
        instance_ids: uint16 ``(H, W)``: label * 1000 + number; the label alone if there are no
            instances, or several of them are one object.
        colour: uint8 ``(H, W, 3)``, red, green, blue.
        persons: In the order of CityPersons' classes 1 to 4, 0, 5.
    """

    objects: tuple[tuple[str, np.ndarray], ...]
    label_ids: np.ndarray
    train_ids: np.ndarray
    instance_ids: np.ndarray
    colour: np.ndarray
    persons: tuple[Person, ...]


def annotate(things: list[Thing], view: View) -> Annotation:
    """Annotate a frame as Cityscapes and CityPersons do.

    Args:
        things: Everything in the frame, farthest first.
        view: The camera.

    Returns:
        The ground truth.
    """
    outlined = [(thing, view.outline(thing)) for thing in things]
    outlined = [(thing, outline) for thing, outline in outlined if outline is not None]
    on_top = _draw(outlined, view.size)
    seen = np.bincount(on_top.ravel(), minlength=len(outlined)) >= _FEWEST_PIXELS
    # A license plate is never drawn: it belongs to the car.
    kept = [
        (thing, outline)
        for index, (thing, outline) in enumerate(outlined)
        if seen[index] or label_of(thing.label)[0].id < 0
    ]
    on_top = _draw(kept, view.size)
    # For each object, the values of the label images in its pixels.
    ids, train_ids, instance_ids, colours = [], [], [], []
    counts: dict[str, int] = {}
    for thing, _ in kept:
        label, single = label_of(thing.label)
        instance = label.id
        if label.has_instances and single:
            number = counts.get(label.name, 0)
            counts[label.name] = number + 1
            instance = 1000 * label.id + number
        ids.append(max(label.id, 0))
        train_ids.append(max(label.train_id, 0))
        instance_ids.append(max(instance, 0))
        colours.append(label.colour)
    persons = []
    for index, (thing, _) in enumerate(kept):
        if thing.person is not None:
            persons.append(_person(thing, instance_ids[index], on_top == index, view))
    order = (1, 2, 3, 4, 0, 5)
    persons.sort(key=lambda person: order.index(PERSONS.index(person.category)))
    return Annotation(
        objects=tuple((thing.label, outline) for thing, outline in kept),
        label_ids=np.array(ids, np.uint8)[on_top],
        train_ids=np.array(train_ids, np.uint8)[on_top],
        instance_ids=np.array(instance_ids, np.uint16)[on_top],
        colour=np.array(colours, np.uint8)[on_top],
        persons=tuple(persons),
    )


def _draw(outlined: list[tuple[Thing, np.ndarray]], size: tuple[int, int]) -> np.ndarray:
    """Index of the object that each pixel shows, drawn by Pillow as in Cityscapes' own tools."""
    canvas = Image.new("I", (size[1], size[0]), 0)
    pen = ImageDraw.Draw(canvas)
    for index, (thing, outline) in enumerate(outlined):
        if label_of(thing.label)[0].id >= 0:
            pen.polygon([tuple(map(int, corner)) for corner in outline], fill=index)
    return np.asarray(canvas)


def _person(thing: Thing, instance_id: int, visible: np.ndarray, view: View) -> Person:
    rows, columns = np.nonzero(visible)
    left, top = int(columns.min()), int(rows.min())
    right, bottom = int(columns.max()) + 1, int(rows.max()) + 1
    seen = (left, top, right - left, bottom - top)
    if thing.head is None or thing.feet is None:
        if thing.person == "ignore":
            return Person("ignore", 0, seen, seen)
        if thing.person == "person group":
            return Person("person group", instance_id, seen, (0, 0, 0, 0))
        return Person(thing.person, instance_id, seen, seen)
    head, feet = view.project(np.stack([thing.head, thing.feet]))
    y = math.floor(head[1])
    height = math.ceil(feet[1]) - y
    width = round(_ASPECT * height)
    # About the line from the head to the feet.
    x = round((head[0] + feet[0] - width) / 2)
    # The public package's visible boxes never leave the full ones.
    left, top = max(left, x), max(top, y)
    right, bottom = min(right, x + width), min(bottom, y + height)
    return Person(
        category=thing.person,
        instance_id=instance_id,
        bbox=(x, y, width, height),
        bbox_vis=(left, top, max(0, right - left), max(0, bottom - top)),
    )
