"""Copies that replace views, where the memory layout of packed blocks does not allow the view."""

from __future__ import annotations

from torch import Tensor

from .frame_of_tensors import TensorOfBlocks


class Mirror:
    """Keeps a reshaped copy of packed blocks and the blocks themselves in step.

    In the dense model the view and its base share memory: a write to one shows in the other.

    Args:
        of: The tensor that is viewed.
        copy: Its packed blocks, reshaped, in separate memory.

    Attributes:
        of: A tensor on the same memory as the one that is viewed.
        copy: As given.
    """

    __slots__ = ("_count", "copy", "of")

    def __init__(self, of: TensorOfBlocks, copy: Tensor) -> None:
        self.of = of.like(of.packed, of.version)
        self.copy = copy
        self._count = of.version.count

    def pull(self) -> bool:
        """Apply what was written to the tensor to the copy; returns whether anything was."""
        packed = self.of.packed
        if self.of.version.count == self._count:
            return False
        self.copy.copy_(packed.reshape(self.copy.shape))
        self._count = self.of.version.count
        return True

    def push(self) -> None:
        """Apply what was written to the copy to the tensor."""
        with self.of.writing():
            packed = self.of.packed
            packed.copy_(self.copy.reshape(packed.shape))
        self._count = self.of.version.count
