"""Tensors that are made only where somebody reads them: padded maps, positions of a pooling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import StateError
from ..state.entry import StateEntry
from .block_tensor import BlockTensor, frame_of


class DenseOnUse(BlockTensor):
    """A tensor that any op but a few gets as an ordinary, dense one."""

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return frame_of(args, kwargs).dispatch(func, args, kwargs or {}, on_use=True)

    def dense(self) -> Tensor:
        """The dense tensor; what is written to it is there at the next call."""
        raise NotImplementedError

    def dense_for_views(self, op: str) -> Tensor:
        """See :meth:`BlockTensor.dense_for_views`."""
        return self.dense()


@dataclass(frozen=True)
class BlockIndices:
    """Where maxima are within each block by itself, of windows that reach into no other.

    Attributes:
        packed: int64, as the packed maxima; positions in a block of the map that was pooled, or in
            that map in whole frames.
        size_of_map: ``(H, W)`` of that map.
        block: Height and width of a block of it.
    """

    packed: Tensor
    size_of_map: tuple[int, int]
    block: tuple[int, int]


class PoolIndices(DenseOnUse):
    """Where the maxima of a pooling are: positions in the whole map, which blocks do not know.

    Every max pooling gives them, and hardly any model looks at them.

    Attributes:
        make: Gives them.
        found: What it gave.
        in_blocks: Where they are within blocks, for who undoes the pooling; ``None`` if windows
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
            make: Gives the positions, int64, of the shape of ``values``.
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
        key: Tells it from others.
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
    """What ``F.pad`` gives of a BlockTensor: the kept map, and how it is to be padded.

    Blocks keep their size, so that a convolution without padding of its own gives blocks as if it
    had padded itself. Any other op but pooling gets the dense tensor. In a whole frame ``packed``
    is the dense padded map.

    Attributes:
        entry: The state that holds the map without its padding.
        padding: How it is padded.
        written: A dense copy has been made; it stands for the map from then on, since the model
            may write to it.
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
        """The dense padded map of a whole frame.

        Raises:
            StateError: In other frames: no block holds its padding.
        """
        if not self.frame.whole:
            raise StateError(f"{self!r} has no packed blocks; densify it first.")
        return self._packed if self.written is None else self.written

    def dense(self) -> Tensor:
        """See :meth:`DenseOnUse.dense`."""
        if self.written is None:
            # Not in inference mode: the model may write to it outside.
            with torch.inference_mode(False), torch.no_grad():
                map_ = self.frame.in_batch_order(self.entry.map)
                self.written = self.padding.pad(map_).contiguous()
        return self.written
