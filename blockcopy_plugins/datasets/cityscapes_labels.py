"""Cityscapes' table of labels, and the content of its instance images."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from blockcopy_plugins.errors import ConfigError

IGNORED = 255
# In instance images: 1000 * label + number.
_PER_LABEL = 1000


class CityscapesLabel(NamedTuple):
    """A row of the table.

    Attributes:
        name: As in ``polygons.json``.
        id: In ``labelIds`` images. Negative: not drawn there.
        train_id: In ``labelTrainIds`` images; `IGNORED` if it is not evaluated.
        has_instances: Whether ``instanceIds`` images distinguish its objects.
        colour: In ``color`` images: red, green, blue.
    """

    name: str
    id: int
    train_id: int
    has_instances: bool
    colour: tuple[int, int, int]


# As in the labels.py of the official cityscapesScripts.
LABELS = (
    CityscapesLabel("unlabeled", 0, IGNORED, False, (0, 0, 0)),
    CityscapesLabel("ego vehicle", 1, IGNORED, False, (0, 0, 0)),
    CityscapesLabel("rectification border", 2, IGNORED, False, (0, 0, 0)),
    CityscapesLabel("out of roi", 3, IGNORED, False, (0, 0, 0)),
    CityscapesLabel("static", 4, IGNORED, False, (0, 0, 0)),
    CityscapesLabel("dynamic", 5, IGNORED, False, (111, 74, 0)),
    CityscapesLabel("ground", 6, IGNORED, False, (81, 0, 81)),
    CityscapesLabel("road", 7, 0, False, (128, 64, 128)),
    CityscapesLabel("sidewalk", 8, 1, False, (244, 35, 232)),
    CityscapesLabel("parking", 9, IGNORED, False, (250, 170, 160)),
    CityscapesLabel("rail track", 10, IGNORED, False, (230, 150, 140)),
    CityscapesLabel("building", 11, 2, False, (70, 70, 70)),
    CityscapesLabel("wall", 12, 3, False, (102, 102, 156)),
    CityscapesLabel("fence", 13, 4, False, (190, 153, 153)),
    CityscapesLabel("guard rail", 14, IGNORED, False, (180, 165, 180)),
    CityscapesLabel("bridge", 15, IGNORED, False, (150, 100, 100)),
    CityscapesLabel("tunnel", 16, IGNORED, False, (150, 120, 90)),
    CityscapesLabel("pole", 17, 5, False, (153, 153, 153)),
    CityscapesLabel("polegroup", 18, IGNORED, False, (153, 153, 153)),
    CityscapesLabel("traffic light", 19, 6, False, (250, 170, 30)),
    CityscapesLabel("traffic sign", 20, 7, False, (220, 220, 0)),
    CityscapesLabel("vegetation", 21, 8, False, (107, 142, 35)),
    CityscapesLabel("terrain", 22, 9, False, (152, 251, 152)),
    CityscapesLabel("sky", 23, 10, False, (70, 130, 180)),
    CityscapesLabel("person", 24, 11, True, (220, 20, 60)),
    CityscapesLabel("rider", 25, 12, True, (255, 0, 0)),
    CityscapesLabel("car", 26, 13, True, (0, 0, 142)),
    CityscapesLabel("truck", 27, 14, True, (0, 0, 70)),
    CityscapesLabel("bus", 28, 15, True, (0, 60, 100)),
    CityscapesLabel("caravan", 29, IGNORED, True, (0, 0, 90)),
    CityscapesLabel("trailer", 30, IGNORED, True, (0, 0, 110)),
    CityscapesLabel("train", 31, 16, True, (0, 80, 100)),
    CityscapesLabel("motorcycle", 32, 17, True, (0, 0, 230)),
    CityscapesLabel("bicycle", 33, 18, True, (119, 11, 32)),
    CityscapesLabel("license plate", -1, -1, False, (0, 0, 142)),
)

# The 19 classes of segmentation, and the 8 of them whose objects are distinguished, by train id.
STUFF_AND_THINGS = tuple(
    sorted((row for row in LABELS if 0 <= row.train_id < IGNORED), key=lambda row: row.train_id)
)
THINGS = tuple(row for row in STUFF_AND_THINGS if row.has_instances)


def train_ids_of_ids() -> dict[int, int]:
    """New label of each label of a ``labelIds`` image, for a ``labelTrainIds`` image."""
    return {row.id: row.train_id for row in LABELS if row.id >= 0}


def read_instance_ids(path: str) -> list[dict[str, Any]]:
    """Objects of an ``instanceIds`` image.

    A label without a number is a group of objects that could not be separated, which need not be
    found. Caravans and trailers are not evaluated and left out, as by the official evaluation.

    Args:
        path: The image, 16 bit.

    Returns:
        For each object, by its id: ``bbox`` (x1, y1, x2, y2; px), ``bbox_label`` (index in
        `THINGS`), ``mask`` (run-length code), ``area`` (px), ``ignore_flag``, ``iscrowd`` and
        ``instance_id`` (1000 * label + number; for a group, the label).

    Raises:
        ConfigError: If the image cannot be read.
    """
    import cv2
    from pycocotools import mask as coco_mask

    ids = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    if ids is None or ids.ndim != 2:
        raise ConfigError(f"{path!r} is not a readable image of one channel; copy it again")
    labels = {row.id: index for index, row in enumerate(THINGS)}
    found = []
    for value in np.unique(ids):
        number = int(value)
        label = labels.get(number // _PER_LABEL if number >= _PER_LABEL else number)
        if label is None:
            continue
        mask = ids == value
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        group = int(number < _PER_LABEL)
        code = coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))
        found.append(
            {
                "bbox": [
                    int(columns[0]),
                    int(rows[0]),
                    int(columns[-1]) + 1,
                    int(rows[-1]) + 1,
                ],
                "bbox_label": label,
                # As text, which is what MMDetection's LoadAnnotations takes.
                "mask": {"size": list(code["size"]), "counts": code["counts"].decode("ascii")},
                "area": int(mask.sum()),
                "ignore_flag": group,
                "iscrowd": group,
                "instance_id": number,
            }
        )
    return found
