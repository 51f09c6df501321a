"""Looks at the attributes of hundreds of modules, taken before each frame.

Native where the extension is built (``cuda_ops/module_state.cpp``), a few times slower without.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import is_

from torch import Tensor

from ..ops.library import extension_module

_NATIVE = extension_module()


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


def are_alike(
    values: list[object], others: list[object], alike: Callable[[object, object], bool]
) -> bool:
    """Whether two results of :func:`values_of` hold the same objects, or ones that are alike."""
    head = 0 if _NATIVE is None else 1  # the numbers of the dicts' contents
    pairs = zip(values[head:], others[head:], strict=False)
    return len(values) == len(others) and all(a is b or alike(a, b) for a, b in pairs)


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
