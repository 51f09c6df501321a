"""Which ops of a frame matter, and how long their results are needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..torch_internals import is_mutable
from .trace import Register, Root, Step


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
