"""One look at a batch of frames: what the policy finds before the network runs."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blockcopy_plugins.errors import FrameError
from blockcopy_plugins.policy.base import PolicyContext, check_frame
from blockcopy_plugins.policy.picture import reduce_picture

from .allotment import shares_of
from .features import NAMES, PictureChange, around, block_features
from .memory import GAIN_FLOOR, BlockMaps, StreamMemory
from .ridge import OnlineRidge
from .spread import spread_of

# A block's score is half its own worth and half that around it: regions rather than scattered
# blocks, which read stale features around them.
_OWN_WORTH = 0.5
_LEAST_WORTH = 1e-4
# What a frame of waiting adds to it, in units of gain: of blocks in which nothing moves, the oldest
# comes first.
_WAITING = 1e-5


@dataclass(eq=False)
class Look:
    """What was found in a batch of N images.

    Attributes:
        context: Of the call.
        known: The memory of each image's stream; None where the image is executed fully.
        picture: float32 ``(N, 3, h, w)`` on cells.
        maps: What is known of the blocks.
        change: How much their picture changed.
        features: float32 ``(N, GH, GW, features)``.
        expected: float32 ``(N, GH, GW)``, the predicted ``log(gain + GAIN_FLOOR)``.
        worth: float32 ``(N, GH, GW)``, the predicted gain.
        habit: 0-dim, the regression's weight of the blocks' own surprise.
        scores: float32 ``(N, GH, GW)``, worth averaged with that around, and for waiting.
        spread: Of each image, see :func:`~.spread.spread_of`. Known on the host once it was
            read, at the latest when the network runs.
        total: Mean worth of each image's blocks; known at the same time.
        share: Of each image's stream, see :func:`~.allotment.shares_of`; likewise.
    """

    context: PolicyContext
    known: tuple[StreamMemory | None, ...]
    picture: Tensor
    maps: BlockMaps
    change: PictureChange
    features: Tensor
    expected: Tensor
    worth: Tensor
    habit: Tensor
    scores: Tensor
    spread: tuple[float, ...] = ()
    total: tuple[float, ...] = ()
    share: tuple[float, ...] = ()

    def take_measures(self, values: Tensor) -> None:
        """Take what was measured on the device, and refuse what is not finite.

        Args:
            values: ``(4, N)``: spreads, mean worths, shares, and the means of the pictures.

        Raises:
            FrameError: If the frame holds NaN or infinity.
        """
        self.spread, self.total, self.share, means = map(tuple, values.tolist())
        if not all(map(math.isfinite, means)):
            raise FrameError("the frame holds NaN or infinity; look at what made it")


def look_at(
    frame: Tensor,
    context: PolicyContext,
    known: Sequence[StreamMemory | None],
    memories: Mapping[Hashable, StreamMemory],
    ridge: OnlineRidge,
    rate: float,
) -> Look:
    """Look at a batch; nothing is changed.

    Args:
        frame: ``(N, 3, H, W)``.
        context: Of the call.
        known: The memory of each image's stream; None where there is none that fits, or the image
            is the first of its stream.
        memories: Of all streams.
        ridge: Predicts ``log(gain + GAIN_FLOOR)``.
        rate: Executed rate of all streams together.

    Raises:
        FrameError: If the frame does not fit the context, or holds NaN or infinity.
    """
    check_frame(frame, context)
    picture = reduce_picture(frame, context.block_size, context.grid_shape)
    unknown = BlockMaps.unknown((1, *context.grid_shape[1:]), picture.device)
    maps = BlockMaps.join([unknown if memory is None else memory.maps for memory in known])
    executed = [
        own if memory is None else memory.picture
        for own, memory in zip(picture, known, strict=True)
    ]
    change = PictureChange(picture, _stack(executed), context.block_size)
    features = block_features(change, maps)
    expected = ridge.predict(features).clamp_(-6, 2)
    worth = expected.exp().sub_(GAIN_FLOOR).clamp_min_(_LEAST_WORTH)
    forbidden = context.forbidden
    if forbidden is not None:
        worth = worth.masked_fill_(forbidden, _LEAST_WORTH)
    scores = torch.lerp(around(worth, own=True), worth, _OWN_WORTH)
    scores = scores.add_(maps.age, alpha=_WAITING)
    look = Look(
        context,
        tuple(known),
        picture,
        maps,
        change,
        features,
        expected,
        worth,
        ridge.weights[NAMES.index("surprise")].float(),
        scores,
    )
    spread = spread_of(worth)
    others = [
        memory.worth.to(worth.device)
        for stream, memory in memories.items()
        if memory.worth is not None and stream not in context.streams
    ]
    share = torch.ones_like(spread)
    if others or len(known) > 1:
        share = shares_of(worth, others, rate)
    measures = torch.stack((spread, worth.mean((1, 2)), share, picture.mean((1, 2, 3))))
    context.read(measures, look.take_measures)
    return look


def _stack(pictures: list[Tensor]) -> Tensor:
    """Stack; one picture alone is not copied."""
    return torch.stack(pictures) if len(pictures) > 1 else pictures[0].unsqueeze(0)
