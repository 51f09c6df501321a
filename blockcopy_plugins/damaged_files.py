"""What reading a file that torch has saved may raise, if the file is damaged."""

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
"""Whatever the reader happens to meet in it."""
