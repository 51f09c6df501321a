"""A policy that uses the motion vectors of the video's codec."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blockcopy_plugins.errors import FrameError

from .base import PolicyContext, check_frame
from .motion_field import MotionField
from .threshold_policy import Look, ThresholdPolicy, remembered


class MotionVectorPolicy(ThresholdPolicy):
    """Executes the blocks that have moved, by the motion vectors that the video was coded with.

    It looks at no pixels: FFmpeg exports the vectors while it decodes (H.264, MPEG-4, MPEG-2 and
    others; not HEVC, VP9 and AV1), and :class:`~blockcopy_plugins.policy.MotionField` adds them up.
    The score of a block is the largest distance that something in it has moved since the block was
    last executed, in pixels of the network's input; slow motion adds up until it is noticed, and
    shaking back and forth does not. A macroblock that was coded anew since then (intra, without a
    vector) counts as moved by its own side. Scores are computed in host memory, so no GPU is waited
    for.

    An encoder's vectors show what was cheap to code, not what moved: it may give none where light
    changes, and a wrong one where everything looks alike. Where something has left a block between
    two vectors, a strip of it may stay; the guards ``Hold`` and ``MaxAge`` help against that. Key
    frames have no vectors; see
    :class:`~blockcopy_plugins.datasets.motion_accumulator.MotionAccumulator`.

    Where the vectors come from:

    * :class:`~blockcopy_plugins.VideoInferencer`, ``tools/demo_video.py`` and
      ``tools/test_video.py`` set this up by themselves;
    * a ``VideoFrameDataset`` in your own config needs ``motion=True``;
    * a plain module is called inside ``with bc.motion(model, [reader.read_motion(index)])``, where
      ``reader = VideoReader(path, motion=True)``.

    Args:
        threshold: In pixels of the network's input. Default, if ``target`` is not given either: 2.
        target: Executed rate to hold, above 0 and at most 1; instead of ``threshold``. See
            :class:`~blockcopy_plugins.policy.threshold_policy.ThresholdPolicy`.

    Raises:
        ConfigError: If both are given, or one is out of range.
    """

    needs_motion = True
    DEFAULT_THRESHOLD = 2.0
    LOWEST, HIGHEST = 1e-3, 1e4

    def look(self, frame: Tensor, context: PolicyContext) -> Look:
        """Measure how far the blocks have moved.

        Raises:
            FrameError: If an image has no motion vectors.
        """
        check_frame(frame, context)
        fields = [_field_of(context, image) for image in range(len(frame))]
        found, known = remembered(
            self.memory, context, lambda moved, image: moved.fits(fields[image])
        )
        scores = torch.zeros(context.grid_shape)
        places = []
        for image, (field, moved) in enumerate(zip(fields, found, strict=True)):
            place = _Place.of(field, frame.shape[2:], context.block_size, context.grid_shape[1:])
            places.append(place)
            if moved is not None:
                scores[image] = place.to_blocks(_distance(field, moved, place.scale))
        return Look(context, scores, known, (fields, found, places))

    def commit(self, look: Look, grid: Tensor, threshold: float | Tensor) -> None:
        """Note where the executed blocks are now."""
        executed = look.context.host_grid(grid)
        for image, stream in enumerate(look.context.streams):
            field, moved, place = (seen[image] for seen in look.seen)
            displacement, renewed = field.displacement, field.renewed
            if moved is not None:
                # A cell on the border of two blocks has been seen once both have.
                waits = place.to_cells(~executed[image])
                displacement = torch.where(waits[..., None], moved.displacement, displacement)
                renewed = torch.where(waits, moved.renewed, renewed)
            self.memory[stream] = _Moved(displacement, renewed)


@dataclass(frozen=True, eq=False)
class _Moved:
    """The data kept for a stream: the motion field as it was when each cell was last executed."""

    displacement: Tensor  # float64 (rows, columns, 2)
    renewed: Tensor  # int64 (rows, columns)

    def fits(self, field: MotionField) -> bool:
        return self.renewed.shape == field.renewed.shape


@dataclass(frozen=True)
class _Place:
    """The place of a motion field's cells among the blocks."""

    scale: tuple[float, float]
    cells: tuple[int, int]
    rows: tuple[tuple[int, int], ...]  # for each row of blocks, its first row of cells and the end
    columns: tuple[tuple[int, int], ...]

    @classmethod
    def of(
        cls, field: MotionField, size: tuple[int, int], block: int, grid: tuple[int, int]
    ) -> _Place:
        scale = field.scale
        if scale is None:
            scale = (size[0] / field.size[0], size[1] / field.size[1])
        cells = tuple(field.renewed.shape)
        rows, columns = (
            tuple(
                _cells_of(i * block / scale[axis] - origin, block / scale[axis], field.cell, count)
                for i in range(grid[axis])
            )
            for axis, (origin, count) in enumerate(zip(field.origin[::-1], cells, strict=True))
        )
        return cls(scale, cells, rows, columns)

    def to_blocks(self, values: Tensor) -> Tensor:
        """Return the largest value in each block, 0 where a block has no cell."""
        rows = torch.stack([_largest(values[start:end], 0) for start, end in self.rows])
        return torch.stack([_largest(rows[:, start:end], 1) for start, end in self.columns], 1)

    def to_cells(self, grid: Tensor) -> Tensor:
        """Return the cells that lie at least partly in a block of a grid."""
        tall = torch.zeros((self.cells[0], grid.shape[1]), dtype=torch.bool)
        for row, (start, end) in zip(grid, self.rows, strict=True):
            tall[start:end] |= row
        wide = torch.zeros(self.cells, dtype=torch.bool)
        for column, (start, end) in zip(tall.unbind(1), self.columns, strict=True):
            wide[:, start:end] |= column[:, None]
        return wide


def _cells_of(start: float, length: float, cell: int, count: int) -> tuple[int, int]:
    """The cells that a stretch of the picture touches: the first one, and the end."""
    # A thousandth of a pixel cannot be seen; it is rounding of the scale.
    first = math.floor((start + 1e-3) / cell)
    end = math.ceil((start + length - 1e-3) / cell)
    return min(max(first, 0), count), min(max(end, 0), count)


def _largest(values: Tensor, dim: int) -> Tensor:
    if values.shape[dim]:
        return values.amax(dim)
    return values.new_zeros([side for axis, side in enumerate(values.shape) if axis != dim])


def _distance(field: MotionField, moved: _Moved, scale: tuple[float, float]) -> Tensor:
    """How far each cell has moved, float32 ``(rows, columns)``, px of the network's input."""
    x, y = (field.displacement - moved.displacement).unbind(-1)
    distance = torch.hypot(x * scale[1], y * scale[0])
    side = field.cell * max(scale)
    # "Different", not "more often": a video that was opened again counts from 0.
    is_new = field.renewed != moved.renewed
    return torch.where(is_new, distance.clamp_min(side), distance).float()


def _field_of(context: PolicyContext, image: int) -> MotionField:
    field = None if context.motion is None else context.motion[image]
    if field is None:
        raise FrameError(
            f"the frame of stream {context.streams[image]!r} came without motion vectors, which "
            "MotionVectorPolicy needs. Read the video with VideoReader(path, motion=True) and call "
            "the model inside `with bc.motion(model, [reader.read_motion(index)])`; for a "
            "VideoFrameDataset set motion=True; or use a policy that looks at pictures, such as "
            "FrameDifferencePolicy"
        )
    return field
