"""The ops of a frame and the tensors that they read and make."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..torch_internals import OpOverload


@dataclass(frozen=True)
class Register:
    """A tensor that an op of the frame returned."""

    index: int


@dataclass(frozen=True)
class Root:
    """A tensor that existed before the op that first read it, see :attr:`Trace.roots`."""

    index: int


@dataclass(frozen=True)
class Given:
    """A root that differs from frame to frame.

    Attributes:
        name: ``'pixels'``; ``'places'`` of the images by slot; ``('by_image', blocks)`` and
            ``('by_slot', blocks)``, see :class:`~..layout.Layout`; ``('inside', blocks, limits)``,
            which of its blocks lie in the first rows and columns.
    """

    name: Hashable


@dataclass(frozen=True, eq=False)
class Kept:
    """A root that is the same tensor in each frame: a parameter, a kept map, a table.

    Attributes:
        tensor: The tensor.
        fresh: It was made from numbers within the frame: its values count, not its identity.
    """

    tensor: Tensor
    fresh: bool = False

    def same_as(self, other: Any) -> bool:
        """Whether another frame had the same root."""
        if not isinstance(other, Kept) or self.fresh != other.fresh:
            return False
        if not self.fresh:
            return self.tensor is other.tensor
        a, b = self.tensor, other.tensor
        return a.dtype == b.dtype and torch.equal(a, b)


@dataclass(frozen=True)
class Step:
    """One op.

    Attributes:
        func: The op.
        args: Its arguments, tensors as :class:`Register` and :class:`Root`.
        kwargs: Its keyword arguments.
        out: Its result: a register, a list of registers, or something else.
    """

    func: OpOverload
    args: tuple
    kwargs: dict[str, Any]
    out: Any
