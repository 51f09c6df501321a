"""Multiply-accumulates of what really runs, blocks and dense tensors alike."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from .block_tensor import BlockTensor


class MacCounter(TorchDispatchMode):
    """Counts MACs by the formulas of ``torch.utils.flop_counter``.

    torch's ``FlopCounterMode`` would count an op on a BlockTensor by its logical size. This one
    lets the BlockTensor take the op apart first and counts the packed ops that then run.

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
        if any(issubclass(t, BlockTensor) for t in types):
            return NotImplemented
        count = flop_registry.get(func._overloadpacket)
        if count is None and func is not torch.ops.prim.device.default:
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        if count is not None:
            self.macs += count(*args, **kwargs, out_val=out) // 2
        return out
