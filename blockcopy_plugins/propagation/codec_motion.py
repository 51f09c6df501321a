"""Motion by the vectors of a video's codec."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..policy import MotionField, PolicyContext
from .base import Motion
from .displacement import Displacement, cells_of


class CodecMotion(Motion):
    """How far the macroblocks of a video have moved, by the motion vectors of its codec.

    The video reader adds the vectors up (:class:`~blockcopy_plugins.policy.MotionField`), so the
    motion between two frames is the difference of their fields, whatever frames were left out. A
    macroblock that was coded anew in between is unknown. The picture is not read.

    Vectors show what was cheap to code, not what moved: where everything looks alike they may be
    anything.
    """

    needs_vectors = True

    def see(self, frame: Tensor, context: PolicyContext) -> tuple[MotionField | None, ...]:
        """See :meth:`Motion.see`: the fields of the call."""
        return (None,) * len(frame) if context.motion is None else tuple(context.motion)

    def compare(self, before: Any, now: Any, size: tuple[int, int]) -> Displacement | None:
        """See :meth:`Motion.compare`; ``None`` for pictures of another size."""
        places = (now.renewed.shape, now.size, now.cell, now.origin, now.scale)
        if places != (before.renewed.shape, before.size, before.cell, before.origin, before.scale):
            return None
        scale = now.scale or (size[0] / now.size[0], size[1] / now.size[1])
        moved = now.displacement - before.displacement
        moved = (moved * torch.tensor([scale[1], scale[0]], dtype=torch.float64)).float()
        known = (now.renewed == before.renewed).float()
        cell = max(round(now.cell * max(scale)), 4)
        # Cells of the network's input, each with the vector at its centre.
        tables = []
        for axis, count in enumerate(cells_of(size, cell)):
            centre = (torch.arange(count, dtype=torch.float64) + 0.5) * cell / scale[axis]
            index = ((centre - now.origin[1 - axis]) / now.cell).floor().long()
            # Padding lies beyond the picture.
            inside = (index >= 0) & (index < known.shape[axis])
            tables.append((index.clamp(0, known.shape[axis] - 1), inside))
        (rows, in_rows), (columns, in_columns) = tables
        confidence = known[rows][:, columns] * (in_rows[:, None] & in_columns)
        return Displacement(moved[rows][:, columns].contiguous(), confidence, cell, size)
