"""The parameters in a checkpoint file, without the wrapping that other code adds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..damaged_files import DAMAGED_FILE_ERRORS, instead_of_a_checkpoint
from .key_rules import CheckpointError

# Names that trainers give the entry with the parameters.
_WRAPPERS = ("state_dict", "model")
# The prefix that DataParallel adds to each key.
_PREFIX = "module."


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a checkpoint file; nothing in it is executed.

    Entries called ``state_dict`` and ``model``, and a ``module.`` before all keys, are removed.

    Args:
        path: A file that ``torch.save`` wrote.

    Returns:
        Parameters and buffers by key, on the CPU.

    Raises:
        CheckpointError: If the file is not a checkpoint, or holds anything but a state dict.
        OSError: If it cannot be read.
    """
    path = Path(path)
    found = _load(path)
    wrapper = _wrapper_of(found)
    while wrapper is not None:
        found = found[wrapper]
        wrapper = _wrapper_of(found)
    _check(found, path)
    if all(key.startswith(_PREFIX) for key in found):
        found = {key.removeprefix(_PREFIX): value for key, value in found.items()}
    return dict(found)


def _load(path: Path) -> Any:
    path.open("rb").close()  # A file that cannot be opened is not a damaged one.
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGED_FILE_ERRORS as error:
        if "Unsupported global" in str(error) or "Unsupported class" in str(error):
            raise CheckpointError(_holds_objects(path, error)) from error
        raise CheckpointError(
            f"{str(path)!r} ({path.stat().st_size} bytes) cannot be loaded. "
            f"{instead_of_a_checkpoint(path)}"
        ) from error


def _holds_objects(path: Path, error: Exception) -> str:
    named = str(error).partition("GLOBAL ")[2].split(" ", 1)[0]
    plain = str(path.with_name(f"{path.stem}_state{path.suffix}"))
    return (
        f"{str(path)!r} holds objects besides tensors"
        + (f" (the first is of {named})" if named else "")
        + ", and reading those runs code from the file. If you trust its source, take its "
        "parameters out, with the packages that wrote it installed, and convert the result:\n"
        f"  python -c \"import torch; found = torch.load({str(path)!r}, map_location='cpu', "
        f"weights_only=False); torch.save(found['state_dict'], {plain!r})\""
    )


def _wrapper_of(found: Any) -> str | None:
    if isinstance(found, Mapping):
        for name in _WRAPPERS:
            if isinstance(found.get(name), Mapping):
                return name
    return None


def _check(found: Any, path: Path) -> None:
    if not isinstance(found, Mapping):
        raise CheckpointError(
            f"{str(path)!r} holds an object of type {type(found).__name__}, expected a state dict "
            "(tensors by name), possibly as the entry 'state_dict' or 'model'."
        )
    if not found:
        raise CheckpointError(f"{str(path)!r} holds an empty dict, expected a state dict.")
    other = [
        f"{key!r} ({type(value).__name__})"
        for key, value in found.items()
        if not (isinstance(key, str) and isinstance(value, Tensor))
    ]
    if other:
        raise CheckpointError(
            f"{str(path)!r} is not a state dict: {len(other)} of its {len(found)} entries are not "
            f"tensors by name: {', '.join(sorted(other))}. Expected tensors by name, possibly as "
            "the entry 'state_dict' or 'model'."
        )
