"""Turns the config of a detector or segmentor into one that runs on video."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.config import Config, ConfigDict

from ...datasets.ground_truth import LabelRules
from ...errors import ConfigError
from ...options import change_options, read_options
from ..common.given_config import check_config_file
from .task import TrackingTask, task_of

DEFAULT_HOOK = dict(
    type="blockcopy_plugins.BlockCopyHook",
    block_size=128,
    policy=dict(type="GainPolicy", target=0.3),
)
_LOOP = "BlockCopyTestLoop"
_TRACKING_LOOP = "BlockCopyTrackingLoop"


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
    check_config_file(path)
    try:
        with _as_before(path):
            config = Config.fromfile(path)
        if options:
            config.merge_from_dict(options)
    except ConfigError:
        raise
    except (Exception, SystemExit) as e:  # a config is a program, which may fail in any way
        raise ConfigError(f"the config {path!r} cannot be read: {type(e).__name__}: {e}") from e
    if not isinstance(config.get("model"), dict):
        found = f"model = {config.model!r:.80}" if "model" in config else "no model"
        raise ConfigError(
            f"the config {path!r} has {found}; give a model's config, whose model is a dict, such "
            "as configs/maskrcnn_blockcopy.py."
        )
    return config


@contextmanager
def _as_before(path: str) -> Iterator[None]:
    """Refuse a config that changes how the program around it finds files and makes tensors."""
    folder, dtype, device = os.getcwd(), torch.get_default_dtype(), torch.get_default_device()
    try:
        yield
        changes = (
            ("the working directory", folder, os.getcwd()),
            ("torch's default dtype", dtype, torch.get_default_dtype()),
            ("torch's default device", device, torch.get_default_device()),
        )
    finally:
        os.chdir(folder)
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(device)
    for what, before, after in changes:
        if before != after:
            raise ConfigError(
                f"the config {path!r} changes {what} from {before} to {after}, by which files are "
                "looked for elsewhere, or layers get tensors that they do not take. Leave this "
                "out of the config, and write paths out in full."
            )


def hook_of(config: Config) -> ConfigDict:
    """The config's ``BlockCopyHook``; if it has none, one with the defaults is added.

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
    """Whether the config itself makes its model block-sparse."""
    probe = Config(dict(custom_hooks=config.get("custom_hooks") or []))
    before = len(probe.custom_hooks) if isinstance(probe.custom_hooks, (list, tuple)) else 0
    hook_of(probe)
    return len(probe.custom_hooks) == before


def hook_options(config: Config) -> dict[str, Any]:
    """The options of the config's ``BlockCopyHook``, without those that MMEngine itself reads.

    Args:
        config: A model's config; if it has no hook, one with the defaults is added.
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


def files_in(config: Config, resumes: bool = False) -> list[tuple[str, str]]:
    """Files that a config names, apart from videos and annotations, for ``check_outputs``.

    Args:
        config: From :func:`read_config`.
        resumes: Whether the run may overwrite the file of the hook's policy.

    Returns:
        The configs that it consists of, the masks of guards, the policy's file, weights.
    """
    # MMEngine keeps the text of all base configs, each under its name.
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
    """Whether the policy of the config's hook learns while it runs."""
    policy = read_options(hook_options(config), "BlockCopyHook").config.policy
    return bool(policy.state_dict()) and getattr(policy, "online", True)


def for_testing(config: Config, dataloader: dict[str, Any], **loop: Any) -> Config:
    """Prepare a config for ``Runner.test()`` with :class:`BlockCopyTestLoop`, or that of trackers.

    Args:
        config: Changed in place.
        dataloader: From :func:`video_dataloader`.
        loop: Arguments of the loop. Those that are missing or ``None`` are taken from the config's
            ``test_cfg``, if that is for this loop.

    Returns:
        The same config.
    """
    task = task_of(config)
    rules = LabelRules(**(dataloader["dataset"].get("label_rules") or {}))
    config.test_evaluator = task.metric_config(config, rules)
    _without_training(config)
    config.test_dataloader = dataloader
    own = dict(config.get("test_cfg") or {})
    kind = _TRACKING_LOOP if isinstance(task, TrackingTask) else _LOOP
    if str(own.pop("type", "")).rpartition(".")[2] != kind:
        own = {}
    given = {name: value for name, value in loop.items() if value is not None}
    config.test_cfg = {**own, **given, "type": f"blockcopy_plugins.{kind}"}
    return config


def for_policy_training(config: Config, dataloader: dict[str, Any], **loop: Any) -> Config:
    """Prepare a config for ``Runner.train()`` with :class:`PolicyTrainLoop`.

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
    # A Runner only trains with an optimizer of the model; this one is never stepped. The policy has
    # its own.
    config.optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.0))
    # The model's weights do not change, so they are not saved; param_scheduler has nothing to do.
    config.default_hooks = {**(config.get("default_hooks") or {}), "checkpoint": None}
    # The figures of single frames vary a lot.
    smooth = [
        dict(data_src=name, method_name="mean", window_size=50)
        for name in ("executed_rate", "information_gain", "reward")
    ]
    config.log_processor = dict(
        type="LogProcessor", window_size=50, by_epoch=True, custom_cfg=smooth
    )
    # Before training, a Runner initialises weights, which the checkpoint then replaces. Without a
    # network connection, fetching those of ImageNet would fail needlessly.
    drop_pretrained(config.model)
    return config


def set_weights(config: Config, checkpoint: str | None) -> str:
    """Set the model's weights.

    Args:
        config: Changed in place.
        checkpoint: File or URL, ``None`` for the config's ``load_from``.

    Returns:
        The file or URL.

    Raises:
        ConfigError: If neither is given, or the file does not exist.
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
    """Set how the processes were started, and connect them by a backend that this machine has.

    Args:
        config: Changed in place.
        launcher: ``'none'``, or ``'pytorch'`` for torchrun.

    Raises:
        ConfigError: If torchrun did not start this process.
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
        # MMEngine's own initialisation and its wrapper take the local rank for a GPU's number.
        torch.distributed.init_process_group("gloo")
        config.model_wrapper_cfg = dict(type="MMDistributedDataParallel", device_ids=None)


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
    """Let a model start from random weights, without looking for pretrained ones.

    Args:
        model: Config of a model, changed in place, at any depth.
    """
    if isinstance(model, dict):
        if "pretrained" in model:  # in MMSegmentation's models
            model["pretrained"] = None
        init = model.get("init_cfg")
        if isinstance(init, dict) and init.get("type") == "Pretrained":
            model["init_cfg"] = None
        for value in model.values():
            drop_pretrained(value)
    elif isinstance(model, (list, tuple)):
        for value in model:
            drop_pretrained(value)
