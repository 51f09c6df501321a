"""Tiny trees of Cityscapes' layout; each frame is of the grey of its number."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

SIZE = (16, 32)
# Name, number of the annotated frame and split.
CLIPS = (
    ("frankfurt_000000_000294", "val"),
    ("frankfurt_000000_000314", "val"),  # the clips overlap
    ("munster_000000_000019", "val"),
    ("aachen_000001_000119", "train"),
)


def parts_of(name):
    """City, what stands before the annotated frame's number, and the number."""
    sequence, _, number = name.rpartition("_")
    return name.partition("_")[0], sequence, int(number)


def frame_file(root, split, name, offset, suffix=".png", folder="leftImg8bit_sequence"):
    """Path of a frame of a clip, by its distance from the annotated one."""
    city, sequence, number = parts_of(name)
    return (
        Path(root) / folder / split / city / f"{sequence}_{number + offset:06d}_leftImg8bit{suffix}"
    )


def grey(name, offset):
    """The grey level of a frame: its number and a little for the city."""
    return (parts_of(name)[2] + offset + 7 * len(name)) % 251


def write_frames(root, clips=CLIPS, suffix=".png", offsets=range(-19, 11)):
    """The sequence package."""
    for name, split in clips:
        for offset in offsets:
            path = frame_file(root, split, name, offset, suffix)
            path.parent.mkdir(parents=True, exist_ok=True)
            frame = np.full((*SIZE, 3), grey(name, offset), np.uint8)
            assert cv2.imwrite(str(path), frame)
    return root


def write_annotated_frames(root, clips=CLIPS):
    """The package of the annotated frames alone."""
    for name, split in clips:
        path = frame_file(root, split, name, 0, folder="leftImg8bit")
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((*SIZE, 3), grey(name, 0), np.uint8))
    return root


def all_ids():
    """A label image that has each of the 34 labels that are drawn, 0 to 33, and one column more."""
    ids = np.zeros(SIZE, np.uint8)
    ids.flat[:] = np.arange(ids.size) % 34
    return ids


def instance_ids():
    """Persons, a rider, cars, groups, a trailer and road; by hand."""
    ids = np.full(SIZE, 7, np.uint16)
    ids[2:6, 3:5] = 24000
    ids[8:9, 1:4] = 24000  # the same person, behind a pole
    ids[2:4, 10:20] = 26003
    ids[10:12, 10:14] = 24  # a group of persons
    ids[14:16, 0:2] = 30001  # a trailer
    ids[0:1, 31:32] = 33002
    ids[12:16, 20:30] = 26  # cars that nobody could tell apart
    return ids


def write_labels(root, clips=CLIPS, train_ids=None):
    """The package of fine labels; with ``train_ids`` also the images that it lacks."""
    for name, split in clips:
        folder = Path(root) / "gtFine" / split / parts_of(name)[0]
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{name}_gtFine_labelIds.png"), all_ids())
        cv2.imwrite(str(folder / f"{name}_gtFine_instanceIds.png"), instance_ids())
        cv2.imwrite(str(folder / f"{name}_gtFine_color.png"), np.zeros((*SIZE, 4), np.uint8))
        (folder / f"{name}_gtFine_polygons.json").write_text("{}")
        if train_ids is not None:
            cv2.imwrite(str(folder / f"{name}_gtFine_labelTrainIds.png"), train_ids)
    return root


# Of CityPersons: class_label of the .mat, its name in the json, box, visible box. A small image's
# rows fit into 8 bit, where left + width would run over.
PERSONS = {
    "frankfurt_000000_000294": [
        (1, "pedestrian", (200, 40, 82, 200), (210, 50, 40, 100)),
        (0, "ignore", (1, 2, 3, 4), (1, 2, 3, 4)),
        (2, "rider", (10, 20, 30, 40), (10, 20, 30, 20)),
    ],
    "frankfurt_000000_000314": [],
    "munster_000000_000019": [
        (5, "person group", (1500, 300, 100, 80), (0, 0, 0, 0)),
        (3, "sitting person", (7, 8, 9, 10), (7, 8, 9, 10)),
        (4, "person (other)", (70, 80, 90, 100), (70, 80, 90, 100)),
        (1, "pedestrian", (-12, 400, 164, 400), (0, 400, 152, 300)),
    ],
    "aachen_000001_000119": [(1, "pedestrian", (3, 4, 41, 100), (3, 4, 41, 100))],
}


def write_person_json(root, clips=CLIPS):
    """CityPersons as Cityscapes' site has it: a file for each frame."""
    for name, split in clips:
        folder = Path(root) / "gtBboxCityPersons" / split / parts_of(name)[0]
        folder.mkdir(parents=True, exist_ok=True)
        objects = [
            {"label": label, "bbox": box, "bboxVis": visible, "instanceId": 24000 + i}
            for i, (_, label, box, visible) in enumerate(PERSONS[name])
        ]
        content = {"imgHeight": 1024, "imgWidth": 2048, "objects": objects}
        (folder / f"{name}_gtBboxCityPersons.json").write_text(json.dumps(content))
    return root


def write_person_mat(path, split, clips=CLIPS):
    """CityPersons as its public package has it: a file for each split."""
    from scipy.io import savemat

    names = [name for name, own in clips if own == split]
    cells = np.empty((1, len(names)), dtype=object)
    for i, name in enumerate(names):
        rows = [[label, *box, 24000, *visible] for label, _, box, visible in PERSONS[name]]
        numbers = np.array(rows).reshape(-1, 10)
        numbers[:, 5] = 24  # as narrow as all else
        narrow = numbers.max(initial=0) < 256 and numbers.min(initial=0) >= 0
        cells[0, i] = {
            "cityname": parts_of(name)[0],
            "im_name": f"{name}_leftImg8bit.png",
            "bbs": numbers.astype(np.uint8 if narrow else np.int16) if rows else np.zeros((0, 0)),
        }
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {f"anno_{split}_aligned": cells})
    return path


def write_person_evaluation(path, split, clips=CLIPS):
    """CityPersons as its public evaluation has it."""
    names = [name for name, own in clips if own == split]
    annotations = []
    for image, name in enumerate(names, start=1):
        for label, _, box, visible in PERSONS[name]:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": 1,
                    "iscrowd": 0,
                    "ignore": int(label != 1),
                    "bbox": box,
                    "vis_bbox": visible,
                    "height": box[3],
                    "vis_ratio": visible[2] * visible[3] / (box[2] * box[3]),
                }
            )
    images = [
        {"id": i, "im_name": f"{name}_leftImg8bit.png", "height": 1024, "width": 2048}
        for i, name in enumerate(names, start=1)
    ]
    Path(path).write_text(
        json.dumps(
            {
                "categories": [{"id": 1, "name": "pedestrian"}],
                "images": images,
                "annotations": annotations,
            }
        )
    )
    return path
