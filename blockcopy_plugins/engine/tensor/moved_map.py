"""Maps that are rolled, padded or cropped, as a note of where their rows and columns are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import StateError
from .axes import channels_of
from .block_tensor import BlockTensor
from .dense_on_use import DenseOnUse

aten = torch.ops.aten

# Pixels by which a map may be moved so that its dense form may still become blocks again.
_FEW_PIXELS = 8


class MovedMap(DenseOnUse):
    """A map, or a view of one, in which each row and column shows one of another map, or none.

    ``torch.roll`` and ``F.pad`` return it where blocks cannot hold their result. A view that
    cuts it into windows reads them from the map itself; anything else gets the dense tensor.

    Attributes:
        of: The map as it was; nothing else writes to this tensor.
        places: For rows and for columns, the one of ``of`` that each shows, -1 for none.
        fill: Value of rows and columns that show none.
        op: What moved them.
        path: Path of the module that moved them.
        written: The dense copy, once it exists; it replaces the map, since the model may
            write to it.
    """

    of: BlockTensor
    places: tuple[tuple[int, ...], tuple[int, ...]]
    fill: float
    op: str
    path: str
    written: Tensor | None
    _dense_map: Tensor | None

    @staticmethod
    def make(of: BlockTensor, places: Sequence[Sequence[int]], fill: float, op: str) -> MovedMap:
        """See the class.

        Args:
            of: Has a dimension of rows and one of columns.
            places: See the class.
            fill: See the class.
            op: See the class.
        """
        channels = iter(channels_of(of.axes, of.shape, of.joined))
        shape = [next(channels) if letter == "C" else 0 for letter in of.axes]
        nothing = torch.empty(shape, dtype=of.dtype, device=of.device)
        size = (len(places[0]), len(places[1]))
        out = BlockTensor.__new__(
            MovedMap, nothing, size, of.block, of.frame, axes=of.axes, joined=of.joined
        )
        out.of, out.places, out.fill = of, tuple(map(tuple, places)), fill
        out.op, out.path = op, of.frame.path
        out.written = out._dense_map = None
        return out

    @property
    def packed(self) -> Tensor:
        """None of it is packed.

        Raises:
            StateError: Always.
        """
        raise StateError(f"{self!r} has no packed blocks; densify it first.")

    @property
    def is_far(self) -> bool:
        """Whether pixels are more than a few away from where they were."""
        middle = [(places, len(places) // 2) for places in self.places]
        return any(abs(places[i] - i) > _FEW_PIXELS for places, i in middle)

    def dense_map(self) -> Tensor:
        """The map as an op on whole maps would return it; it may become blocks again."""
        if self._dense_map is None:
            frame, reason = self.frame, "its result is not cut into windows"
            frame.enter(self.path)
            frame.refuse_if_strict(self.op, reason)
            frame.count_densified(self.op, reason, 0)
            frame.leave(self.path)
            dense = self.dense()
            self._dense_map = (
                dense if self.is_far else frame.derived(dense, aten.clone.default, (self.of,))
            )
        return self._dense_map

    def dense(self) -> Tensor:
        """See :meth:`DenseOnUse.dense`."""
        if self.written is None:
            self._catch_up()
            value = self.frame.dense(self.of, "moved", copy=False)
            # Not in inference mode: the model may write to it outside that mode.
            with torch.inference_mode(False), torch.no_grad():
                for letter, places in zip("HW", self.places, strict=True):
                    dim = self.axes.index(letter)
                    index = torch.tensor(places, device=value.device)
                    value = value.index_select(dim, index.clamp(min=0))
                    if min(places) < 0:
                        shape = [1] * value.dim()
                        shape[dim] = -1
                        value = value.masked_fill((index < 0).view(shape), self.fill)
                self.written = value.contiguous()
        return self.written
