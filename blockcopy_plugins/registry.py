"""Registries of the scope ``blockcopy_plugins``: children of MMEngine's, as MMDetection has them.

With them a config names our classes as ``type='blockcopy_plugins.BlockCopyHook'`` and needs no
``custom_imports``: MMEngine imports ``{scope}.registry`` when it meets a scope for the first time,
and a registry imports its ``locations`` when it is first asked for a name. A location is therefore
imported on use only, and one that cannot be imported is an error: list only modules that exist.

This module needs MMEngine; nothing that runs without it may import this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import TASK_UTILS as MMENGINE_TASK_UTILS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

from blockcopy_plugins.errors import ConfigError

__all__ = [
    "DATASETS",
    "DATA_SAMPLERS",
    "GUARDS",
    "HOOKS",
    "LOOPS",
    "METRICS",
    "MODELS",
    "MOTIONS",
    "POLICIES",
    "TASK_UTILS",
    "TRANSFORMS",
]

SCOPE = "blockcopy_plugins"

# What is called how here, and an example for messages.
_ONE_ROOT = {
    "policy": ("POLICIES", "policy=dict(type='GainPolicy', target=0.3)"),
    "guard": ("GUARDS", "guards=[dict(type='MaxAge', frames=60)]"),
    "motion": ("MOTIONS", "motion=dict(type='DISMotion', width=256)"),
}


def _build_of_one_root(cfg: Mapping[str, Any], registry: Registry, **default_args: Any) -> Any:
    """Build a policy, guard or estimate of motion from ``dict(type=..., **arguments)``.

    MMEngine's own builder first looks for a child registry of the default scope (``mmdet`` inside
    MMDetection), which these registries do not have, and warns at each build. Policies have one
    root, and so have guards, so the name is looked up there at once.

    Args:
        cfg: Mapping with ``type`` (registered name, scoped name or class) and the arguments.
        registry: The registry to look in.
        default_args: Arguments that hold where ``cfg`` does not give them.

    Returns:
        The object.

    Raises:
        ConfigError: ``cfg`` is no mapping, has no ``type``, or the type is not registered.
    """
    if not isinstance(cfg, Mapping) or "type" not in cfg:
        raise ConfigError(
            f"a {registry.name}'s config must be a mapping with the key 'type', but got {cfg!r}; "
            f"write for example {_ONE_ROOT[registry.name][1]}"
        )
    arguments = {**default_args, **cfg}
    kind = arguments.pop("type")
    if isinstance(kind, str):
        found = registry.get(kind)
        if found is None:
            raise ConfigError(
                f"{registry.name} type {kind!r} is not registered; registered are "
                f"{', '.join(sorted(registry.module_dict))}. Register your own class by "
                f"@{_ONE_ROOT[registry.name][0]}.register_module() and name its module in "
                "custom_imports"
            )
        kind = found
    return kind(**arguments)


MODELS = Registry(
    "model",
    parent=MMENGINE_MODELS,
    scope=SCOPE,
    locations=["blockcopy_plugins.models", "blockcopy_plugins.integrations.mmengine"],
)
# Box coders, assigners and the like of the networks in models/.
TASK_UTILS = Registry(
    "task util", parent=MMENGINE_TASK_UTILS, scope=SCOPE, locations=["blockcopy_plugins.models"]
)
HOOKS = Registry(
    "hook",
    parent=MMENGINE_HOOKS,
    scope=SCOPE,
    locations=["blockcopy_plugins.integrations.mmengine"],
)
LOOPS = Registry(
    "loop",
    parent=MMENGINE_LOOPS,
    scope=SCOPE,
    locations=["blockcopy_plugins.integrations.mmengine"],
)
DATA_SAMPLERS = Registry(
    "data sampler",
    parent=MMENGINE_DATA_SAMPLERS,
    scope=SCOPE,
    locations=["blockcopy_plugins.integrations.mmengine.sampler"],
)
DATASETS = Registry(
    "dataset",
    parent=MMENGINE_DATASETS,
    scope=SCOPE,
    locations=[
        "blockcopy_plugins.datasets.citypersons_video_dataset",
        "blockcopy_plugins.datasets.cityscapes_video_dataset",
        "blockcopy_plugins.datasets.video_frame_dataset",
    ],
)
TRANSFORMS = Registry(
    "transform",
    parent=MMENGINE_TRANSFORMS,
    scope=SCOPE,
    locations=[
        "blockcopy_plugins.datasets.load_frame_labels",
        "blockcopy_plugins.datasets.load_visible_boxes",
        "blockcopy_plugins.datasets.load_video_frame",
    ],
)
METRICS = Registry(
    "metric",
    parent=MMENGINE_METRICS,
    scope=SCOPE,
    locations=[
        "blockcopy_plugins.evaluation.citypersons_metric",
        "blockcopy_plugins.evaluation.frame_detection_metric",
        "blockcopy_plugins.evaluation.frame_segmentation_metric",
        "blockcopy_plugins.evaluation.temporal_consistency_metric",
    ],
)
# Roots of their own: MMEngine has nothing like them.
POLICIES = Registry(
    "policy",
    build_func=_build_of_one_root,
    scope=SCOPE,
    locations=["blockcopy_plugins.integrations.mmengine.policies"],
)
GUARDS = Registry(
    "guard",
    build_func=_build_of_one_root,
    scope=SCOPE,
    locations=["blockcopy_plugins.integrations.mmengine.guards"],
)
MOTIONS = Registry(
    "motion",
    build_func=_build_of_one_root,
    scope=SCOPE,
    locations=["blockcopy_plugins.integrations.mmengine.motions"],
)
