"""Reader of COCO json. Values are checked, and what is not used is counted."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from blockcopy_plugins.datasets.ground_truth.annotation_notes import AnnotationNotes
from blockcopy_plugins.datasets.ground_truth.annotation_values import (
    Entry,
    entries_of,
    finite,
    read_text,
)
from blockcopy_plugins.datasets.ground_truth.class_names import ClassNames
from blockcopy_plugins.datasets.ground_truth.frame_finder import FrameFinder, Place
from blockcopy_plugins.datasets.ground_truth.frame_size import frame_scale
from blockcopy_plugins.datasets.ground_truth.segmentations import (
    box_of_segmentation,
    read_segmentation,
)
from blockcopy_plugins.datasets.ground_truth.video_annotations import (
    VideoAnnotations,
    VideoReference,
)
from blockcopy_plugins.errors import ConfigError

_LISTS = ("images", "annotations", "categories")


def read_coco(
    path: str | os.PathLike[str],
    videos: Sequence[VideoReference],
    classes: Sequence[str] | None = None,
    notes: AnnotationNotes | None = None,
    first_frame_number: int | None = None,
) -> list[VideoAnnotations | None]:
    """Read a COCO json file of video frames.

    An image belongs to a frame by its ``file_name``, for folders of frames, or by its ``video_id``
    and ``frame_id``, with the file's ``videos`` found by name (the name or path of a video here,
    with or without suffix; with one video on both sides, without looking). Only the frames that the
    file lists are annotated. See `FrameFinder` and `first_number`.

    Ids may be numbers or texts; 7 and '7' are the same. If ``width`` and ``height`` of the images
    say that the file was made at another size with the same aspect ratio, boxes and masks are
    scaled to the frames. Annotations that cannot be used (of a category that is not among the
    classes, without a box, outside the frame) are left out and counted; wrong values are errors.

    Args:
        path: The file.
        videos: The videos to annotate.
        classes: Names of the classes by label. None takes the file's categories in their order.
        notes: Collects what is left out and what is inferred; None logs it.
        first_frame_number: What ``frame_id`` calls the first frame, 0 or 1. None takes 0 unless it
            must be 1, and raises if it may be either.

    Returns:
        The ground truth of each video, or None if the file lists none of its frames.

    Raises:
        ConfigError: The file is not a COCO json or holds a wrong value; the message names the
            entry, the field and the value. None of its categories is among the classes, an image
            cannot be matched to a frame, or a frame is listed twice.
    """
    path = os.fspath(path)
    own_notes = AnnotationNotes() if notes is None else notes
    content = _load(path)
    names, labels = _labels(path, entries_of(path, content, "categories"), classes, own_notes)
    images = entries_of(path, content, "images")
    finder = FrameFinder(
        path, entries_of(path, content, "videos"), videos, own_notes, first_frame_number
    )
    ids = _unique_ids(images)
    places = finder.places(images)
    if not any(place is not None for place in places):
        raise ConfigError(
            f"{path!r} lists {len(images)} images, but none is a frame of "
            f"{[v.path for v in videos]}; the images' file_name must end like the frames' paths, "
            "or give them video_id and frame_id, and the file a list 'videos' with each id and name"
        )
    scales = _scales(path, images, places, videos, own_notes)
    image_of_place: dict[Place, Entry] = {}
    for image, place in zip(images, places, strict=True):
        if place is None:
            continue
        if place in image_of_place:
            raise ConfigError(
                f"{path!r} lists frame {place[1]} of {videos[place[0]].path!r} twice, as the "
                f"images {image_of_place[place].values['id']!r} and {image.values['id']!r}; remove "
                "one"
            )
        image_of_place[place] = image
    reader = _InstanceReader(path, labels, own_notes)
    instances: dict[Place, list[dict[str, Any]]] = {place: [] for place in image_of_place}
    annotations = entries_of(path, content, "annotations")
    _remark_ids(path, annotations, own_notes)
    dangling = 0
    for annotation in annotations:
        image_id = annotation.identity("image_id")
        if image_id not in ids:
            dangling += 1
            own_notes.leave_out("no image in the file has their image_id", annotation.place)
            continue
        index = ids[image_id]
        place = places[index]
        if place is None:
            own_notes.elsewhere += 1
            continue
        video = videos[place[0]]
        instance = reader.read(annotation, images[index], video.size, scales[index])
        if instance is not None:
            instances[place].append(instance)
            own_notes.kept += 1
    if annotations and dangling == len(annotations):
        raise ConfigError(
            f"none of the {dangling} annotations of {path!r} belongs to an image in it (the first "
            f"has image_id {annotations[0].values['image_id']!r}, the first image id "
            f"{images[0].values['id']!r}); make image_id and id agree"
        )
    has_masks = _all_have_masks(path, instances, own_notes)
    if notes is None:
        own_notes.warn()
    return [
        _of_video(index, names, instances, image_of_place, has_masks)
        for index in range(len(videos))
    ]


def _all_have_masks(
    path: str, instances: Mapping[Place, list[dict[str, Any]]], notes: AnnotationNotes
) -> bool:
    """Whether masks can be compared; detections of objects without one would count as wrong."""
    found = [one for frame in instances.values() for one in frame]
    masked = sum("mask" in one for one in found)
    if 0 < masked < len(found):
        notes.remark(
            f"{len(found) - masked} of the {len(found)} annotations used from {path!r} have no "
            "segmentation, so boxes are compared and masks are not"
        )
    return 0 < masked == len(found)


def _of_video(
    index: int,
    names: tuple[str, ...],
    instances: Mapping[Place, list[dict[str, Any]]],
    image_of_place: Mapping[Place, Entry],
    has_masks: bool,
) -> VideoAnnotations | None:
    frames = {frame: found for (video, frame), found in instances.items() if video == index}
    if not frames:
        return None
    return VideoAnnotations(
        frames=frames,
        complete=False,
        image_ids={
            frame: image.values["id"]
            for (video, frame), image in image_of_place.items()
            if video == index
        },
        classes=names,
        has_masks=has_masks,
    )


def _load(path: str) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path), object_pairs_hook=_object)
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path!r} is not valid json: {error}; it is cut off, or was changed by hand. Export "
            "or copy it again"
        ) from error
    missing = [name for name in _LISTS if not isinstance(content, dict) or name not in content]
    if missing:
        raise ConfigError(
            f"{path!r} is not a COCO file: it lacks {', '.join(missing)}; give a COCO json with "
            "images, annotations and categories"
        )
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a key that occurs twice would lose one of its values."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has the key {twice!r} twice")
    return found


def _remark_ids(path: str, annotations: Sequence[Entry], notes: AnnotationNotes) -> None:
    """Annotation ids are not used, but duplicates may be the sign of a faulty export."""
    own = [str(entry.values["id"]) for entry in annotations if entry.has("id")]
    repeated = len(own) - len(set(own))
    if repeated:
        notes.remark(
            f"{repeated} annotations of {path!r} have the id of another one; all are used: if the "
            "file lists annotations twice, remove the copies"
        )


def _unique_ids(entries: Sequence[Entry]) -> dict[str, int]:
    """Index of each entry by its id."""
    ids: dict[str, int] = {}
    for index, entry in enumerate(entries):
        own = entry.identity("id")
        if own in ids:
            raise ConfigError(
                f"id of {entry.kind}[{index}] of {entry.file!r} is {entry.values['id']!r}, as of "
                f"{entry.kind}[{ids[own]}]; expected an id that no other entry of {entry.kind} has"
            )
        ids[own] = index
    return ids


def _labels(
    path: str,
    categories: Sequence[Entry],
    classes: Sequence[str] | None,
    notes: AnnotationNotes,
) -> tuple[tuple[str, ...], dict[str, tuple[str, int | None]]]:
    """Names of the classes, and the name and label of each category id."""
    _unique_ids(categories)
    for category in categories:
        if not isinstance(category.values.get("name"), str) or not category.values["name"].strip():
            raise category.error("name", "the name of the class")
    found = [category.values["name"] for category in categories]
    known = ClassNames(tuple(dict.fromkeys(found)) if classes is None else classes)
    labels: dict[str, tuple[str, int | None]] = {}
    for category, name in zip(categories, found, strict=True):
        label, differs = known.find(name)
        labels[category.identity("id")] = (name, label)
        if differs:
            notes.remark(f"the category {name!r} of {path!r} is taken as {known.names[label]!r}")
    if not any(label is not None for _, label in labels.values()):
        raise ConfigError(
            f"none of the categories of {path!r} ({found}) is among the classes {known.names}; "
            "make the names agree"
        )
    return known.names, labels


def _scales(
    path: str,
    images: Sequence[Entry],
    places: Sequence[Place | None],
    videos: Sequence[VideoReference],
    notes: AnnotationNotes,
) -> list[tuple[float, float]]:
    """Pixels of the frame per pixel of the file, for each image, rows and columns."""
    scales = []
    for image, place in zip(images, places, strict=True):
        scale = (1.0, 1.0)
        if place is not None:
            video = videos[place[0]]
            scale = frame_scale(image.size(), video.size, image.place, video.path)
            if scale != (1.0, 1.0):
                stated = image.size()
                notes.remark(
                    f"{path!r} was made for frames of {stated[1]}x{stated[0]} px (width x height); "
                    f"its boxes are scaled to the {video.size[1]}x{video.size[0]} px of "
                    f"{video.path!r}"
                )
        scales.append(scale)
    return scales


class _InstanceReader:
    """Makes annotations instances in the form of MMDetection."""

    def __init__(
        self, path: str, labels: Mapping[str, tuple[str, int | None]], notes: AnnotationNotes
    ) -> None:
        self.path, self.labels, self.notes = path, labels, notes

    def read(
        self,
        annotation: Entry,
        image: Entry,
        frame: tuple[int, int] | None,
        scale: tuple[float, float],
    ) -> dict[str, Any] | None:
        """One instance, or None if it is left out."""
        category = annotation.identity("category_id")
        if category not in self.labels:
            raise annotation.error("category_id", "the id of one of the file's categories")
        name, label = self.labels[category]
        crowd, ignore = annotation.flag("iscrowd"), annotation.flag("ignore")
        stated = image.size()
        segmentation, cut = read_segmentation(annotation, stated or frame, scale)
        box = self._box(annotation, scale)
        area = None
        if annotation.has("area"):
            area = annotation.number("area")
            if area < 0:
                raise annotation.error("area", "a number of pixels, not below 0")
        # All values are valid; now check whether they can be used.
        if label is None:
            return self._left_out(f"the category {name!r} is not among the classes", annotation)
        if box is None:
            box = box_of_segmentation(segmentation)
        if box is None:
            return self._left_out("they have no box", annotation)
        x, y, width, height = box
        if not width or not height:
            return self._left_out("their boxes are empty", annotation)
        if frame is not None and (
            x >= frame[1] or y >= frame[0] or x + width <= 0 or y + height <= 0
        ):
            return self._left_out("their boxes lie outside of the frame", annotation)
        if cut:
            self.notes.remark(
                f"parts of fewer than three points are left out of segmentations of {self.path!r}",
                annotation.place,
            )
        instance = {
            "bbox": [x, y, x + width, y + height],
            "bbox_label": label,
            "ignore_flag": int(crowd or ignore),
            "iscrowd": int(crowd),
        }
        if area is not None:
            instance["area"] = area * scale[0] * scale[1]
        if segmentation is not None or cut:
            instance["mask"] = segmentation or []
        for key in ("instance_id", "track_id"):
            if annotation.has(key):
                instance["instance_id"] = annotation.values[key]
        return instance

    def _box(self, annotation: Entry, scale: tuple[float, float]) -> list[float] | None:
        box = annotation.values.get("bbox")
        if box is None or box == []:
            return None
        expected = "four finite numbers: x, y, width, height, px"
        if not isinstance(box, list) or len(box) != 4:
            raise annotation.error("bbox", expected)
        values = [finite(v, lambda: annotation.error("bbox", expected)) for v in box]
        if values[2] < 0 or values[3] < 0:
            raise annotation.error("bbox", "x, y, width, height with sizes that are not negative")
        rows, columns = scale
        return [values[0] * columns, values[1] * rows, values[2] * columns, values[3] * rows]

    def _left_out(self, reason: str, annotation: Entry) -> None:
        self.notes.leave_out(reason, annotation.place)
