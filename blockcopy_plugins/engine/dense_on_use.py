"""Tensors that are made only where somebody reads them: padded maps, positions of a pooling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import StateError
from ..ops.window import OUTSIDE
from .block_tensor import BlockTensor, frame_of

if TYPE_CHECKING:
    from .frame import Frame
    from .state import StateEntry


class DenseOnUse(BlockTensor):
    """A tensor that any op but a few gets as an ordinary, dense one."""

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return frame_of(args, kwargs).dispatch(func, args, kwargs or {}, on_use=True)

    def dense(self) -> Tensor:
        """The dense tensor; what is written to it is there at the next call."""
        raise NotImplementedError

    def lend(self, op: str) -> Tensor:
        """See :meth:`BlockTensor.lend`."""
        return self.dense()


class PoolIndices(DenseOnUse):
    """Where the maxima of a pooling are: positions in the whole map, which blocks do not know.

    Every max pooling gives them, and hardly any model looks at them.

    Attributes:
        make: Gives them.
        found: What it gave.
    """

    make: Callable[[], Tensor]
    found: Tensor | None

    @staticmethod
    def of(values: BlockTensor, make: Callable[[], Tensor]) -> PoolIndices:
        """Positions of maxima.

        Args:
            values: The maxima.
            make: Gives the positions, int64, of the shape of ``values``.
        """
        nothing = values.packed.new_empty((0, values.shape[1], 0, 0), dtype=torch.int64)
        out = BlockTensor.__new__(
            PoolIndices, nothing, values.size_of_map, values.block, values.frame
        )
        out.make, out.found = make, None
        return out

    def dense(self) -> Tensor:
        """See :meth:`DenseOnUse.dense`."""
        if self.found is None:
            self.found = self.make()
        return self.found


class PaddedMap(DenseOnUse):
    """What ``F.pad`` gives of a BlockTensor: the kept map and where each padded pixel reads it.

    Blocks keep their size, so that a convolution without padding of its own gives blocks as if it
    had padded itself. Any other op gets the dense tensor. In a whole frame ``packed`` is the dense
    padded map.

    Attributes:
        entry: The state that holds the map without its padding.
        sources: For rows and columns, int64 ``(padded size,)``: the row of the map that is read,
            ``OUTSIDE`` where the padding is ``fill``.
        fill: Value of a constant padding, ``None`` for those that repeat pixels of the map.
        written: A dense copy has been made; it stands for the map from then on, since the model
            may write to it.
    """

    entry: StateEntry
    sources: tuple[Tensor, Tensor]
    fill: float | None
    written: Tensor | None

    @staticmethod
    def make(
        x: BlockTensor,
        entry: StateEntry,
        sources: tuple[Tensor, Tensor],
        fill: float | None,
        frame: Frame,
    ) -> PaddedMap:
        """Pad a map.

        Args:
            x: The map.
            entry: The state that holds it.
            sources: See the class.
            fill: See the class.
            frame: The frame at work.
        """
        size = (len(sources[0]), len(sources[1]))
        packed = x.packed
        if frame.whole:
            packed = _read(packed, sources, fill)
        out = BlockTensor.__new__(PaddedMap, packed, size, x.block, frame)
        out.entry, out.sources, out.fill, out.written = entry, sources, fill, None
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
            if self.frame.whole:
                self.written = self._packed
            else:
                map_ = self.frame.in_batch_order(self.entry.map)
                self.written = _read(map_, self.sources, self.fill)
        return self.written


def _read(map_: Tensor, sources: Sequence[Tensor], fill: float | None) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        for axis, source in enumerate(sources):
            source = source.to(map_.device)
            map_ = map_.index_select(2 + axis, source.clamp(min=0))
            if fill is not None:
                shape = (-1, 1) if axis == 0 else (-1,)
                map_ = map_.masked_fill((source == OUTSIDE).view(shape), fill)
        return map_.contiguous()
