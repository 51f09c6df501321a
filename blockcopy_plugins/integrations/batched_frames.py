"""Batches that hold several frames of one video: they run one after the other."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import replace

from ..engine.adapter import Call


def split_calls(
    call: Call, streams: Sequence[Hashable], restarts: Collection[Hashable]
) -> tuple[Call, ...]:
    """The calls that a call is made of, so that no stream is in one of them twice.

    Args:
        call: Of all images; what else is in it than the frame is the same for each of them.
        streams: The stream of each image.
        restarts: Those that begin anew.

    Returns:
        The call itself if its streams are all different; else one for each image.
    """
    if len(set(streams)) == len(streams):
        return (replace(call, streams=tuple(streams), restarts=tuple(restarts)),)
    seen: set[Hashable] = set()
    calls = []
    for frame, stream in zip(call.frame.split(1), streams, strict=True):
        begins = () if stream in seen or stream not in restarts else (stream,)
        seen.add(stream)
        calls.append(replace(call, frame=frame, streams=(stream,), restarts=begins, left={}))
    return tuple(calls)
