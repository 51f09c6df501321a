"""Readers of ground truth of videos: COCO json, and MOTChallenge's ``gt.txt``."""

from __future__ import annotations

import os
from collections.abc import Sequence

from blockcopy_plugins.datasets.ground_truth.annotation_notes import AnnotationNotes
from blockcopy_plugins.datasets.ground_truth.class_names import ClassNames, check_class_names
from blockcopy_plugins.datasets.ground_truth.coco_file import read_coco
from blockcopy_plugins.datasets.ground_truth.mot_file import read_mot
from blockcopy_plugins.datasets.ground_truth.video_annotations import (
    VideoAnnotations,
    VideoReference,
)
from blockcopy_plugins.errors import ConfigError

__all__ = ["VideoAnnotations", "VideoReference", "read_annotations", "read_coco", "read_mot"]


def read_annotations(
    path: str | os.PathLike[str],
    videos: Sequence[VideoReference],
    classes: Sequence[str] | None = None,
    mot_class: str = "person",
    notes: AnnotationNotes | None = None,
    first_frame_number: int | None = None,
) -> list[VideoAnnotations | None]:
    """Read an annotation file: COCO if its name ends in ``.json``, else MOTChallenge.

    Args:
        path: The file.
        videos: The videos that it annotates; exactly one for MOTChallenge.
        classes: The names of the classes by label. None takes the file's.
        mot_class: Class of the boxes of a MOTChallenge file that state none, and of pedestrians.
        notes: Collects what is left out and what is inferred; None logs it.
        first_frame_number: See `read_coco`; MOTChallenge's files count from 1.

    Returns:
        The ground truth of each video, or None if the file has none.

    Raises:
        ConfigError: There is no such file, it cannot be read, holds a wrong value, does not fit the
            videos, or lacks the classes.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise ConfigError(f"there is no annotation file {path!r}; correct ann_file")
    if path.lower().endswith(".json"):
        return list(read_coco(path, videos, classes, notes, first_frame_number))
    if len(videos) != 1:
        raise ConfigError(
            f"the MOTChallenge file {path!r} annotates one video, but {len(videos)} were given; "
            "give ann_file as a list with one file (or None) for each video"
        )
    names = check_class_names(classes) if classes is not None else (mot_class,)
    label, _ = ClassNames(names).find(mot_class)
    if label is None:
        # First of all it must be such a file: of any other, no class would make one.
        read_mot(path, notes=AnnotationNotes())
        raise ConfigError(
            f"the boxes of {path!r} are of class {mot_class!r}, which is not among the classes "
            f"{names}; set mot_class to the class that they belong to"
        )
    return [read_mot(path, label, names, videos[0], notes)]
