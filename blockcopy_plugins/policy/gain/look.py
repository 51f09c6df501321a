"""One look at a batch of frames: the policy's findings before the network runs."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blockcopy_plugins.errors import FrameError
from blockcopy_plugins.ops.block_gain import Prediction, predict_gain
from blockcopy_plugins.policy.base import PolicyContext, check_frame
from blockcopy_plugins.policy.picture import cells_per_block, reduce_picture

from .allotment import Allotment, shares_of
from .features import DIFFERENCE_FLOOR
from .memory import AGE, GAIN_FLOOR, StreamMemory, unknown_maps
from .ridge import OnlineRidge

_LEAST_WORTH = 1e-4
# Added for each frame of waiting, in units of gain: among blocks in which nothing moves, the oldest
# comes first.
_WAITING = 1e-5
# At least this many pixels of a cell are read, if it has them. Reading a frame is most of the cost
# of a look; the mean of fewer pixels is noisier, and so is the choice of blocks.
_PIXELS = 32


@dataclass(eq=False)
class Look:
    """The findings in a batch of N images.

    Attributes:
        context: The call's context.
        known: The memory of each image's stream; None for images that are executed fully.
        allotment: What each image may execute.
        picture: float32 ``(N, 3, h, w)`` on cells.
        maps: float32 ``(N, 6, GH, GW)``, what is known of the blocks.
        found: The predictions for the blocks, and what they are made from. A score is half a
            block's own worth and half that of the blocks around it: this picks regions rather than
            scattered blocks, which read stale features around them.
        weights: float64 ``(features,)``, the regression's.
        spread: For each image, the share of its blocks over which worth is spread: p if a share p
            of the blocks has all of it in equal parts, 1 if all blocks are alike. The host knows it
            once it was read, at the latest when the network runs.
        total: Mean worth of each image's blocks; known at the same time.
        share: The share of each image's stream, see :func:`~.allotment.shares_of`; likewise.
    """

    context: PolicyContext
    known: tuple[StreamMemory | None, ...]
    allotment: Allotment
    picture: Tensor
    maps: Tensor
    found: Prediction
    weights: Tensor
    spread: tuple[float, ...] = ()
    total: tuple[float, ...] = ()
    share: tuple[float, ...] = ()

    def take_measures(self, values: Tensor) -> None:
        """Take the values measured on the device, and refuse those that are not finite.

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
    allotment: Allotment,
    memories: Mapping[Hashable, StreamMemory],
    ridge: OnlineRidge,
    rate: float,
) -> Look:
    """Look at a batch; nothing is changed.

    Args:
        frame: ``(N, 3, H, W)``.
        context: The call's context.
        known: The memory of each image's stream; None if no memory fits, or the image is the first
            of its stream.
        allotment: What each image may execute.
        memories: Those of all streams.
        ridge: Predicts ``log(gain + GAIN_FLOOR)``.
        rate: Executed rate of all streams together.

    Raises:
        FrameError: If the frame does not fit the context, or holds NaN or infinity.
    """
    check_frame(frame, context)
    picture = reduce_picture(
        frame, context.block_size, context.grid_shape, _row_step(context.block_size)
    )
    if picture.device != context.device:
        # A frame's one wait on a device; values requested by the frame before come first.
        picture = context.bring(picture)
    maps = [
        unknown_maps(context.grid_shape[1:], picture.device) if memory is None else memory.maps
        for memory in known
    ]
    executed = [
        picture[image] if memory is None else memory.picture for image, memory in enumerate(known)
    ]
    maps = _stack(maps)
    found = predict_gain(
        picture,
        _stack(executed),
        maps,
        ridge.weights,
        context.forbidden,
        cells_per_block(context.block_size),
        DIFFERENCE_FLOOR,
        GAIN_FLOOR,
        _LEAST_WORTH,
        _WAITING,
    )
    look = Look(context, tuple(known), allotment, picture, maps, found, ridge.weights)
    others = [
        memory.worth.to(found.worth.device)
        for stream, memory in memories.items()
        if memory.worth is not None and stream not in context.streams
    ]
    if others or len(known) > 1:
        found.measures[2] = shares_of(found.worth, others, rate)
    context.read(found.measures, look.take_measures)
    if context.device.type == "cpu":
        # From a device, the host learns scores too late; there the accounts say how much runs.
        allotment.take_scores(found.scores, found.worth, maps[:, AGE])
    return look


def _row_step(block_size: int) -> int:
    """Return the step between the rows of a cell that are read: 2 for 128-px blocks, else 1."""
    side = block_size // cells_per_block(block_size)
    return next(step for step in (4, 2, 1) if step == 1 or side * side >= step * _PIXELS)


def _stack(values: list[Tensor]) -> Tensor:
    """Stack maps; a single map is not copied."""
    return torch.stack(values) if len(values) > 1 else values[0].unsqueeze(0)
