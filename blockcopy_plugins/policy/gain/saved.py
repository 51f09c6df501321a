"""The saved form of a GainPolicy, and the check that a file has it."""

from __future__ import annotations

from typing import Any

from blockcopy_plugins.errors import ConfigError

from .features import NAMES

VERSION = 1


def check_saved(state: dict[str, Any]) -> None:
    """Refuse anything that a GainPolicy of this version has not saved.

    Args:
        state: The result of :meth:`.gain_policy.GainPolicy.state_dict`, or something else.

    Raises:
        ConfigError: If it is something else.
    """
    missing = {"version", "features", "products", "targets", "frames", "budget"} - set(state)
    if missing:
        raise ConfigError(
            f"this is not the state dict of a GainPolicy: it lacks {sorted(missing)}, found "
            f"{sorted(map(str, state))}"
        )
    if state["version"] != VERSION or list(state["features"]) != list(NAMES):
        raise ConfigError(
            f"the state dict has version {state['version']!r} and the features "
            f"{state['features']}, this GainPolicy reads {VERSION} and {list(NAMES)}; learn "
            "again with this version of blockcopy_plugins"
        )
    sizes = {"products": (len(NAMES), len(NAMES)), "targets": (len(NAMES),)}
    for name, shape in sizes.items():
        value = state[name]
        if tuple(value.shape) != shape or not bool(value.isfinite().all()):
            raise ConfigError(
                f"{name} in the state dict must be finite and of shape {shape}, found shape "
                f"{tuple(value.shape)}; the file is damaged"
            )
