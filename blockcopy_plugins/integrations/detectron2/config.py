"""What a config of Detectron2 says about block-sparse execution: YAML and lazy configs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode

from ...config import AUTO, BlockCopyConfig
from ...errors import ConfigError
from ...options import change_options, read_options

_DEFAULT = BlockCopyConfig()

OF_THE_INPUTS = dict.fromkeys(
    ("interleaved", "one_video"),
    "Detectron2's inputs say by video_id and frame_id of which video they are. Load frames by "
    "VideoFrameDataset, or put both into the dicts of your own loader.",
)
"""Options of MMEngine's hook that have no place here, and why."""


def add_blockcopy_config(cfg: CfgNode) -> None:
    """Add the keys ``MODEL.BLOCKCOPY``; call it before ``merge_from_file``.

    Args:
        cfg: Of ``detectron2.config.get_cfg()``; changed in place.
    """
    cfg.MODEL.BLOCKCOPY = CfgNode()
    node = cfg.MODEL.BLOCKCOPY

    # Side of a block in pixels of the network's input. A multiple of the network's total stride
    # (64 with an FPN's p6, 128 with p7) keeps every layer on blocks. "auto" chooses at the first
    # frame, and so does 0, for a command line over a file that has a number. None is 128.
    node.BLOCK_SIZE = None
    # What picks the blocks: a name ("all", "frame_difference", ...), or
    # "dict(type='GainPolicy', target=0.3)" with the policy's arguments.
    node.POLICY = "dict(type='GainPolicy', target=0.3)"
    # File of a policy that tools/train_policy.py trained; "" starts with an untrained one.
    node.POLICY_CHECKPOINT = ""
    # Raise where an op cannot run on blocks, instead of running it on the whole map.
    node.STRICT = _DEFAULT.strict
    # Live streams at most; each has a slot in every map of the state.
    node.MAX_STREAMS = _DEFAULT.max_streams
    # Refuse frames with NaN or infinity before they reach the state.
    node.CHECK_FINITE = _DEFAULT.check_finite
    # Let a convolution on a CPU take batch norm, addition and activation behind it along.
    node.FUSE = _DEFAULT.fuse
    # Let 3x3 convolutions on a CPU run by Winograd's algorithm.
    node.WINOGRAD = _DEFAULT.winograd
    # Cut dense maps into blocks again where an op could run on some.
    node.REPACK = _DEFAULT.repack
    # Run frames of which every block is executed on packed blocks too: for tests.
    node.PACK_WHOLE_FRAMES = _DEFAULT.pack_whole_frames
    # Cut maps that an op made dense into blocks again.
    node.REPACK = _DEFAULT.repack
    # Round the number of executed blocks up to one of a few: how many equal steps, or a list of
    # executed rates. None: some 13 where frames run as CUDA graphs, no rounding elsewhere.
    node.BUCKETS = _DEFAULT.buckets
    # Capture frames as CUDA graphs, where only the backbone is converted.
    node.CUDA_GRAPHS = _DEFAULT.cuda_graphs
    # The same on a CPU, where what frames do is written down and done again.
    node.PROGRAMS = _DEFAULT.programs
    # Memory of all graphs at most, in MiB.
    node.GRAPH_MEMORY_MIB = _DEFAULT.graph_memory_mib
    # What holds whatever the policy picks: a list of names ("SceneCut") and of guards with their
    # options, "dict(type='MaxAge', frames=60)" or {type: MaxAge, frames: 60}.
    node.GUARDS = []
    # What leaves the model of blocks that did not run: "copy", "move" (to where it is now), "auto"
    # (moved where most of the picture moves).
    node.PROPAGATE = _DEFAULT.propagate
    # Where the motion comes from: a name ("DISMotion") or "dict(type='GlobalMotion')". "" is the
    # default of "move" and "auto".
    node.MOTION = ""

    # With MODEL.BACKBONE.NAME "build_blockcopy_backbone" the backbone alone runs on blocks. This is
    # the builder of the backbone that is wrapped.
    node.BACKBONE = "build_resnet_fpn_backbone"


def blockcopy_config(cfg: Any, **changes: Any) -> BlockCopyConfig:
    """The options of a conversion as a config has them.

    Args:
        cfg: A ``CfgNode`` with the keys of :func:`add_blockcopy_config`, or without (the defaults);
            or a lazy config, which may have ``blockcopy = dict(block_size=..., policy=...,
            policy_checkpoint=..., ...)``.
        **changes: Options in place of the config's, as
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
    """Whether a config says how its model is to run block-sparsely."""
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
