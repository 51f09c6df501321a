"""The line in which a tool sums up a run of a model on a video."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

WARMUP = 3
"""The times of this many first frames do not count: they are slow, and the first is full."""


def summary_of(
    handle: Any,
    source: Any,
    rates: Sequence[float],
    sparse: Sequence[float],
    dense: Sequence[float | None],
) -> str:
    """Return a line that sums up the run.

    Args:
        handle: The handle of the converted model.
        source: The `LiveSource` that was read.
        rates: Executed rate of each frame.
        sparse: Milliseconds of each frame.
        dense: Milliseconds of each frame of the plain model, None if it did not run.
    """
    parts = [f"{len(rates)} frames"]
    if source.dropped:
        parts.append(f"{source.dropped} dropped")
    if source.corrupt:
        parts.append(f"{source.corrupt} skipped because they could not be read")
    parts.append(f"executed rate {100 * sum(rates) / max(len(rates), 1):.1f} %")
    if rates:
        # If there are no other frames, the first ones are timed after all.
        sparse, dense = sparse[WARMUP:] or sparse, dense[WARMUP:] or dense
        ms = sum(sparse) / len(sparse)
        parts.append(f"{ms:.1f} ms per frame")
        if dense[0] is not None:
            ms_dense = sum(dense) / len(dense)
            parts.append(f"dense {ms_dense:.1f} ms, speed-up {ms_dense / ms:.2f} x")
    dense_ops = handle.report().dense_ops
    if dense_ops:
        parts.append(f"{len(dense_ops)} ops ran on whole maps (tools/test_video.py names them)")
    return ", ".join(parts)
