"""Makes an estimate of motion from what a user writes in a config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError
from ..policy.named_class import NamedClass
from .auto_motion import AutoMotion
from .base import Motion
from .callable_motion import CallableMotion
from .codec_motion import CodecMotion
from .dis_motion import DISMotion
from .global_motion import GlobalMotion


def known_motions() -> dict[str, type[Motion]]:
    """Return the built-in estimates of motion by the names that a config may use."""
    short = {
        "auto": AutoMotion,
        "codec": CodecMotion,
        "dis": DISMotion,
        "global": GlobalMotion,
    }
    return {**short, **{motion.__name__: motion for motion in short.values()}}


def build_motion(config: Any) -> Motion:
    """Make an estimate of motion.

    Args:
        config: One of

            * a :class:`Motion`: returned as it is;
            * a subclass of it, or a name, ``'dis'``, ``'DISMotion'``: with its defaults;
            * ``dict(type=..., **options)``, where ``type`` is a name or a class;
            * a function ``f(frame, context)``, see :class:`CallableMotion`.

            Names that are not built in are looked up in ``blockcopy_plugins.registry.MOTIONS``.

    Returns:
        The estimate.

    Raises:
        ConfigError: If the config is none of these, the name is unknown, the options do not fit, or
            OpenCV is needed and missing.
    """
    if isinstance(config, Motion):
        return config
    example = "dict(type='DISMotion', width=256)"
    named = NamedClass("motion", Motion, known_motions(), "MOTIONS", example)
    if isinstance(config, Mapping):
        return named.from_mapping(config)
    if isinstance(config, (str, type)):
        return named.make(config, {})
    if callable(config):
        return CallableMotion(config)
    raise ConfigError(
        f"motion must be a Motion, a name, dict(type=...) or f(frame, context), found {config!r}; "
        f"names: {', '.join(known_motions())}"
    )
