"""Times each op that really runs: those on packed blocks, and the copies between them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from blockcopy_plugins import BlockTensor

_KINDS = (
    ("scatter", ("blockcopy::scatter",)),
    ("gather", ("blockcopy::gather",)),
    ("conv", ("aten::conv", "aten::mkldnn_conv", "mkldnn::", "aten::linear", "aten::addmm")),
    ("conv", ("aten::mm", "aten::matmul")),
    ("pooling", ("aten::max_pool", "aten::avg_pool")),
    ("resize", ("aten::upsample", "aten::_upsample")),
    ("pointwise", ("aten::relu", "aten::add", "aten::clamp", "aten::mul", "aten::sigmoid")),
    ("copy", ("aten::clone", "aten::copy", "aten::_to_copy", "aten::contiguous", "aten::cat")),
    ("copy", ("aten::index_select",)),
)


@dataclass
class OpTime:
    """Seconds and calls of one op on operands of one shape."""

    seconds: float = 0.0
    calls: int = 0


class OpTimer(TorchDispatchMode):
    """Adds up the time of the ops that run inside.

    A profiler would name an op on a BlockTensor and the packed op that it becomes alike. This mode
    lets the BlockTensor take its op apart first and times what then runs.

    Args:
        clock: What tells the seconds: ``time.perf_counter``, or ``time.process_time`` for CPU time
            summed over the threads, which busy neighbours on the machine disturb far less.

    Attributes:
        ops: :class:`OpTime` by ``(op, shapes of its tensor arguments)``.
        total: Seconds between entering and leaving, this mode's own work included.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__()
        self.ops: dict[tuple[str, tuple], OpTime] = defaultdict(OpTime)
        self.total = 0.0
        self._clock = clock
        self._start = 0.0

    def __enter__(self):
        result = super().__enter__()
        self._start = self._clock()
        return result

    def __exit__(self, *exc):
        self.total += self._clock() - self._start
        return super().__exit__(*exc)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(issubclass(t, BlockTensor) for t in types):
            return NotImplemented
        kwargs = kwargs or {}
        start = self._clock()
        out = func(*args, **kwargs)
        spent = self._clock() - start
        shapes = tuple(tuple(a.shape) for a in args if isinstance(a, Tensor))
        entry = self.ops[func._schema.name, shapes]
        entry.seconds += spent
        entry.calls += 1
        return out

    def by_kind(self) -> dict[str, float]:
        """Seconds by kind of op; ``python`` is what lies between the ops."""
        kinds: dict[str, float] = defaultdict(float)
        for (name, _), op in self.ops.items():
            kinds[kind_of(name)] += op.seconds
        kinds["python"] = max(0.0, self.total - sum(kinds.values()))
        return dict(kinds)


def kind_of(name: str) -> str:
    """Kind of the op with a schema name such as ``aten::relu_``."""
    for kind, prefixes in _KINDS:
        if name.startswith(prefixes):
            return kind
    return "other"
