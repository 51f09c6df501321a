"""Makes a policy of what a user writes in a config."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from typing import Any

from blockcopy_plugins.errors import ConfigError

from .base import Policy
from .callable_policy import CallablePolicy
from .fixed import AllPolicy, NonePolicy, RandomPolicy, StaticPolicy
from .gain import GainPolicy
from .heuristic import EveryNthFramePolicy, FrameDifferencePolicy
from .reinforce import RLPolicy

_SCOPE = "blockcopy_plugins."


def known_policies() -> dict[str, type[Policy]]:
    """Return the built-in policies by the names that a config may use (class and short names)."""
    short = {
        "all": AllPolicy,
        "none": NonePolicy,
        "random": RandomPolicy,
        "static": StaticPolicy,
        "frame_difference": FrameDifferencePolicy,
        "every_nth_frame": EveryNthFramePolicy,
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
            * a name, ``'all'``, ``'frame_difference'``, ``'RLPolicy'``, ...: the same with its
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
    if isinstance(config, Mapping):
        arguments = dict(config)
        if "type" not in arguments:
            raise ConfigError(
                f"a policy config needs a 'type', found the keys {sorted(map(str, arguments))}; "
                "write for example dict(type='RLPolicy', target=0.3)"
            )
        return _make(arguments.pop("type"), arguments)
    if isinstance(config, (str, type)):
        return _make(config, {})
    if callable(config):
        return CallablePolicy(config)
    raise ConfigError(
        f"policy must be a Policy, a name, dict(type=...) or f(frame, context) -> grid, found "
        f"{config!r}; names: {', '.join(known_policies())}"
    )


def _make(kind: Any, arguments: dict[str, Any]) -> Policy:
    factory = _find(kind) if isinstance(kind, str) else kind
    if not callable(factory) or (isinstance(factory, type) and not issubclass(factory, Policy)):
        raise ConfigError(f"a policy's type must be a name or a subclass of Policy, found {kind!r}")
    name = getattr(factory, "__name__", str(factory))
    try:
        policy = factory(**arguments)
    except TypeError as error:
        raise ConfigError(
            f"policy {name} does not take the arguments {sorted(map(str, arguments))}: {error}"
        ) from error
    if not isinstance(policy, Policy):
        raise ConfigError(f"{name} made a {type(policy).__name__}, which is not a Policy")
    return policy


def _find(name: str) -> Callable[..., Policy]:
    known = known_policies()
    plain = name.removeprefix(_SCOPE)
    if plain in known:
        return known[plain]
    names = list(known)
    registry = _registry()
    if registry is not None:
        found = registry.get(name) or (registry.get(plain) if plain != name else None)
        if found is not None:
            return found
        names += [extra for extra in registry.module_dict if extra not in known]
    close = difflib.get_close_matches(plain, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ConfigError(
        f"there is no policy {name!r}.{hint} Names known: {', '.join(names)}. Register your own "
        "with @blockcopy_plugins.registry.POLICIES.register_module(), or give the class itself"
    )


def _registry() -> Any | None:
    """Return the registry of the users' own policies, or None where mmengine is not installed."""
    try:
        return importlib.import_module("blockcopy_plugins.registry").POLICIES
    except ModuleNotFoundError as error:
        # Without mmengine there is no registry, and nobody can have registered anything.
        if error.name and error.name.split(".")[0] in ("mmengine", "blockcopy_plugins"):
            return None
        raise
