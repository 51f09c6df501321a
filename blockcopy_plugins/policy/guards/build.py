"""Makes guards from what a user writes in a config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.policy.named_class import NamedClass

from .always import Always
from .base import Guard
from .dilate import Dilate
from .guard_set import GuardSet
from .hold import Hold
from .ignore import Ignore
from .max_age import MaxAge
from .refresh import Refresh
from .scene_cut import SceneCut


def known_guards() -> dict[str, type[Guard]]:
    """Return the built-in guards by the names that a config may use."""
    guards = (MaxAge, Refresh, SceneCut, Dilate, Hold, Ignore, Always)
    return {guard.__name__: guard for guard in guards}


def build_guard(config: Any) -> Guard:
    """Make a guard.

    Args:
        config: One of

            * a :class:`Guard`: returned as it is;
            * a subclass of it, or a name, ``'SceneCut'``: with its defaults;
            * ``dict(type=..., **options)``, where ``type`` is a name or a class.

            Names that are not built in are looked up in ``blockcopy_plugins.registry.GUARDS``.

    Returns:
        The guard.

    Raises:
        ConfigError: If the config is none of these, the name is unknown, or the options do not fit.
    """
    if isinstance(config, Guard):
        return config
    named = NamedClass("guard", Guard, known_guards(), "GUARDS", "dict(type='MaxAge', frames=60)")
    if isinstance(config, Mapping):
        return named.from_mapping(config)
    if isinstance(config, (str, type)):
        return named.make(config, {})
    raise ConfigError(
        f"a guard must be a Guard, a name or dict(type=...), found {config!r}; names: "
        f"{', '.join(known_guards())}"
    )


def build_guards(configs: Sequence[Any] | None) -> GuardSet:
    """Make all guards of a model.

    Args:
        configs: A config for each, as for :func:`build_guard`; None or empty for no guards.

    Raises:
        ConfigError: If it is not a list, or one of them cannot be made.
    """
    if configs is None:
        return GuardSet()
    if isinstance(configs, (str, Mapping)) or not isinstance(configs, Sequence):
        raise ConfigError(
            f"guards must be a list such as [dict(type='MaxAge', frames=60)], found {configs!r}"
        )
    return GuardSet([build_guard(config) for config in configs])
