"""The parameters in a checkpoint file, without the wrapping that other code adds."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .key_rules import CheckpointError

# Names that trainers give the entry with the parameters.
_WRAPPERS = ("state_dict", "model")
# The prefix that DataParallel adds to each key.
_PREFIX = "module."
# The errors that torch.load's reader may raise.
_OF_DAMAGED_FILES = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
)


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
    with path.open("rb") as file:
        start = file.read(256)
    if not start:
        raise CheckpointError(f"{str(path)!r} is empty; download it again.")
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise CheckpointError(
            f"{str(path)!r} is a web page, not a checkpoint. File hosts ask for confirmation "
            "before they send a large file: open the address in a browser and confirm there."
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported global" in str(error) or "Unsupported class" in str(error):
            raise CheckpointError(_holds_objects(path, error)) from error
        raise CheckpointError(_no_checkpoint(path)) from error
    except _OF_DAMAGED_FILES as error:
        raise CheckpointError(_no_checkpoint(path)) from error


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


def _no_checkpoint(path: Path) -> str:
    return (
        f"{str(path)!r} ({path.stat().st_size} bytes) is not a file that torch.save wrote, or it "
        "is damaged; download it again."
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
