"""Views that a model takes of a BlockTensor's whole map, and writes to."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor


class LentMap:
    """A copy of a BlockTensor's whole map of which the model holds views (``x[:, 0]``, ``x.view``).

    In the dense model such a view and its base share memory: what is written to one is seen in the
    other. This notices the writes, so that the engine can do the same.

    Args:
        base: The BlockTensor of which that, as autograd sees it, is a view, or itself.
        packed: Its packed memory.
        map_: The copy, ``(N, C, H, W)``.

    Attributes:
        packed: As given.
        map: As given.
    """

    def __init__(self, base: weakref.ref, packed: Tensor, map_: Tensor) -> None:
        self.packed = packed
        self.map = map_
        # Autograd makes a view share the version count of its base, inference mode, which has no
        # autograd, that of the copy. A base that is gone has no views either.
        self._counted = weakref.ref(map_) if torch.is_inference_mode_enabled() else base
        self._seen = self._count()

    def _count(self) -> int | None:
        counted = self._counted()
        return None if counted is None else counted._version

    def written(self) -> bool:
        """Whether anything was written to a view since the last call (or to its base, perhaps)."""
        count = self._count()
        written = count is not None and count != self._seen
        self._seen = count
        return written
