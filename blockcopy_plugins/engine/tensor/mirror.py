"""Copies that stand for views: packed blocks may lie in memory in a way that has no such view."""

from __future__ import annotations

from torch import Tensor

from .frame_of_tensors import TensorOfBlocks


class Mirror:
    """Keeps a reshaped copy of packed blocks and the blocks themselves the same.

    In the dense model the view and its base share memory: what is written to one is seen in the
    other.

    Args:
        of: The tensor that is viewed.
        copy: Its packed blocks, reshaped: memory of its own.

    Attributes:
        of: A tensor of the same memory as the one that is viewed.
        copy: As given.
    """

    __slots__ = ("_count", "copy", "of")

    def __init__(self, of: TensorOfBlocks, copy: Tensor) -> None:
        self.of = of.like(of.packed, of.version)
        self.copy = copy
        self._count = of.version.count

    def pull(self) -> bool:
        """Take what was written to the tensor; returns whether anything was."""
        packed = self.of.packed
        if self.of.version.count == self._count:
            return False
        self.copy.copy_(packed.reshape(self.copy.shape))
        self._count = self.of.version.count
        return True

    def push(self) -> None:
        """Hand on what was written to the copy."""
        with self.of.writing():
            packed = self.of.packed
            packed.copy_(self.copy.reshape(packed.shape))
        self._count = self.of.version.count
