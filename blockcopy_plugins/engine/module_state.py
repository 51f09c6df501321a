"""Looks at the attributes of hundreds of modules, taken before each frame.

Native where the extension is built (``cuda_ops/module_state.cpp``), a few times slower without.
"""

from __future__ import annotations

from operator import is_

import torch
from torch import Tensor

from ..ops.library import extension_module

_NATIVE = extension_module()
_DATA = (type(None), bool, int, float, str, bytes, torch.dtype, torch.device)


def values_of(objects: tuple[object, ...]) -> list[object]:
    """The attributes of objects, or what dicts hold, for :func:`have_values`."""
    if _NATIVE is not None:
        return _NATIVE.values_of(objects)
    parts = map(_attributes, objects)
    return [value for part in parts for value in (len(part), *part, *part.values())]


def have_values(objects: tuple[object, ...], values: list[object]) -> bool:
    """Whether the attributes of objects have the names and, by identity, the values of before.

    Args:
        objects: Such as the modules of a model, or dicts.
        values: What :func:`values_of` gave for them.
    """
    if _NATIVE is not None:
        return _NATIVE.have_values(objects, values)
    found = values_of(objects)
    # Loops in C. Numbers of attributes are small integers, of which Python has one object each.
    return len(found) == len(values) and all(map(is_, found, values))


def mean_the_same(values: list[object], others: list[object]) -> bool:
    """Whether two results of :func:`values_of` are the same objects, or equal data without tensors.

    Forwards note sizes in each call, in lists of their own.
    """
    head = 0 if _NATIVE is None else 1  # the numbers of the dicts' contents
    pairs = zip(values[head:], others[head:], strict=False)
    return len(values) == len(others) and all(a is b or _equal_data(a, b) for a, b in pairs)


def lie_at(tensors: tuple[dict[str, Tensor | None], ...], addresses: list[int]) -> bool:
    """Whether the tensors in dicts lie at these addresses, one after the other."""
    if _NATIVE is not None:
        return _NATIVE.lie_at(tensors, addresses)
    return addresses_of(tensors) == addresses


def addresses_of(tensors: tuple[dict[str, Tensor | None], ...]) -> list[int]:
    """The addresses of the tensors in dicts, for :func:`lie_at`."""
    return [value.data_ptr() for part in tensors for value in part.values() if value is not None]


def any_has(objects: tuple[object, ...], *names: str) -> bool:
    """Whether one of some objects has an attribute of its own by one of these names that is true.

    Args:
        objects: Such as the modules of a model, or dicts of attributes.
        *names: Of attributes.
    """
    if _NATIVE is not None:
        return _NATIVE.any_has(objects, *names)
    return any(_attributes(found).get(name) for found in objects for name in names)


def _attributes(found: object) -> dict[str, object]:
    return found if isinstance(found, dict) else vars(found)


def _equal_data(one: object, other: object) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, _DATA):
        return one == other
    if type(one) is dict:
        return list(one) == list(other) and _equal_data([*one.values()], [*other.values()])
    if type(one) not in (list, tuple, torch.Size) or len(one) != len(other):
        return False
    return all(map(_equal_data, one, other))
