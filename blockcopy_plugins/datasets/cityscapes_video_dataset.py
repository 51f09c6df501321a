"""Cityscapes' video clips as a dataset of frames."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmengine.dataset import force_full_init

from blockcopy_plugins.datasets.cityscapes_clips import (
    IMAGES,
    LABELS,
    Clip,
    annotated_names,
    check_span,
    choose,
    find_clips,
    label_file,
)
from blockcopy_plugins.datasets.cityscapes_labels import (
    STUFF_AND_THINGS,
    THINGS,
    read_instance_ids,
    train_ids_of_ids,
)
from blockcopy_plugins.datasets.frame_range import FrameRange, range_names
from blockcopy_plugins.datasets.ground_truth.annotations import VideoAnnotations, VideoReference
from blockcopy_plugins.datasets.video_frame_dataset import VideoFrameDataset
from blockcopy_plugins.datasets.video_listing import ListedVideo
from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.registry import DATASETS

_TRAIN_IDS = "_gtFine_labelTrainIds.png"
_LABEL_IDS = "_gtFine_labelIds.png"
_INSTANCE_IDS = "_gtFine_instanceIds.png"
_ENDS = {"segmentation": (_TRAIN_IDS, _LABEL_IDS), "instance": (_INSTANCE_IDS,)}


@DATASETS.register_module()
class CityscapesVideoDataset(VideoFrameDataset):
    """Clips of Cityscapes' ``leftImg8bit_sequence``, each a video; one frame of each is annotated.

    A clip's files are numbered from 19 before the annotated frame to 10 after it. By default the
    annotated frame is the last one, as in the BlockCopy paper: 20 frames. Clips are ordered by
    name, and named after the annotated frame (``frankfurt_000000_000294``).

    Folders are listed once; images are opened when they are read. All frames of a data set have the
    same size: the first one's is assumed for all, and loading a frame of another size raises.

    Args:
        data_root: Folder that contains ``leftImg8bit_sequence`` and ``gtFine``.
        split: ``'train'``, ``'val'`` or ``'test'``.
        cities: Only clips of these; None takes all of the split.
        clip: First and last frame of each clip, relative to the annotated one. With ``(0, 0)`` only
            the annotated frames are read, from ``leftImg8bit`` if there is no sequence.
        clips: Number of clips to take; None takes all.
        seed: Seed to choose them at random; None takes the first ones.
        task: ``'segmentation'``: label images of the 19 classes. ``'instance'``: masks and boxes of
            the 8 classes of things; groups need not be found.
        labels: Read the ground truth. Without it, annotations are only looked up to find the clips:
            in ``gtFine``, or else by the files of ``leftImg8bit``.
        frames: See `VideoFrameDataset`; of each clip.
        stride: See `VideoFrameDataset`.
        metainfo: See `VideoFrameDataset`. By default the classes of the task.
        pipeline: See `VideoFrameDataset`.
        max_open_videos: See `VideoFrameDataset`.
        indices: See `VideoFrameDataset`.
        serialize_data: See `VideoFrameDataset`.
        test_mode: See `VideoFrameDataset`.
        lazy_init: See `VideoFrameDataset`.
        unknown: Any other argument raises.

    Raises:
        ConfigError: If an argument is out of range, or something is missing: the message names it,
            the package that has it, and where it was looked for.
    """

    METAINFO = {
        "classes": tuple(row.name for row in STUFF_AND_THINGS),
        "palette": [list(row.colour) for row in STUFF_AND_THINGS],
    }

    def __init__(
        self,
        data_root: str = "data/cityscapes/",
        split: str = "val",
        cities: Sequence[str] | None = None,
        clip: Sequence[int] = (-19, 0),
        clips: int | None = None,
        seed: int | None = None,
        task: str = "segmentation",
        labels: bool = True,
        frames: Sequence[int | None] | None = None,
        stride: int = 1,
        metainfo: Mapping[str, Any] | None = None,
        pipeline: Sequence[Mapping[str, Any] | Callable] = (),
        max_open_videos: int = 64,
        indices: int | Sequence[int] | None = None,
        serialize_data: bool = True,
        test_mode: bool = True,
        lazy_init: bool = False,
        **unknown: Any,
    ) -> None:
        self._refuse(unknown)
        if task not in _ENDS:
            raise ConfigError(f"task must be one of {', '.join(_ENDS)}, but got {task!r}")
        if clips is not None and clips < 1:
            raise ConfigError(f"clips must be at least 1, or None for all, but got {clips}")
        if isinstance(cities, str):
            raise ConfigError(f"cities must be a list of names; write cities=[{cities!r}]")
        self.split = split
        self.cities = cities
        self.task = task
        self.labels = labels
        root = os.fspath(data_root).rstrip(os.sep) or os.sep
        span = check_span(clip)
        names, known_by = self._annotated_frames(root)
        self.clips: list[Clip] = find_clips(root, split, choose(names, clips, seed), span, known_by)
        super().__init__(
            videos=[clip.path for clip in self.clips],
            frames=frames,
            stride=stride,
            metainfo={**self.metainfo_of({"task": task}), **(metainfo or {})},
            pipeline=pipeline,
            max_open_videos=max_open_videos,
            indices=indices,
            serialize_data=serialize_data,
            test_mode=test_mode,
            lazy_init=True,
        )
        self.data_root = root
        self.video_names = [clip.name for clip in self.clips]
        if not lazy_init:
            self.full_init()

    @classmethod
    def metainfo_of(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """See `VideoFrameDataset.metainfo_of`; by the task."""
        if config.get("task") != "instance":
            return dict(cls.METAINFO)
        return {
            "classes": tuple(row.name for row in THINGS),
            "palette": [list(row.colour) for row in THINGS],
        }

    def load_data_list(self) -> list[dict[str, Any]]:
        """See `VideoFrameDataset.load_data_list`."""
        data_list = super().load_data_list()
        if self.labels and self.task == "instance":
            find = label_file(self.data_root, self.split, _ENDS["instance"])
            for info in data_list:
                if info.get("instances") is not None:
                    info["instance_ids_path"] = find(info["video_name"])
        return data_list

    @force_full_init
    def get_data_info(self, idx: int) -> dict[str, Any]:
        """See `BaseDataset`; the content of an instance image is read here."""
        info = super().get_data_info(idx)
        if "instance_ids_path" in info:
            info["instances"] = read_instance_ids(info["instance_ids_path"])
        return info

    def _annotated_frames(self, root: str) -> tuple[list[str], str]:
        """Names of the annotated frames, and the source of these names."""
        if not self.labels and not os.path.isdir(os.path.join(root, LABELS, self.split)):
            if os.path.isdir(os.path.join(root, IMAGES, self.split)):
                ends = ("_leftImg8bit.png", "_leftImg8bit.jpg")
                return annotated_names(root, self.split, IMAGES, ends, self.cities), IMAGES
        ends = _ENDS[self.task] if self.labels else (*_ENDS["segmentation"], _INSTANCE_IDS)
        return annotated_names(root, self.split, LABELS, ends, self.cities), LABELS

    def _list_videos(self) -> list[ListedVideo]:
        start, stop = self.frames
        length = self.clips[0].frames
        count = length if stop is None else min(stop, length)
        if count <= start:
            raise ConfigError(
                f"the clips have {length} frames, so that frames={self.frames} selects none; "
                "lower the start"
            )
        shape = FrameRange(self.clips[0].path).shape  # the others are opened when they are read
        numbers = range(start, count, self.stride)
        listed = []
        for clip in self.clips:
            names, folder = range_names(clip.path), os.path.dirname(clip.path)
            reference = VideoReference(clip.path, clip.name, names, length, folder, shape)
            listed.append(ListedVideo(reference, shape, numbers))
        return listed

    def _find_label_images(self, references: Sequence[VideoReference]) -> list[dict[int, str]]:
        if not self.labels or self.task != "segmentation":
            return [{} for _ in references]
        find = label_file(self.data_root, self.split, _ENDS["segmentation"])
        return [{clip.annotated: find(clip.name)} for clip in self.clips]

    def _label_map(self, path: str) -> Mapping[int, int] | None:
        return train_ids_of_ids() if path.endswith(_LABEL_IDS) else None

    def _read_annotations(
        self, references: Sequence[VideoReference]
    ) -> list[VideoAnnotations | None]:
        if not self.labels or self.task != "instance":
            return [None] * len(references)
        # The instances are read frame by frame, see get_data_info.
        return [
            VideoAnnotations(frames={clip.annotated: []}, complete=False, has_masks=True)
            for clip in self.clips
        ]
