"""What the policy keeps of each stream, and of the frame at work."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from blockcopy_plugins.policy.base import PolicyContext

from .experience import Experience, Recalled


@dataclass(eq=False)
class StreamMemory:
    """What is kept of a stream: constant in size, whatever the length of the video."""

    picture: Tensor  # float32 (3, h, w) on cells: each block as last executed
    output_map: Tensor  # float32 (h, w) on cells: the last output
    summary: Any  # the last output, for the information gain; None if it was not given


@dataclass(frozen=True, eq=False)
class Look:
    """One look at a batch: what select() found and feedback() goes on with."""

    context: PolicyContext
    picture: Tensor  # float32 (N, 3, h, w)
    known: tuple[bool, ...]  # N: the stream has a memory and is not forced
    cells: Tensor  # float32 (N, 11, h, w): the network's input
    recalled: Recalled | None
    sampled: Tensor  # bool (N, GH, GW)
    logits: Tensor  # float32 (N, GH, GW)


@dataclass(frozen=True, eq=False)
class Unproven:
    """A frame of whose outputs the host does not know yet whether they are finite.

    On a GPU it learns so with the next frame. By then the frame is part of what is known of its
    streams, and must be taken back if they are not.
    """

    before: dict[Hashable, StreamMemory | None]  # by stream, in the order of the batch
    after: dict[Hashable, StreamMemory]
    running_rate: float | None  # before
    generator: Tensor  # its state before
    learned: Experience | None
