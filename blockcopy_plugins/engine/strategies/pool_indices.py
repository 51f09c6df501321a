"""Where the maxima of a pooling are: computed on the whole map if the model reads it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from ... import ops
from ...errors import StateError
from ..frame.frame import Frame
from ..tensor.axes import MAP
from ..tensor.block_tensor import BlockTensor
from ..tensor.dense_on_use import BlockIndices, PoolIndices
from .densify import run_dense

_REASON = "indices are positions in the whole map"


def indices_on_use(
    frame: Frame, func, args, kwargs, values: BlockTensor, how: tuple, local: bool
) -> PoolIndices:
    """Where the maxima (``values``) of a max pooling are, computed if the model reads it.

    Args:
        frame: The frame being run.
        func: The pooling.
        args: Its arguments.
        kwargs: Its keyword arguments.
        values: What it gives.
        how: Kernel, stride, padding and dilation, and the size of the result.
        local: Each block reads only itself.
    """
    x = args[0]
    count, path = x.version.count, frame.path

    def indices(run: Callable[[], Tensor]) -> Tensor:
        if x.version.count != count:
            raise StateError(
                f"the indices of a max pooling in {path!r} are read after its input was "
                "changed in place. Read them before, or use an op that does not work in place."
            )
        frame.enter(path)
        found = run()
        frame.leave(path)
        return found

    def whole() -> Tensor:
        if frame.kernels.joins(x) and type(x) is BlockTensor and x.axes == MAP:
            frame.refuse_if_strict(str(func), _REASON)
            map_ = frame.dense(x, str(func), copy=False)
            frame.count_densified(str(func), _REASON, 0)
            return ops.max_positions(map_, *how)
        return run_dense(frame, func, args, kwargs, _REASON)[1]

    out = PoolIndices.of(values, partial(indices, whole))
    # A window that crosses the map's edge has no output, but would have one in its block.
    stride = [x.block[i] // values.block[i] for i in (0, 1)]
    if local and all(x.size_of_map[i] % stride[i] == 0 for i in (0, 1)):

        def packed() -> Tensor:
            return func(x.packed, *args[1:], **kwargs)[1]

        out.in_blocks = BlockIndices(partial(indices, packed), x.size_of_map, x.block)
    return out
