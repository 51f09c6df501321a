"""What a config of Detectron2 says about block-sparse execution: YAML and lazy configs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from detectron2.config import CfgNode

from ...config import AUTO, BlockCopyConfig
from ...errors import ConfigError
from ...options import change_options, read_options

_DEFAULT = BlockCopyConfig()

# Defaults of keys whose values have another form in YAML.
_OF_YAML = {
    # None is 128. "auto" chooses at the first frame, and so does 0, for a command line over a file
    # that has a number.
    "block_size": None,
    # A name ("all", "frame_difference", ...), or a string with the policy's arguments.
    "policy": "dict(type='GainPolicy', target=0.3)",
    # A list of names ("SceneCut") and of guards with their options, "dict(type='MaxAge',
    # frames=60)" or {type: MaxAge, frames: 60}.
    "guards": [],
    # A name ("DISMotion") or "dict(type='GlobalMotion')"; "" is the default of "move" and "auto".
    "motion": "",
}

OF_THE_INPUTS = dict.fromkeys(
    ("interleaved", "one_video"),
    "Detectron2's inputs name their video by video_id and frame_id. Load frames with "
    "VideoFrameDataset, or put both into the dicts of your own loader.",
)
"""Options of MMEngine's hook that do not apply here, and why."""


def add_blockcopy_config(cfg: CfgNode) -> None:
    """Add the keys ``MODEL.BLOCKCOPY``; call it before ``merge_from_file``.

    Each option of :class:`~blockcopy_plugins.BlockCopyConfig` is a key in capital letters.
    Further keys:

    * ``POLICY_CHECKPOINT``: file of a policy that ``tools/train_policy.py`` trained; ``""`` starts
      with an untrained one.
    * ``BACKBONE``: builder of the backbone to wrap, if ``MODEL.BACKBONE.NAME`` is
      ``"build_blockcopy_backbone"``, with which only the backbone runs on blocks.

    Args:
        cfg: The result of ``detectron2.config.get_cfg()``; changed in place.
    """
    cfg.MODEL.BLOCKCOPY = node = CfgNode()
    for item in fields(BlockCopyConfig):
        default = _OF_YAML.get(item.name, getattr(_DEFAULT, item.name))
        node[item.name.upper()] = copy.deepcopy(default)  # users append to lists
    node.POLICY_CHECKPOINT = ""
    node.BACKBONE = "build_resnet_fpn_backbone"


def blockcopy_config(cfg: Any, **changes: Any) -> BlockCopyConfig:
    """The options for a conversion that a config contains.

    Args:
        cfg: A ``CfgNode`` with the keys of :func:`add_blockcopy_config`, or without (the defaults);
            or a lazy config, which may have ``blockcopy = dict(block_size=..., policy=...,
            policy_checkpoint=..., ...)``.
        **changes: Options that replace the config's, as
            :func:`~blockcopy_plugins.options.change_options` takes them.

    Returns:
        A :class:`~blockcopy_plugins.BlockCopyConfig` whose policy and guards are built.

    Raises:
        ConfigError: If an option is unknown or out of range, or the policy file does not fit.
    """
    yaml = isinstance(cfg, CfgNode)
    options = _yaml_options(cfg) if yaml else _lazy_options(cfg)
    change_options(options, changes)
    place = "MODEL.BLOCKCOPY" if yaml else "the config's blockcopy"
    return read_options(options, place, OF_THE_INPUTS).config


def has_blockcopy(cfg: Any) -> bool:
    """Whether a config contains options for block-sparse execution."""
    return "BLOCKCOPY" in cfg.MODEL if isinstance(cfg, CfgNode) else "blockcopy" in cfg


def _yaml_options(cfg: CfgNode) -> dict[str, Any]:
    node = cfg.MODEL.get("BLOCKCOPY")
    if node is None:
        return {}
    options = {name.lower(): value for name, value in node.items() if name != "BACKBONE"}
    if options.get("block_size") == 0:
        options["block_size"] = AUTO
    return options


def _lazy_options(cfg: Any) -> dict[str, Any]:
    node = cfg.get("blockcopy") if hasattr(cfg, "get") else None
    if node is None:
        return {}
    from omegaconf import OmegaConf

    node = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    if not isinstance(node, Mapping):
        raise ConfigError(
            f"the config's blockcopy is {node!r}, expected dict(block_size=128, "
            "policy=dict(type='GainPolicy', target=0.3))."
        )
    return dict(node)
