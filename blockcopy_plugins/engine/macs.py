"""Multiply-accumulates of what really runs, blocks and dense tensors alike."""

from __future__ import annotations

from collections import defaultdict

import torch

from .. import ops
from .composite import take_apart
from .frame.context import FrameContext
from .tensor.block_tensor import BlockTensor
from .tensor.dense_map import DenseMap
from .torch_internals import TorchDispatchMode, dispatch_modes, flops_of


class MacCounter(TorchDispatchMode):
    """Counts MACs by the formulas of ``torch.utils.flop_counter``.

    torch's ``FlopCounterMode`` would count an op on a BlockTensor by its logical size. This one
    lets the BlockTensor take the op apart first and counts the packed ops that then run. Frames run
    without CUDA graphs meanwhile, on the same blocks: it cannot see the ops of a replay.

    Attributes:
        macs: Half the floating-point operations seen so far.

    Examples:
        >>> with MacCounter() as counter:
        ...     model(frame)
        >>> counter.macs
    """

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if any(issubclass(t, (BlockTensor, DenseMap)) for t in types):
            return NotImplemented
        count = ops.FLOPS.get(func) or flops_of(func)
        if count is None and func is not torch.ops.prim.device.default:
            with self:
                out = take_apart(func, args, kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        if count is not None:
            self.add(count(*args, **kwargs, out_val=out) // 2)
        return out

    @staticmethod
    def is_counting() -> bool:
        """Whether a counter sees the ops of this thread."""
        return any(isinstance(mode, MacCounter) for mode in dispatch_modes())

    def add(self, macs: int) -> None:
        """Count an op that runs."""
        self.macs += macs


class MacsByPath(MacCounter):
    """Counts MACs by running module.

    Args:
        frame: The frame being run; it knows the module.
    """

    def __init__(self, frame: FrameContext) -> None:
        super().__init__()
        self.frame = frame
        self.by_path: dict[str, int] = defaultdict(int)

    def add(self, macs: int) -> None:
        """Count an op of the running module."""
        super().add(macs)
        self.by_path[self.frame.path] += macs

    def on_ordinary_tensors(self) -> dict[str, int]:
        """What the frame does not count itself, by module path: ops that got no BlockTensor."""
        rest = dict(self.by_path)
        counts = self.frame.counts
        for path, (executed, _) in counts.by_module().items():
            rest[path] = rest.get(path, 0) - executed
        for op in counts.by_op.values():
            rest[op.path] = rest.get(op.path, 0) - op.macs
        return {path: macs for path, macs in rest.items() if macs > 0}
