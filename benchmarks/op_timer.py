"""Times each op that really runs: those on packed blocks, and the copies between them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from blockcopy_plugins import BlockTensor

from .clock import Clock

KINDS = ("conv", "gather", "scatter", "pointwise", "pooling", "resize", "copy", "other")
"""In the order in which they are shown; what lies between the ops is not among them."""

# Of our own ops by what their names say; the word that comes first in the name counts, so that
# blockcopy::conv_gathered is a convolution.
_OWN = "blockcopy::"
_WORDS = {
    "conv": "conv",
    "gemm": "conv",
    "linear": "conv",
    "gather": "gather",
    "im2col": "gather",
    "pack": "gather",
    "scatter": "scatter",
    "pool": "pooling",
    "resize": "resize",
    "upsample": "resize",
    "relu": "pointwise",
    "add": "pointwise",
    "pointwise": "pointwise",
    "copy": "copy",
}
_PREFIXES = (
    ("conv", ("aten::conv", "aten::_conv", "aten::mkldnn_", "aten::cudnn_conv", "mkldnn::")),
    ("conv", ("aten::linear", "aten::addmm", "aten::mm", "aten::matmul", "aten::bmm")),
    ("conv", ("aten::baddbmm", "onednn::")),
    ("pooling", ("aten::max_pool", "aten::avg_pool", "aten::adaptive_", "aten::mean")),
    ("resize", ("aten::upsample", "aten::_upsample")),
    ("copy", ("aten::clone", "aten::copy", "aten::_to_copy", "aten::contiguous", "aten::cat")),
    ("copy", ("aten::index_select", "aten::index_copy", "aten::constant_pad", "aten::empty")),
    ("copy", ("aten::zeros", "aten::fill", "aten::zero_")),
    ("pointwise", ("aten::relu", "aten::add", "aten::sub", "aten::mul", "aten::div")),
    ("pointwise", ("aten::clamp", "aten::sigmoid", "aten::silu", "aten::gelu", "aten::hard")),
    ("pointwise", ("aten::leaky_relu", "aten::elu", "aten::tanh", "aten::exp", "aten::where")),
    ("pointwise", ("aten::batch_norm", "aten::native_batch_norm", "aten::cudnn_batch_norm")),
    ("pointwise", ("aten::_native_batch_norm", "aten::_batch_norm", "aten::softmax")),
)


def kind_of(name: str) -> str:
    """Kind of the op with a schema name such as ``aten::relu_``."""
    if name.startswith(_OWN):
        found = [(name.find(word), kind) for word, kind in _WORDS.items() if word in name[11:]]
        return min(found)[1] if found else "other"
    for kind, prefixes in _PREFIXES:
        if name.startswith(prefixes):
            return kind
    return "other"


@dataclass
class OpTime:
    """Seconds and calls of one op on operands of one shape."""

    seconds: float = 0.0
    calls: int = 0


class OpTimer(TorchDispatchMode):
    """Adds up the time of the ops that run inside.

    A profiler would name an op on a BlockTensor and the packed op that it becomes alike. This mode
    lets the BlockTensor take its op apart first and times what then runs. What a native op does
    inside is that op's. On a GPU the times are those of the stream, idle time between the ops
    included; ops inside a CUDA graph are not seen.

    Args:
        clock: Of the device.

    Attributes:
        ops: :class:`OpTime` by ``(op, shapes of its tensor arguments)``; filled in at the end.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__()
        self.ops: dict[tuple[str, tuple], OpTime] = defaultdict(OpTime)
        self._clock = Clock() if clock is None else clock
        self._marks: list[tuple[tuple[str, tuple], Any, Any]] = []
        self._paused = False

    def __exit__(self, *exc):
        self._clock.stop()
        for key, start, end in self._marks:
            self.ops[key].seconds += self._clock.between(start, end)
            self.ops[key].calls += 1
        self._marks.clear()
        return super().__exit__(*exc)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(issubclass(t, BlockTensor) for t in types):
            return NotImplemented
        kwargs = kwargs or {}
        if self._paused:
            return func(*args, **kwargs)
        start = self._clock.mark()
        out = func(*args, **kwargs)
        end = self._clock.mark()
        shapes = tuple(tuple(a.shape) for a in args if isinstance(a, Tensor))
        self._marks.append(((func._schema.name, shapes), start, end))
        return out

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Ops inside are another's: they run and are not counted."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def by_kind(self) -> dict[str, float]:
        """Seconds by kind of op."""
        kinds: dict[str, float] = dict.fromkeys(KINDS, 0.0)
        for (name, _), op in self.ops.items():
            kinds[kind_of(name)] += op.seconds
        return kinds
