"""Views that a model takes of a BlockTensor's whole map, and writes to."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .block_tensor import BlockTensor


class LentMap:
    """A copy of a BlockTensor's whole map of which the model holds views (``x[:, :, 0]``).

    In the dense model such a view and its base share memory: what is written to one is seen in the
    other. This notices the writes, so that the engine can do the same.

    Args:
        of: The tensor that is lent.
        map_: The copy, of its shape.

    Attributes:
        packed: The packed memory of ``of``.
        map: As given.
        template: A tensor with a version of its own that says how ``packed`` is to be read.
    """

    def __init__(self, of: BlockTensor, map_: Tensor) -> None:
        self.packed = of._packed
        self.map = map_
        self.template = of.like(of._packed)
        # Autograd makes a view share the version count of its base, inference mode, which has no
        # autograd, that of the copy. A base that is gone has no views either.
        inference = torch.is_inference_mode_enabled()
        self._counted = weakref.ref(map_) if inference else of.version.first
        self._seen = self._count()
        # What the views were shown last; kept where there is more than one such map.
        self._shown: Tensor | None = None

    def remember(self) -> None:
        """From now on know which pixels are written to: other views may be of them too."""
        if self._shown is None:
            self._shown = self.map.clone()

    def changed(self) -> Tensor | None:
        """Where the map is not what was shown, bool of its shape; ``None``: anywhere."""
        return None if self._shown is None else self.map != self._shown

    def _count(self) -> int | None:
        counted = self._counted()
        return None if counted is None else counted._version

    def show(self, map_: Tensor) -> None:
        """Show the views what the tensor holds now; that is no write of the model's.

        Args:
            map_: Of the shape of ``map``.
        """
        self.map.copy_(map_)
        if self._shown is not None:
            self._shown.copy_(map_)
        self._seen = self._count()

    def written(self) -> bool:
        """Whether anything was written to a view since the last call (or to its base, perhaps)."""
        count = self._count()
        written = count is not None and count != self._seen
        self._seen = count
        return written
