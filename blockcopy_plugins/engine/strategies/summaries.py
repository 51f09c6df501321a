"""Ops that sum up a whole map: they run on it, however it lies in memory."""

from __future__ import annotations

import torch

from ..decline import Decline
from ..frame.frame import Frame
from .op_table import on_blocks

aten = torch.ops.aten


@on_blocks(aten._adaptive_avg_pool2d.default, aten.adaptive_max_pool2d.default, any_layout=True)
def summary(frame: Frame, func, args, kwargs):
    """Adaptive pooling, to a few pixels as a rule."""
    return Decline("no strategy for this op")
