"""Makes a policy from what a user writes in a config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blockcopy_plugins.default_tensors import neutral_defaults
from blockcopy_plugins.errors import ConfigError

from .background_subtraction import BackgroundSubtractionPolicy
from .base import Policy
from .callable_policy import CallablePolicy
from .fixed import AllPolicy, NonePolicy, RandomPolicy, StaticPolicy
from .gain import GainPolicy
from .heuristic import EveryNthFramePolicy, FrameDifferencePolicy
from .motion_detection import MotionDetectionPolicy
from .motion_vectors import MotionVectorPolicy
from .named_class import NamedClass
from .reinforce import RLPolicy


def known_policies() -> dict[str, type[Policy]]:
    """Return the built-in policies by the names that a config may use (class and short names)."""
    short = {
        "all": AllPolicy,
        "none": NonePolicy,
        "random": RandomPolicy,
        "static": StaticPolicy,
        "frame_difference": FrameDifferencePolicy,
        "every_nth_frame": EveryNthFramePolicy,
        "background_subtraction": BackgroundSubtractionPolicy,
        "motion_detection": MotionDetectionPolicy,
        "motion_vectors": MotionVectorPolicy,
        "callable": CallablePolicy,
        "rl": RLPolicy,
        "gain": GainPolicy,
    }
    return {**short, **{policy.__name__: policy for policy in short.values()}}


def build_policy(config: Any) -> Policy:
    """Make a policy.

    Args:
        config: One of

            * a :class:`Policy`: returned as it is;
            * a subclass of it: called without arguments;
            * a name, ``'all'``, ``'frame_difference'``, ``'RLPolicy'``, ...: that policy with its
              defaults;
            * ``dict(type=..., **arguments)``, where ``type`` is a name or a class;
            * a function ``f(frame, context) -> grid``.

            Names that are not built in are looked up in ``blockcopy_plugins.registry.POLICIES``.
            The config is not changed.

    Returns:
        The policy.

    Raises:
        ConfigError: If the config is none of these, the name is unknown, or the arguments do not
            fit.
    """
    if isinstance(config, Policy):
        return config
    known = known_policies()
    named = NamedClass("policy", Policy, known, "POLICIES", "dict(type='RLPolicy', target=0.3)")
    with neutral_defaults():
        if isinstance(config, Mapping):
            return named.from_mapping(config)
        if isinstance(config, (str, type)):
            return named.make(config, {})
    if callable(config):
        return CallablePolicy(config)
    raise ConfigError(
        f"policy must be a Policy, a name, dict(type=...) or f(frame, context) -> grid, found "
        f"{config!r}; names: {', '.join(known)}"
    )
