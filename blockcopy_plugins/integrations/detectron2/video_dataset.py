"""Frames of videos as a dataset of Detectron2: one dict for each frame."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from torch.utils.data import Dataset

from ...datasets.frame_source import FrameSource, open_frames
from ...datasets.ground_truth.annotation_notes import AnnotationNotes
from ...datasets.ground_truth.annotations import VideoAnnotations, VideoReference, read_annotations
from ...datasets.ground_truth.class_names import check_class_names
from ...datasets.ground_truth.label_images import LabelRules, find_label_images
from ...datasets.video_list import list_videos, name_videos
from ...datasets.video_listing import list_video, skipped_frames
from ...errors import ConfigError
from .model_config import prepare_image

_MOST_OPEN = 64
"""Number of video files that a process keeps open at the same time."""


class VideoFrameDataset(Dataset):
    """Frames of videos, one frame per item.

    An item is a dict as in Detectron2: ``file_name`` (``PATH#NUMBER`` for a video file),
    ``image_id``, ``height``, ``width``, and in addition ``video_id`` (index in ``videos``),
    ``frame_id`` (index in the video's selected frames; 0 starts a stream), ``frame_number`` (index
    in the file), ``frame_time`` (seconds by the file, or ``None``), ``video_name``, ``video_path``,
    ``video_length``, ``frame`` (uint8 ``(H, W, 3)``, BGR), and, for annotated frames,
    ``ground_truth`` (a list of objects with ``bbox`` xyxy px and ``bbox_label``) or ``label_image``
    (path of an image of class indices).
    :class:`VideoFrameMapper` turns it into an input of the model.

    Args:
        videos: Video files, folders of frames, or patterns.
        ann_file: Ground truth, one for all videos or one for each: COCO json or MOTChallenge
            gt.txt for a detector, folders of label images for a segmentor.
        frames: ``(start, stop)``: number of the first frame, and of the one after the last.
        stride: Distance from one frame to the next.
        classes: Names of the classes, in the order of the model's.
        label_rules: How label images are named and read.
        strict_frames: Raise if a frame cannot be read. By default such frames are left out, with
            a warning; the others keep their ``frame_number``.
        first_frame_number: Number of a video file's first frame in the annotations, 0 or 1.
            ``None`` finds out, and raises if it may be either.

    Raises:
        ConfigError: Contradictory arguments, a missing path, annotations that do not fit.
        FrameError: A video that cannot be read.
    """

    def __init__(
        self,
        videos: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        ann_file: str | Sequence[str | None] | None = None,
        frames: Sequence[int | None] | None = None,
        stride: int = 1,
        classes: Sequence[str] | None = None,
        label_rules: LabelRules | None = None,
        strict_frames: bool = False,
        first_frame_number: int | None = None,
    ) -> None:
        start, stop = (0, None) if frames is None else (frames[0] or 0, frames[1])
        if stride < 1 or start < 0 or (stop is not None and stop <= start):
            raise ConfigError(
                f"frames={frames!r} and stride={stride}, expected 0 <= start < stop and a stride "
                "of at least 1."
            )
        self.videos = list_videos(videos)
        self.label_rules = label_rules or LabelRules()
        names = name_videos(self.videos)
        self._listed = [
            list_video(path, name, (start, stop), stride, strict=strict_frames)
            for path, name in zip(self.videos, names, strict=True)
        ]
        references = [video.reference for video in self._listed]
        classes = None if classes is None else check_class_names(classes)
        self._annotated, self._notes = bool(ann_file), AnnotationNotes()
        told = (self._notes, first_frame_number)
        boxes, labels = _ground_truth(ann_file, references, classes, self.label_rules, told)
        self._notes.warn()
        known = next((a.classes for a in boxes if a is not None), ())
        self.classes = tuple(classes) if classes is not None else tuple(known)
        self._items: list[dict[str, Any]] = []
        for video_id, video in enumerate(self._listed):
            reference = video.reference
            for frame_id, number in enumerate(video.numbers):
                item = {
                    "file_name": reference.frame_path(number),
                    "image_id": len(self._items),
                    "height": video.shape[0],
                    "width": video.shape[1],
                    "video_id": video_id,
                    "frame_id": frame_id,
                    "frame_number": number,
                    "video_name": reference.name,
                    "video_path": reference.path,
                    "video_length": len(video.numbers),
                }
                found = None if boxes[video_id] is None else boxes[video_id].instances(number)
                if found is not None:
                    item["ground_truth"] = found
                if number in labels[video_id]:
                    item["label_image"] = labels[video_id][number]
                self._items.append(item)
        self._sources: OrderedDict[int, FrameSource] = OrderedDict()

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Read a frame.

        Raises:
            FrameError: If it cannot be read.
        """
        item = dict(self._items[index])
        source = self._source(item["video_id"])
        item["frame"] = source.read(item["frame_number"])
        item["frame_time"] = source.time(item["frame_number"])
        return item

    @property
    def skipped_frames(self) -> dict[str, Any]:
        """The selected frames that cannot be read: how many, in which videos, and why."""
        return skipped_frames(self._listed)

    @property
    def annotation_notes(self) -> dict[str, Any] | None:
        """What was left out of the annotations and why; None without annotations."""
        return self._notes.summary() if self._annotated else None

    def video_of(self, index: int) -> int:
        """Index in ``videos`` of the video that an item belongs to."""
        return self._items[index]["video_id"]

    @property
    def video_names(self) -> list[str]:
        """Short names of the videos, in order."""
        return list(dict.fromkeys(item["video_name"] for item in self._items))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sources": OrderedDict()}

    def _source(self, video_id: int) -> FrameSource:
        source = self._sources.pop(video_id, None) or open_frames(self.videos[video_id])
        self._sources[video_id] = source
        if len(self._sources) > _MOST_OPEN:
            self._sources.popitem(last=False)[1].close()
        return source


class VideoFrameMapper:
    """Turns an item of :class:`VideoFrameDataset` into an input of a model.

    ``image`` is float32 ``(3, h, w)``, resized by the config's rule; everything else stays in the
    dict, except the frame itself unless ``keep_frame`` is set.

    Args:
        augmentations: See :meth:`.model_config.ModelConfig.augmentations`.
        image_format: Order of the model's channels, ``'BGR'`` or ``'RGB'``.
        keep_frame: Keep ``frame``, to draw on it.
    """

    def __init__(
        self,
        augmentations: Sequence[T.Augmentation],
        image_format: str = "BGR",
        keep_frame: bool = False,
    ) -> None:
        self.augmentations = list(augmentations)
        self.image_format = image_format
        self.keep_frame = keep_frame

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """The model's input."""
        item = dict(item)
        frame: np.ndarray = item["frame"] if self.keep_frame else item.pop("frame")
        item["image"]: torch.Tensor = prepare_image(frame, self.augmentations, self.image_format)
        return item


def _ground_truth(
    ann_file: Any,
    references: Sequence[VideoReference],
    classes: Sequence[str] | None,
    rules: LabelRules,
    told: tuple[AnnotationNotes, int | None],
) -> tuple[list[VideoAnnotations | None], list[dict[int, str]]]:
    """The objects or label images of each video, whichever the files contain."""
    if not ann_file:
        return [None] * len(references), [{}] * len(references)
    if isinstance(ann_file, (str, os.PathLike)):
        files, groups = [os.fspath(ann_file)], [list(references)]
    else:
        files = [None if one is None else os.fspath(one) for one in ann_file]
        groups = [[reference] for reference in references]
        if len(files) != len(references):
            raise ConfigError(
                f"ann_file lists {len(files)} files for {len(references)} videos; give one file "
                "for all, or one (or None) for each video."
            )
    boxes: list[VideoAnnotations | None] = []
    labels: list[dict[int, str]] = []
    for path, group in zip(files, groups, strict=True):
        is_folder = path is not None and os.path.isdir(path)
        if path is not None and not os.path.exists(path):
            raise ConfigError(f"there is no annotation file or folder {path!r}.")
        nothing: list[Any] = [None] * len(group)
        if path is None or is_folder:
            boxes += nothing
        else:
            boxes += read_annotations(path, group, classes, "person", *told)
        labels += find_label_images(path, group, rules, *told) if is_folder else [{} for _ in group]
    return boxes, labels
