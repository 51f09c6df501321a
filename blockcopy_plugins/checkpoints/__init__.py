"""Weights of other code bases, renamed to the names used here."""

from .detect import detect_format
from .formats import FORMATS, Format, find_format
from .key_rules import CheckpointError, KeyRules, convert_state, match_state
from .read_state import read_state

__all__ = [
    "FORMATS",
    "CheckpointError",
    "Format",
    "KeyRules",
    "convert_state",
    "detect_format",
    "find_format",
    "match_state",
    "read_state",
]
