"""Turns the config of a detector or segmentor into one that runs it on a video."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS

from ...datasets import VideoFrameDataset
from ...datasets.video_list import list_videos
from ...engine.propagation import Propagation
from ...errors import ConfigError
from ...evaluation import LabelRules
from ...evaluation.class_names import check_class_names
from ...options import change_options, read_options
from .task import DetectionTask, task_of

DEFAULT_HOOK = dict(
    type="blockcopy_plugins.BlockCopyHook",
    block_size=128,
    policy=dict(type="GainPolicy", target=0.3),
)
_LOOP = "BlockCopyTestLoop"


def read_config(path: str, options: dict[str, Any] | None = None) -> Config:
    """Read a config file.

    Args:
        path: The file.
        options: Values to change, by dotted name.

    Returns:
        The config.

    Raises:
        ConfigError: If there is no such file, or it cannot be read.
    """
    if not os.path.isfile(path):
        raise ConfigError(
            f"there is no config file {path!r} (the working directory is {os.getcwd()!r})."
        )
    try:
        config = Config.fromfile(path)
        if options:
            config.merge_from_dict(options)
    except (Exception, SystemExit) as e:  # a config is a program, which may fail in any way
        raise ConfigError(f"the config {path!r} cannot be read: {type(e).__name__}: {e}") from e
    if not isinstance(config.get("model"), dict):
        found = f"model = {config.model!r:.80}" if "model" in config else "no model"
        raise ConfigError(
            f"the config {path!r} has {found}; give a model's config, whose model is a dict, such "
            "as configs/maskrcnn_blockcopy.py."
        )
    return config


def hook_of(config: Config) -> ConfigDict:
    """The config's ``BlockCopyHook``; one with the defaults is added where it has none.

    Args:
        config: Changed in place.

    Returns:
        The hook's config, inside ``config``.
    """
    hooks = config.get("custom_hooks") or []
    if not isinstance(hooks, (list, tuple)):
        raise ConfigError(
            f"the config's custom_hooks is {hooks!r}, expected a list: custom_hooks=["
            "dict(type='blockcopy_plugins.BlockCopyHook')]."
        )
    kinds = [hook.get("type") if isinstance(hook, dict) else None for hook in hooks]
    names = [getattr(kind, "__name__", str(kind)).rpartition(".")[2] for kind in kinds]
    own = [hook for hook, name in zip(hooks, names, strict=True) if name == "BlockCopyHook"]
    if len(own) > 1:
        raise ConfigError(
            f"the config's custom_hooks have {len(own)} BlockCopyHooks, of which each would "
            "convert the model; leave one (a config's list takes the place of its _base_'s)."
        )
    if own:
        return own[0]
    config.custom_hooks = [*hooks, dict(DEFAULT_HOOK)]
    return config.custom_hooks[-1]


def has_hook(config: Config) -> bool:
    """Whether the config makes its model block-sparse by itself."""
    probe = Config(dict(custom_hooks=config.get("custom_hooks") or []))
    before = len(probe.custom_hooks) if isinstance(probe.custom_hooks, (list, tuple)) else 0
    hook_of(probe)
    return len(probe.custom_hooks) == before


def hook_options(config: Config) -> dict[str, Any]:
    """The options of the config's ``BlockCopyHook``, without what MMEngine reads of any hook.

    Args:
        config: Of a model; a hook with the defaults is added where it has none.
    """
    hook = hook_of(config)
    return {name: value for name, value in hook.items() if name not in ("type", "priority")}


def set_options(config: Config, **changes: Any) -> None:
    """Change options of the config's ``BlockCopyHook``.

    Args:
        config: Changed in place.
        **changes: As :func:`~blockcopy_plugins.options.change_options` takes them.

    Raises:
        ConfigError: If an option is unknown or wrong.
    """
    hook = hook_of(config)
    change_options(hook, changes)
    read_options(hook_options(config), "BlockCopyHook")  # not only once the model is built


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
) -> dict[str, Any]:
    """A dataloader of video frames with the config's own test pipeline and classes.

    Args:
        config: Config of a detector or segmentor. Its ``test_dataloader`` may have any dataset;
            what is set in a ``VideoFrameDataset`` stays where the arguments say nothing, and a
            dataset of clips (``CityscapesVideoDataset``) is taken as it is if there are no videos.
        videos: Video files, folders of frames or patterns.
        ann_file: Ground truth, one for all videos or one for each: files of a detector's, folders
            of label images of a segmentor's.
        start: First frame of each video.
        frames: Number of frames of each video, ``None`` for all.
        shuffle: Visit the videos in random order.
        clips: Number of clips of a dataset of clips, ``None`` for what the config says.
        strict_frames: Stop at a frame that cannot be read, instead of passing over it.
        first_frame_number: What the annotations call the first frame of a video file, 0 or 1.

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
    found = _innermost(loader.get("dataset") or {})
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
        if of_videos:  # the config's own annotations and frames are of its own video
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
    """Let a dataset of videos give what the policy and the motion of the config's hook want."""
    if has_hook(config):
        options = read_options(hook_options(config), "BlockCopyHook").config
        if options.policy.needs_motion or Propagation.of(options).needs_vectors:
            dataset["motion"] = True


def set_data_root(config: Config, data_root: str) -> None:
    """Set where the config's own clips lie, those of the evaluation and of the warm-up.

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

    ``policy_warm_up=dict(dataset=..., epochs=1)`` is a key of ours: the dataset of unlabelled clips
    that the policy learns on before an evaluation. They come in random order, another one each
    epoch; by the dataset's ``seed``, if it has one.

    Args:
        config: A whole config.
        clips: Number of clips, ``None`` for what the config says.

    Returns:
        The dataloader's config, or ``None`` where there is no warm-up.

    Raises:
        ConfigError: If clips are asked for and the config does not say of what.
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
    """How often the config's warm-up runs through its clips."""
    return (config.get("policy_warm_up") or {}).get("epochs", 1)


def check_files(dataloader: Mapping[str, Any]) -> None:
    """Look for the files of a dataloader's dataset, without reading them.

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
        Paths of the videos, patterns resolved, and of the annotations; none of a dataset of clips,
        which finds its files by itself.

    Raises:
        ConfigError: If a video is not there.
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


def files_in(config: Config, resumes: bool = False) -> list[tuple[str, str]]:
    """Files that a config names beside videos and annotations, as ``check_outputs`` takes them.

    Args:
        config: As :func:`read_config` gives it.
        resumes: The file of the hook's policy is meant to be written anew.

    Returns:
        The configs that it is made of, the masks of guards, the policy's file, weights.
    """
    # MMEngine keeps the text of all of them, each under its name.
    bases = [line for line in config.text.splitlines() if line.endswith(".py")]
    found = [("a config that it is made of", path) for path in bases if os.path.isfile(path)]
    own = hook_of(config).get("policy_checkpoint") if resumes else None
    values: list[Any] = [config.to_dict()]
    while values:
        value = values.pop()
        if isinstance(value, dict):
            values += value.values()
        elif isinstance(value, (list, tuple)):
            values += value
        elif isinstance(value, (str, os.PathLike)) and value != own and os.path.isfile(value):
            found.append(("a file that the config names", os.fspath(value)))
    return found


def policy_learns(config: Config) -> bool:
    """Whether the policy of the config's hook is one that learns while it runs."""
    policy = read_options(hook_options(config), "BlockCopyHook").config.policy
    return bool(policy.state_dict()) and getattr(policy, "online", True)


def _dataloader(dataset: dict[str, Any], shuffle: bool, seed: int | None = None) -> dict[str, Any]:
    return dict(
        batch_size=1,
        # In this process: a worker would take a core away from what is timed.
        num_workers=0,
        persistent_workers=False,
        sampler=dict(type="blockcopy_plugins.VideoSampler", shuffle=shuffle, seed=seed),
        dataset=dataset,
    )


def for_testing(config: Config, dataloader: dict[str, Any], **loop: Any) -> Config:
    """Make a config for ``Runner.test()`` with :class:`BlockCopyTestLoop`.

    Args:
        config: Changed in place.
        dataloader: From :func:`video_dataloader`.
        loop: Arguments of the loop. Others are those of the config's ``test_cfg``, if that is of
            this loop; ``None`` says nothing either.

    Returns:
        The same config.
    """
    _without_training(config)
    rules = LabelRules(**(dataloader["dataset"].get("label_rules") or {}))
    config.test_evaluator = task_of(config).metric_config(config, rules)
    config.test_dataloader = dataloader
    own = dict(config.get("test_cfg") or {})
    if str(own.pop("type", "")).rpartition(".")[2] != _LOOP:
        own = {}
    given = {name: value for name, value in loop.items() if value is not None}
    config.test_cfg = {**own, **given, "type": f"blockcopy_plugins.{_LOOP}"}
    return config


def for_policy_training(config: Config, dataloader: dict[str, Any], **loop: Any) -> Config:
    """Make a config for ``Runner.train()`` with :class:`PolicyTrainLoop`.

    Args:
        config: Changed in place.
        dataloader: From :func:`video_dataloader`.
        loop: Arguments of the loop.

    Returns:
        The same config.
    """
    _without_training(config)
    config.test_dataloader = config.test_evaluator = config.test_cfg = None
    config.train_dataloader = dataloader
    config.train_cfg = dict(type="blockcopy_plugins.PolicyTrainLoop", **loop)
    # A Runner trains with an optimizer of the model only; this one is never stepped. The policy's
    # own is part of the policy.
    config.optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.0))
    # The model's weights do not change, so they are not saved; param_scheduler has nothing to do.
    config.default_hooks = {**(config.get("default_hooks") or {}), "checkpoint": None}
    # The figures of single frames jump.
    smooth = [
        dict(data_src=name, method_name="mean", window_size=50)
        for name in ("executed_rate", "information_gain", "reward")
    ]
    config.log_processor = dict(
        type="LogProcessor", window_size=50, by_epoch=True, custom_cfg=smooth
    )
    # Before training a Runner initialises weights, which the checkpoint then replaces: without the
    # network, fetching those of ImageNet would fail for nothing.
    drop_pretrained(config.model)
    return config


def set_weights(config: Config, checkpoint: str | None) -> str:
    """Set the model's weights.

    Args:
        config: Changed in place.
        checkpoint: File or URL, ``None`` for the config's ``load_from``.

    Returns:
        Where they come from.

    Raises:
        ConfigError: If neither is given, or the file is not there.
    """
    found = checkpoint or config.get("load_from")
    if not found:
        raise ConfigError(
            "no weights are given: pass the model's checkpoint as CHECKPOINT, or set load_from in "
            "the config."
        )
    if "://" not in str(found) and not os.path.isfile(found):
        said = "given" if checkpoint else "that the config's load_from names"
        raise ConfigError(
            f"there is no checkpoint {str(found)!r}, {said} (the working directory is "
            f"{os.getcwd()!r}). Pass an existing file as CHECKPOINT."
        )
    config.load_from = str(found) if "://" in str(found) else os.path.normpath(found)
    config.resume = False
    return config.load_from


def set_launcher(config: Config, launcher: str) -> None:
    """Set how the processes were started, and join them with a backend that this machine has.

    Args:
        config: Changed in place.
        launcher: ``'none'``, or ``'pytorch'`` for torchrun.

    Raises:
        ConfigError: If torchrun has not started this process.
    """
    config.launcher = launcher
    if launcher == "none":
        return
    if "RANK" not in os.environ:
        raise ConfigError(
            "--launcher pytorch is for processes that torchrun starts: torchrun --nproc-per-node 2 "
            "tools/test_video.py ... --launcher pytorch"
        )
    if not torch.cuda.is_available():
        # MMEngine's own start and its wrapper take the local rank for a GPU.
        torch.distributed.init_process_group("gloo")
        config.model_wrapper_cfg = dict(type="MMDistributedDataParallel", device_ids=None)


def _absolute(path: str) -> str:
    return os.path.abspath(path) if os.path.exists(path) or not glob.has_magic(path) else path


def _innermost(dataset: Any) -> dict[str, Any]:
    """The dataset inside wrappers such as ``RepeatDataset`` or ``ConcatDataset``."""
    while isinstance(dataset, dict) and "pipeline" not in dataset:
        inner = dataset.get("dataset") or (dataset.get("datasets") or [None])[0]
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
    metainfo = dict(dataset.get("metainfo") or {})
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
        # Some of the dataset's classes keep its colours.
        metainfo["palette"] = [palette[names.index(name)] for name in metainfo["classes"]]
    return metainfo


def _without_training(config: Config) -> None:
    for name in (
        "train_dataloader",
        "train_cfg",
        "optim_wrapper",
        "param_scheduler",
        "auto_scale_lr",
        "val_dataloader",
        "val_cfg",
        "val_evaluator",
        "tta_model",
    ):
        config[name] = None


def drop_pretrained(model: Any) -> None:
    """Let a model start from random weights, without a look for files of pretrained ones.

    Args:
        model: Config of a model, changed in place, at any depth.
    """
    if isinstance(model, dict):
        if "pretrained" in model:  # of MMSegmentation's models
            model["pretrained"] = None
        init = model.get("init_cfg")
        if isinstance(init, dict) and init.get("type") == "Pretrained":
            model["init_cfg"] = None
        for value in model.values():
            drop_pretrained(value)
    elif isinstance(model, (list, tuple)):
        for value in model:
            drop_pretrained(value)
