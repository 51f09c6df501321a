"""Makes dataloaders of video frames from the config of a detector or segmentor."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS

from ...datasets import VideoFrameDataset
from ...datasets.ground_truth import LabelRules
from ...datasets.ground_truth.class_names import check_class_names
from ...datasets.video_list import list_videos
from ...engine.propagation import Propagation
from ...errors import ConfigError
from ...options import read_options
from .task import DetectionTask, TrackingTask, task_of
from .video_config import has_hook, hook_options


def video_dataloader(
    config: Config,
    videos: Sequence[str] | None = None,
    ann_file: Sequence[str] | None = None,
    start: int = 0,
    frames: int | None = None,
    shuffle: bool = False,
    clips: int | None = None,
    strict_frames: bool = False,
    first_frame_number: int | None = None,
    is_judged: bool = True,
) -> dict[str, Any]:
    """A dataloader of video frames with the config's own test pipeline and classes.

    Args:
        config: Config of a detector or segmentor, or of a tracker, whose dataloader is taken as it
            is. Its ``test_dataloader`` may have any dataset. The settings of a
            ``VideoFrameDataset`` are kept unless arguments replace them, and without videos, a
            dataset of clips (``CityscapesVideoDataset``) is used as it is.
        videos: Video files, folders of frames or patterns.
        ann_file: Ground truth, one for all videos or one for each: files for a detector, folders of
            label images for a segmentor.
        start: First frame of each video.
        frames: Number of frames of each video, ``None`` for all.
        shuffle: Visit the videos in random order.
        clips: Number of clips of a dataset of clips, by default as the config says.
        strict_frames: Stop at a frame that cannot be read, instead of skipping it.
        first_frame_number: Number of a video file's first frame in the annotations, 0 or 1.
        is_judged: Whether the results are judged by the config's metrics.

    Returns:
        The dataloader's config.

    Raises:
        ConfigError: If the config has no ``test_dataloader``, or no video is given.
    """
    loader = config.get("test_dataloader") or config.get("val_dataloader")
    if not loader:
        raise ConfigError(
            "the config has no test_dataloader, whose pipeline says how frames are resized and "
            "packed. Take a config that has one, or write test_dataloader=dict(dataset=dict("
            "type='blockcopy_plugins.VideoFrameDataset', videos=..., pipeline=...))."
        )
    if not isinstance(loader, dict):
        raise ConfigError(
            f"the config's test_dataloader is {loader!r:.80}, expected a dict with a dataset."
        )
    if is_judged and isinstance(task_of(config), TrackingTask):
        if videos or ann_file or start or frames is not None or clips is not None:
            raise ConfigError(
                "a tracker is tested on the config's own dataset, by whose annotations its tracks "
                "are judged: leave out --video, --ann, --start, --frames and --clips. "
                "tools/demo_video.py and VideoInferencer run it on any video."
            )
        return loader
    found = _innermost(loader.get("dataset") or {})
    if not isinstance(found, dict):
        raise ConfigError(
            f"the config's test_dataloader has the dataset {found!r:.80}, expected a dict with a "
            "pipeline."
        )
    kind = _dataset_class(found, config)
    of_videos = kind is VideoFrameDataset or found.get("type") == VideoFrameDataset.__name__
    of_clips = not of_videos and _is_of_frames(kind)
    if of_clips and not videos:
        dataset = dict(found)
        if ann_file:
            raise ConfigError(
                f"--ann is the ground truth of --video; the config's {kind.__name__} has its own."
            )
    elif of_videos:
        dataset = dict(found)
    else:
        pipeline = found.get("pipeline") or config.get("test_pipeline")
        if not pipeline:
            raise ConfigError(
                "the config's test_dataloader has a dataset without a pipeline; without one frames "
                "do not become inputs of the model. Set test_dataloader.dataset.pipeline."
            )
        dataset = dict(pipeline=pipeline, metainfo=_metainfo(found, config))
        if not isinstance(task_of(config), DetectionTask):
            rules = LabelRules.of(kind, found)
            dataset["label_rules"] = asdict(rules)
    if videos or not of_clips:
        dataset["type"] = "blockcopy_plugins.VideoFrameDataset"
    if videos:
        if of_videos:  # the config's own annotations and frames belong to its own video
            dataset.pop("ann_file", None)
            dataset.pop("frames", None)
        dataset["videos"] = [_absolute(video) for video in videos]
    elif not of_clips and not dataset.get("videos"):
        raise ConfigError(
            "no video is given: pass --video PATH (a video file or a folder of frames), or set "
            "test_dataloader.dataset to a blockcopy_plugins.VideoFrameDataset with videos=..."
        )
    if clips is not None:
        if videos or not of_clips:
            raise ConfigError(
                "--clips N takes N clips of a data set of clips, such as "
                "blockcopy_plugins.CityscapesVideoDataset; of videos give fewer by --video."
            )
        dataset["clips"] = _at_least_one("--clips", clips)
    if ann_file:
        files = [_absolute(path) for path in ann_file]
        _check_annotations(files, config)
        dataset["ann_file"] = files[0] if len(files) == 1 else files
    if start < 0 or (frames is not None and frames < 1):
        raise ConfigError(
            f"start={start} and frames={frames}, expected start >= 0 and frames >= 1."
        )
    if start or frames is not None:
        dataset["frames"] = (start, None if frames is None else start + frames)
    if first_frame_number is not None:
        dataset["first_frame_number"] = first_frame_number
    if strict_frames:
        dataset["strict_frames"] = True
    if not of_clips or videos:
        _export_motion(dataset, config)
    return _dataloader(dataset, shuffle)


def _export_motion(dataset: dict[str, Any], config: Config) -> None:
    """Let a dataset of videos provide what the policy and the motion of the config's hook need."""
    if has_hook(config):
        options = read_options(hook_options(config), "BlockCopyHook").config
        if options.policy.needs_motion or Propagation.of(options).needs_vectors:
            dataset["motion"] = True


def set_data_root(config: Config, data_root: str) -> None:
    """Set the folder of the config's own clips, for evaluation and warm-up.

    Args:
        config: Changed in place.
        data_root: The folder.

    Raises:
        ConfigError: If the config's test dataset has no ``data_root``.
    """
    loader = config.get("test_dataloader") or config.get("val_dataloader") or {}
    warm_up = config.get("policy_warm_up") or {}
    tested = _innermost(loader.get("dataset") or {})
    if "data_root" not in tested:
        raise ConfigError(
            "the config's test_dataloader.dataset has no data_root that --data-root could change."
        )
    for dataset in (tested, warm_up.get("dataset")):
        if dataset is not None:
            dataset["data_root"] = data_root


def warm_up_dataloader(config: Config, clips: int | None = None) -> dict[str, Any] | None:
    """A dataloader of the clips that the config's ``policy_warm_up`` names.

    ``policy_warm_up=dict(dataset=..., epochs=1)`` is a key of this package: the dataset of
    unlabelled clips on which the policy learns before an evaluation. They come in a new random
    order each epoch, by the dataset's ``seed`` if it has one.

    Args:
        config: A whole config.
        clips: Number of clips, by default as the config says.

    Returns:
        The dataloader's config, or ``None`` without a warm-up.

    Raises:
        ConfigError: If clips are asked for and the config does not name a dataset for them.
    """
    warm_up = config.get("policy_warm_up")
    if not warm_up:
        if clips:
            raise ConfigError(
                f"{clips} clips of warm-up are asked for, but the config has no policy_warm_up="
                "dict(dataset=...) that says of what; configs/csp_blockcopy.py has one. Or train "
                "the policy by tools/train_policy.py --video, and pass --policy-checkpoint."
            )
        return None
    unknown = sorted(set(warm_up) - {"dataset", "epochs"})
    if unknown or "dataset" not in warm_up:
        raise ConfigError(
            f"the config's policy_warm_up has the keys {sorted(warm_up)}, expected dataset and "
            "perhaps epochs."
        )
    if clips == 0:
        return None
    dataset = dict(warm_up["dataset"])
    if clips is not None:
        dataset["clips"] = _at_least_one("--warm-up-clips", clips)
    return _dataloader(dataset, shuffle=True, seed=dataset.get("seed"))


def warm_up_epochs(config: Config) -> int:
    """How often the config's warm-up runs its clips."""
    return (config.get("policy_warm_up") or {}).get("epochs", 1)


def check_files(dataloader: Mapping[str, Any]) -> None:
    """Check that the files of a dataloader's dataset exist, without reading them.

    Args:
        dataloader: From one of the functions here.

    Raises:
        ConfigError: If something is missing.
    """
    DATASETS.build({**dataloader["dataset"], "lazy_init": True})


def files_of(dataloader: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Videos and annotations that a dataloader of :func:`video_dataloader` reads.

    Args:
        dataloader: The dataloader's config.

    Returns:
        Paths of the videos, with patterns resolved, and of the annotations; none for a dataset of
        clips, which finds its own files.

    Raises:
        ConfigError: If a video does not exist.
    """
    dataset = dataloader["dataset"]
    root = dataset.get("data_root") or ""
    if not dataset.get("videos"):
        return [], []
    annotations = dataset.get("ann_file") or ()
    if isinstance(annotations, (str, os.PathLike)):
        annotations = (annotations,)
    found = [os.path.join(root, os.fspath(path)) for path in annotations if path is not None]
    return list_videos(dataset["videos"], root), found


def _dataloader(dataset: dict[str, Any], shuffle: bool, seed: int | None = None) -> dict[str, Any]:
    return dict(
        batch_size=1,
        # In this process: a worker would take a core from what is timed.
        num_workers=0,
        persistent_workers=False,
        sampler=dict(type="blockcopy_plugins.VideoSampler", shuffle=shuffle, seed=seed),
        dataset=dataset,
    )


def _absolute(path: str) -> str:
    return os.path.abspath(path) if os.path.exists(path) or not glob.has_magic(path) else path


def _innermost(dataset: Any) -> dict[str, Any]:
    """The dataset inside wrappers such as ``RepeatDataset`` or ``ConcatDataset``."""
    while isinstance(dataset, dict) and "pipeline" not in dataset:
        several = dataset.get("datasets")
        several = several if isinstance(several, (list, tuple)) else [several]
        inner = dataset.get("dataset") or next(iter(several), None)
        if inner is None:
            break
        dataset = inner
    return dataset


def _is_of_frames(kind: type | None) -> bool:
    return isinstance(kind, type) and issubclass(kind, VideoFrameDataset)


def _at_least_one(name: str, clips: int) -> int:
    if clips < 1:
        raise ConfigError(f"{name} {clips}, expected at least 1.")
    return clips


def _check_annotations(paths: Sequence[str], config: Config) -> None:
    boxes = isinstance(task_of(config), DetectionTask)
    for path in paths:
        if not os.path.exists(path):
            raise ConfigError(f"there is no annotation file or folder {path!r}.")
        if not os.path.isfile(path) and not os.path.isdir(path):
            raise ConfigError(f"the annotations {path!r} are neither a file nor a folder.")
        if boxes and not os.path.isfile(path):
            raise ConfigError(
                f"the annotations {path!r} are a folder, but the config's model is a detector, "
                "whose ground truth is a file: COCO json or MOTChallenge gt.txt."
            )
        if not boxes and not os.path.isdir(path):
            raise ConfigError(
                f"the annotations {path!r} are a file, but the config's model is a segmentor, "
                "whose ground truth is a folder of label images (class indices, named as the "
                "frames or numbered from 0)."
            )


def _dataset_class(dataset: Mapping[str, Any], config: Config) -> type | None:
    kind = dataset.get("type")
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(config.get("default_scope")) as registry:
            return registry.get(kind)
    return kind


def _metainfo(dataset: Mapping[str, Any], config: Config) -> Any:
    metainfo = dataset.get("metainfo") or {}
    if not isinstance(metainfo, dict):
        raise ConfigError(
            f"the config's test_dataloader.dataset.metainfo is {metainfo!r:.80}, expected "
            "dict(classes=('person',))."
        )
    metainfo = dict(metainfo)
    kind = _dataset_class(dataset, config)
    known = getattr(kind, "METAINFO", None) or {}
    if _is_of_frames(kind):
        known = kind.metainfo_of(dataset)
    if metainfo.get("classes") is None:
        return {**known, **metainfo} or None
    if isinstance(metainfo["classes"], str) and not os.path.isfile(metainfo["classes"]):
        check_class_names(metainfo["classes"])
    names, palette = list(known.get("classes") or ()), known.get("palette")
    if palette and "palette" not in metainfo and set(metainfo["classes"]) <= set(names):
        # A subset of the dataset's classes keeps its colours.
        metainfo["palette"] = [palette[names.index(name)] for name in metainfo["classes"]]
    return metainfo
