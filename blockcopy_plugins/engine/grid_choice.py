"""Which blocks of a frame run: the policy's input, and how its answer is used."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import GridError
from ..host_transfer import HostReads, upload
from ..policy import MotionField, Policy, PolicyContext
from ..policy.guards import GuardSet
from .frame.host_grid import HostGrid
from .geometry import grid_size
from .propagated_frame import PropagatedFrame
from .state.stream import Stream


@dataclass
class GridChoice:
    """The decision about a frame.

    Attributes:
        context: What the policy knew.
        propagated: What is known about the frame's outputs.
        grid: bool ``(N, GH, GW)`` on the frame's device, True = executed.
        blocks: The same in host memory.
        remembered: The grid on the policy's own device, for the next frame.
        repeats: Whether nothing runs, and the outputs of the previous frame are returned again.
        compared: Which images run a second time, on all blocks; ``None`` if none do.
    """

    context: PolicyContext
    propagated: PropagatedFrame
    grid: Tensor
    blocks: HostGrid
    remembered: Tensor
    repeats: bool
    compared: Sequence[bool] | None


def policy_context(
    frame: Tensor,
    ids: Sequence[Hashable],
    streams: Sequence[Stream | None],
    *,
    block_size: int,
    device: torch.device,
    motion: Sequence[MotionField | None] | None,
    reads: HostReads,
    began: float,
    can_compare: bool,
) -> PolicyContext:
    """What a policy may know about a frame.

    Args:
        frame: ``(N, C, H, W)``.
        ids: Stream of each image.
        streams: What is known about them, ``None`` for new ones.
        block_size: Side of a block, px.
        device: Device on which the policy decides.
        motion: How far the video of each image has moved, ``None`` if that is not known.
        reads: Brings results from the device to the host.
        began: When the call began, as ``time.perf_counter`` tells it.
        can_compare: Whether a frame of the model can run a second time.
    """
    shape = (len(ids), *grid_size(*frame.shape[2:], block_size))
    first = tuple(s is None or s.broken or s.frames == 0 for s in streams)
    if any(first):
        flags = upload(torch.tensor(first), device)
    else:
        flags = torch.zeros(len(first), dtype=torch.bool, device=device)
    grids = [None if s is None or s.broken else s.last_grid for s in streams]
    if any(grid is None for grid in grids):
        none = torch.zeros(shape[1:], dtype=torch.bool, device=device)
        grids = [none if grid is None else grid for grid in grids]
    return PolicyContext(
        streams=tuple(ids),
        grid_shape=shape,
        block_size=block_size,
        first=flags,
        frame_index=tuple(0 if s is None else s.frames + s.repeated for s in streams),
        # Those of a batch of one need no new memory: nobody writes to them.
        last_grid=grids[0].unsqueeze(0) if len(grids) == 1 else torch.stack(grids),
        motion=motion,
        host_first=first,
        reads=reads,
        began=began,
        can_compare=can_compare,
    )


def select_grid(policy: Policy, guards: GuardSet, frame: Tensor, context: PolicyContext) -> Tensor:
    """Ask the policy, and keep the guards' promises; first frames run fully.

    Raises:
        GridError: If the policy does not return a bool grid of the right shape.
    """
    grid = policy.select(frame, context)
    if not isinstance(grid, Tensor):
        raise GridError(
            f"the policy returned {type(grid).__name__}, expected a bool tensor "
            f"{context.grid_shape}."
        )
    if grid.dtype != torch.bool or tuple(grid.shape) != context.grid_shape:
        raise GridError(
            f"the policy returned a grid {grid.dtype} {tuple(grid.shape)}, expected torch.bool "
            f"{context.grid_shape}: (N, GH, GW) = images and blocks of {context.block_size} px "
            f"of a frame of {tuple(frame.shape[2:])} px."
        )
    grid = guards.adjust(upload(grid, context.device), frame, context)
    # A new tensor: the policy may write into its own later.
    if not any(context.host_first):
        return grid.clone()
    return grid | context.first[:, None, None]
