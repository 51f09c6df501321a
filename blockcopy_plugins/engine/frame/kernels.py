"""The interface between a frame and what runs its ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from ..tensor.block_tensor import BlockTensor


class BlockKernels(Protocol):
    """Convolutions of packed blocks, see :class:`~..conv.planner.ConvPlanner`.

    A frame passes it from the model to the ops.
    """

    def joins(self, x: BlockTensor) -> bool:
        """Whether the package's kernels run concatenations, additions and resizes of a map."""

    def convolve(self, frame: Any, x: BlockTensor, weight: Tensor, bias: Tensor | None, *how: Any):
        """Convolve a map, or leave it pending so that the ops after it can be fused."""

    def transpose(
        self, frame: Any, x: BlockTensor, weight: Tensor, bias: Tensor | None, shape: Any
    ):
        """Convolve a map by a transposed convolution, ``None`` where torch is to do it."""

    def convolve_regions(self, frame: Any, x: Tensor, module: Any) -> Tensor | None:
        """Convolve an ordinary tensor."""


class OpRunner(Protocol):
    """Ops on blocks, see :class:`~..strategies.op_table.OpTable`."""

    def run(self, frame: Any, func: Any, args: Any, kwargs: Any, on_use: bool = False) -> Any:
        """Execute an op that got a BlockTensor."""

    def takes_several_frames(self, func: Any) -> bool:
        """Whether the arguments of an op may be of several frames."""

    def cuts(self, func: Any, args: Sequence) -> bool:
        """Whether a dense map as first argument of this op is cut into blocks."""
