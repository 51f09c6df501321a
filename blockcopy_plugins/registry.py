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


def _registry(name: str, *locations: str, **given: Any) -> Registry:
    locations = tuple(f"{SCOPE}.{location}" for location in locations)
    return Registry(name, scope=SCOPE, locations=locations, **given)


MODELS = _registry("model", "models", "integrations.mmengine", parent=MMENGINE_MODELS)
# Box coders, assigners and similar parts of the networks in models/.
TASK_UTILS = _registry("task util", "models", parent=MMENGINE_TASK_UTILS)
HOOKS = _registry("hook", "integrations.mmengine", parent=MMENGINE_HOOKS)
LOOPS = _registry("loop", "integrations.mmengine", parent=MMENGINE_LOOPS)
DATA_SAMPLERS = _registry(
    "data sampler", "integrations.mmengine.sampler", parent=MMENGINE_DATA_SAMPLERS
)
DATASETS = _registry(
    "dataset",
    "datasets.citypersons_video_dataset",
    "datasets.cityscapes_video_dataset",
    "datasets.video_frame_dataset",
    parent=MMENGINE_DATASETS,
)
TRANSFORMS = _registry(
    "transform",
    "datasets.load_frame_labels",
    "datasets.load_visible_boxes",
    "datasets.load_video_frame",
    parent=MMENGINE_TRANSFORMS,
)
METRICS = _registry(
    "metric",
    "evaluation.citypersons_metric",
    "evaluation.frame_detection_metric",
    "evaluation.frame_segmentation_metric",
    "evaluation.temporal_consistency_metric",
    parent=MMENGINE_METRICS,
)
# Separate roots: MMEngine has nothing like them.
POLICIES, GUARDS, MOTIONS = (
    _registry(name, "integrations.mmengine.built_ins", build_func=_build_of_one_root)
    for name in _ONE_ROOT
)
