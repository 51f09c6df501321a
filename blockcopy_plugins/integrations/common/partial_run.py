"""What results say about a run that ended before its last frame."""

from __future__ import annotations

from typing import Any

from ...addresses import masked


def partial_run(problem: BaseException, done: int, frames: int) -> dict[str, Any]:
    """Mark results as covering only part of the frames.

    Args:
        problem: The error that ended the run.
        done: Number of frames that ran.
        frames: Number of planned frames.

    Returns:
        ``reason``, ``frames_run`` and ``frames_planned``.
    """
    text = masked(problem)
    if isinstance(problem, KeyboardInterrupt):
        reason = f"stopped ({text})" if text else "stopped"
    else:
        reason = f"{type(problem).__name__}: {text}"
    return {"reason": reason, "frames_run": done, "frames_planned": frames}
