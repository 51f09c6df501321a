"""The required content of a saved policy."""

from __future__ import annotations

from typing import Any

from blockcopy_plugins.errors import ConfigError

VERSION = 1


def check_saved(state: dict[str, Any]) -> None:
    """Check everything in a state dict except its network.

    Raises:
        ConfigError: If it was not saved by an RLPolicy of this version.
    """
    needed = {"version", "net", "optimizer", "running_rate", "updates", "generator"}
    missing = needed - set(state)
    if missing:
        raise ConfigError(
            f"this is not the state dict of an RLPolicy: it lacks {sorted(missing)}, found "
            f"{sorted(map(str, state))}"
        )
    if state["version"] != VERSION:
        raise ConfigError(
            f"the state dict has version {state['version']!r}, this RLPolicy reads "
            f"{VERSION}; save it again with this version of blockcopy_plugins"
        )
