"""Checks that every way to train a policy makes."""

from __future__ import annotations

from ...errors import ConfigError
from ...policy import Policy


def check_epochs(name: str, epochs: int) -> None:
    """Refuse a number of epochs in which nothing would be learned.

    Args:
        name: The user's name for it.
        epochs: The number.

    Raises:
        ConfigError: If it is below 1.
    """
    if epochs < 1:
        raise ConfigError(f"{name}={epochs}, expected at least 1.")


def check_learns(policy: Policy) -> None:
    """Refuse a policy that does not learn.

    Args:
        policy: The converted model's policy.

    Raises:
        ConfigError: If there is nothing to learn, or learning is turned off.
    """
    if not policy.state_dict():
        raise ConfigError(
            f"{type(policy).__name__} learns nothing, so there is nothing to train. Set "
            "policy=dict(type='GainPolicy', target=0.3)."
        )
    if getattr(policy, "online", True) is False:
        raise ConfigError(
            f"the {type(policy).__name__} is frozen by online=False. Train it with online=True."
        )
