"""Counts on the CPU how often a GPU would have to be waited for: reads of values that it computes.

Tensors that come of the frame, of parameters or of the state are the device's. What is read of them
(``item``, ``nonzero``, boolean indices, copies to the host) waits; what is done with the copy in
host memory does not.
"""

from __future__ import annotations

import sys
from collections import Counter

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from blockcopy_plugins.engine.block_tensor import BlockTensor

aten = torch.ops.aten

READS = frozenset(
    {
        aten._local_scalar_dense.default,
        aten.item.default,
        aten.is_nonzero.default,
        aten.nonzero.default,
        aten.equal.default,
        aten.masked_select.default,
        aten._unique2.default,
        aten.bincount.default,
        aten.repeat_interleave.Tensor,
    }
)


class DeviceReads(TorchDispatchMode):
    """Counts reads.

    Args:
        tensors: Those of the device to begin with.

    Attributes:
        reads: By line of the package that made them.
    """

    def __init__(self, *tensors: Tensor) -> None:
        super().__init__()
        self.ours = WeakIdKeyDictionary()
        self.reads: Counter[str] = Counter()
        for tensor in tensors:
            self.ours[tensor] = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if any(issubclass(t, BlockTensor) for t in types):
            return NotImplemented
        on_device = any(
            isinstance(v, Tensor) and v in self.ours for v in tree_leaves((args, kwargs))
        )
        copied = func is aten._to_copy.default and kwargs.get("device") is not None
        if on_device and (func in READS or copied or self._by_mask(func, args)):
            self.note(func)
        out = func(*args, **kwargs)
        if on_device and not copied:
            for value in tree_leaves(out):
                if isinstance(value, Tensor):
                    self.ours[value] = True
        return out

    @staticmethod
    def _by_mask(func, args) -> bool:
        if func not in (aten.index.Tensor, aten.index_put_.default):
            return False
        return any(i is not None and i.dtype == torch.bool for i in args[1])

    def note(self, what) -> None:
        frame = sys._getframe(1)
        while frame is not None and "blockcopy_plugins/" not in frame.f_code.co_filename:
            frame = frame.f_back
        place = "elsewhere"
        if frame is not None:
            file = frame.f_code.co_filename.rpartition("blockcopy_plugins/")[2]
            place = f"{file}:{frame.f_code.co_name}"
        self.reads[f"{place} {what}"] += 1

    def watch(self, monkeypatch) -> None:
        """See reads that are no ops where the device is the CPU."""
        for name in ("cpu", "tolist", "numpy"):
            plain = getattr(Tensor, name)

            def seen(tensor, *args, name=name, plain=plain, **kwargs):
                if tensor in self.ours:
                    self.note(name)
                    tensor = tensor.detach().clone()
                    self.ours.pop(tensor, None)
                return plain(tensor, *args, **kwargs)

            monkeypatch.setattr(Tensor, name, seen)
