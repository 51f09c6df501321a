"""Which parts of a setting a table shows, and how."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class OlderResult(Exception):
    """A JSON file was written by an earlier version of its benchmark."""


def refuse_older(rows: Sequence[dict[str, Any]], key: str) -> None:
    """Refuse rows without a key.

    Raises:
        OlderResult: If they have none.
    """
    if not rows or key not in rows[0]:
        raise OlderResult(f"it has no {key!r}; run the benchmark again")


SETTING = ("model", "size", "dtype", "device", "threads", "block_size")


def differing(rows: Sequence[dict[str, Any]], keys: Sequence[str] = SETTING) -> list[str]:
    """Those parts of a setting that need a column; the dtype always has one."""
    return [key for key in keys if key == "dtype" or varies(rows, key)]


def varies(rows: Sequence[dict[str, Any]], key: str) -> bool:
    """Whether a part of a setting differs between rows."""
    return len({hashable(row[key]) for row in rows}) > 1


def hashable(value: Any) -> Any:
    """A value of JSON that can be a key."""
    return tuple(value) if isinstance(value, list) else value


def cell(name: str, value: Any) -> str:
    """What a table shows of a part of a setting."""
    if name == "size":
        return f"{value[0]}×{value[1]}"
    return f"{value} px" if name == "block_size" else str(value)
