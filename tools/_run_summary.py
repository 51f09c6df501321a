"""What a tool says of a video that it has run a model on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

WARMUP = 3
"""So many first frames do not count in the times: they are slow, and the first is full."""


def summary_of(
    handle: Any,
    source: Any,
    rates: Sequence[float],
    sparse: Sequence[float],
    dense: Sequence[float | None],
) -> str:
    """Return what was done, in a line.

    Args:
        handle: Of the converted model.
        source: The `LiveSource` that was read.
        rates: Executed rate of each frame.
        sparse: Milliseconds of each frame.
        dense: The same of the model as it was, None where that did not run.
    """
    parts = ["1 frame" if len(rates) == 1 else f"{len(rates)} frames"]
    if source.dropped:
        parts.append(f"{source.dropped} dropped")
    if source.corrupt:
        parts.append(f"{source.corrupt} skipped, as they could not be read")
    parts.append(f"executed rate {100 * sum(rates) / max(len(rates), 1):.1f} %")
    if rates:
        # Where all are first frames, they are timed for want of others.
        sparse, dense = sparse[WARMUP:] or sparse, dense[WARMUP:] or dense
        ms = sum(sparse) / len(sparse)
        parts.append(f"{ms:.1f} ms a frame")
        if dense[0] is not None:
            ms_dense = sum(dense) / len(dense)
            parts.append(f"dense {ms_dense:.1f} ms, speed-up {ms_dense / ms:.2f} x")
    dense_ops = handle.report().dense_ops
    if dense_ops:
        parts.append(f"{len(dense_ops)} ops ran on whole maps (tools/test_video.py names them)")
    return ", ".join(parts)
