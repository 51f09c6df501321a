"""What readers of annotations need to know of a video, and what they return for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from blockcopy_plugins.datasets.ground_truth.frame_objects import FrameObjects


@dataclass(frozen=True)
class VideoReference:
    """What identifies a video and its frames in annotations.

    Attributes:
        path: Path of the video file or of the folder of frames.
        name: The name it goes by.
        frame_names: File names of its frames, for a folder; None for a video file.
        length: Number of frames, if known.
        folder: Folder of the frames, if ``path`` is not that folder.
        size: Height and width of its frames, px, if known.
    """

    path: str
    name: str
    frame_names: tuple[str, ...] | None = None
    length: int | None = None
    folder: str | None = None
    size: tuple[int, int] | None = None

    def frame_path(self, frame: int) -> str:
        """Path of a frame's image; for a video file ``PATH#NUMBER``.

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
    image_ids: Mapping[int, int | str] = field(default_factory=dict)
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
