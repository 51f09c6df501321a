"""Reader of MOTChallenge's ``gt.txt``."""

from __future__ import annotations

import configparser
import csv
import math
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blockcopy_plugins.datasets.ground_truth.annotation_notes import AnnotationNotes
from blockcopy_plugins.datasets.ground_truth.annotation_values import read_text
from blockcopy_plugins.datasets.ground_truth.class_names import ClassNames
from blockcopy_plugins.datasets.ground_truth.frame_size import frame_scale
from blockcopy_plugins.datasets.ground_truth.video_annotations import (
    VideoAnnotations,
    VideoReference,
)
from blockcopy_plugins.errors import ConfigError

_CLASSES = {
    1: "pedestrian",
    2: "person on vehicle",
    3: "car",
    4: "bicycle",
    5: "motorbike",
    6: "non motorized vehicle",
    7: "static person",
    8: "distractor",
    9: "occluder",
    10: "occluder on the ground",
    11: "occluder full",
    12: "reflection",
    13: "crowd",
}
"""Classes of MOT16, MOT17 and MOT20 by the number in column 8."""

_IGNORED = frozenset((2, 7, 8, 12, 13))
"""Of these, those that look like pedestrians and need not be found."""

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def read_mot(
    path: str | os.PathLike[str],
    label: int = 0,
    classes: Sequence[str] = (),
    video: VideoReference | None = None,
    notes: AnnotationNotes | None = None,
) -> VideoAnnotations:
    """Read a MOTChallenge ``gt.txt``.

    A line is ``frame,id,left,top,width,height,conf,...``. Lines of 8 or 9 columns go on with class
    and visibility, as in MOT16 and later; those of 10 with world coordinates, which are not used.
    The class is the number of a line of ``labels.txt`` beside the file, as annotation tools export
    it, or else one of MOTChallenge's own. Of the latter, pedestrians get ``label``, whatever only
    looks like one is ignored, and others count if their name is among the classes.

    Frame ``n`` is the ``n``-th decoded frame, from 1. The format counts pixels from 1 as well, so 1
    is subtracted from ``left`` and ``top``. Boxes with a ``conf`` of 0 are ignored. Frames without
    a line are annotated as empty. A ``seqinfo.ini`` beside or above the file gives the size of the
    frames that it was made for.

    Args:
        path: The file.
        label: Label of boxes whose class is not stated, and of pedestrians.
        classes: Names of the classes by label.
        video: The video that is annotated.
        notes: Collects what is left out and what is inferred; None logs it.

    Returns:
        The ground truth.

    Raises:
        ConfigError: A line that is not of this form; the message names line, field and value.
    """
    path = os.fspath(path)
    own_notes = AnnotationNotes() if notes is None else notes
    find = _ClassFinder(path, label, classes, own_notes)
    rows, columns = _scale(path, video, own_notes)
    size = None if video is None else video.size
    frames: dict[int, list[dict[str, Any]]] = defaultdict(list)
    seen: dict[tuple[int, int, int | None], int] = {}
    for number, row in _rows(path):
        frame = _whole(path, number, row, 0, "frame")
        track = _whole(path, number, row, 1, "id")
        left, top, width, height, confidence = (
            _value(path, number, row, at, name)
            for at, name in enumerate(("left", "top", "width", "height", "conf"), start=2)
        )
        if frame < 1 or width < 0 or height < 0:
            raise ConfigError(
                f"line {number} of {path!r} has frame {frame} and a box of {width} x {height} px; "
                "frames count from 1 and sizes are not negative"
            )
        kind = find.kind(number, row)
        if track >= 0 and (frame, track, kind) in seen:
            raise ConfigError(
                f"line {number} of {path!r} has the id {track} in frame {frame}, as line "
                f"{seen[frame, track, kind]}; expected each object once per frame"
            )
        seen[frame, track, kind] = number
        place = f"line {number} of {path!r}"
        own_label, ignored, reason = find.label(kind)
        if own_label is None:
            own_notes.leave_out(reason, place)
            continue
        x, y = (left - 1) * columns, (top - 1) * rows
        box = [x, y, x + width * columns, y + height * rows]
        if not width or not height:
            own_notes.leave_out("their boxes are empty", place)
            continue
        if size is not None and (
            box[0] >= size[1] or box[1] >= size[0] or box[2] <= 0 or box[3] <= 0
        ):
            own_notes.leave_out("their boxes lie outside of the frame", place)
            continue
        own_notes.kept += 1
        frames[frame - 1].append(
            {
                "bbox": box,
                "bbox_label": own_label,
                "ignore_flag": int(ignored or confidence == 0),
                "iscrowd": 0,
                "instance_id": track,
            }
        )
    last = max((frame for frame, _, _ in seen), default=0)
    if video is not None and video.length is not None and last > video.length:
        raise ConfigError(
            f"{path!r} annotates frame {last}, but {video.path!r} has only {video.length} frames; "
            "the file belongs to another video or to another excerpt"
        )
    if notes is None:
        own_notes.warn()
    return VideoAnnotations(frames=dict(frames), complete=True, classes=tuple(classes))


class _ClassFinder:
    """What column 8 stands for."""

    def __init__(
        self, path: str, label: int, classes: Sequence[str], notes: AnnotationNotes
    ) -> None:
        self.path, self.default, self.notes = path, label, notes
        self.classes = ClassNames(classes)
        beside = Path(path).with_name("labels.txt")
        self.own: dict[int, str] | None = None
        if beside.is_file():
            lines = read_text(str(beside)).splitlines()
            names = [line.strip() for line in lines if line.strip()]
            self.own = dict(enumerate(names, start=1))
        self._known: dict[int | None, tuple[int | None, bool, str]] = {}

    def kind(self, number: int, row: Sequence[str]) -> int | None:
        """The class of a line, None if it states none."""
        if len(row) not in (8, 9):
            return None
        kind = _whole(self.path, number, row, 7, "class")
        if kind == -1:
            return None
        table = _CLASSES if self.own is None else self.own
        if kind not in table:
            what = "MOTChallenge's classes, 1 to 13" if self.own is None else "labels.txt"
            raise ConfigError(
                f"line {number} of {self.path!r} has the class {kind} in column 8, which is not "
                f"among {what}; name the classes, one per line, in a file labels.txt beside it"
            )
        return kind

    def label(self, kind: int | None) -> tuple[int | None, bool, str]:
        """Label of a class, whether to ignore it, and why it has no label."""
        if kind not in self._known:
            self._known[kind] = self._find(kind)
        return self._known[kind]

    def _find(self, kind: int | None) -> tuple[int | None, bool, str]:
        if kind is None:
            return self.default, False, ""
        if self.own is None and (kind == 1 or kind in _IGNORED):
            return self.default, kind in _IGNORED, ""
        name = (_CLASSES if self.own is None else self.own)[kind]
        label, differs = self.classes.find(name)
        if differs:
            self.notes.remark(
                f"the class {name!r} of {self.path!r} is taken as {self.classes.names[label]!r}"
            )
        return label, False, f"the class {name!r} (column 8: {kind}) is not among the classes"


def _rows(path: str):
    text = read_text(path)
    try:
        for number, row in enumerate(csv.reader(text.splitlines()), start=1):
            cells = [cell.strip() for cell in row]
            while cells and not cells[-1]:
                cells.pop()  # a comma at the end
            if cells:
                yield number, cells
    except csv.Error as error:
        raise ConfigError(f"{path!r} is not a table of comma-separated values: {error}") from error


def _value(path: str, number: int, row: Sequence[str], at: int, name: str) -> float:
    text = row[at] if at < len(row) else ""
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise ConfigError(
            f"line {number} of {path!r} is {','.join(row)[:80]!r}, whose {name} is {text[:40]!r}; "
            "MOTChallenge ground truth has at least frame,id,left,top,width,height,conf as "
            "numbers between commas, and no other lines"
        )
    return value


def _whole(path: str, number: int, row: Sequence[str], at: int, name: str) -> int:
    value = _value(path, number, row, at, name)
    if value != int(value):
        raise ConfigError(
            f"line {number} of {path!r} has {name} {row[at]!r}; expected a whole number"
        )
    return int(value)


def _scale(path: str, video: VideoReference | None, notes: AnnotationNotes) -> tuple[float, float]:
    """Pixels of the frames per pixel of the file, by the sequence's own description."""
    if video is None or video.size is None:
        return 1.0, 1.0
    folder = Path(os.path.abspath(path)).parent
    for found in (folder / "seqinfo.ini", folder.parent / "seqinfo.ini"):
        if found.is_file():
            break
    else:
        return 1.0, 1.0
    described = configparser.ConfigParser()
    try:
        described.read_string(read_text(str(found)))
        section = described["Sequence"]
        stated = (int(section["imHeight"]), int(section["imWidth"]))
    except (configparser.Error, KeyError, ValueError):  # ConfigError too
        return 1.0, 1.0  # it describes something else, or nothing
    if min(stated) < 1:
        return 1.0, 1.0
    scale = frame_scale(stated, video.size, repr(str(found)), video.path)
    if scale != (1.0, 1.0):
        notes.remark(
            f"{path!r} was made for frames of {stated[1]}x{stated[0]} px; its boxes are scaled to "
            f"the {video.size[1]}x{video.size[0]} px of {video.path!r}"
        )
    return scale
