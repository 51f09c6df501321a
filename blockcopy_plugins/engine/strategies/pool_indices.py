"""Where the maxima of a pooling are: computed on the whole map if the model reads it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from ...errors import StateError
from ..frame.frame import Frame
from ..tensor.block_tensor import BlockTensor
from ..tensor.dense_on_use import BlockIndices, PoolIndices
from .densify import run_dense


def indices_on_use(
    frame: Frame, func, args, kwargs, values: BlockTensor, local: bool
) -> PoolIndices:
    """Where the maxima (``values``) of a max pooling are, computed if the model reads it.

    Args:
        frame: The frame being run.
        func: The pooling.
        args: Its arguments.
        kwargs: Its keyword arguments.
        values: What it gives.
        local: Each block reads only itself.
    """
    x = args[0]
    count, path = x.version.count, frame.path

    def indices(run: Callable[[], Any]) -> Tensor:
        if x.version.count != count:
            raise StateError(
                f"the indices of a max pooling in {path!r} are read after its input was "
                "changed in place. Read them before, or use an op that does not work in place."
            )
        frame.enter(path)
        found = run()[1]
        frame.leave(path)
        return found

    reason = "indices are positions in the whole map"
    whole = partial(run_dense, frame, func, args, kwargs, reason)
    out = PoolIndices.of(values, partial(indices, whole))
    # A window that crosses the map's edge has no output, but would have one in its block.
    stride = [x.block[i] // values.block[i] for i in (0, 1)]
    if local and all(x.size_of_map[i] % stride[i] == 0 for i in (0, 1)):
        packed = partial(func, x.packed, *args[1:], **kwargs)
        out.in_blocks = BlockIndices(partial(indices, packed), x.size_of_map, x.block)
    return out
