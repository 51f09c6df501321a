"""What tensors of blocks need from their frame, and from each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor

from ..frame.layout import Layout
from .dense_map import FrameMaps


class FrameOfTensors(Protocol):
    """The frame that a tensor belongs to; see :class:`~..frame.frame.Frame`."""

    images: int
    whole: bool
    executed: int
    path: str
    maps: FrameMaps | None
    pending_maps: list

    def dispatch(self, func: Any, args: Any, kwargs: Any, on_use: bool = False) -> Any:
        """Run an op."""

    def layout(self, size: Sequence[int], block: Sequence[int]) -> Layout:
        """The executed blocks of a map."""

    def packed_like(self, dense: Tensor, template: Any) -> Tensor:
        """The executed blocks of a dense tensor."""

    def in_batch_order(self, map_: Tensor) -> Tensor:
        """The maps of this frame's images."""

    def dense(self, x: Any, op: str, copy: bool, contiguous: bool = False) -> Tensor:
        """The whole of a tensor."""

    def call_whole(
        self,
        function: Callable,
        args: Any,
        name: str,
        reason: str,
        gives_map: bool,
        gives_tokens_of: Tensor | None = None,
    ):
        """Call a function that does not know blocks."""

    def compute_pending(self) -> None:
        """Compute all pending maps."""

    def refuse_if_strict(self, op: str, reason: str) -> None:
        """Refuse to run an op on the whole map if the frame is strict."""

    def count_densified(self, op: str, reason: str, macs: int) -> None:
        """Count an op that ran on the whole map."""


class VersionOfMemory(Protocol):
    """How often packed memory was written to, see :class:`~.version.Version`."""

    count: int
    mirror: Any


class TensorOfBlocks(Protocol):
    """What copies and views need of a :class:`~.block_tensor.BlockTensor`."""

    frame: FrameOfTensors
    version: VersionOfMemory
    packed: Tensor
    memory: Tensor
    _base: Tensor | None

    def like(self, packed: Tensor, version: Any = None) -> Any:
        """A tensor of the same map with other contents."""

    def writing(self) -> AbstractContextManager[None]:
        """Inside, the packed blocks may be written to."""
