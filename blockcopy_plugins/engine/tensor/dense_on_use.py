"""Tensors that are computed only if they are read: padded maps, positions of a pooling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import StateError
from ..state.entry import StateEntry
from .block_tensor import BlockTensor, frame_of


class DenseOnUse(BlockTensor):
    """A tensor that all but a few ops get as an ordinary, dense tensor."""

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return frame_of(args, kwargs).dispatch(func, args, kwargs or {}, on_use=True)

    def dense(self) -> Tensor:
        """The dense tensor; the next call returns it with all writes to it."""
        raise NotImplementedError

    def dense_for_views(self, op: str) -> Tensor:
        """See :meth:`BlockTensor.dense_for_views`."""
        return self.dense()


@dataclass(frozen=True)
class BlockIndices:
    """Where the maxima are within each block, for windows that each lie in one block.

    Attributes:
        make: Computes them, int64, shaped like the packed maxima: positions in a block of the
            pooled map, or in the whole map in whole frames.
        size_of_map: ``(H, W)`` of that map.
        block: Height and width of a block of it.
    """

    make: Callable[[], Tensor]
    size_of_map: tuple[int, int]
    block: tuple[int, int]


class PoolIndices(DenseOnUse):
    """Where the maxima of a pooling are: positions in the whole map, which blocks do not have.

    Every max pooling returns them, and hardly any model reads them.

    Attributes:
        make: Computes them.
        found: What it returned.
        in_blocks: Where they are within blocks, for an unpooling; ``None`` if windows
            reach over blocks.
    """

    make: Callable[[], Tensor]
    found: Tensor | None
    in_blocks: BlockIndices | None

    @staticmethod
    def of(values: BlockTensor, make: Callable[[], Tensor]) -> PoolIndices:
        """Positions of maxima.

        Args:
            values: The maxima.
            make: Computes the positions, int64, of the shape of ``values``.
        """
        nothing = values.packed.new_empty((0, values.shape[1], 0, 0), dtype=torch.int64)
        out = BlockTensor.__new__(
            PoolIndices,
            nothing,
            values.size_of_map,
            values.block,
            values.frame,
            axes=values.axes,
            joined=values.joined,
        )
        out.make, out.found, out.in_blocks = make, None, None
        return out

    def dense(self) -> Tensor:
        """See :meth:`DenseOnUse.dense`."""
        if self.found is None:
            self.found = self.make()
        return self.found


@dataclass(frozen=True)
class Padding:
    """One use of ``F.pad`` on a map.

    Attributes:
        key: Distinguishes it from others.
        pad: Pads a dense map.
        source: ``source(axis)``, for rows (0) and columns (1): int64 ``(padded size,)``, the row of
            the map that is read, ``OUTSIDE`` where the padding is ``fill``.
        size: ``(H, W)`` of the padded map.
        fill: Value of a constant padding, ``None`` for those that repeat pixels of the map.
    """

    key: tuple
    pad: Callable[[Tensor], Tensor]
    source: Callable[[int], Tensor]
    size: tuple[int, int]
    fill: float | None


class PaddedMap(DenseOnUse):
    """The result of ``F.pad`` for a BlockTensor: the kept map, and how to pad it.

    Blocks keep their size, so a convolution without padding returns the blocks it would
    return if it padded itself. Convolutions and poolings read it so; any other op gets the dense
    tensor. In a whole frame ``packed`` is the dense padded map.

    Attributes:
        entry: The state that holds the map without its padding.
        padding: How it is padded.
        written: The dense copy, once it exists; it replaces the map, since the model may
            write to it.
    """

    entry: StateEntry
    padding: Padding
    written: Tensor | None

    @staticmethod
    def make(x: BlockTensor, entry: StateEntry, padding: Padding) -> PaddedMap:
        """Pad a map."""
        packed = padding.pad(x.packed) if x.frame.whole else x.packed
        out = BlockTensor.__new__(PaddedMap, packed, padding.size, x.block, x.frame)
        out.entry, out.padding, out.written = entry, padding, None
        return out

    @property
    def packed(self) -> Tensor:
        """The dense padded map, in a whole frame.

        Raises:
            StateError: In any other frame, where no block holds the padding.
        """
        if not self.frame.whole:
            raise StateError(f"{self!r} has no packed blocks; densify it first.")
        return self._packed if self.written is None else self.written

    def dense(self) -> Tensor:
        """See :meth:`DenseOnUse.dense`."""
        if self.written is None:
            # Not in inference mode: the model may write to it outside that mode.
            with torch.inference_mode(False), torch.no_grad():
                map_ = self.frame.in_batch_order(self.entry.map)
                self.written = self.padding.pad(map_).contiguous()
        return self.written
