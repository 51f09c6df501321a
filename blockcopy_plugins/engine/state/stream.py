"""What is known of a stream beside its features."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Stream:
    """Book-keeping of one stream.

    Attributes:
        token: Differs for every stream that ever was, so that a slot's former owner is known.
        slot: Index into the slot axis of its store's maps.
        frames: Frames executed so far.
        repeated: Frames of which nothing ran and that did not go through the network.
        broken: A frame failed half-way, or guards and policy know half of it: the next one must be
            executed fully.
        last_grid: bool ``(GH, GW)`` of the last frame, or ``None`` before the first.
        calls: How often each module used state in the last frame.
        stateless: Its last frame has left no state; see :mod:`~..plain_frames`.
        keeps_state: Blocks were asked for, so that its frames leave their state from now on.
    """

    token: int
    slot: int
    frames: int = 0
    repeated: int = 0
    broken: bool = False
    last_grid: Tensor | None = None
    calls: dict[str, int] = field(default_factory=dict)
    stateless: bool = False
    keeps_state: bool = False
