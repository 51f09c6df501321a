"""Where the maxima of a pooling are: computed on the whole map if the model reads it."""

from __future__ import annotations

from torch import Tensor

from ...errors import StateError
from ..frame.frame import Frame
from ..tensor.block_tensor import BlockTensor
from ..tensor.dense_on_use import PoolIndices
from .densify import run_dense


def indices_on_use(frame: Frame, func, args, kwargs, values: BlockTensor) -> PoolIndices:
    """Where the maxima (``values``) of a max pooling are, computed if the model reads it."""
    x = args[0]
    count, path = x.version.count, frame.path

    def indices() -> Tensor:
        if x.version.count != count:
            raise StateError(
                f"the indices of a max pooling in {path!r} are read after its input was "
                "changed in place. Read them before, or use an op that does not work in place."
            )
        frame.enter(path)
        found = run_dense(frame, func, args, kwargs, "indices are positions in the whole map")[1]
        frame.leave(path)
        return found

    return PoolIndices.of(values, indices)
