"""A CUDA graph on the CPU: the ops of a call, recorded and done again on the same memory.

As with a true graph, a capture does nothing (what it wrote is undone), a replay calls no Python of
the model, and what would wait for the device is refused.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from blockcopy_plugins.engine.tensor.block_tensor import BlockTensor

aten = torch.ops.aten

WAITS = frozenset(
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
        # What torch.tensor gives: values that come from the host.
        aten.lift_fresh.default,
    }
)


def waits(func, args) -> bool:
    """Whether a GPU would have to be waited for."""
    if func in (aten.index.Tensor, aten.index_put_.default):
        return any(i is not None and i.dtype == torch.bool for i in args[1])
    return func in WAITS


def storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.ops = []
        self.made: dict[int, Tensor] = {}
        self.before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if any(issubclass(t, BlockTensor) for t in types):
            return NotImplemented
        if waits(func, args):
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self.keep(value)
        given = {storage(v) for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor)}
        out = func(*args, **kwargs)
        fresh = []
        for i, value in enumerate(tree_leaves(out)):
            if isinstance(value, Tensor) and value.numel() and storage(value) not in given:
                fresh.append((i, value))
                self.made[storage(value)] = value
        mutates = func._schema.is_mutable
        if fresh or mutates:
            self.ops.append((func, args, kwargs, fresh))
        return out

    def keep(self, value: Tensor) -> None:
        if storage(value) not in self.made and storage(value) not in self.before:
            whole = value.new_empty(0).set_(value.untyped_storage())
            self.before[storage(value)] = (whole, whole.clone())


class Recording:
    def __init__(self, backend, recorder: Recorder, result) -> None:
        self.backend = backend
        self.ops = recorder.ops
        self.result = result
        self.bytes = sum(t.untyped_storage().nbytes() for t in recorder.made.values())

    def replay(self) -> None:
        self.backend.replays += 1
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            for func, args, kwargs, fresh in self.ops:
                out = tree_leaves(func(*args, **kwargs))
                for i, memory in fresh:
                    memory.copy_(out[i])


class RecordingBackend:
    """Attributes: how often each was called."""

    def __init__(self) -> None:
        self.warm_ups = self.captures = self.replays = 0

    def warm_up(self, call, device):
        self.warm_ups += 1
        return call()

    def capture(self, call, device):
        self.captures += 1
        recorder = Recorder()
        try:
            with recorder:
                result = call()
        finally:
            with torch.inference_mode():
                for memory, values in recorder.before.values():
                    memory.copy_(values)
        with torch.inference_mode():
            for value in recorder.made.values():
                whole = value.new_empty(0).set_(value.untyped_storage())
                whole.fill_(float("nan") if value.is_floating_point() else 77)
        return Recording(self, recorder, result)


def with_graphs(model) -> RecordingBackend:
    """Give a converted model graphs on the CPU."""
    import blockcopy_plugins as bc

    backend = RecordingBackend()
    bc.handle(model).graphs.backend = backend
    return backend
