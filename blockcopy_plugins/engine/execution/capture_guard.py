"""Finds what no CUDA graph can hold before CUDA does: a failed capture is hard to undo."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..composite import take_apart
from ..tensor.block_tensor import BlockTensor
from ..tensor.dense_map import DenseMap
from ..torch_internals import TorchDispatchMode, packet_of, tree_leaves

aten = torch.ops.aten

# They return a value to the host, or a tensor whose size the device must work out first.
READS = frozenset(
    {
        aten._local_scalar_dense.default,
        aten.item.default,
        aten.is_nonzero.default,
        aten.nonzero.default,
        aten.equal.default,
        aten.masked_select.default,
        aten._unique.default,
        aten._unique2.default,
        aten.unique_dim.default,
        aten.unique_consecutive.default,
        aten.bincount.default,
        aten.repeat_interleave.Tensor,
    }
)
BY_INDEX = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)
_COPIES = (aten._to_copy, aten.to, aten.copy_)


class CaptureError(Exception):
    """A frame cannot be captured; the message says why."""


class CaptureGuard(TorchDispatchMode):
    """Looks among the ops of a call for those that wait for the device.

    Args:
        device: Device of the frame.
        path: Returns the path of the module being run.
        refuse: Raise :class:`CaptureError` before such an op runs; otherwise note it.

    Attributes:
        found: The first such op, in words.
    """

    def __init__(self, device: torch.device, path: Callable[[], str], refuse: bool) -> None:
        super().__init__()
        self.device = device
        self.path = path
        self.refuse = refuse
        self.found: str | None = None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if any(issubclass(t, (BlockTensor, DenseMap)) for t in types):
            return NotImplemented
        if self._waits(func, args, kwargs):
            found = f"{func} in module {self.path() or '(root)'!r} waits for the device"
            if self.refuse:
                raise CaptureError(found)
            self.found = self.found or found
        elif func is not torch.ops.prim.device.default:
            # Composite ops arrive whole in inference mode.
            with self:
                out = take_apart(func, args, kwargs)
            if out is not NotImplemented:
                return out
        return func(*args, **kwargs)

    def _waits(self, func, args, kwargs) -> bool:
        if func in READS:
            return self._is_there(args[0])
        if func in BY_INDEX:
            given = [i for i in args[1] if i is not None]
            return any(i.dtype == torch.bool and self._is_there(i) for i in given)
        if func is aten.lift_fresh.default:
            # The result of torch.tensor: its values have come from the host.
            return self._is_there(args[0])
        if packet_of(func) in _COPIES:
            # Copies from the host, as of index tables, do not matter in the warm-up.
            return self._crosses(args, kwargs) and (self.refuse or self._is_there(args[0]))
        return False

    def _is_there(self, value) -> bool:
        return isinstance(value, Tensor) and value.device.type == self.device.type

    @staticmethod
    def _crosses(args, kwargs) -> bool:
        leaves = tree_leaves((args, kwargs))
        tensors = {v.device.type for v in leaves if isinstance(v, Tensor)}
        return len(tensors | {v.type for v in leaves if isinstance(v, torch.device)}) > 1
