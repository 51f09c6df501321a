"""Batches that contain several frames of one video, which run one after the other."""

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
    """Split a call into calls in which no stream occurs twice.

    Args:
        call: The call with all images; everything in it but the frame is the same for each image.
        streams: The stream of each image.
        restarts: The streams that start again.

    Returns:
        The call itself if all of its streams are different; else one for each image.
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
    """Join the outputs of the images to those of a batch.

    Args:
        outputs: Of each image, with one structure: tensors ``(1, ...)`` in lists, tuples and dicts.
    """
    return tree_map(_join, *outputs)


def _join(*leaves: Any) -> Any:
    first = leaves[0]
    return torch.cat(leaves) if isinstance(first, Tensor) and first.dim() else first
