"""Batches that hold several frames of one video: they run one after the other."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ...engine.adapter import Call


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


def join_batches(outputs: Sequence[Any]) -> Any:
    """One batch of the outputs of its images.

    Args:
        outputs: Of each image, of one structure: tensors ``(1, ...)`` in lists, tuples and dicts.
    """
    return tree_map(_join, *outputs)


def _join(*leaves: Any) -> Any:
    first = leaves[0]
    return torch.cat(leaves) if isinstance(first, Tensor) and first.dim() else first
