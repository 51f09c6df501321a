"""A program as Python code, for machines without native kernels and ops that need Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..torch_internals import kernels_of
from .block_numbers import Multiple
from .step_lifetimes import over_after, registers
from .trace import Given, Kept, Register, Root, Step


def python_run(
    steps: Sequence[Step],
    roots: Sequence[Given | Kept],
    results: Sequence[Register | Root | None],
    blocks: Sequence[tuple[int, int]],
) -> Callable[..., list[Tensor | None]]:
    """The function ``run(given, *sizes)`` that does the steps, a line each.

    As code of its own it finds its tensors in local variables and lets each go after its last use.
    """
    names: dict[str, Any] = {}
    sizes = {found: f"n{i}" for i, found in enumerate(blocks)}

    def text(value: Any) -> str:
        if isinstance(value, Register):
            return f"v{value.index}"
        if isinstance(value, Root):
            return f"r{value.index}"
        if isinstance(value, Multiple):
            return f"{value.factor} * {sizes[value.blocks]}"
        if type(value) in (list, tuple):
            inside = "".join(f"{text(item)}, " for item in value)
            return f"[{inside}]" if type(value) is list else f"({inside})"
        if value is None or type(value) in (bool, int, str):
            return repr(value)
        names[f"k{len(names)}"] = value
        return f"k{len(names) - 1}"

    lines = [f"def run({', '.join(['given', *sizes.values()])}):"]
    for i, root in enumerate(roots):
        if isinstance(root, Given):
            names[f"g{i}"] = root.name
            lines.append(f"    r{i} = given[g{i}]")
        else:
            names[f"r{i}"] = root.tensor
    made: set[Register] = set()
    for i, (step, over) in enumerate(zip(steps, over_after(steps, results), strict=True)):
        # What OpOverload.__call__ calls.
        names[f"f{i}"] = kernels_of(step.func)
        given = [text(value) for value in step.args]
        given += [f"{name}={text(value)}" for name, value in step.kwargs.items()]
        call = f"f{i}({', '.join(given)})"
        if type(step.out) is list:
            targets = "".join("_, " if out is None else f"{text(out)}, " for out in step.out)
            call = f"{targets.rstrip()} = {call}" if step.out else call
        elif isinstance(step.out, Register) and step.out not in made:
            call = f"{text(step.out)} = {call}"
        lines.append(f"    {call}")
        made.update(registers(step.out))
        if over:
            lines.append(f"    {' = '.join(map(text, over))} = None")
    lines.append(f"    return [{', '.join(text(value) for value in results)}]")
    exec(compile("\n".join(lines), "<block-sparse program>", "exec"), names)  # noqa: S102
    run = names["run"]

    def run_ordinary(*args) -> list[Tensor | None]:
        # Results of frames are ordinary tensors, also where the caller is in inference mode.
        with torch.inference_mode(False), torch.no_grad():
            return run(*args)

    return run_ordinary
