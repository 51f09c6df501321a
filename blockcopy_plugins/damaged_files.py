"""The errors that reading a file saved by torch may raise if the file is damaged."""

from __future__ import annotations

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
