"""BlockTensor: a feature map of which only the executed blocks are there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .frame import Frame
    from .state import StateEntry


class Version:
    """Counts the in-place changes of packed memory that several tensors may look at."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


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

    packed: Tensor
    block: tuple[int, int]
    frame: Frame
    version: Version
    _full: tuple[StateEntry, int] | None

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
        self.packed = packed
        self.block = block
        self.frame = frame
        self.version = Version() if version is None else version
        self._full = None
        return self

    def __init__(self, *args, **kwargs) -> None:
        # torch.Tensor's own would look at the arguments of __new__.
        pass

    def __repr__(self, *, tensor_contents=None) -> str:
        return (
            f"BlockTensor(shape={tuple(self.shape)}, block={self.block}, "
            f"executed={self.packed.shape[0]}, dtype={self.dtype})"
        )

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _frame_of(args, kwargs).dispatch(func, args, kwargs or {})

    def like(self, packed: Tensor, version: Version | None = None) -> BlockTensor:
        """A tensor of the same size and blocks as this one with other contents."""
        return BlockTensor(packed, self.shape[2:], self.block, self.frame, version)

    def changed(self) -> None:
        """Note that ``packed`` was written in place: maps that hold this tensor are out of date."""
        self.version.count += 1

    @property
    def full(self) -> StateEntry | None:
        """The state entry that holds the present contents of this tensor, if there is one."""
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
