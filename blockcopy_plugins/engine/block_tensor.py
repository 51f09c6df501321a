"""BlockTensor: a feature map of which only the executed blocks are there."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .lent import LentMap

if TYPE_CHECKING:
    from .frame import Frame
    from .state import StateEntry


class Version:
    """Counts the in-place changes of packed memory that several tensors may look at.

    Attributes:
        count: Changes so far.
        lent: Whole maps of which the model holds views.
        first: The tensor that all others are slices of, as long as it lives.
    """

    __slots__ = ("count", "lent", "first")

    def __init__(self, first: BlockTensor) -> None:
        self.count = 0
        self.lent: list[LentMap] = []
        self.first = weakref.ref(first)


class BlockTensor(torch.Tensor):
    """A ``(N, C, H, W)`` feature map that holds its executed blocks alone.

    Its shape is that of the dense map, so that model code which reads sizes works unchanged. An op
    on it is looked up in the table of :mod:`blockcopy_plugins.engine.strategies`; what has no
    strategy runs on the densified map. It lives as long as the frame that made it.

    Attributes:
        packed: ``(n_executed, C, bh, bw)``, channels last, rows in the order of
            ``grid.nonzero()``. Pixels of an edge block beyond the image hold no meaning. In a whole
            frame (:attr:`Frame.whole`) it is the dense map itself.
        block: ``(bh, bw)``, height and width of a block in pixels of this map.
        frame: The frame it belongs to.
    """

    block: tuple[int, int]
    frame: Frame
    version: Version
    _packed: Tensor
    _full: tuple[StateEntry, int] | None
    read_only: tuple[int, Tensor] | None

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(
        cls,
        packed: Tensor,
        size: tuple[int, int],
        block: tuple[int, int],
        frame: Frame,
        version: Version | None = None,
    ) -> BlockTensor:
        """Wrap packed blocks.

        Args:
            cls: This class.
            packed: ``(n_executed, C, bh, bw)``.
            size: ``(H, W)`` of the dense map.
            block: ``(bh, bw)``.
            frame: The frame in which it is made.
            version: That of the tensor whose memory ``packed`` shares, if any.
        """
        self = torch.Tensor._make_wrapper_subclass(
            cls,
            (frame.images, packed.shape[1], *size),
            dtype=packed.dtype,
            device=packed.device,
        )
        self._packed = packed
        self.block = block
        self.frame = frame
        self.version = Version(self) if version is None else version
        self._full = None
        self.read_only = None
        return self

    def __init__(self, *args, **kwargs) -> None:
        # torch.Tensor's own would look at the arguments of __new__.
        pass

    def __repr__(self, *, tensor_contents=None) -> str:
        return (
            f"BlockTensor(shape={tuple(self.shape)}, block={self.block}, "
            f"executed={self._packed.shape[0]}, dtype={self.dtype})"
        )

    def __deepcopy__(self, memo) -> BlockTensor:
        # Another tensor of the same frame, not one of a copied frame with a state of its own.
        return self.like(self.packed.clone())

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _frame_of(args, kwargs).dispatch(func, args, kwargs or {})

    def like(self, packed: Tensor, version: Version | None = None) -> BlockTensor:
        """A tensor of the same size and blocks as this one with other contents."""
        return BlockTensor(packed, self.shape[2:], self.block, self.frame, version)

    @property
    def packed(self) -> Tensor:
        """See the class."""
        if self.version.lent:
            self._take_back()
        return self._packed

    def lend(self, op: str) -> Tensor:
        """A copy of this tensor's whole map, of which views go to the model.

        What the model writes to them is taken back, and they are shown what is written here.

        Args:
            op: The op that makes the view.

        Returns:
            ``(N, C, H, W)``, contiguous as this tensor claims to be.
        """
        packed = self.packed
        for lent in self.version.lent:
            if lent.packed is packed:
                return lent.map
        map_ = self.frame.dense(self, op, copy=True, contiguous=True)
        self.version.lent.append(LentMap(self.version.first, packed, map_))
        return map_

    def _take_back(self) -> None:
        written = [lent for lent in self.version.lent if lent.written()]
        for lent in written:
            now = self.frame.packed_from(lent.map, self.block)
            # Slices of the channels may share a count: then only the contents tell them apart.
            if len(written) == 1 or not torch.equal(now, lent.packed):
                lent.packed.copy_(now)
        if written:
            self.changed(by=written)

    def changed(self, by: Sequence[LentMap] = ()) -> None:
        """Note that ``packed`` was written in place: maps that hold this tensor are out of date.

        Args:
            by: The lent maps from which it was written, if it was.
        """
        self.version.count += 1
        for lent in self.version.lent:
            if lent not in by:
                shown = BlockTensor(lent.packed, self.shape[2:], self.block, self.frame)
                lent.map.copy_(self.frame.dense(shown, "view", copy=False))

    @property
    def full(self) -> StateEntry | None:
        """The state entry that holds the present contents of this tensor, if there is one."""
        if self.version.lent:
            self._take_back()
        if self._full is not None and self._full[1] == self.version.count:
            return self._full[0]
        return None

    @full.setter
    def full(self, entry: StateEntry) -> None:
        self._full = (entry, self.version.count)


def _frame_of(args, kwargs) -> Frame:
    for value in args:
        if isinstance(value, BlockTensor):
            return value.frame
        if isinstance(value, (list, tuple)):
            for item in value:
                if isinstance(item, BlockTensor):
                    return item.frame
    return _frame_of(tuple((kwargs or {}).values()), None)
