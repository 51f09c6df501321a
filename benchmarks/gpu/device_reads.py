"""A GPU for tests on the CPU: tensors that say they are on one, and a count of what waits for it.

Values are those of the CPU. Memory that was put on the device, and all that is computed of it, in
place or anew, in the backward pass or by an optimizer, is the device's: ``x.device`` says ``cuda``,
so that the package does what it does on a GPU. Where the host would wait is counted: reads of
values (``float``, ``item``, ``tolist``, copies to the host), results of a size that depends on
values (``nonzero``, masks, ``unique``), and copies to the device that the host waits for. An op
between memory of both kinds is an error, as it is on a GPU.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter
from contextlib import ExitStack
from types import MappingProxyType
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from blockcopy_plugins.engine.tensor.block_tensor import BlockTensor

aten = torch.ops.aten
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)

READS = frozenset(
    {
        aten._local_scalar_dense.default,
        aten.item.default,
        aten.is_nonzero.default,
        aten.nonzero.default,
        aten.nonzero_numpy.default,
        aten.argwhere.default,
        aten.equal.default,
        aten.allclose.default,
        aten.masked_select.default,
        aten._unique.default,
        aten._unique2.default,
        aten.unique_dim.default,
        aten.unique_consecutive.default,
        aten.bincount.default,
        aten.repeat_interleave.Tensor,
        aten.repeat_interleave.self_Tensor,
    }
)
BY_INDEX = frozenset(
    {
        aten.index.Tensor,
        aten.index_put.default,
        aten.index_put_.default,
        aten._index_put_impl_.default,
    }
)


# What a CUDA build of torch chooses for tensors of a device, and the CPU does not have.
def _cudnn_batch_norm(input, weight, bias, mean, var, training, momentum, epsilon):
    found = aten.native_batch_norm(input, weight, bias, mean, var, training, momentum, epsilon)
    return *found, input.new_empty(0, dtype=torch.uint8)


ON_CPU = MappingProxyType({aten.cudnn_batch_norm.default: _cudnn_batch_norm})
# What hands values to Python past the dispatcher.
TO_PYTHON = ("tolist", "numpy", "__array__", "__dlpack__")
FACTORIES = (
    *("zeros", "ones", "empty", "full", "arange", "linspace", "eye", "rand", "randn", "randint"),
    *("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like"),
    *("tensor", "as_tensor", "scalar_tensor"),
)
# Ops made of ops, with numbers of their own: those are where the tensors are.
COMPOSITE = ("quantile",)
# They make a tensor of values that the host has.
OF_VALUES = ("tensor", "as_tensor", "new_tensor")


class DeviceReads(TorchDispatchMode):
    """The device. It is there inside the context.

    Attributes:
        waits: How often the host waited, by line of the package and what it did.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self._memory: dict[int, StorageWeakRef] = {}
        self._number_written = self._inside_composite = False
        self._patches = ExitStack()

    def put(self, what):
        """Put a tensor, or a module's parameters and buffers, on the device; in place."""
        if isinstance(what, nn.Module):
            tensors = [*what.parameters(), *what.buffers()]
        else:
            tensors = [what]
        for tensor in tensors:
            self._take(tensor)
        return what

    def watch_composite(self, owner, name: str) -> None:
        """Take a function for one op, whose own tensors are where its arguments are."""
        self._patch(owner, name, self._composite)

    def has(self, value) -> bool:
        """Whether something is a tensor on the device."""
        if not isinstance(value, Tensor):
            return False
        if isinstance(value, BlockTensor):
            return _own_device(value).type == "cuda"
        return value.untyped_storage()._cdata in self._memory

    # -- the device's memory -----------------------------------------------------------------------

    def _take(self, tensor: Tensor) -> None:
        # A weak reference keeps the address from being that of another storage some day.
        storage = tensor.untyped_storage()
        self._memory[storage._cdata] = StorageWeakRef(storage)

    def _taken(self, out):
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self._take(value)
        return out

    def _copy(self, tensor: Tensor, on_device: bool) -> Tensor:
        copy = tensor.detach().clone()
        self._memory.pop(copy.untyped_storage()._cdata, None)
        if on_device:
            self._take(copy)
        return copy

    def _note(self, what) -> None:
        frame = sys._getframe(1)
        while frame is not None and "blockcopy_plugins/" not in frame.f_code.co_filename:
            frame = frame.f_back
        place = "elsewhere"
        if frame is not None:
            file = frame.f_code.co_filename.rpartition("blockcopy_plugins/")[2]
            place = f"{file}:{frame.f_code.co_name}"
        self.waits[f"{place} {what}"] += 1

    # -- ops ---------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if any(issubclass(t, BlockTensor) for t in types):
            return NotImplemented
        tensors = [v for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor)]
        there = [self.has(v) for v in tensors]
        if not any(there):
            if not tensors and kwargs.get("device") == CUDA:
                # Made by an op of a BlockTensor, whose own device torch does not make memory on.
                return self._taken(func(*args, **{**kwargs, "device": CPU}))
            return func(*args, **kwargs)
        if func in (aten.copy_.default, aten._foreach_copy_.default):
            self._copied(func, args, kwargs)
            return func(*args, **kwargs)
        by_mask = func in BY_INDEX and any(i is not None and i.dtype == torch.bool for i in args[1])
        if func in READS or by_mask:
            self._note(func)
        if func in BY_INDEX and not all(self.has(i) for i in args[1] if i is not None):
            self._note(f"{func} of an index from the host")
        # Numbers may come from the host.
        elif not self._inside_composite and any(
            not on and value.dim() > 0 for value, on in zip(tensors, there, strict=True)
        ):
            raise AssertionError(
                f"{func} of a tensor on the device and one on the host: "
                + ", ".join(f"{tuple(v.shape)} {v.dtype} {v.device}" for v in tensors)
            )
        return self._taken(ON_CPU.get(func, func)(*args, **kwargs))

    def _copied(self, func, args, kwargs) -> None:
        target, source = (value if isinstance(value, Tensor) else value[0] for value in args[:2])
        asynchronous = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
        if not self.has(target):
            self._note(f"{func} to the host")
        elif not self.has(source) and not asynchronous and not self._number_written:
            self._note(f"{func} to the device")

    # -- what is no op where all is the CPU --------------------------------------------------------

    def __enter__(self):
        for name, of_tensor in (
            ("device", lambda value: CUDA if self.has(value) else _own_device(value)),
            ("is_cuda", self.has),
            ("is_cpu", lambda value: not self.has(value)),
        ):
            self._patches.enter_context(
                patch.object(Tensor, name, property(of_tensor), create=True)
            )
        for name in TO_PYTHON:
            self._patch(Tensor, name, self._to_python)
        for name in ("to", "cpu", "pin_memory", "__setitem__"):
            self._patch(Tensor, name, getattr(self, f"_{name.strip('_')}"))
        for name in FACTORIES:
            self._patch(torch, name, self._factory)
        for name in COMPOSITE:
            self.watch_composite(torch, name)
        for name in ("new_zeros", "new_ones", "new_empty", "new_full", "new_tensor"):
            self._patch(Tensor, name, self._factory)
        return super().__enter__()

    def __exit__(self, *error):
        self._patches.close()
        return super().__exit__(*error)

    def _patch(self, owner, name: str, handler) -> None:
        plain = getattr(owner, name)

        @functools.wraps(plain)
        def patched(*args, **kwargs):
            return handler(name, plain, *args, **kwargs)

        self._patches.enter_context(patch.object(owner, name, patched, create=True))

    def _to_python(self, name, plain, tensor, *args, **kwargs):
        if self.has(tensor):
            self._note(name)
            tensor = self._copy(tensor, on_device=False)
        return plain(tensor, *args, **kwargs)

    def _cpu(self, name, plain, tensor, *args, **kwargs):
        return tensor.to(CPU)

    def _to(self, name, plain, tensor, *args, **kwargs):
        names = ("device", "dtype", "non_blocking", "copy")
        if args and isinstance(args[0], torch.dtype):
            names = names[1:]
        elif args and isinstance(args[0], Tensor):
            args = (args[0].device, args[0].dtype, *args[1:])
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        device = given.pop("device", None)
        asynchronous = given.pop("non_blocking", False)
        to_device = self.has(tensor) if device is None else torch.device(device).type == "cuda"
        if to_device != self.has(tensor):
            if not to_device:
                self._note("to the host")
            elif not asynchronous:
                self._note("to the device")
            tensor = self._copy(tensor, to_device)
        return plain(tensor, **given) if given else tensor

    def _pin_memory(self, name, plain, tensor, *args, **kwargs):
        if self.has(tensor):
            raise AssertionError("only memory of the host can be pinned")
        return self._copy(tensor, on_device=False)

    def _setitem(self, name, plain, tensor, index, value):
        # A number is written by a kernel; it does not lie in host memory.
        before, self._number_written = self._number_written, not isinstance(value, Tensor)
        try:
            return plain(tensor, index, value)
        finally:
            self._number_written = before

    def _composite(self, name, plain, *args, **kwargs):
        before, self._inside_composite = self._inside_composite, True
        try:
            return plain(*args, **kwargs)
        finally:
            self._inside_composite = before

    def _factory(self, name, plain, *args, **kwargs):
        device = kwargs.get("device")
        on_device = device is not None and torch.device(device).type == "cuda"
        if device is None:
            on_device = name.startswith("new_") and self.has(args[0])
        else:
            kwargs["device"] = CPU
        out = plain(*args, **kwargs)
        if on_device and not self.has(out):
            if name in OF_VALUES:
                self._note(f"torch.{name} on the device")
            self._take(out)
        return out


def _own_device(tensor: Tensor) -> torch.device:
    return torch._C.TensorBase.device.__get__(tensor)
