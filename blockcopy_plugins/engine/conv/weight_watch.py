"""Notices writes to weights, also those that torch does not count.

Such are writes through ``.data``, NumPy or a pointer.
"""

from __future__ import annotations

from weakref import ReferenceType, ref

import torch
from torch import Tensor

from ...ops.library import extension_module
from ..torch_internals import no_modes, version_of

_NATIVE = extension_module()

# Number of values in a part.
_PART = 1 << 14
_SAMPLE = 16
_INTEGERS = {2: torch.int16, 4: torch.int32}


def are_as_seen(tensors: tuple[ReferenceType[Tensor], ...], seen: list[int]) -> bool:
    """Whether tensors are there, and nobody has written to them or moved them.

    Args:
        tensors: They, which need not live any more.
        seen: The version and the address of each, as they were.
    """
    if _NATIVE is not None:
        return _NATIVE.are_as_seen(tensors, seen)
    found = [tensor() for tensor in tensors]
    if any(tensor is None for tensor in found):
        return False
    return seen == [n for tensor in found for n in (version_of(tensor), tensor.data_ptr())]


class WeightSample:
    """A few values of a weight that the kernels do not read themselves.

    Args:
        weight: A parameter.
    """

    def __init__(self, weight: Tensor) -> None:
        with no_modes(), torch.inference_mode(False), torch.no_grad():
            values = weight.detach()
            flat = values.view(-1) if values.is_contiguous() else values.flatten(1)[0]
            self._values = flat[:: max(1, len(flat) // _SAMPLE)]
            self._before = self._values.clone()

    def is_the_same(self) -> bool:
        """Whether they are as they were."""
        with no_modes():
            return torch.equal(self._values, self._before)


class WeightWatch:
    """Remembers the values of a weight.

    The kernels compare a few values in every call (:class:`WeightSample` where they cannot), so
    that a write to most of it is seen at once. A write to only a few values is seen when it is
    their part's turn to be summed.

    Args:
        weight: A parameter in host memory, without gaps; nothing is seen of any other.
    """

    def __init__(self, weight: Tensor) -> None:
        self._weight = ref(weight)
        self._turn = 0
        self._kind = _kind_of(weight)
        integers = _INTEGERS.get(weight.element_size())
        if integers is None or not weight.numel() or not _is_dense(weight):
            self._sums = None
            return
        self._dtype = integers
        self._sums = [self._sum(weight, part) for part in range(-(-weight.numel() // _PART))]

    def next_part_is_the_same(self) -> bool:
        """Whether the next part of the weight is unchanged; moves on to the part after it."""
        weight = self._weight()
        if weight is not None and _kind_of(weight) != self._kind:
            # As ``model.double()`` does, which leaves the parameter the same object.
            return False
        if self._sums is None or weight is None:
            return True
        part = self._turn
        self._turn = (part + 1) % len(self._sums)
        return self._sum(weight, part) == self._sums[part]

    def _sum(self, weight: Tensor, part: int) -> int:
        if _NATIVE is not None:
            return _NATIVE.sum_of_bits(weight, part * _PART, _PART)
        # Not part of the model: modes that count or capture its ops must not see these.
        with no_modes(), torch.inference_mode(False), torch.no_grad():
            flat = weight.detach().as_strided((weight.numel(),), (1,)).view(self._dtype)
            return int(flat[part * _PART : (part + 1) * _PART].sum())


def _kind_of(weight: Tensor) -> tuple:
    return weight.dtype, weight.shape, weight.stride(), weight.device


def _is_dense(weight: Tensor) -> bool:
    return weight.is_contiguous() or (
        weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    )
