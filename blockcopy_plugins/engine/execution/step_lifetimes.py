"""Which ops of a frame matter, and how long their results are needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..torch_internals import is_mutable
from .steps import Given, Kept, Register, Root, Step

aten = torch.ops.aten


def registers(value: Any) -> list[Register]:
    """The registers in arguments or results of an op."""
    if isinstance(value, Register):
        return [value]
    if type(value) in (list, tuple):
        return [register for item in value for register in registers(item)]
    return []


def without_dead(steps: Sequence[Step], results: Sequence[Register | Root | None]) -> list[Step]:
    """Drop ops that change nothing and whose results are not read."""
    needed = {value for value in results if isinstance(value, Register)}
    kept = []
    for step in reversed(steps):
        if is_mutable(step.func) or any(out in needed for out in registers(step.out)):
            needed.update(registers((step.args, list(step.kwargs.values()))))
            kept.append(step)
    return kept[::-1]


def without_views_back(
    steps: Sequence[Step],
    roots: Sequence[Given | Kept],
    results: Sequence[Register | Root | None],
) -> list[Step]:
    """Read vectors themselves where ops read flat views of views of them.

    PReLU views its weights as a map, and what runs on blocks views that as a vector again.

    Args:
        steps: The ops.
        roots: What they read beside results of each other.
        results: What the frame returns.
    """
    views: dict[Register, Root] = {}
    same: dict[Register, Root] = {}

    def instead(value: Any) -> Any:
        if isinstance(value, Register):
            return same.get(value, value)
        if type(value) in (list, tuple):
            return type(value)(instead(item) for item in value)
        return value

    found = []
    for step in steps:
        kwargs = {name: instead(value) for name, value in step.kwargs.items()}
        step = Step(step.func, instead(step.args), kwargs, step.out)
        found.append(step)
        if step.func is not aten.view.default or step.out in results:
            continue
        source, size = step.args
        if isinstance(source, Root) and _is_vector(roots[source.index]):
            views[step.out] = source
        elif source in views and list(size) == [-1]:
            same[step.out] = views[source]
    return found


def _is_vector(root: Given | Kept) -> bool:
    return isinstance(root, Kept) and root.tensor.dim() == 1 and root.tensor.is_contiguous()


def over_after(
    steps: Sequence[Step], results: Sequence[Register | Root | None]
) -> list[list[Register]]:
    """For each step, the registers that nobody reads after it."""
    last: dict[Register, int] = {}
    for i, step in enumerate(steps):
        used = registers((step.args, list(step.kwargs.values()), step.out))
        last.update(dict.fromkeys(used, i))
    over: list[list[Register]] = [[] for _ in steps]
    for register, i in last.items():
        if register not in results:
            over[i].append(register)
    return over
