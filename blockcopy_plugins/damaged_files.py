"""The errors that reading a file saved by torch may raise if the file is damaged."""

from __future__ import annotations

import contextlib
import os
import pickle
from typing import Final

DAMAGED_FILE_ERRORS: Final = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    ImportError,
    MemoryError,
    pickle.UnpicklingError,
)
"""All errors that a damaged file can cause in torch's reader."""


def instead_of_a_checkpoint(path: str | os.PathLike[str]) -> str:
    """Say what a file is that torch cannot load, and what to do."""
    start = b""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        start = file.read(256).lstrip().lower()
        if not start:
            return "It is empty; copy or download it again."
    if start.startswith((b"<!doctype html", b"<html")):
        return (
            "It is a web page: file hosts ask for confirmation before they send a large file. Open "
            "the address in a browser and confirm there."
        )
    if start.startswith(b"version https://git-lfs"):
        return "It is the pointer that Git LFS leaves in place of a file: run git lfs pull."
    return "It is damaged, or not a file that torch.save wrote; copy or download it again."
