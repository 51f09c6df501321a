"""Whether the memory of a tensor is still in use, and how two tensors change memories.

Native where the extension is built (``cuda_ops/memory_watch.cpp``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...ops.library import extension_module
from ..torch_internals import StorageWeakRef

_NATIVE = extension_module()


def watch_memory(tensor: Tensor) -> Any:
    """Something by which :func:`is_held` tells whether the memory of a tensor is still in use.

    Args:
        tensor: An ordinary tensor, whose memory this does not hold.
    """
    if _NATIVE is not None:
        return _NATIVE.watch_memory(tensor)
    return StorageWeakRef(tensor.untyped_storage())


def is_held(watch: Any) -> bool:
    """Whether a tensor has the memory that :func:`watch_memory` was given."""
    return _NATIVE.is_held(watch) if _NATIVE is not None else not watch.expired()


def swap_memory(one: Tensor, other: Tensor) -> None:
    """Let two tensors change their memories.

    Args:
        one: An ordinary tensor that is the whole of its memory.
        other: Another one of its shape, strides and dtype.
    """
    if _NATIVE is not None:
        _NATIVE.swap_memory(one, other)
        return
    with torch.inference_mode(False), torch.no_grad():
        of_one = one.detach()
        one.set_(other)
        other.set_(of_one)
