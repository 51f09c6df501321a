"""The policy's memory of each stream, and of the current frame."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from blockcopy_plugins.policy.base import PolicyContext

from .experience import Experience, Recalled


@dataclass(eq=False)
class StreamMemory:
    """The data kept for a stream: constant in size, however long the video is."""

    picture: Tensor  # float32 (3, h, w) on cells: each block as last executed
    output_map: Tensor  # float32 (h, w) on cells: the last output
    summary: Any  # the last output, for the information gain; None if it was not given


@dataclass(frozen=True, eq=False)
class Look:
    """One look at a batch: the results of select() that feedback() continues with."""

    context: PolicyContext
    picture: Tensor  # float32 (N, 3, h, w)
    known: tuple[bool, ...]  # N: the stream has a memory and is not forced
    cells: Tensor  # float32 (N, 11, h, w): the network's input
    recalled: Recalled | None
    sampled: Tensor  # bool (N, GH, GW)
    logits: Tensor  # float32 (N, GH, GW)


@dataclass(frozen=True, eq=False)
class Unproven:
    """A frame whose outputs the host does not yet know to be finite.

    On a GPU it learns this with the next frame. By then the frame is part of its streams' memory,
    and must be taken back if its outputs are not finite.
    """

    before: dict[Hashable, StreamMemory | None]  # by stream, in the order of the batch
    after: dict[Hashable, StreamMemory]
    running_rate: float | None  # before
    generator: Tensor  # its state before
    learned: Experience | None
