"""Readers of ground truth of videos: COCO json, and MOTChallenge's ``gt.txt``."""

from __future__ import annotations

import csv
import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.evaluation.frame_objects import FrameObjects


@dataclass(frozen=True)
class VideoReference:
    """A video, as far as annotations have to find it.

    Attributes:
        path: Path of the video file or of the folder of frames.
        name: The name it goes by.
        frame_names: File names of its frames, for a folder; None for a video file.
        length: Number of frames, where it is known.
        folder: Folder of the frames, where ``path`` is not that folder.
    """

    path: str
    name: str
    frame_names: tuple[str, ...] | None = None
    length: int | None = None
    folder: str | None = None

    def frame_path(self, frame: int) -> str:
        """Path of a frame's image; of a video file ``PATH#NUMBER``.

        Args:
            frame: Frame number, from 0.
        """
        if self.frame_names is None:
            return f"{self.path}#{frame:06d}"
        return os.path.join(self.folder or self.path, self.frame_names[frame])


@dataclass(frozen=True)
class VideoAnnotations:
    """Ground truth of one video.

    Attributes:
        frames: Instances by frame number (from 0, in the order of decoding), in the form of
            MMDetection: dicts with ``bbox`` (x1, y1, x2, y2; px of the original frame, the upper
            left corner of the upper left pixel is (0, 0)), ``bbox_label``, ``ignore_flag``,
            ``iscrowd``, and perhaps ``area``, ``mask`` (polygons or run-length code) and
            ``instance_id`` (the track).
        complete: Whether a frame that is not in ``frames`` is annotated as empty (else it is not
            annotated).
        image_ids: The file's own image ids by frame number; empty if it has none.
        classes: Names of the classes by label; empty if the file does not say.
        has_masks: Whether instances have masks.
    """

    frames: Mapping[int, list[dict[str, Any]]]
    complete: bool
    image_ids: Mapping[int, int] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    has_masks: bool = False

    def instances(self, frame: int) -> list[dict[str, Any]] | None:
        """Instances of a frame, or None if it is not annotated.

        Args:
            frame: Frame number, from 0.
        """
        if frame in self.frames:
            return self.frames[frame]
        return [] if self.complete else None

    def objects(self, frame: int, size: tuple[int, int]) -> FrameObjects | None:
        """Ground truth of a frame for `detection_ap`, or None if it is not annotated.

        Args:
            frame: Frame number, from 0.
            size: Height and width of the frame, px.
        """
        instances = self.instances(frame)
        return None if instances is None else FrameObjects.from_instances(instances, size)


def read_annotations(
    path: str | os.PathLike[str],
    videos: Sequence[VideoReference],
    classes: Sequence[str] | None = None,
    mot_class: str = "person",
) -> list[VideoAnnotations | None]:
    """Read an annotation file: COCO if its name ends in ``.json``, else MOTChallenge.

    Args:
        path: The file.
        videos: The videos that it annotates; exactly one for MOTChallenge.
        classes: The names of the classes by label. None takes the file's.
        mot_class: Class of the boxes of a MOTChallenge file, which states none.

    Returns:
        Of each video its ground truth, or None if the file has none.

    Raises:
        ConfigError: There is no such file, it cannot be read, does not fit the videos, or lacks
            the classes.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise ConfigError(f"there is no annotation file {path!r}; correct ann_file")
    if path.lower().endswith(".json"):
        return list(read_coco(path, videos, classes))
    if len(videos) != 1:
        raise ConfigError(
            f"the MOTChallenge file {path!r} annotates one video, but {len(videos)} were given; "
            "give ann_file as a list with one file (or None) for each video"
        )
    names = tuple(classes) if classes is not None else (mot_class,)
    if mot_class not in names:
        raise ConfigError(
            f"the boxes of {path!r} are of class {mot_class!r}, which is not among the classes "
            f"{names}; set mot_class to the class that they belong to"
        )
    annotations = read_mot(path, label=names.index(mot_class), classes=names)
    last = max(annotations.frames, default=-1)
    if videos[0].length is not None and last >= videos[0].length:
        raise ConfigError(
            f"{path!r} annotates frame {last + 1}, but {videos[0].path!r} has only "
            f"{videos[0].length} frames; the file belongs to another video or to another excerpt"
        )
    return [annotations]


def read_mot(
    path: str | os.PathLike[str], label: int = 0, classes: Sequence[str] = ()
) -> VideoAnnotations:
    """Read a MOTChallenge ``gt.txt``.

    A line is ``frame,id,left,top,width,height,conf,...``; what follows (world coordinates, or
    class and visibility) is not used. Frame ``n`` is the ``n``-th decoded frame, from 1. The format
    counts pixels from 1 as well, so 1 is subtracted from ``left`` and ``top``. ``conf`` 0 means: to
    be ignored (in MOT16 and later that is also how distractors are marked). Frames without a line
    are annotated as empty.

    Args:
        path: The file.
        label: Label of all boxes.
        classes: Names of the classes by label.

    Returns:
        The ground truth.

    Raises:
        ConfigError: A line that is not of this form.
    """
    frames: dict[int, list[dict[str, Any]]] = defaultdict(list)
    with open(path, encoding="utf-8-sig", newline="") as file:
        for number, row in enumerate(csv.reader(file), start=1):
            if not row or not "".join(row).strip():
                continue
            try:
                frame, track = int(float(row[0])), int(float(row[1]))
                left, top, width, height, confidence = (float(v) for v in row[2:7])
            except (ValueError, IndexError) as error:
                raise ConfigError(
                    f"line {number} of {os.fspath(path)!r} is {','.join(row)!r}, but MOTChallenge "
                    "ground truth has at least frame,id,left,top,width,height,conf as numbers"
                ) from error
            if frame < 1 or width < 0 or height < 0:
                raise ConfigError(
                    f"line {number} of {os.fspath(path)!r} has frame {frame} and a box of "
                    f"{width} x {height} px; frames count from 1 and sizes are not negative"
                )
            frames[frame - 1].append(
                {
                    "bbox": [left - 1, top - 1, left - 1 + width, top - 1 + height],
                    "bbox_label": label,
                    "ignore_flag": int(confidence == 0),
                    "iscrowd": 0,
                    "instance_id": track,
                }
            )
    return VideoAnnotations(frames=dict(frames), complete=True, classes=tuple(classes))


def read_coco(
    path: str | os.PathLike[str],
    videos: Sequence[VideoReference],
    classes: Sequence[str] | None = None,
) -> list[VideoAnnotations | None]:
    """Read a COCO json file of video frames.

    An image belongs to a frame either by its ``video_id`` and ``frame_id`` (from 0), with the
    file's ``videos`` found by name (the name or path of a video here, with or without suffix; with
    one video on both sides, without looking), or by its ``file_name``, for folders of frames. Only
    the frames that the file lists are annotated.

    Args:
        path: The file.
        videos: The videos to annotate.
        classes: Names of the classes by label; categories of other names are left out. None takes
            the file's categories in their order.

    Returns:
        Of each video its ground truth, or None if the file lists none of its frames.

    Raises:
        ConfigError: The file is no COCO json, none of its categories is among the classes, an
            image cannot be told to a frame, or a frame is listed twice.
    """
    path = os.fspath(path)
    content = _load_coco(path)
    names = (
        tuple(classes) if classes is not None else tuple(c["name"] for c in content["categories"])
    )
    labels = {c["id"]: names.index(c["name"]) for c in content["categories"] if c["name"] in names}
    if not labels:
        raise ConfigError(
            f"none of the categories of {path!r} ({[c['name'] for c in content['categories']]}) is "
            f"among the classes {names}; make the names agree"
        )
    find = _FrameFinder(path, content, videos)
    place_of_image: dict[int, tuple[int, int]] = {}
    image_of_place: dict[tuple[int, int], int] = {}
    for image in content["images"]:
        place = find(image)
        if place is None:
            continue
        if place in image_of_place:
            raise ConfigError(
                f"{path!r} lists frame {place[1]} of {videos[place[0]].path!r} twice, as the "
                f"images {image_of_place[place]} and {image['id']}; remove one"
            )
        image_of_place[place] = image["id"]
        place_of_image[image["id"]] = place
    instances: dict[tuple[int, int], list[dict[str, Any]]] = {p: [] for p in image_of_place}
    with_masks: set[int] = set()
    for annotation in content["annotations"]:
        place = place_of_image.get(annotation["image_id"])
        if place is None or annotation["category_id"] not in labels:
            continue
        instances[place].append(_coco_instance(annotation, labels))
        if annotation.get("segmentation"):
            with_masks.add(place[0])
    result: list[VideoAnnotations | None] = []
    for index in range(len(videos)):
        frames = {f: found for (v, f), found in instances.items() if v == index}
        if index in with_masks:
            for instance in (i for found in frames.values() for i in found):
                instance.setdefault("mask", [])
        result.append(
            VideoAnnotations(
                frames=frames,
                complete=False,
                image_ids={f: i for (v, f), i in image_of_place.items() if v == index},
                classes=names,
                has_masks=index in with_masks,
            )
            if frames
            else None
        )
    if not image_of_place:
        raise ConfigError(
            f"{path!r} lists {len(content['images'])} images, but none is a frame of "
            f"{[v.path for v in videos]}; the images' file_name must end like the frames' paths, "
            "or give them video_id and frame_id"
        )
    return result


def _load_coco(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path!r} is no valid json: {error}") from error
    missing = (
        [k for k in ("images", "annotations", "categories") if k not in content]
        if isinstance(content, dict)
        else ["images", "annotations", "categories"]
    )
    if missing:
        raise ConfigError(
            f"{path!r} is no COCO file: it lacks {', '.join(missing)}; give a COCO json with "
            "images, annotations and categories"
        )
    return content


def _coco_instance(annotation: Mapping[str, Any], labels: Mapping[int, int]) -> dict[str, Any]:
    x, y, width, height = annotation["bbox"]
    crowd = int(bool(annotation.get("iscrowd", 0)))
    instance = {
        "bbox": [x, y, x + width, y + height],
        "bbox_label": labels[annotation["category_id"]],
        "ignore_flag": int(bool(crowd or annotation.get("ignore", 0))),
        "iscrowd": crowd,
    }
    if "area" in annotation:
        instance["area"] = annotation["area"]
    if annotation.get("segmentation"):
        instance["mask"] = annotation["segmentation"]
    for key in ("instance_id", "track_id"):
        if key in annotation:
            instance["instance_id"] = annotation[key]
    return instance


class _FrameFinder:
    """Finds the video and the frame number of a COCO file's image."""

    def __init__(
        self, path: str, content: Mapping[str, Any], videos: Sequence[VideoReference]
    ) -> None:
        self.path = path
        self.videos = videos
        self.video_of_id = self._match_videos(content.get("videos", []))
        # Of each frame of a folder its path's parts, by the last part.
        self.by_name: dict[str, list[tuple[tuple[str, ...], tuple[int, int]]]] = defaultdict(list)
        for index, video in enumerate(videos):
            for frame in range(len(video.frame_names or ())):
                parts = _parts(os.path.abspath(video.frame_path(frame)))
                self.by_name[parts[-1]].append((parts, (index, frame)))

    def _match_videos(self, listed: Sequence[Mapping[str, Any]]) -> dict[int, int]:
        if len(listed) == 1 and len(self.videos) == 1:
            return {listed[0]["id"]: 0}
        matches: dict[int, int] = {}
        for entry in listed:
            wanted = _parts(os.path.splitext(str(entry.get("name", entry.get("file_name"))))[0])
            found = []
            for index, video in enumerate(self.videos):
                forms = {
                    _parts(video.name),
                    _parts(os.path.splitext(os.path.abspath(video.path))[0]),
                }
                if any(form[-len(wanted) :] == wanted for form in forms):
                    found.append(index)
            if len(found) > 1:
                raise ConfigError(
                    f"the video {entry.get('name')!r} of {self.path!r} could be any of "
                    f"{[self.videos[i].path for i in found]}; use longer names in the file"
                )
            if found:
                matches[entry["id"]] = found[0]
        return matches

    def __call__(self, image: Mapping[str, Any]) -> tuple[int, int] | None:
        if "video_id" in image and "frame_id" in image:
            index = self.video_of_id.get(image["video_id"])
            if index is None:
                return None
            video, frame = self.videos[index], int(image["frame_id"])
            if frame < 0 or (video.length is not None and frame >= video.length):
                raise ConfigError(
                    f"image {image.get('id')} of {self.path!r} is frame {frame} of "
                    f"{video.path!r}, which has {video.length} frames; frame_id counts from 0"
                )
            return index, frame
        wanted = _parts(str(image.get("file_name", "")))
        found = [
            place
            for parts, place in self.by_name.get(wanted[-1] if wanted else "", [])
            if parts[-len(wanted) :] == wanted or wanted[-len(parts) :] == parts
        ]
        if len(found) > 1:
            raise ConfigError(
                f"the image {image.get('file_name')!r} of {self.path!r} could be a frame of any of "
                f"{sorted({self.videos[v].path for v, _ in found})}; put the folder's name in "
                "front of file_name, or give ann_file as a list with one file for each video"
            )
        return found[0] if found else None


def _parts(path: str) -> tuple[str, ...]:
    return tuple(p for p in path.replace("\\", "/").split("/") if p not in ("", "."))
