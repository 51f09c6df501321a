"""Registries of the scope ``blockcopy_plugins``: children of MMEngine's, like MMDetection's.

With them, a config names our classes as ``type='blockcopy_plugins.BlockCopyHook'`` and needs no
``custom_imports``: MMEngine imports ``{scope}.registry`` when it meets a scope for the first time,
and a registry imports its ``locations`` when it is first asked for a name. A location is therefore
imported only on use, and one that cannot be imported is an error: list only modules that exist.

This module needs MMEngine; code that runs without MMEngine must not import this module.
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

# The registry of each kind, and an example for messages.
_ONE_ROOT = {
    "policy": ("POLICIES", "policy=dict(type='GainPolicy', target=0.3)"),
    "guard": ("GUARDS", "guards=[dict(type='MaxAge', frames=60)]"),
    "motion": ("MOTIONS", "motion=dict(type='DISMotion', width=256)"),
}


def _build_of_one_root(cfg: Mapping[str, Any], registry: Registry, **default_args: Any) -> Any:
    """Build a policy, guard or estimate of motion from ``dict(type=..., **arguments)``.

    MMEngine's own builder first looks for a child registry of the default scope (``mmdet`` inside
    MMDetection), which these registries do not have, and warns at each build. Policies, guards and
    motions each have a single root, so the name is looked up directly there.

    Args:
        cfg: Mapping with ``type`` (registered name, scoped name or class) and the arguments.
        registry: The registry to look in.
        default_args: Arguments to use where ``cfg`` does not give them.

    Returns:
        The object.

    Raises:
        ConfigError: If ``cfg`` is not a mapping, has no ``type``, or the type is not registered.
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
                f"{', '.join(sorted(registry.module_dict))}. Register your own class with "
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
# Box coders, assigners and similar parts of the networks in models/.
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
# Separate roots: MMEngine has nothing like them.
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
