"""What a config of Detectron2 says about block-sparse execution: YAML and lazy configs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from detectron2.config import CfgNode

from ...config import AUTO, BlockCopyConfig
from ...errors import ConfigError
from ...policy import build_policy
from ...policy.guards import build_guards
from ...policy.policy_file import load_policy
from ...policy.policy_text import parse_guard, parse_motion, parse_policy

_DEFAULT = BlockCopyConfig()


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
    # Run frames of which every block is executed on packed blocks too: for tests.
    node.PACK_WHOLE_FRAMES = _DEFAULT.pack_whole_frames
    # Round the number of executed blocks up to one of a few: how many equal steps, or a list of
    # executed rates. None: some 13 where frames run as CUDA graphs, no rounding elsewhere.
    node.BUCKETS = _DEFAULT.buckets
    # Capture frames as CUDA graphs, where only the backbone is converted.
    node.CUDA_GRAPHS = _DEFAULT.cuda_graphs
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


def blockcopy_config(
    cfg: Any,
    policy: Any = None,
    checkpoint: str | None = None,
    guards: Sequence[Any] | None = None,
    propagate: str | None = None,
    motion: Any = None,
):
    """The options of a conversion as a config has them.

    Args:
        cfg: A ``CfgNode`` with the keys of :func:`add_blockcopy_config`, or without (the defaults);
            or a lazy config, which may have ``blockcopy = dict(block_size=..., policy=...,
            policy_checkpoint=..., ...)``.
        policy: In place of the config's, and of its policy file.
        checkpoint: File of a trained policy in place of the config's.
        guards: In place of the config's.
        propagate: In place of the config's, and of its motion.
        motion: In place of the config's.

    Returns:
        A :class:`~blockcopy_plugins.BlockCopyConfig` whose policy and guards are built.

    Raises:
        ConfigError: If an option is unknown or out of range, or the policy file does not fit.
    """
    options = _yaml_options(cfg) if isinstance(cfg, CfgNode) else _lazy_options(cfg)
    found = options.pop("policy_checkpoint", None)
    if policy is not None:
        options["policy"], found = policy, None
    chosen = options.get("policy", _DEFAULT.policy)
    chosen = parse_policy(chosen) if isinstance(chosen, str) else chosen
    options["policy"] = build_policy(chosen)
    if checkpoint or found:
        load_policy(options["policy"], checkpoint or found)
    guards = options.get("guards", _DEFAULT.guards) if guards is None else guards
    if isinstance(guards, (list, tuple)):
        guards = [parse_guard(guard) if isinstance(guard, str) else guard for guard in guards]
    options["guards"] = build_guards(guards).guards
    if propagate is not None:
        options["propagate"] = propagate
        options.pop("motion", None)
    motion = options.get("motion") if motion is None else motion
    options["motion"] = parse_motion(motion) if isinstance(motion, str) else motion
    known = {item.name for item in fields(BlockCopyConfig)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise ConfigError(
            f"the config's blockcopy has {', '.join(unknown)}; its options are "
            f"{', '.join(sorted(known | {'policy_checkpoint'}))}."
        )
    return BlockCopyConfig(**options)


def has_blockcopy(cfg: Any) -> bool:
    """Whether a config says how its model is to run block-sparsely."""
    return "BLOCKCOPY" in cfg.MODEL if isinstance(cfg, CfgNode) else "blockcopy" in cfg


def _yaml_options(cfg: CfgNode) -> dict[str, Any]:
    node = cfg.MODEL.get("BLOCKCOPY")
    if node is None:
        return {}
    options = {name.lower(): value for name, value in node.items() if name != "BACKBONE"}
    options["policy_checkpoint"] = options["policy_checkpoint"] or None
    options["motion"] = options["motion"] or None
    if options["block_size"] is None:
        options["block_size"] = _DEFAULT.block_size
    elif options["block_size"] == 0:
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
