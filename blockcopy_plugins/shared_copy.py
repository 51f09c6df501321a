"""Copies of tensors that share memory with the original until somebody writes to one of both."""

from __future__ import annotations

import torch
from torch import Tensor

_lazy_clone = getattr(torch, "_lazy_clone", None)
_memory_address = getattr(torch._C, "_data_address", None)
# A smaller tensor is copied in less time than it takes to look after shared memory.
_LEAST_BYTES = 1 << 17


def is_shared_by_copies(tensor: Tensor) -> bool:
    """Whether :func:`shared_copy` shares a tensor's memory: if it is large, and on the host.

    Args:
        tensor: An ordinary tensor.
    """
    return (
        _lazy_clone is not None
        and tensor.device.type == "cpu"
        and tensor.numel() * tensor.element_size() >= _LEAST_BYTES
    )


def shared_copy(tensor: Tensor) -> Tensor:
    """A copy of a tensor that nobody may ever write to, as ``tensor.clone()``.

    Torch copies the memory at the first write to it, whether by an op, by NumPy or by who asks for
    its address. Two threads must not be the first to write to, or to ask for the address of, the
    same tensor at the same time.

    Args:
        tensor: An ordinary tensor.
    """
    return _lazy_clone(tensor) if is_shared_by_copies(tensor) else tensor.clone()


def address_of(tensor: Tensor) -> int:
    """As ``tensor.data_ptr()``, which for its part would make torch copy shared memory."""
    return address_of_memory(tensor) + tensor.storage_offset() * tensor.element_size()


def address_of_memory(tensor: Tensor) -> int:
    """Where the memory begins in which a tensor lies."""
    if _memory_address is None:
        return tensor.untyped_storage().data_ptr()
    return _memory_address(tensor)
