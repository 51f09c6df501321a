"""Files that store what a policy learned."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..damaged_files import DAMAGED_FILE_ERRORS
from ..errors import BlockCopyError, ConfigError
from ..part_files import save_whole


def save_policy(policy, path: str | Path) -> None:
    """Write what a policy learned to a file, completely or not at all.

    Args:
        policy: The policy.
        path: File to write; its folder is made if it is missing.

    Raises:
        OSError: If the file cannot be written.
    """
    save_whole({"policy": type(policy).__name__, "state_dict": policy.state_dict()}, path)


def load_policy(policy, path: str | Path) -> None:
    """Read what a policy learned from a file written by :func:`save_policy`.

    Args:
        policy: A policy of the same kind and shape.
        path: The file.

    Raises:
        ConfigError: If the file is missing, is not a policy file, holds NaN, or is for another kind
            of policy.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(
            f"no policy file {str(path)!r}. Train one with tools/train_policy.py, or omit "
            "policy_checkpoint to learn while the video runs."
        )
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGED_FILE_ERRORS as error:
        raise ConfigError(
            f"the policy file {str(path)!r} cannot be read ({type(error).__name__}): it is damaged "
            "or not a policy file. Train one with tools/train_policy.py, or copy it again."
        ) from error
    if not isinstance(saved, dict) or set(saved) != {"policy", "state_dict"}:
        raise ConfigError(f"{str(path)!r} is not a policy file of tools/train_policy.py.")
    if saved["policy"] != type(policy).__name__:
        raise ConfigError(
            f"{str(path)!r} holds a {saved['policy']}, but the config's policy is a "
            f"{type(policy).__name__}. Use the config that it was trained with."
        )
    broken = next((name for name, value in _entries(saved["state_dict"]) if value != value), None)
    if broken is not None:
        raise ConfigError(
            f"the policy file {str(path)!r} holds NaN in {broken}: a training that diverged, or a "
            "damaged file. Give an earlier one, or train it again."
        )
    try:
        policy.load_state_dict(saved["state_dict"])
    except BlockCopyError as error:
        raise ConfigError(f"the policy file {str(path)!r} does not fit: {error}") from error
    except DAMAGED_FILE_ERRORS as error:
        raise ConfigError(
            f"the policy file {str(path)!r} does not fit the {type(policy).__name__} "
            f"({type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''}). "
            "It is damaged, or of another version or other options; train it again."
        ) from error


def _entries(saved: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Names and numbers of what a state contains; of a tensor 0, or NaN if it contains that."""
    if isinstance(saved, dict):
        for key, value in saved.items():
            yield from _entries(value, f"{name}.{key}" if name else str(key))
    elif isinstance(saved, (list, tuple)):
        for index, value in enumerate(saved):
            yield from _entries(value, f"{name}[{index}]")
    elif isinstance(saved, torch.Tensor):
        yield name, float("nan") if bool(saved.isnan().any()) else 0.0
    elif isinstance(saved, float):
        yield name, saved
