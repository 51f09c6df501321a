"""Dataset whose items are the frames of videos, for ordinary detectors and segmentors."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset, Compose, force_full_init

from blockcopy_plugins.datasets.dataset_metainfo import find_metainfo, label_rules_of
from blockcopy_plugins.datasets.ground_truth.annotation_notes import AnnotationNotes
from blockcopy_plugins.datasets.ground_truth.annotations import (
    VideoAnnotations,
    VideoReference,
    read_annotations,
)
from blockcopy_plugins.datasets.ground_truth.label_images import find_label_images
from blockcopy_plugins.datasets.pipeline import adapt_pipeline
from blockcopy_plugins.datasets.video_list import list_videos, name_videos
from blockcopy_plugins.datasets.video_listing import ListedVideo, list_video, skipped_frames
from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.registry import DATASETS

# Added to every data sample, whatever the meta_keys of PackDetInputs or PackSegInputs are.
_SAMPLE_KEYS = (
    "img_id",
    "img_path",
    "video_id",
    "frame_id",
    "frame_number",
    "video_name",
    "video_path",
    "video_length",
    "instances",
    "seg_map_path",
)


@DATASETS.register_module()
class VideoFrameDataset(BaseDataset):
    """Frames of videos, one frame per item: 4-D input batches, as ordinary detectors take them.

    The model's own test pipeline is used as it is, except that its ``LoadImageFromFile`` is
    replaced by `LoadVideoFrame`, and its ``LoadAnnotations`` is left out if there are no
    annotations. Use it with `VideoSampler`, which keeps the videos whole under torch.distributed,
    and preferably with at most one worker: each worker must also decode the frames that the others
    return.

    The metainfo of each data sample gets ``video_id`` (index in ``videos``), ``frame_id`` (index in
    the video's selected frames; 0 starts a stream), ``frame_number`` (index in the file),
    ``video_name``, ``video_path``, ``video_length`` (number of selected frames), ``img_id``,
    ``img_path`` (of a video file ``PATH#NUMBER``), and, for annotated frames, ``instances``: the
    ground truth in pixels of the original frame, which `FrameDetectionMetric` and MMDetection's
    ``CocoMetric`` (without ``ann_file``) evaluate against. From label images, the pipeline's
    ``LoadAnnotations`` makes the ``gt_sem_seg`` of the frames that have one.

    Args:
        videos: Video files and/or folders of frames (images in natural order): a path, a pattern
            such as ``'clips/*.mp4'``, or a sequence of them; also some images of a folder, such as
            ``'clip_{000275..000294}.png'``. A path that occurs twice is two streams.
        ann_file: Ground truth: COCO json or MOTChallenge ``gt.txt``, see `read_annotations`, or a
            folder of label images, see `find_label_images`. One for all videos, or a sequence with
            one (or None) for each.
        frames: First frame number and the one to stop before, for each video; either may be None.
        stride: Take every ``stride``-th frame.
        classes: Names of the classes, in the order of the model's labels; shorthand for
            ``metainfo=dict(classes=...)``.
        metainfo: Information on the dataset, or the name of a registered dataset to take it from,
            such as ``'mmdet.CocoDataset'``. Without classes here, those of the annotations are
            used.
        pipeline: The test pipeline.
        data_root: Folder that relative paths are in.
        mot_class: Class of MOTChallenge boxes; must be one of the classes.
        label_rules: How label images are named and read: fields of `LabelRules`. By default, as
            defined by the dataset that ``metainfo`` names.
        first_frame_number: The number that annotations of video files give to the first frame, 0 or
            1. None means 0 unless it must be 1, and refuses annotations that may mean either.
        trust_frame_count: Use the number of frames that a video file states instead of decoding the
            file once to count them. This saves time; if the file states too many, reading the
            missing frame raises. Frames are then not looked at beforehand.
        strict_frames: Raise if a frame cannot be read. By default such frames are left out, with a
            warning; the others keep their ``frame_number``. See `skipped_frames`.
        max_open_videos: Video files that a process keeps open at the same time; keep it above the
            number of streams in a batch.
        motion: Export the codec's motion vectors with each frame, for `MotionVectorPolicy`: the
            metainfo gets ``motion``, a `MotionField`. Only for video files.
        indices: As for `BaseDataset`: only the first (or these) frames of all.
        serialize_data: As for `BaseDataset`.
        test_mode: As for `BaseDataset`. True by default: a frame that cannot be loaded raises,
            whereas training would replace it by a random frame.
        lazy_init: As for `BaseDataset`.
        unknown: Any other argument raises.

    Raises:
        ConfigError: Unknown or contradictory arguments, a missing path, annotations that do not
            fit.
        FrameError: A video or frame that cannot be read.
    """

    def __init__(
        self,
        videos: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        ann_file: str | Sequence[str | None] | None = None,
        frames: Sequence[int | None] | None = None,
        stride: int = 1,
        classes: Sequence[str] | None = None,
        metainfo: Mapping[str, Any] | str | None = None,
        pipeline: Sequence[Mapping[str, Any] | Callable] = (),
        data_root: str | None = "",
        mot_class: str = "person",
        label_rules: Mapping[str, Any] | None = None,
        first_frame_number: int | None = None,
        trust_frame_count: bool = False,
        strict_frames: bool = False,
        max_open_videos: int = 64,
        motion: bool = False,
        indices: int | Sequence[int] | None = None,
        serialize_data: bool = True,
        test_mode: bool = True,
        lazy_init: bool = False,
        **unknown: Any,
    ) -> None:
        self._refuse(unknown)
        if stride < 1:
            raise ConfigError(f"stride must be at least 1, but got {stride}")
        self.videos = list_videos(videos, data_root or "")
        self.video_names = name_videos(self.videos)
        self.frames = _check_range(frames)
        self.stride = stride
        self.mot_class = mot_class
        self.trust_frame_count = trust_frame_count
        self.strict_frames = strict_frames
        self.first_frame_number = first_frame_number
        self._notes = AnnotationNotes()
        self._listed: list[ListedVideo] = []
        self.motion = motion
        self._ann_files = _list_ann_files(ann_file, len(self.videos), data_root or "")
        self.label_rules = label_rules_of(label_rules, metainfo)
        self._video_ids = np.zeros(0, dtype=np.int64)
        super().__init__(
            metainfo=find_metainfo(metainfo, classes),
            data_root=data_root,
            data_prefix={},
            indices=indices,
            serialize_data=serialize_data,
            pipeline=[],
            test_mode=test_mode,
            lazy_init=True,
        )
        self._pipeline_config = copy.deepcopy(list(pipeline))
        self._max_open_videos = max_open_videos
        if not lazy_init:
            self.full_init()

    # ------------------------------------------------------------------ videos

    @classmethod
    def metainfo_of(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The metainfo on classes from a dataset's config alone, without its files."""
        return dict(cls.METAINFO)

    @property
    @force_full_init
    def video_lengths(self) -> list[int]:
        """Number of items of each video."""
        return [int(n) for n in np.bincount(self._video_ids, minlength=len(self.videos))]

    @property
    @force_full_init
    def skipped_frames(self) -> dict[str, Any]:
        """The selected frames that cannot be read: how many, of which videos, and why."""
        return skipped_frames(self._listed)

    @property
    @force_full_init
    def annotation_notes(self) -> dict[str, Any] | None:
        """What was left out of the annotations and why; None without annotations."""
        annotated = isinstance(self._ann_files, str) or any(self._ann_files)
        return self._notes.summary() if annotated else None

    @force_full_init
    def video_of(self, index: int) -> int:
        """Index in ``videos`` of the video that an item belongs to.

        Raises:
            IndexError: If there is no such item.
        """
        return int(self._video_ids[index])

    # ------------------------------------------------------------------ BaseDataset

    def full_init(self) -> None:
        """List all frames and read the annotations.

        Raises:
            ConfigError: If a video has none of the selected frames, or annotations do not fit.
            FrameError: If a video cannot be read.
        """
        if self._fully_initialized:
            return
        self.data_list = self.load_data_list()
        if self._indices is not None:
            self.data_list = self._get_unserialized_subset(self._indices)
        self._video_ids = np.array([d["video_id"] for d in self.data_list], dtype=np.int64)
        if self.serialize_data:
            self.data_bytes, self.data_address = self._serialize_data()
        self._fully_initialized = True

    def load_data_list(self) -> list[dict[str, Any]]:
        """List the frames of all videos, in order.

        Returns:
            A dict for each frame; see the class for its keys.

        Raises:
            ConfigError: If a video has none of the selected frames, or annotations do not fit.
            FrameError: If a video cannot be read.
        """
        self._listed = self._list_videos()
        references = [video.reference for video in self._listed]
        label_images = self._find_label_images(references)
        annotations = self._read_annotations(references)
        self._notes.warn()
        known = [a for a in annotations if a is not None]
        if known and "classes" not in self._metainfo:
            self._metainfo["classes"] = known[0].classes
        self.pipeline = Compose(
            adapt_pipeline(
                self._pipeline_config,
                annotated=bool(known),
                has_masks=_all_have_masks(known),
                max_open_videos=self._max_open_videos,
                labelled=any(label_images),
                motion=self.motion,
            )
        )
        # The file's image ids, if they are unique (several files may use the same ones).
        file_ids = [i for a in known for i in a.image_ids.values()]
        own_ids = all(a.image_ids for a in known) and 0 < len(file_ids) == len(set(file_ids))
        if not all(isinstance(one, int) for one in file_ids):  # COCO allows text, its tools do not
            own_ids, file_ids = False, []
        data_list: list[dict[str, Any]] = []
        # Frames that the file does not list need ids that the file does not use.
        free_id = 1 + max(file_ids, default=-1)
        for video_id, video in enumerate(self._listed):
            reference, truth = video.reference, annotations[video_id]
            for frame_id, number in enumerate(video.numbers):
                img_id = len(data_list)
                if own_ids:
                    img_id = truth.image_ids.get(number, -1) if truth is not None else -1
                    if img_id == -1:
                        img_id, free_id = free_id, free_id + 1
                info = {
                    "img_path": reference.frame_path(number),
                    "img_id": img_id,
                    "video_id": video_id,
                    "frame_id": frame_id,
                    "frame_number": number,
                    "video_name": reference.name,
                    "video_path": reference.path,
                    "video_length": len(video.numbers),
                    "height": video.shape[0],
                    "width": video.shape[1],
                }
                instances = None if truth is None else truth.instances(number)
                if instances is not None:
                    info["instances"] = instances
                if number in label_images[video_id]:
                    # The keys that MMSegmentation's LoadAnnotations reads.
                    info["seg_map_path"] = label_images[video_id][number]
                    info["reduce_zero_label"] = self.label_rules.reduce_zero_label
                    info["label_map"] = self._label_map(info["seg_map_path"])
                    info["seg_fields"] = []
                data_list.append(info)
        return data_list

    def prepare_data(self, idx: int) -> Any:
        """Load an item.

        Returns:
            The pipeline's result, with complete metainfo in its ``data_samples``.

        Raises:
            FrameError: If the frame cannot be read.
        """
        info = self.get_data_info(idx)
        # The pipeline may change its input.
        kept = {key: copy.deepcopy(info[key]) for key in _SAMPLE_KEYS if key in info}
        data = self.pipeline(info)
        if "motion" in info:  # set by the loader, whatever is packed
            kept["motion"] = info["motion"]
        samples = data.get("data_samples") if isinstance(data, dict) else None
        if samples is not None:
            for sample in samples if isinstance(samples, (list, tuple)) else (samples,):
                sample.set_metainfo(kept)
        return data

    def get_cat_ids(self, idx: int) -> list[int]:
        """Labels of an item's ground truth."""
        return [i["bbox_label"] for i in self.get_data_info(idx).get("instances", [])]

    def get_subset_(self, indices: int | Sequence[int]) -> None:
        """Reduce the dataset to some of its items, in place.

        Args:
            indices: The number of first (negative: last) items, or the items' indices.
        """
        super().get_subset_(indices)
        self._video_ids = self._subset_video_ids(indices)

    def get_subset(self, indices: int | Sequence[int]) -> VideoFrameDataset:
        """A dataset of some of the items.

        Args:
            indices: The number of first (negative: last) items, or the items' indices.
        """
        subset = super().get_subset(indices)
        subset._video_ids = self._subset_video_ids(indices)
        return subset

    @classmethod
    def _refuse(cls, unknown: Mapping[str, Any]) -> None:
        if unknown:
            raise ConfigError(
                f"{cls.__name__} has no argument {', '.join(sorted(unknown))}; if they come from "
                "the dataset of a base config, write dataset=dict(_delete_=True, "
                f"type='blockcopy_plugins.{cls.__name__}', ...)"
            )

    def _list_videos(self) -> list[ListedVideo]:
        """For each video its size, its frames, and the data that annotations need."""
        return [
            list_video(
                path,
                name,
                self.frames,
                self.stride,
                self.motion,
                self.trust_frame_count,
                self.strict_frames,
            )
            for path, name in zip(self.videos, self.video_names, strict=True)
        ]

    def _subset_video_ids(self, indices: int | Sequence[int]) -> np.ndarray:
        if isinstance(indices, int):
            return self._video_ids[:indices] if indices >= 0 else self._video_ids[indices:]
        return self._video_ids[np.asarray(indices, dtype=np.int64)]

    def _label_map(self, path: str) -> Mapping[int, int] | None:
        """New label of each label of a label image, or None if they are the same."""
        return self.label_rules.label_map

    def _find_label_images(self, references: Sequence[VideoReference]) -> list[dict[int, str]]:
        told = (self._notes, self.first_frame_number)
        if isinstance(self._ann_files, str):
            if not os.path.isdir(self._ann_files):
                return [{} for _ in references]
            return find_label_images(self._ann_files, references, self.label_rules, *told)
        return [
            find_label_images(path, [reference], self.label_rules, *told)[0]
            if path is not None and os.path.isdir(path)
            else {}
            for reference, path in zip(references, self._ann_files, strict=True)
        ]

    def _read_annotations(
        self, references: Sequence[VideoReference]
    ) -> list[VideoAnnotations | None]:
        classes = self._metainfo.get("classes")
        told = (self.mot_class, self._notes, self.first_frame_number)
        if isinstance(self._ann_files, str):
            if os.path.isdir(self._ann_files):
                return [None] * len(references)
            return read_annotations(self._ann_files, references, classes, *told)
        annotations: list[VideoAnnotations | None] = []
        for reference, path in zip(references, self._ann_files, strict=True):
            found = None
            if path is not None and not os.path.isdir(path):
                found = read_annotations(path, [reference], classes, *told)[0]
                if found is not None and classes is None:
                    classes = found.classes
            annotations.append(found)
        return annotations


def _all_have_masks(annotations: Sequence[VideoAnnotations]) -> bool:
    """Whether masks can be loaded and compared: all videos with objects have them, and one does."""
    with_objects = [a for a in annotations if any(a.frames.values())]
    return all(a.has_masks for a in with_objects) and any(a.has_masks for a in annotations)


def _check_range(frames: Sequence[int | None] | None) -> tuple[int, int | None]:
    if frames is None:
        return 0, None
    if len(frames) != 2:
        raise ConfigError(f"frames must be (start, stop), but got {frames!r}")
    start, stop = frames[0] or 0, frames[1]
    if start < 0 or (stop is not None and stop <= start):
        raise ConfigError(
            f"frames must be (start, stop) with 0 <= start < stop, but got {tuple(frames)}"
        )
    return start, stop


def _list_ann_files(
    ann_file: str | Sequence[str | None] | None, count: int, root: str
) -> str | list[str | None]:
    if not ann_file:  # None, or the '' that base configs use
        return [None] * count
    if isinstance(ann_file, (str, os.PathLike)):
        return os.path.join(root, os.fspath(ann_file))
    if len(ann_file) != count:
        raise ConfigError(
            f"ann_file lists {len(ann_file)} files for {count} videos; give one file for all, or "
            "one (or None) for each video"
        )
    return [None if path is None else os.path.join(root, path) for path in ann_file]
