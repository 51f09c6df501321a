"""Readers of CityPersons' ground truth: three forms, the same instances."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from blockcopy_plugins.datasets.cityscapes_clips import (
    PACKAGES,
    SITE,
    annotated_names,
    city_of,
    require_split,
)
from blockcopy_plugins.errors import ConfigError

FOLDER = "gtBboxCityPersons"
_END = "_gtBboxCityPersons.json"
_IMAGE_END = "_leftImg8bit.png"
# In the public package: class_label of a person who stands or walks. The others (riders, sitting
# persons, unusual postures, groups, and regions without persons) need not be found.
_PEDESTRIAN = 1
_COLUMNS = 10
_PUBLIC = "https://github.com/cvgroup-njust/CityPersons"
_GET = f"{PACKAGES[FOLDER]} of {SITE}, or anno_train.mat and anno_val.mat of {_PUBLIC}"

Instances = dict[str, list[dict[str, Any]]]


def find_annotations(root: str, split: str, ann_file: str | None) -> str:
    """The path of the ground truth.

    Args:
        root: Data root.
        split: ``'train'`` or ``'val'``.
        ann_file: A file, also relative to ``root``, or None for the one in ``root``: the folder
            ``gtBboxCityPersons``, else ``annotations/anno_SPLIT.mat``.

    Returns:
        Path of the folder ``gtBboxCityPersons/SPLIT``, or of a file.

    Raises:
        ConfigError: If there is none; the message says where it was looked for.
    """
    if ann_file:
        for path in (os.path.join(root, ann_file), ann_file):
            if os.path.isfile(path):
                return path
        raise ConfigError(
            f"there is no annotation file {ann_file!r}, neither in {root!r} nor in the working "
            f"directory {os.getcwd()!r}; get {_GET}"
        )
    folder = os.path.join(root, FOLDER, split)
    file = os.path.join(root, "annotations", f"anno_{split}.mat")
    if os.path.isfile(file) and not os.path.isdir(folder):
        return file
    try:
        return require_split(root, FOLDER, split)
    except ConfigError as error:
        raise ConfigError(f"{error}; or put anno_{split}.mat of {_PUBLIC} at {file!r}") from error


def annotated_persons(path: str, split: str, cities: Sequence[str] | None) -> Instances:
    """Read ground truth.

    Args:
        path: The result of `find_annotations`.
        split: Name of the split.
        cities: Only these; None takes all.

    Returns:
        For each annotated frame, by name (``frankfurt_000000_000294``) and ordered by it, its
        persons, see `person`.

    Raises:
        ConfigError: If a file cannot be read, or has another form.
    """
    if os.path.isdir(path):
        found = _read_folder(path, split, cities)
    elif path.lower().endswith(".mat"):
        found = _read_mat(path)
    else:
        found = _read_evaluation(path)
    if cities is not None:
        there = sorted({city_of(name) for name in found})
        unknown = sorted(set(cities) - set(there))
        if unknown:
            raise ConfigError(
                f"{path!r} has no city {', '.join(unknown)}; it has {', '.join(there)}"
            )
    return {
        name: found[name] for name in sorted(found) if cities is None or city_of(name) in cities
    }


def person(box: Sequence[float], visible: Sequence[float], ignored: bool) -> dict[str, Any]:
    """An instance in MMDetection's form.

    Args:
        box: Left, top, width, height of the whole body, px; may leave the image.
        visible: The same for its visible part.
        ignored: Whether it need not be found.

    Returns:
        ``bbox`` and ``bbox_vis`` (x1, y1, x2, y2; px), ``bbox_label`` 0, ``ignore_flag``,
        ``height`` (of the body, px) and ``vis_ratio`` (visible part, from 0 to 1).
    """
    # As floats: the dtypes in the .mat files are so narrow that x + width would overflow.
    x, y, width, height = (float(v) for v in box)
    left, top, seen_width, seen_height = (float(v) for v in visible)
    area = width * height
    return {
        "bbox": [x, y, x + width, y + height],
        "bbox_vis": [left, top, left + seen_width, top + seen_height],
        "bbox_label": 0,
        "ignore_flag": int(ignored),
        "height": height,
        "vis_ratio": seen_width * seen_height / area if area > 0 else 0.0,
    }


def _read_folder(path: str, split: str, cities: Sequence[str] | None) -> Instances:
    """Cityscapes' own download: a json file for each frame."""
    root = os.path.dirname(os.path.dirname(path))
    found = {}
    for name in annotated_names(root, split, FOLDER, (_END,), cities):
        file = os.path.join(path, city_of(name), name + _END)
        content = _load_json(file)
        try:
            found[name] = [
                person(entry["bbox"], entry["bboxVis"], entry["label"] != "pedestrian")
                for entry in content["objects"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{file!r} is not a CityPersons annotation ({type(error).__name__}: {error}): each "
                "of its objects needs bbox, bboxVis and label"
            ) from error
    return found


def _read_mat(path: str) -> Instances:
    """The public package: one file for a split."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(path, simplify_cells=True)
    except (MatReadError, ValueError, OSError, NotImplementedError) as error:
        raise ConfigError(f"{path!r} is not a readable .mat file: {error}; get {_GET}") from error
    frames = [value for key, value in content.items() if key.startswith("anno_")]
    if len(frames) != 1:
        raise ConfigError(
            f"{path!r} holds {sorted(k for k in content if not k.startswith('__'))}, but expected "
            f"anno_train_aligned or anno_val_aligned; get {_GET}"
        )
    frames = frames[0]
    found = {}
    for frame in [frames] if isinstance(frames, Mapping) else frames:
        rows = frame["bbs"].reshape(-1, _COLUMNS) if frame["bbs"].size else []
        found[str(frame["im_name"]).removesuffix(_IMAGE_END)] = [
            person(row[1:5], row[6:10], row[0] != _PEDESTRIAN) for row in rows
        ]
    return found


def _read_evaluation(path: str) -> Instances:
    """The public evaluation's ``val_gt.json``."""
    content = _load_json(path)
    missing = [key for key in ("images", "annotations") if key not in content]
    if missing or (content["images"] and "im_name" not in content["images"][0]):
        raise ConfigError(
            f"{path!r} is not the ground truth of CityPersons' evaluation: its images have no "
            f"im_name; give val_gt.json, or get {_GET}"
        )
    names = {image["id"]: image["im_name"].removesuffix(_IMAGE_END) for image in content["images"]}
    found: Instances = {name: [] for name in names.values()}
    for entry in content["annotations"]:
        found[names[entry["image_id"]]].append(
            person(entry["bbox"], entry["vis_bbox"], bool(entry["ignore"]))
        )
    return found


def _load_json(path: str) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path!r} is not valid json: {error}; copy it again") from error
