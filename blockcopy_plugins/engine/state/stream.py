"""What is known about a stream, apart from its features."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Stream:
    """Book-keeping of one stream.

    Attributes:
        token: Different for every stream there ever was, so that a slot's last owner is known.
        slot: Index into the slot axis of its store's maps.
        frames: Frames executed so far.
        repeated: Frames that executed no block and did not go through the network.
        broken: Whether a frame failed half-way, in the model or in guards and policy, so that the
            next one must be executed fully.
        last_grid: bool ``(GH, GW)`` of the last frame, or ``None`` before the first.
        calls: How often each module used state in the last frame.
        stateless: Whether its last frame left no state; see :mod:`~..plain_frames`.
        keeps_state: Whether some blocks have been asked for, so that frames leave state from then.
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
