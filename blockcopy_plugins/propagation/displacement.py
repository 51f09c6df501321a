"""How far a picture has moved, cell by cell: the common form of all estimates of motion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..errors import FrameError
from ..ops.move_map import SURE

# Cells on both sides of an edge of motion are not averaged: largest difference in px to average.
_SMOOTH = 2.0


@dataclass(frozen=True, eq=False)
class Displacement:
    """How far the content of each cell of a frame has moved since an earlier frame.

    The content at a point p of the frame was at ``p - vector`` in the earlier one. Cells are
    squares of the network's input, the first at its upper left corner; pixel (row 0, column 0) has
    its centre at (0, 0). The tensors must not be written to.

    Args:
        vectors: float32 ``(rows, columns, 2)`` in host memory, to the right and down, px of the
            network's input. Where they are not finite, the confidence becomes 0.
        confidence: float32 ``(rows, columns)`` in host memory, 0 (unknown) to 1.
        cell: Side of a cell, px of the network's input.
        size: ``(H, W)`` of the network's input, px. The last cells may reach beyond it.

    Raises:
        FrameError: If a shape or dtype is not as above.
    """

    vectors: Tensor
    confidence: Tensor
    cell: int
    size: tuple[int, int]

    def __post_init__(self) -> None:
        if self.cell < 1 or min(self.size) < 1:
            raise FrameError(
                f"a displacement has cell={self.cell} and size={self.size}, expected px above 0"
            )
        cells = cells_of(self.size, self.cell)
        found = [(value.dtype, tuple(value.shape)) for value in (self.vectors, self.confidence)]
        if found != [(torch.float32, (*cells, 2)), (torch.float32, cells)]:
            raise FrameError(
                f"the displacement of a frame of {self.size} px in cells of {self.cell} px has "
                f"vectors float32 {(*cells, 2)} and confidence float32 {cells}, found {found[0]} "
                f"and {found[1]}"
            )
        # A sum with NaN or infinity in it is not finite.
        if math.isfinite(float(self.vectors.sum()) + float(self.confidence.sum())):
            return
        finite = torch.isfinite(self.vectors).all(-1) & torch.isfinite(self.confidence)
        if not bool(finite.all()):
            vectors = self.vectors.masked_fill(~finite[..., None], 0)
            object.__setattr__(self, "vectors", vectors)
            object.__setattr__(self, "confidence", self.confidence.masked_fill(~finite, 0))

    @classmethod
    def still(cls, size: Sequence[int], cell: int = 16) -> Displacement:
        """Nothing has moved, and this is certain.

        Args:
            size: ``(H, W)`` of the network's input, px.
            cell: Side of a cell, px.
        """
        cells = cells_of(size, cell)
        return cls(torch.zeros(*cells, 2), torch.ones(cells), cell, (int(size[0]), int(size[1])))

    @classmethod
    def unknown(cls, size: Sequence[int], cell: int = 16) -> Displacement:
        """It is not known where anything is now.

        Args:
            size: ``(H, W)`` of the network's input, px.
            cell: Side of a cell, px.
        """
        cells = cells_of(size, cell)
        return cls(torch.zeros(*cells, 2), torch.zeros(cells), cell, (int(size[0]), int(size[1])))

    @classmethod
    def translation(
        cls, right: float, down: float, size: Sequence[int], cell: int = 16
    ) -> Displacement:
        """The whole picture has moved by the same vector, and this is certain.

        Args:
            right: How far to the right, px of the network's input.
            down: How far down.
            size: ``(H, W)`` of the network's input, px.
            cell: Side of a cell, px.
        """
        still = cls.still(size, cell)
        vectors = torch.tensor([right, down], dtype=torch.float32).expand_as(still.vectors)
        return still._with(vectors.contiguous(), still.confidence)

    @cached_property
    def is_still(self) -> bool:
        """Whether no cell is known to have moved."""
        moved = (self.vectors != 0).any(-1) & (self.confidence >= SURE)
        return not bool(moved.any())

    @cached_property
    def is_surely_still(self) -> bool:
        """Whether no cell has moved, and this is certain."""
        return not bool(self.vectors.any()) and bool((self.confidence == 1).all())

    @property
    def share_known(self) -> float:
        """The share of the cells whose motion is known, 0 to 1."""
        return float((self.confidence >= SURE).float().mean())

    def since(self, older: Displacement | None) -> Displacement:
        """Chain two displacements: this one, and the one that ended where this one begins.

        The content at p now was at ``p - f(p)`` one displacement ago, and had come there by the
        older one's vector at that place: ``D(p) = f(p) + older(p - f(p))``. So nothing is looked up
        in the picture twice, and the chain of translations is their sum. Confidences multiply;
        content from outside the picture is unknown.

        Args:
            older: With the same cells, up to the frame that this one starts from; ``None``: nothing
                had moved.

        Raises:
            FrameError: If the cells differ.
        """
        if older is None and self.is_surely_still:
            return self
        y, x = self._sources()
        if older is None:
            return self._with(self.vectors, self.confidence * self._inside(y, x))
        if older.size != self.size or older.cell != self.cell:
            raise FrameError(
                f"a displacement of {self.size} px in cells of {self.cell} px cannot continue "
                f"one of {older.size} px in cells of {older.cell} px; forget the older one"
            )
        if self.is_surely_still:
            return older
        came = _sample_cells(older.vectors, older.confidence, y / self.cell, x / self.cell)
        vectors, confidence = came
        return self._with(self.vectors + vectors, self.confidence * confidence * self._inside(y, x))

    def without(self, cells: Tensor) -> Displacement:
        """The same, with some cells that have not moved since: they have just been executed.

        Args:
            cells: bool ``(rows, columns)``.
        """
        vectors = self.vectors.masked_fill(cells[..., None], 0)
        return self._with(vectors, self.confidence.masked_fill(cells, 1))

    def without_confidence(self, cells: Tensor) -> Displacement:
        """The same, with some cells of which nothing is known.

        Args:
            cells: bool ``(rows, columns)``.
        """
        return self._with(self.vectors, self.confidence.masked_fill(cells, 0))

    def comes_from_inside(self, margin: float) -> Tensor:
        """Return which cells' centres were inside the picture before.

        Args:
            margin: How far inside they must have been, px.

        Returns:
            bool ``(rows, columns)``.
        """
        (y, x), (height, width) = self._sources(), self.size
        rows = (y > margin) & (y < height - margin)
        return rows & (x > margin) & (x < width - margin)

    def _with(self, vectors: Tensor, confidence: Tensor) -> Displacement:
        return Displacement(vectors, confidence, self.cell, self.size)

    def _sources(self) -> tuple[Tensor, Tensor]:
        """Where the centres of the cells were, px from the frame's upper left corner."""
        rows, columns = self.confidence.shape
        y = (torch.arange(rows, dtype=torch.float32) + 0.5) * self.cell
        x = (torch.arange(columns, dtype=torch.float32) + 0.5) * self.cell
        # If the edge cuts a cell, the centre of the part inside.
        y[-1] = ((rows - 1) * self.cell + self.size[0]) / 2
        x[-1] = ((columns - 1) * self.cell + self.size[1]) / 2
        return y[:, None] - self.vectors[..., 1], x[None, :] - self.vectors[..., 0]

    def _inside(self, y: Tensor, x: Tensor) -> Tensor:
        height, width = self.size
        return (y >= 0) & (y <= height) & (x >= 0) & (x <= width)


def cells_of(size: Sequence[int], cell: int) -> tuple[int, int]:
    """Rows and columns of the cells of a frame.

    Args:
        size: ``(H, W)``, px.
        cell: Side of a cell, px.
    """
    return -(-int(size[0]) // cell), -(-int(size[1]) // cell)


def cells_of_grid(grid: Tensor, block_size: int, size: Sequence[int], cell: int) -> Tensor:
    """The cells whose centres lie in blocks of a grid.

    Args:
        grid: bool ``(GH, GW)`` in host memory.
        block_size: Side of a block, px.
        size: ``(H, W)`` of the network's input, px.
        cell: Side of a cell, px.

    Returns:
        bool ``(rows, columns)``.
    """
    rows, columns = (
        ((torch.arange(count) + 0.5) * cell / block_size).long().clamp_max(blocks - 1)
        for count, blocks in zip(cells_of(size, cell), grid.shape, strict=True)
    )
    return grid[rows][:, columns]


def _sample_cells(
    vectors: Tensor, confidence: Tensor, y: Tensor, x: Tensor
) -> tuple[Tensor, Tensor]:
    """Vectors and confidences at places between cells.

    Bilinear where the four cells around agree to two pixels, else the values of the nearest cell:
    half way between a person and the wall behind, nothing moves at half the speed.

    Args:
        vectors: float32 ``(rows, columns, 2)``.
        confidence: float32 ``(rows, columns)``.
        y: float32, of any shape, in cells from the upper edge.
        x: The same from the left edge.
    """
    rows, columns = confidence.shape
    y = (y - 0.5).clamp(0, rows - 1)
    x = (x - 0.5).clamp(0, columns - 1)
    top, left = y.floor().clamp_max(max(rows - 2, 0)), x.floor().clamp_max(max(columns - 2, 0))
    down, right = (y - top)[..., None], (x - left)[..., None]
    # By places in the flat field, which takes a fifth of the time of indices in two dimensions.
    first = (top * columns + left).long().flatten()
    field = torch.cat((vectors, confidence[..., None]), -1).view(-1, 3)

    def looked_up(places: Tensor) -> Tensor:
        return field.index_select(0, places).view(*y.shape, 3)

    below, beside = columns * (rows > 1), int(columns > 1)
    corners = [looked_up(first + step) for step in (0, beside, below, below + beside)]
    # As a + w (b - a): equal neighbours give exactly their own value.
    upper = corners[0] + right * (corners[1] - corners[0])
    lower = corners[2] + right * (corners[3] - corners[2])
    smooth = upper + down * (lower - upper)
    nearest = looked_up(((y + 0.5).long() * columns + (x + 0.5).long()).flatten())
    apart = (torch.stack(corners) - nearest)[..., :2].abs().amax((0, -1))
    found = torch.where((apart <= _SMOOTH)[..., None], smooth, nearest)
    return found[..., :2], found[..., 2]
