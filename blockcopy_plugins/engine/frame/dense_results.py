"""Results of a model or of its modules with dense tensors in place of blocks."""

from __future__ import annotations

from copy import copy
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

from ..tensor.block_tensor import BlockTensor
from ..tensor.dense_map import DenseMap
from ..torch_internals import tree_map


def dense_results(values: Any, last: bool = False, to_read: bool = False) -> Any:
    """Replace BlockTensors and dense maps by ordinary tensors.

    Args:
        values: Nested results, dataclasses among them.
        last: Whether they are what the model returns, so that nothing else runs in the frame.
        to_read: The receiver neither writes to them nor keeps them, so they may be the state
            itself, channels last.

    Returns:
        The same with dense tensors.
    """
    return tree_map(partial(_dense, last=last, to_read=to_read), values)


def _dense(value: Any, last: bool, to_read: bool) -> Any:
    if isinstance(value, BlockTensor):
        if to_read:
            return value.frame.dense_to_read(value, "output", contiguous=False)
        return value.frame.result(value) if last else value.frame.output(value)
    if isinstance(value, DenseMap):
        return value.plain
    if is_dataclass(value) and not isinstance(value, type):
        value = copy(value)
        for item in fields(value):
            given = getattr(value, item.name)
            object.__setattr__(value, item.name, dense_results(given, last, to_read))
    return value
